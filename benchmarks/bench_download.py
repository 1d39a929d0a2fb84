"""Downloads against ``curl --parallel``, and what they do to submissions beside them.

Ours is the path of a run: stream, SHA-256, fsync, rename into ``media/``, folder fsynced by groups; in a
process of its own, with and without uvloop, with a ticker beside it that sleeps 5 ms again and again. curl
hashes nothing; its files are fsynced, by as many threads, within its time. Both make 8 transfers at a
time from the same server, which is a process of its own, and take turns.

Then as many POSTs as 16 workers can make, one after another each, alone and beside downloads of 8 MiB
files; and 50 POSTs a second, evenly, with the time that each took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from urllib.request import urlopen

from bench_overhead import MODEL, Measured, Ticker, has_uvloop, inputs
from fast_server import served

DOWNLOADS = 8
WARM_UP_FILES = 8
POSTERS = 16
POSTS_PER_S = 50.0
MIB = 1 << 20
LOADS = ((48, 8 * MIB), (1000, 100 * 1024))


def names(count: int, size_bytes: int) -> Iterator[tuple[str, str]]:
    """Paths on the server and file names."""
    return ((f"/media/{size_bytes}/f{number}.png", f"f{number}") for number in range(count))


# Ours, in a process of its own.


class Fetching:
    """A downloader and a run directory, as a run has them."""

    def __init__(self, origin: str, folder: Path) -> None:
        from batcher.clock import SystemClock
        from batcher.disk import LocalDisk
        from batcher.download.downloader import Downloader
        from batcher.download.patience import DownloadLimits
        from batcher.download.trust import TrustPolicy
        from batcher.store.local import RunDir

        self._origin = origin
        self._run_dir = RunDir(folder, LocalDisk())
        self._run_dir.prepare()
        limits = DownloadLimits(downloads=DOWNLOADS)
        self.downloader = Downloader(TrustPolicy((origin,)), limits, SystemClock(), Random(1))

    async def fetch(self, path: str, name: str) -> None:
        async def refresh() -> str:
            raise AssertionError("asked for a fresh URL")

        partial = self._run_dir.partial(name, 0)
        fetched = await self.downloader.fetch(f"{self._origin}{path}", partial, refresh)
        self._run_dir.publish(partial, f"{name}{fetched.extension}")
        await self._run_dir.settle()

    async def all(self, files: Iterator[tuple[str, str]]) -> None:
        """Fetch ``files``, 64 in hand at a time."""

        async def work() -> None:
            for path, name in files:
                await self.fetch(path, name)

        async with asyncio.TaskGroup() as group:
            for _ in range(64):
                group.create_task(work())


async def downloading(asked: argparse.Namespace) -> Measured:
    fetching = Fetching(asked.origin, asked.dir)
    ticker = Ticker()
    async with fetching.downloader:
        await fetching.all(names(WARM_UP_FILES, asked.size))
        ticking = asyncio.create_task(ticker.run())
        began_s = time.perf_counter()
        await fetching.all(names(asked.files, asked.size))
        took_s = time.perf_counter() - began_s
        ticking.cancel()
    return {"took_s": took_s, **ticker.lags_ms()}


class Posting:
    """Submits, and notes how long each took."""

    def __init__(self, origin: str) -> None:
        from batcher.clock import SystemClock
        from batcher.http.endpoint import Endpoint, Token
        from batcher.http.exchange import Connection
        from batcher.providers.runcomfy.provider import RunComfy

        self.connection = Connection(Endpoint(f"{origin}/v1", Token("x" * 40)), SystemClock())
        self.service = RunComfy(self.connection, SystemClock())
        self.took_s: list[float] = []

    async def post(self) -> None:
        began_s = time.perf_counter()
        await self.service.submit(MODEL, json.dumps(inputs(1)).encode())
        self.took_s.append(time.perf_counter() - began_s)

    async def as_many_as_go(self) -> None:
        async def work() -> None:
            while True:
                await self.post()

        await asyncio.gather(*(work() for _ in range(POSTERS)))

    async def evenly(self) -> None:
        next_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self.post())
                next_s += 1 / POSTS_PER_S
                await asyncio.sleep(max(next_s - time.perf_counter(), 0))

    async def measured(self, evenly: bool, seconds: float) -> tuple[float, float]:
        """Posts a second, and the 99th percentile of their times in ms."""
        self.took_s.clear()
        try:
            async with asyncio.timeout(seconds):
                await (self.evenly() if evenly else self.as_many_as_go())
        except TimeoutError:
            pass
        took_s = sorted(self.took_s)
        return len(took_s) / seconds, 1000 * took_s[int(0.99 * len(took_s))]


async def posting(asked: argparse.Namespace) -> Measured:
    fetching, posts, found = Fetching(asked.origin, asked.dir), Posting(asked.origin), {}
    async with fetching.downloader, posts.connection:
        await posts.measured(False, 0.5)
        for beside in (False, True):
            endless = (file for _ in range(1000) for file in names(64, 8 * MIB))
            task = asyncio.create_task(fetching.all(endless)) if beside else None
            for evenly in (False, True):
                rate, p99_ms = await posts.measured(evenly, asked.seconds)
                key = f"{'even' if evenly else 'most'}_{'beside' if beside else 'alone'}"
                found |= {f"{key}_per_s": rate, f"{key}_p99_ms": p99_ms}
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
    return found


# Asking for measurements, and the tables.


def ours(asked: argparse.Namespace, program: str, origin: str, *options: str) -> Measured:
    folder = tempfile.mkdtemp(dir=asked.dir)
    command = [sys.executable, str(Path(__file__).resolve()), "--program", program]
    command += ["--origin", origin, "--dir", folder, *options]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(out.stdout)


def curl(asked: argparse.Namespace, origin: str, count: int, size_bytes: int) -> float:
    """Seconds for curl, and then to fsync what it wrote."""
    folder = Path(tempfile.mkdtemp(dir=asked.dir))
    config = folder.with_suffix(".curl")
    targets = [(f"{origin}{path}", folder / f"{name}.png") for path, name in names(count, size_bytes)]
    config.write_text("".join(f'url = "{url}"\noutput = "{target}"\n' for url, target in targets))
    began_s = time.perf_counter()
    subprocess.run(
        [
            "curl",
            "--silent",
            "--no-progress-meter",
            "--fail",
            "--parallel",
            "--parallel-max",
            str(DOWNLOADS),
            "-K",
            str(config),
        ],
        check=True,
    )
    with ThreadPoolExecutor(DOWNLOADS) as threads:
        list(threads.map(synced, [target for _, target in targets]))
    synced(folder)
    return time.perf_counter() - began_s


def synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def compare(asked: argparse.Namespace, origin: str, count: int, size_bytes: int) -> None:
    """Rounds of one load; ratios are those within a round."""
    loops = (False, True)[: 1 + has_uvloop()]
    urlopen(f"{origin}/media/{size_bytes}/warm.png").read()  # the server makes each size once
    rounds: list[tuple[float, list[Measured]]] = []
    for _ in range(asked.rounds):
        options = ("--files", str(count), "--size", str(size_bytes))
        theirs_s = curl(asked, origin, count, size_bytes) if shutil.which("curl") else float("nan")
        runs = [ours(asked, "download", origin, *options, *["--uvloop"] * loop) for loop in loops]
        rounds.append((theirs_s, runs))
    size_mib = size_bytes / MIB
    print(f"\n{count} files of {size_mib:.3g} MiB, medians of {asked.rounds} rounds")
    print("            MiB/s  files/s  x curl's rate   lag p99    max   own p99 ms")
    theirs_s = statistics.median(theirs_s for theirs_s, _ in rounds)
    if theirs_s == theirs_s:
        print(f"curl     {count * size_mib / theirs_s:8.0f} {count / theirs_s:8.0f}")
    else:
        print("curl is not installed: nothing to compare with")
    for number, on_uvloop in enumerate(loops):
        runs = [(theirs_s, measured[number]) for theirs_s, measured in rounds]
        took_s = statistics.median(run["took_s"] for _, run in runs)
        ratio = statistics.median(theirs_s / run["took_s"] for theirs_s, run in runs)
        p99_ms = statistics.median(run["lag_p99_ms"] for _, run in runs)
        max_ms = statistics.median(run["lag_max_ms"] for _, run in runs)
        own_ms = statistics.median(run["own_p99_ms"] for _, run in runs)
        print(
            f"{'uvloop' if on_uvloop else 'asyncio':8} {count * size_mib / took_s:8.0f} "
            f"{count / took_s:8.0f} {ratio:14.2f} {p99_ms:9.1f} {max_ms:6.1f} {own_ms:12.1f}",
            flush=True,
        )


def beside(asked: argparse.Namespace, origin: str) -> None:
    """Submissions with and without downloads."""
    print(f"\nPOSTs, {asked.seconds:g} s each, medians of {asked.rounds} rounds")
    print("                        alone /s   beside /s   ratio   p99 alone   p99 beside ms")
    options = ("--seconds", str(asked.seconds), *["--uvloop"] * has_uvloop())
    rounds = [ours(asked, "posts", origin, *options) for _ in range(asked.rounds)]
    for key, what in (("most", f"{POSTERS} workers"), ("even", f"{POSTS_PER_S:g}/s")):
        figures = {
            name: statistics.median(one[f"{key}_{name}"] for one in rounds)
            for name in ("alone_per_s", "beside_per_s", "alone_p99_ms", "beside_p99_ms")
        }
        print(
            f"{what:22} {figures['alone_per_s']:9.0f} {figures['beside_per_s']:11.0f} "
            f"{figures['beside_per_s'] / figures['alone_per_s']:7.2f} {figures['alone_p99_ms']:11.1f} "
            f"{figures['beside_p99_ms']:14.1f}"
        )


def be_measured(asked: argparse.Namespace) -> None:
    program = {"download": downloading, "posts": posting}[asked.program](asked)
    if asked.uvloop:
        import uvloop

        print(json.dumps(uvloop.run(program)))
    else:
        print(json.dumps(asyncio.run(program)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Downloads against curl.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement of POSTs")
    parser.add_argument("--dir", type=Path, help="where files go meanwhile")
    parser.add_argument("--program", choices=["download", "posts"], help=argparse.SUPPRESS)
    parser.add_argument("--origin", help=argparse.SUPPRESS)
    parser.add_argument("--files", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--uvloop", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.program:
        be_measured(asked)
        return
    with served() as origin, tempfile.TemporaryDirectory(prefix="download-", dir=asked.dir) as folder:
        asked.dir = Path(folder)
        for count, size_bytes in LOADS:
            compare(asked, origin, count, size_bytes)
        beside(asked, origin)


if __name__ == "__main__":
    main()
