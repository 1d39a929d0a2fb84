"""End to end over many jobs: what a job costs as N grows, and as C grows, and what memory it takes.

``batcher.run`` against a server that answers at once, from a process of its own; each case in a fresh
process. ``--jobs`` sets the largest N (up to a million), ``--plot FILE`` draws both curves. Growth per
finished job is the slope of peak memory between the smallest N and the largest: some of it is the bytes
of a packed job, the rest is what the allocator and the kernel keep.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from curves import Curve, Panel, draw
from fast_server import served

import batcher

KIB, MB = 1024, 1_000_000
CONCURRENCY = (8, 64, 512, 1000)
MODEL = "kling/kling-2-1/master/image-to-video"


def write_manifest(path: Path, jobs: int) -> None:
    with path.open("w") as file:
        file.write("prompt,image_url,duration\n")
        for n in range(jobs):
            file.write(f"a fox trots through tall grass take {n},https://example.com/{n}.png,5\n")


def run(manifest: Path, concurrency: int) -> None:
    """In a process of its own: run the batch and say what it took."""
    began_s = time.perf_counter()
    summary = asyncio.run(
        batcher.run(
            manifest,
            output=manifest.with_suffix(""),
            model=MODEL,
            concurrency=concurrency,
            poll=0.001,
            yes=True,
        )
    )
    used = resource.getrusage(resource.RUSAGE_SELF)
    told = {
        "done": summary.done,
        "took_s": time.perf_counter() - began_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * KIB,
        "ledger": (manifest.with_suffix("") / "ledger.jsonl").stat().st_size,
    }
    print(json.dumps(told))


def measured(folder: Path, origin: str, jobs: int, concurrency: int) -> dict[str, float]:
    manifest = folder / f"{jobs}-{concurrency}.csv"
    write_manifest(manifest, jobs)
    environ = os.environ | {
        "RUNCOMFY_MODEL_API_BASE": f"{origin}/v1",
        "RUNCOMFY_TOKEN": "x" * 40,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "BATCHER_BOOK_DIR": str(folder / "book"),
    }
    command = [sys.executable, __file__, "--run", str(manifest), str(concurrency)]
    ran = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    assert told["done"] == jobs, told
    print(
        f"{jobs:>9,} {concurrency:>5} {jobs / told['took_s']:>8,.0f} {1e3 * told['cpu_s'] / jobs:>9.2f} "
        f"{told['peak'] / MB:>8.0f} {told['ledger'] / jobs:>11.0f}",
        flush=True,
    )
    return told


def main() -> None:
    """Measure, print, and draw where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=12_000)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(Path(options.run[0]), int(options.run[1]))
        return
    sizes = [options.jobs // 12, options.jobs // 3, options.jobs]
    print("     jobs    -c   jobs/s   CPU ms  peak MB  ledger B/job")
    with tempfile.TemporaryDirectory() as folder, served() as origin:
        by_n = {n: measured(Path(folder), origin, n, 64) for n in sizes}
        few = max(options.jobs // 4, 1000)
        by_c = {c: measured(Path(folder), origin, few, c) for c in CONCURRENCY}
    growth = (by_n[sizes[-1]]["peak"] - by_n[sizes[0]]["peak"]) / (sizes[-1] - sizes[0])
    print(f"memory grows by {growth:,.0f} bytes per finished job")
    if options.plot is not None:
        options.plot.write_text(plot(by_n, by_c, few))


def plot(by_n: dict[int, dict[str, float]], by_c: dict[int, dict[str, float]], few: int) -> str:
    """CPU and memory by N and by C, as SVG."""
    panels = [
        Panel(title, x_label, y_label, [Curve(name, "#2266cc", points)])
        for name, y_label, y_of in (
            ("one run each", "CPU ms per job", lambda told, n: 1e3 * told["cpu_s"] / n),
            ("", "peak memory, MB", lambda told, n: told["peak"] / MB),
        )
        for title, x_label, points in (
            ("-c 64", "thousands of jobs", [(n / 1000, y_of(told, n)) for n, told in by_n.items()]),
            (f"{few:,} jobs", "-c", [(float(c), y_of(told, few)) for c, told in by_c.items()]),
        )
    ]
    return draw(panels)


if __name__ == "__main__":
    main()
