"""How long a ledger of many finished jobs takes to read, and how much memory: with its checkpoint and cold.

Each case runs in a process of its own, so that its peak memory is its own. The floor decodes every line
into the thinnest struct that keeps a job's state, into a dict by id: what it takes to look at each line.
Goals for a million jobs (four lines each): ``status`` within 5 s, a run takes it up within 10 s and 300 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from batcher.clock import SystemClock
from batcher.disk import LocalDisk
from batcher.ledger.ledger import Ledger, read_snapshot

KIB, MB = 1024, 1_000_000
AT = "2026-01-01T00:00:00.000Z"
LINES = (
    '{"event":"submitting","at":"%(at)s","job":"%(job)s","attempt":1,'
    '"model":"kling/kling-2-1/master/image-to-video","input":{"prompt":"a cat numbered %(n)d jumps over '
    'a wall, golden hour, low camera","image_url":"https://media.example.com/cats/%(n)d.png","duration":5,'
    '"aspect_ratio":"16:9","cfg_scale":0.5},"meta":{"split":"train"},"source":"jobs.csv:%(n)d",'
    '"digest":"%(digest)s","price_usd":1.4,"group":0}\n'
    '{"event":"submitted","at":"%(at)s","job":"%(job)s","attempt":1,"request_id":"%(sha256).32s","group":0}\n'
    '{"event":"completed","at":"%(at)s","job":"%(job)s","attempt":1,"cost_usd":1.4,"unfinished_s":60.0,'
    '"group":0}\n'
    '{"event":"done","at":"%(at)s","job":"%(job)s","attempt":1,"files":[{"path":"media/%(job)s.mp4",'
    '"bytes":12345678,"sha256":"%(sha256)s","media_type":"video/mp4","width":1280,"height":720,'
    '"duration_s":5.0,"fps":24.0}],"group":0}\n'
)


def write_ledger(run_dir: Path, jobs: int) -> None:
    run_dir.mkdir()
    with (run_dir / "ledger.jsonl").open("w") as file:
        run = {"event": "run", "run": "a", "at": AT, "version": 1, "total": jobs, "group": 0}
        file.write(json.dumps(run, separators=(",", ":")) + "\n")
        for n in range(jobs):
            sha256 = hashlib.sha256(b"%d" % n).hexdigest()
            job = f"a-cat-numbered-{n}-jumps-over-a-wall-go-{sha256[:16]}"
            file.write(LINES % {"at": AT, "job": job, "n": n, "digest": sha256[:16], "sha256": sha256})


class Thin(msgspec.Struct, gc=False):
    """As little of a line as tells a job's state."""

    event: str
    job: str = ""


def floor(run_dir: Path) -> int:
    decode, states = msgspec.json.Decoder(Thin).decode, {}
    with (run_dir / "ledger.jsonl").open("rb") as file:
        for raw in file:
            line = decode(raw)
            states[line.job] = line.event
    return len(states) - 1


def plain_json(run_dir: Path) -> int:
    """The standard library's decoder, over the same lines into the same dict."""
    states = {}
    with (run_dir / "ledger.jsonl").open("rb") as file:
        for raw in file:
            line = json.loads(raw)
            states[line.get("job")] = line["event"]
    return len(states) - 1


def status(run_dir: Path) -> int:
    return sum(read_snapshot(run_dir, LocalDisk()).counts.values())


def take_up(run_dir: Path) -> int:
    ledger = Ledger(run_dir, LocalDisk(), SystemClock())
    jobs = len(ledger.snapshot.records)
    ledger.release()
    return jobs


def keep(run_dir: Path) -> int:
    """Take it up and close it as a run does: leaves a checkpoint."""

    async def run() -> int:
        ledger = Ledger(run_dir, LocalDisk(), SystemClock())
        jobs = len(ledger.snapshot.records)
        await ledger.close()
        return jobs

    return asyncio.run(run())


def _measured(function: Callable[[Path], int], run_dir: Path, answer: multiprocessing.Queue) -> None:
    began_s, cpu_s = time.perf_counter(), time.process_time()
    jobs = function(run_dir)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    answer.put((time.perf_counter() - began_s, time.process_time() - cpu_s, peak, jobs))


def measured(function: Callable[[Path], int], run_dir: Path) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, peak bytes and jobs, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_measured, args=(function, run_dir, answer))
    process.start()
    result = answer.get()
    process.join()
    return result


def main() -> None:
    """Write a ledger, read it in each way, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        write_ledger(run_dir, options.jobs)
        size = (run_dir / "ledger.jsonl").stat().st_size
        print(f"{options.jobs:,} finished jobs, {4 * options.jobs:,} lines, {size / MB:,.0f} MB")
        print("what                           s    CPU s    M lines/s    peak MB    of the floor")
        cases = [
            ("floor", floor),
            ("json.loads", plain_json),
            ("status, cold", status),
            ("taken up by a run, cold", keep),
            ("status", status),
            ("taken up by a run", take_up),
        ]
        floor_s = 0.0
        for name, function in cases:
            took_s, cpu_s, peak, jobs = measured(function, run_dir)
            floor_s = floor_s or cpu_s
            assert jobs == options.jobs, (name, jobs)
            rate = 4 * jobs / took_s / 1e6
            print(
                f"{name:<26} {took_s:>6.2f} {cpu_s:>8.2f} {rate:>12.2f} {peak / MB:>10.0f} "
                f"{cpu_s / floor_s:>14.2f}"
            )


if __name__ == "__main__":
    main()
