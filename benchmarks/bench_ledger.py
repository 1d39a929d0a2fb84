"""How many records a second become durable, and how long each waits, by how many write at once.

``ledger``    the real one: lines that gather during an fsync share the next.
``each``      the same lines, an fsync for each, on the event loop: what a plain script does.
``unsynced``  the same lines without any fsync: the floor, and no promise.

On the disk that ``--dir`` (by default the temporary folder) is on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

from batcher.clock import SystemClock, iso
from batcher.disk import LocalAppendFile, LocalDisk
from batcher.jobs.lifecycle import Event, EventName
from batcher.ledger.ledger import Ledger
from batcher.ledger.lines import encode_line

PRODUCERS = (1, 8, 64, 512)
FIELDS = {
    "model": "kling/kling-2-1/master/image-to-video",
    "digest": "0123456789abcdef",
    "input": {"prompt": "a cat numbered 17 jumps over a wall, golden hour", "duration": 5},
    "source": "jobs.csv:17",
    "price_usd": 1.4,
}


class CountingDisk(LocalDisk):
    """Counts fsyncs of files."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0

    def open_append(self, path: Path) -> LocalAppendFile:
        disk = self

        class Counting(LocalAppendFile):
            def sync(self) -> None:
                disk.syncs += 1
                super().sync()

        return Counting(path)


async def through_ledger(folder: Path, producers: int, records: int) -> tuple[list[float], int]:
    """Seconds that each record waited, and how many fsyncs there were."""
    disk = CountingDisk()
    ledger = Ledger(folder, disk, SystemClock())
    waits_s: list[float] = []

    async def produce(first: int) -> None:
        for number in range(first, records, producers):
            began_s = time.perf_counter()
            await ledger.record(EventName.SUBMITTING, f"job-{number}", attempt=1, **FIELDS)
            waits_s.append(time.perf_counter() - began_s)

    await asyncio.gather(*map(produce, range(producers)))
    await ledger.close()
    return waits_s, disk.syncs


def one_by_one(folder: Path, records: int, *, synced: bool) -> list[float]:
    """The same lines without a ledger."""
    folder.mkdir()
    waits_s: list[float] = []
    with (folder / "lines").open("ab", buffering=0) as file:
        for number in range(records):
            began_s = time.perf_counter()
            event = Event(EventName.SUBMITTING, iso(SystemClock().now()), f"job-{number}", 1, **FIELDS)
            file.write(encode_line(event, 0))
            if synced:
                os.fsync(file.fileno())
            waits_s.append(time.perf_counter() - began_s)
    return waits_s


def row(name: str, producers: int, waits_s: list[float], took_s: float, syncs: int) -> str:
    """One line of the table."""
    waits_s.sort()
    p50_ms, p99_ms = (1000 * waits_s[int(len(waits_s) * share)] for share in (0.5, 0.99))
    rate = len(waits_s) / took_s
    return (
        f"{name:<9} {producers:>9} {rate:>10,.0f} {p50_ms:>8.2f} {p99_ms:>8.2f} "
        f"{syncs / len(waits_s):>13.4f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--dir", type=Path)
    options = parser.parse_args()
    print("what      producers  records/s   p50 ms   p99 ms  fsyncs/record")
    with tempfile.TemporaryDirectory(dir=options.dir) as root:
        for producers in PRODUCERS:
            records = min(options.records, 500 * producers)
            began_s = time.perf_counter()
            waits_s, syncs = asyncio.run(through_ledger(Path(root) / str(producers), producers, records))
            print(row("ledger", producers, waits_s, time.perf_counter() - began_s, syncs))
        for name, synced, records in (("each", True, 500), ("unsynced", False, 5000)):
            runs = []
            for number in range(3):
                began_s = time.perf_counter()
                waits_s = one_by_one(Path(root) / f"{name}-{number}", records, synced=synced)
                runs.append((time.perf_counter() - began_s, waits_s))
            took_s = statistics.median(took_s for took_s, _ in runs)
            print(row(name, 1, runs[-1][1], took_s, records if synced else 0))


if __name__ == "__main__":
    main()
