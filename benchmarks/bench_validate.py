"""How long a table of many rows takes to check, and how much memory: against csv.reader alone.

Each case runs in a process of its own, so that its peak memory is its own. ``read`` is the floor: the
standard library's reader over the same file and nothing else. ``validate`` is the first pass of a run:
rows to jobs, with types, schema, media URLs, ids and duplicates. ``plan`` is the same pass with what is
to be done with each job, its price, and what there is to know about its URLs. On a machine that is shared,
the seconds of CPU tell more than those of the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from batcher.app.prepare import prepare
from batcher.clock import SystemClock, in_steps
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.load import open_manifest
from batcher.manifest.tally import ManifestTally
from batcher.options.facts import Money, Overrides
from batcher.options.run import Options
from batcher.providers.catalog import Specs
from batcher.sandbox.catalogue import catalogue
from batcher.schema.spec import ModelSpec

MODEL = "kling/kling-2-1/master/image-to-video"
KIB = 1024
MB = 1_000_000


def write_table(path: Path, rows: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "image_url", "duration", "aspect_ratio", "cfg_scale", "meta.split"])
        for number in range(rows):
            prompt = f"a cat numbered {number} jumps over a wall, golden hour, low camera"
            url = f"https://media.example.com/cats/{number}.png"
            writer.writerow([prompt, url, (5, 10)[number % 2], "16:9", "0.5", "train"])


def specs() -> Specs:
    return Specs({MODEL: ModelSpec.from_catalogue(catalogue()[MODEL].listing(include_schema=True))}, {})


def read(path: Path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.reader(file)) - 1


def validate(path: Path) -> int:
    tally = ManifestTally()
    manifest = open_manifest(path, Overrides(model=MODEL))
    count = sum(1 for _ in manifest.jobs(specs().by_model, tally))
    tally.raise_if_invalid()
    return count


def plan(path: Path) -> int:
    options = Options(manifest=path, overrides=Overrides(model=MODEL), money=Money(max_cost_usd=1e12))
    manifest = open_manifest(path, options.overrides)
    steps = prepare(options, manifest, specs(), Snapshot(), path.parent / "run")
    return asyncio.run(in_steps(steps, SystemClock())).plan.to_buy


Case = Callable[[Path], int]
CASES: tuple[Case, ...] = (read, validate, plan)


class Measured(NamedTuple):
    """What one case took of one process; ``peak_mb`` is its largest resident memory."""

    rows: int
    took_s: float
    cpu_s: float
    peak_mb: float


def measured(case: Case, path: Path) -> Measured:
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    rows = case(path)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MB
    return Measured(rows, took_s, cpu_s, peak_mb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    rows = parser.parse_args().rows
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="batcher-bench-") as folder:
        path = Path(folder) / "many.csv"
        write_table(path, rows)
        print(f"{rows:,} rows, {path.stat().st_size / MB:.0f} MB")
        print("case         seconds   of CPU   CPU µs/row   times the floor   peak memory")
        floor_s = 0.0
        for case in CASES:
            with spawn.Pool(1) as pool:
                one = pool.apply(measured, (case, path))
            if one.rows != rows:
                raise SystemExit(f"{case.__name__}: {one.rows} rows instead of {rows}")
            floor_s = floor_s or one.cpu_s
            print(
                f"{case.__name__:<10} {one.took_s:>9.2f} {one.cpu_s:>8.2f} {one.cpu_s / rows * 1e6:>12.1f}"
                f" {one.cpu_s / floor_s:>16.1f}x {one.peak_mb:>10.0f} MB"
            )


if __name__ == "__main__":
    main()
