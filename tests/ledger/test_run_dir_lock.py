"""Who may write in a run directory beside whom; locks of the dead don't count."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import product

import pytest

from batcher.disk import LocalDisk
from batcher.errors import LockedError
from batcher.jobs.shard import Shard
from batcher.ledger.run_dir_lock import is_held, take_hold

WHOLE = None
RUNS = [WHOLE, Shard(1, 1), Shard(2, 1), Shard(2, 2), Shard(3, 1), Shard(13, 1), Shard(13, 3)]


def may_join(first, second):
    """The rule: parts of one division, and not the same part twice."""
    both = first is not None and second is not None
    return both and first.count == second.count and first.number != second.number


@pytest.mark.parametrize(("first", "second"), list(product(RUNS, RUNS)), ids=str)
def test_who_may_begin_beside_whom(tmp_path, first, second):
    release = take_hold(tmp_path, first, LocalDisk())
    if may_join(first, second):
        take_hold(tmp_path, second, LocalDisk())()
    else:
        with pytest.raises(LockedError, match="another run holds"):
            take_hold(tmp_path, second, LocalDisk())
    release()
    take_hold(tmp_path, second, LocalDisk())()


@pytest.mark.parametrize("refused", [WHOLE, Shard(3, 1), Shard(2, 1)], ids=str)
def test_one_that_was_refused_leaves_nothing_held(tmp_path, refused):
    first, other = take_hold(tmp_path, Shard(2, 1), LocalDisk()), Shard(2, 2)
    with pytest.raises(LockedError):
        take_hold(tmp_path, refused, LocalDisk())
    take_hold(tmp_path, other, LocalDisk())()
    first()
    assert not is_held(tmp_path, LocalDisk())
    take_hold(tmp_path, refused, LocalDisk())()


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_it_is_seen_whether_anybody_is_at_work(tmp_path, run):
    assert not is_held(tmp_path, LocalDisk())
    release = take_hold(tmp_path, run, LocalDisk())
    assert is_held(tmp_path, LocalDisk())
    release()
    assert not is_held(tmp_path, LocalDisk())


HOLDER = """
import sys, time
from pathlib import Path
from batcher.disk import LocalDisk
from batcher.ledger.run_dir_lock import take_hold
from batcher.jobs.shard import Shard
kept = take_hold(Path(sys.argv[1]), eval(sys.argv[2]), LocalDisk())
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("dead", [WHOLE, Shard(3, 2)], ids=str)
def test_locks_of_processes_that_were_killed_do_not_count(tmp_path, dead):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), repr(dead)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError):
        take_hold(tmp_path, Shard(5, 1), LocalDisk())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [name for name in os.listdir(tmp_path) if name.startswith("lock")]
    for run in RUNS:
        take_hold(tmp_path, run, LocalDisk())()


def test_files_beside_the_locks_are_let_alone(tmp_path):
    for name in ("lock.1-of-4", "lock", "lockers", "reserve.1-of-3", "start", "gather"):
        (tmp_path / name).write_bytes(b"x")
    take_hold(tmp_path, WHOLE, LocalDisk())()
    take_hold(tmp_path, Shard(3, 1), LocalDisk())()
    assert (tmp_path / "reserve.1-of-3").read_bytes() == b"x"


ROUNDS, RACERS = 60, 5
FIELD = [WHOLE, Shard(2, 1), Shard(2, 2), Shard(3, 1), Shard(3, 2), Shard(3, 1)]


def race(path, seed, barrier, told):
    """Begin at the same moment as the others, again and again; say who held what from when to when."""
    rng = random.Random(seed)
    for number in range(ROUNDS):
        run = rng.choice(FIELD)
        barrier.wait(30)
        try:
            release = take_hold(path, run, LocalDisk())
        except LockedError:
            continue
        began_s = time.monotonic()
        time.sleep(rng.uniform(0.0, 0.004))
        told.put((number, began_s, time.monotonic(), run))
        release()


def test_of_those_that_begin_at_once_none_are_let_in_that_may_not_be_together(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(RACERS), context.Queue()
    racers = [
        context.Process(target=race, args=(tmp_path, seed, barrier, told)) for seed in range(RACERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(100)
        assert racer.exitcode == 0
    held = [told.get() for _ in range(told.qsize())]
    assert len({number for number, *_ in held}) == ROUNDS, "somebody wins every time"
    for one, other in product(held, held):
        together = one is not other and one[1] < other[2] and other[1] < one[2]
        assert not together or may_join(one[3], other[3]), (one, other)
