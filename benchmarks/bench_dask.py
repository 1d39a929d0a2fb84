"""Dask workers that die: 2,000 jobs over 4 processes with one cap, two of them killed on the way.

Beside it, on the same server: one process without Dask, 4 processes that nobody kills, and what starting
and stopping those costs. Prints a table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil

from tests.support.api_server import command, environment, run_command
from tests.support.faults import SlowServer, wait_for, write_pairs

WORKERS = 4
KILL_AT = (0.3, 0.6)
"""Which shares of the jobs are submitted when a worker is killed."""
TIMEOUT_S = 900
COLUMNS = (
    *("", "done", "unknown", "POSTs", "charged twice", "most unfinished", "killed"),
    *("run", "jobs/s", "start and stop", "done after `resolve`"),
)


@dataclass(frozen=True)
class Trial:
    name: str
    answer: dict
    took_s: float
    posts: int
    double: int
    max_unfinished: int
    kills: int
    done_at_last: int
    """After unknown jobs were resolved by hand and the command was typed again."""

    def row(self) -> str:
        answer = self.answer
        speed = answer["done"] / answer["elapsed_s"]
        return (
            f"| {self.name} | {answer['done']} | {answer['unknown']} | {self.posts} | {self.double} "
            f"| {self.max_unfinished} | {self.kills} | {answer['elapsed_s']:.1f} s | {speed:.1f} "
            f"| {self.took_s - answer['elapsed_s']:.1f} s | {self.done_at_last} |"
        )


def trial(
    name: str, jobs: int, cap: int, generate_s: float, dask: bool, kills: tuple[float, ...]
) -> Trial:
    server = SlowServer(generate_s=generate_s).start()
    with tempfile.TemporaryDirectory() as folder:
        cwd = Path(folder)
        write_pairs(cwd / "pairs.csv", jobs)
        extra = ("--dask", f"local:{WORKERS}") if dask else ()
        began_s = time.monotonic()
        process = subprocess.Popen(
            command("run", "pairs.csv", "--json", "-c", cap, *extra),
            cwd=cwd,
            env=environment(server, cwd),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for share in kills:
            kill_one(process, server, int(share * jobs))
        out, err = process.communicate(timeout=TIMEOUT_S)
        took_s = time.monotonic() - began_s
        if not out:
            raise SystemExit(err)
        most = server.max_unfinished
        done = settle(server, cwd) if kills else json.loads(out)["done"]
    posts = len(server.posts)
    double = posts - len({post["prompt"] for post in server.posts})
    server.stop()
    return Trial(name, json.loads(out), took_s, posts, double, most, len(kills), done)


def settle(server: SlowServer, cwd: Path) -> int:
    """Resolve unknown jobs as a user would, by what the API lists, and run again; returns what is done."""
    for line in run_command(
        None, cwd, "status", "output/pairs", "--list", "unknown"
    ).stdout.splitlines():
        job = json.loads(line)
        prompt = job["input"]["prompt"]
        made = [one.id for one in server.created.values() if one.body["prompt"] == prompt]
        found = ("--request-id", *made) if made else ("--not-created",)
        run_command(server, cwd, "resolve", "output/pairs", job["job"], *found)
    return json.loads(run_command(server, cwd, "run", "pairs.csv", "--json").stdout)["done"]


def kill_one(process: subprocess.Popen[str], server: SlowServer, posts: int) -> None:
    """kill -9 one worker once so many jobs were submitted, while no POST is under way."""
    wait_for(lambda: len(server.posts) >= posts, TIMEOUT_S)
    while True:
        before = len(server.posts)
        time.sleep(0.03)
        if len(server.posts) == before:
            break
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [one.pid for one in below if any("spawn_main" in part for part in one.cmdline())]
    os.kill(workers[0], 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--cap", type=int, default=64)
    parser.add_argument("--generate-s", type=float, default=1.0)
    given = parser.parse_args()
    size = (given.jobs, given.cap, given.generate_s)
    print(f"{given.jobs} jobs of {given.generate_s:g} s, -c {given.cap}, {os.cpu_count()} cores\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    print(trial("one process, no Dask", *size, False, ()).row(), flush=True)
    print(trial(f"local:{WORKERS}", *size, True, ()).row(), flush=True)
    killed = trial(f"local:{WORKERS}, two killed", *size, True, KILL_AT)
    print(killed.row(), flush=True)
    assert killed.double == 0
    assert killed.done_at_last == given.jobs
    assert killed.max_unfinished <= given.cap + killed.answer["unknown"]


if __name__ == "__main__":
    main()
