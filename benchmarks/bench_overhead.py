"""What the engine costs per job, against bare loops over aiohttp that make the same requests.

A job is three requests: POST, result, media (1 KiB). The server answers at once, from a process of its
own. Three programs, each in a fresh process and with and without uvloop:

``requests``  the three requests and nothing else, by so many workers: what aiohttp costs.
``records``   the same loop with the fsyncs of a run: intent, answer and done in one file by group commit,
              each output fsynced, renamed, its folder fsynced by groups. As plain as it can be.
``engine``    ``batcher.run``, with all that it does: manifest, plan, ledger, SHA-256, metadata, acceptance.

The engine waits before its first poll. A fixed interval of a millisecond (``poll_interval_s``) makes it
ask once, as the loops do. Its downloads are as many as the loops' workers, up to 64.

CPU and time per job are those of a run of N jobs less those of a run of N/10 before it in the same
process, so that no start-up is in them; CPU is that of the process with all its threads. The programs take
turns; what is printed is the median over the rounds. ``--decode`` has images decoded, as the extra
``media`` does. Lag with many requests: ``-c 1000 -c 2000 --jobs 4000 --rounds 1``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from fast_server import served

MODEL = "kling/kling-2-1/master/image-to-video"
TICK_S = 0.005
DOWNLOADS_MAX = 64
PROGRAMS = ("requests", "records", "engine")
CONCURRENCY = (64,)
Measured = dict[str, float]


def inputs(number: int) -> dict[str, Any]:
    """The inputs of one job."""
    return {
        "prompt": f"a fox trots through tall grass, take {number}",
        "image_url": f"https://example.com/{number}.png",
        "duration": 5,
    }


# The loops.


class Groups:
    """Calls of a blocking function that wait for each other: the next begins when the last ends."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._running: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def covered(self) -> None:
        """Wait for a call that began after this."""
        loop = asyncio.get_running_loop()
        if self._next is None:
            self._next = loop.create_future()
            if self._running is None:
                self._begin()
        await self._next if self._next is not None else await self._running  # type: ignore[misc]

    def _begin(self) -> None:
        self._running, self._next = self._next, None
        done = asyncio.get_running_loop().run_in_executor(None, self._function)
        done.add_done_callback(self._ended)

    def _ended(self, done: asyncio.Future[None]) -> None:
        assert self._running is not None
        done.result()
        self._running.set_result(None)
        self._running = None
        if self._next is not None:
            self._begin()


class Records:
    """A file of lines and a folder of outputs, both durable."""

    def __init__(self, folder: Path) -> None:
        (folder / "media").mkdir(parents=True)
        self._media = folder / "media"
        self._folder_fd = os.open(self._media, os.O_RDONLY)
        self._fd = os.open(folder / "lines.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lines: list[bytes] = []
        self._written = Groups(self._write)
        self._named = Groups(lambda: os.fsync(self._folder_fd))

    async def line(self, fields: dict[str, Any]) -> None:
        self._lines.append(json.dumps(fields).encode() + b"\n")
        await self._written.covered()

    def _write(self) -> None:
        lines, self._lines = self._lines, []
        os.write(self._fd, b"".join(lines))
        os.fsync(self._fd)

    async def output(self, name: str, content: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._store, name, content)
        await self._named.covered()

    def _store(self, name: str, content: bytes) -> None:
        part = self._media / f"{name}.part"
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self._media / name)


async def loop_jobs(origin: str, numbers: Iterable[int], workers: int, records: Records | None) -> None:
    """Make the requests of each number's job, by so many workers."""
    import aiohttp

    turns = iter(numbers)
    headers = {"Authorization": "Bearer " + "x" * 40}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def work() -> None:
            for number in turns:
                body = inputs(number)
                if records is not None:
                    await records.line({"event": "submitting", "job": number, "input": body})
                async with session.post(
                    f"{origin}/v1/models/{MODEL}", json=body, headers=headers
                ) as answer:
                    request = (await answer.json())["request_id"]
                if records is not None:
                    await records.line({"event": "submitted", "job": number, "request_id": request})
                url = f"{origin}/v1/requests/{request}/result"
                async with session.get(url, headers=headers) as answer:
                    output = (await answer.json())["output"]["image"]
                async with session.get(output) as answer:
                    content = await answer.read()
                if records is not None:
                    await records.output(f"{number}.png", content)
                    await records.line({"event": "done", "job": number, "bytes": len(content)})

        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())


async def engine_jobs(folder: Path, numbers: range, workers: int) -> None:
    """The same jobs as a run of the engine."""
    import batcher

    manifest = folder.with_suffix(".jsonl")
    rows = ({"id": f"job-{n:06d}", "model": MODEL, **inputs(n)} for n in numbers)
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = await batcher.run(
        manifest,
        output=folder,
        concurrency=workers,
        downloads=min(workers, DOWNLOADS_MAX),
        poll=0.001,
    )
    assert summary.done == len(numbers), summary


# Measuring one program, in its own process.


class Ticker:
    """Sleeps 5 ms again and again, and notes how much later than that it was woken.

    On a machine with other work to do, much of that is not the program's doing; the CPU time that its
    event loop used meanwhile is.
    """

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._busy_s: list[float] = []

    async def run(self) -> None:
        while True:
            began_s, busy_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            self._late_s.append(time.perf_counter() - began_s - TICK_S)
            self._busy_s.append(min(time.thread_time() - busy_s, self._late_s[-1]))

    def lags_ms(self) -> Measured:
        """How late it was woken in the middle, in one of a hundred, at worst; and by its own doing."""
        late_s, busy_s = sorted(self._late_s), sorted(self._busy_s)
        return {
            "lag_p50_ms": 1000 * late_s[len(late_s) // 2],
            "lag_p99_ms": 1000 * late_s[len(late_s) * 99 // 100],
            "lag_max_ms": 1000 * late_s[-1],
            "own_p99_ms": 1000 * busy_s[len(busy_s) * 99 // 100],
        }


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(run: Callable[[str, range], Awaitable[None]], jobs: int) -> Measured:
    """One program's figures; ``run`` carries out the jobs of a range in a folder of its own."""
    few = jobs // 10
    await run("warm", range(few))
    spent: list[tuple[float, float]] = []
    ticker = Ticker()
    for name, count in (("few", few), ("all", jobs)):
        ticking = asyncio.create_task(ticker.run()) if count == jobs else None
        before = cpu_s(), time.perf_counter()
        await run(name, range(count))
        spent.append((cpu_s() - before[0], time.perf_counter() - before[1]))
        if ticking is not None:
            ticking.cancel()
    (few_cpu_s, few_s), (all_cpu_s, all_s) = spent
    return {
        "cpu_us": 1e6 * (all_cpu_s - few_cpu_s) / (jobs - few),
        "jobs_per_s": (jobs - few) / (all_s - few_s),
        **ticker.lags_ms(),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def program(asked: argparse.Namespace) -> Measured:
    async def run(name: str, numbers: range) -> None:
        folder = asked.dir / name
        if asked.program == "engine":
            await engine_jobs(folder, numbers, asked.concurrency)
        else:
            records = Records(folder) if asked.program == "records" else None
            await loop_jobs(asked.origin, numbers, asked.concurrency, records)

    return await measure(run, asked.jobs)


def be_measured(asked: argparse.Namespace) -> None:
    if not asked.decode:
        sys.modules["PIL"] = None  # type: ignore[assignment]
    if asked.uvloop:
        import uvloop

        print(json.dumps(uvloop.run(program(asked))))
    else:
        print(json.dumps(asyncio.run(program(asked))))


# Asking for measurements, and the tables.


def measured(asked: argparse.Namespace, what: str, on_uvloop: bool, origin: str) -> Measured:
    # Removed only at the end: ext4 passes over inodes that were freed a moment ago, one by one.
    folder = Path(tempfile.mkdtemp(dir=asked.dir))
    command = [sys.executable, str(Path(__file__).resolve()), "--program", what, "--origin", origin]
    command += ["--dir", str(folder), "--jobs", str(asked.jobs), "-c", str(asked.concurrency)]
    command += ["--uvloop"] * on_uvloop + ["--decode"] * asked.decode
    env = os.environ | {
        "RUNCOMFY_MODEL_API_BASE": f"{origin}/v1",
        "RUNCOMFY_TOKEN": "x" * 40,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "BATCHER_BOOK_DIR": str(folder / "book"),
    }
    out = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(out.stdout)


def has_uvloop() -> bool:
    try:
        import uvloop
    except ImportError:
        return False
    return bool(uvloop)


def table(asked: argparse.Namespace, origin: str) -> None:
    """Rounds at one concurrency, as one table; ratios are those within a round."""
    asked_for = [(what, loop) for what in asked.only for loop in (False, True)[: 1 + has_uvloop()]]
    rounds: list[dict[tuple[str, bool], Measured]] = [
        {case: measured(asked, *case, origin) for case in asked_for} for _ in range(asked.rounds)
    ]
    print(f"\n{asked.jobs} jobs at -c {asked.concurrency}, medians of {asked.rounds} rounds")
    print(
        "program    loop     CPU/job  x requests  x records   jobs/s  x records"
        "   lag p50    p99    max   own p99 ms   RSS MiB"
    )
    for case in asked_for:
        print(line(case, rounds), flush=True)


def line(case: tuple[str, bool], rounds: list[dict[tuple[str, bool], Measured]]) -> str:
    """One program's medians; ``x`` columns are over another program on asyncio's own loop."""

    def median(key: str, over: str | None = None) -> float:
        if over is None:
            return statistics.median(one[case][key] for one in rounds)
        base = (over, False)
        return statistics.median(one[case][key] / one[base][key] if base in one else 0 for one in rounds)

    return (
        f"{case[0]:10} {'uvloop' if case[1] else 'asyncio':7} {median('cpu_us'):6.0f} us "
        f"{median('cpu_us', 'requests'):10.2f} {median('cpu_us', 'records'):11.2f} "
        f"{median('jobs_per_s'):8.0f} {median('jobs_per_s', 'records'):10.2f} "
        f"{median('lag_p50_ms'):9.1f} {median('lag_p99_ms'):6.1f} {median('lag_max_ms'):6.1f} "
        f"{median('own_p99_ms'):12.1f} "
        f"{median('rss_mib'):9.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What the engine costs per job.")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("-c", "--concurrency", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--dir", type=Path, help="where outputs go meanwhile")
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--origin", help=argparse.SUPPRESS)
    parser.add_argument("--uvloop", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    levels = asked.concurrency or CONCURRENCY
    if asked.program:
        (asked.concurrency,) = levels
        be_measured(asked)
        return
    with served() as origin, tempfile.TemporaryDirectory(prefix="overhead-", dir=asked.dir) as folder:
        asked.dir = Path(folder)
        for asked.concurrency in levels:
            table(asked, origin)


if __name__ == "__main__":
    main()
