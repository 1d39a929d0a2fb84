"""``python -m tests.simulation --seeds 10000 [--first N]``, or ``--seed N`` for one with its trace."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from batcher.jobs.lifecycle import TRANSITIONS

from .story import Move, Verdict, simulate

CHUNK = 20


@dataclass
class Coverage:
    """What many seeds lived through together."""

    seeds: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    moves: Counter[Move] = field(default_factory=Counter)
    failing: list[Verdict] = field(default_factory=list)

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        self.seen += verdict.seen
        self.moves += verdict.moves
        if verdict.broken:
            self.failing.append(verdict)

    @property
    def missing(self) -> list[Move]:
        """Transitions of the table that no seed took."""
        return [move for move in TRANSITIONS if move not in self.moves]


def quick(seed: int) -> Verdict:
    """A verdict without its trace, which is long."""
    verdict = simulate(seed)
    verdict.trace.clear()
    return verdict


def verdicts(seeds: Iterable[int], workers: int) -> Iterator[Verdict]:
    """In the order of the seeds."""
    if workers == 1:
        yield from map(quick, seeds)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap(quick, seeds, chunksize=CHUNK)


def cover(seeds: Iterable[int], workers: int, *, stop_at_first: bool = False) -> Coverage:
    """Live through ``seeds`` and sum up."""
    coverage = Coverage()
    for verdict in verdicts(seeds, workers):
        coverage.add(verdict)
        if coverage.failing and stop_at_first:
            break
    return coverage


def report(coverage: Coverage, took_s: float) -> None:
    seen = coverage.seen
    rate = coverage.seeds / max(took_s, 1e-9)
    print(f"{coverage.seeds} seeds in {took_s:.0f} s ({rate:.0f} a second)")
    print(f"{seen['runs']} runs, {seen['crashes']} of them crashed")
    for name in sorted(seen.keys() - {"runs", "crashes"}):
        print(f"  {name:32} {seen[name]:8}")
    print(f"{len(TRANSITIONS) - len(coverage.missing)} of {len(TRANSITIONS)} transitions")
    for (state, event), count in sorted(coverage.moves.items()):
        print(f"  {state:>10} + {event:10} {count:8}")
    for state, event in coverage.missing:
        print(f"  {state:>10} + {event:10}    never")
    for verdict in coverage.failing[:20]:
        print(f"FAILED {verdict.broken[0]}\n    python -m tests.simulation --seed {verdict.seed}")
    print(f"{len(coverage.failing)} seeds failed")


def one(seed: int) -> int:
    """Show one seed step by step."""
    verdict = simulate(seed)
    print("\n".join(verdict.trace))
    for broken in verdict.broken:
        print(f"BROKEN {broken}")
    return int(bool(verdict.broken))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="replay this one and show its trace")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--stop-at-first", action="store_true")
    options = parser.parse_args()
    if options.seed is not None:
        return one(options.seed)
    began_s = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    coverage = cover(seeds, options.workers, stop_at_first=options.stop_at_first)
    report(coverage, time.monotonic() - began_s)
    return int(bool(coverage.failing))


if __name__ == "__main__":
    sys.exit(main())
