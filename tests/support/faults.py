"""What the tests of real faults share: a process that is under way, manifests, ledgers, and slow servers."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.api_server import ApiServer, command, in_background, run_command

KLING = "kling/kling-2-1/master/image-to-video"
FAST = ("--poll", "0.1")
SIGNALS = [(signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGTERM, 143)]


@dataclass
class SlowServer(ApiServer):
    """An API that takes its time where it is told to, in seconds. Its catalogue is empty but quick."""

    catalogue_delay_s: float = 0.0
    media_delay_s: float = 0.0
    reads_uploads: bool = True
    catalogue_calls: int = 0
    uploads_begun: int = 0
    catalogue: dict[str, Any] = field(default_factory=dict)

    async def _model(self, request: web.Request) -> web.Response:
        self.catalogue_calls += 1
        await asyncio.sleep(self.catalogue_delay_s)
        entry = self.catalogue.get(request.match_info["model"])
        return (
            web.json_response(entry)
            if entry
            else web.json_response({"message": "no such model"}, status=404)
        )

    async def _post(self, request: web.Request) -> web.StreamResponse:
        if not self.reads_uploads:
            await request.content.readany()
            self.uploads_begun += 1
            await asyncio.sleep(3600)
        return await super()._post(request)

    async def _media(self, request: web.Request) -> web.StreamResponse:
        if self.media_delay_s:
            self.downloads += 1
            made = self.created[request.match_info["id"]]
            response = web.StreamResponse(headers={"Content-Length": str(len(made.media))})
            await response.prepare(request)
            await response.write(made.media[:600])
            await asyncio.sleep(self.media_delay_s)
            return response
        return await super()._media(request)


def write_pairs(path: Path, rows: int, *, first: int = 0, prompt: str = "cat number {}") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Prompt", "Image URL", "Duration", "Model"])
        numbers = range(first, first + rows)
        writer.writerows([prompt.format(n), f"https://example.com/{n}.png", 5, KLING] for n in numbers)
    return path


def wait_for(condition: Callable[[], object], timeout_s: float = 40.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "gave up waiting"
        time.sleep(0.01)


@contextmanager
def started(
    server: ApiServer | None, cwd: Path, *arguments: object, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """The command under way; it is over, one way or the other, at the end of the block."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = in_background(server, cwd, command(*arguments), **piped)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@dataclass
class Ending:
    """How a process ended, and how long that took after the last signal."""

    code: int
    out: str
    err: str
    took_s: float


def is_pending(process: subprocess.Popen[str], number: int) -> bool:
    """Whether a signal that was sent to a process has not been delivered yet."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    masks = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def end_with(process: subprocess.Popen[str], *numbers: int) -> Ending:
    """Send signals, each once the one before was delivered, and see the process out."""
    for number in numbers:
        process.send_signal(number)
        wait_for(lambda number=number: not is_pending(process, number))  # type: ignore[misc]
    began_s = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    return Ending(process.returncode, out, err, time.monotonic() - began_s)


def run(
    server: ApiServer | None, cwd: Path, *arguments: object, **env: str
) -> subprocess.CompletedProcess[str]:
    """``batcher run`` to its end, polling fast; nothing of it may look like a traceback."""
    ended = run_command(server, cwd, "run", *arguments, "--poll", "0.05", **env)
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended


def ledger(run_dir: Path) -> list[dict[str, Any]]:
    """The ledger's lines, each of them whole."""
    content = (run_dir / "ledger.jsonl").read_bytes()
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def events(run_dir: Path) -> Counter[str]:
    return Counter(line["event"] for line in ledger(run_dir))


def states(run_dir: Path) -> dict[str, int]:
    """What ``batcher status`` counts, zeros left out."""
    told = run_command(None, run_dir.parent, "status", run_dir, "--json")
    assert told.returncode == 0, told.stderr
    names = ("pending", "unknown", "submitted", "completed", "done", "failed", "cancelled")
    return {name: count for name, count in json.loads(told.stdout).items() if name in names and count}


def posted_once(server: ApiServer) -> bool:
    return len({post["prompt"] for post in server.posts}) == len(server.posts)


def line(
    event: str, job: str | None = None, *, at: str = "2026-01-01T00:00:00.000Z", **fields: Any
) -> dict[str, Any]:
    """One ledger line, for ledgers written by hand."""
    return {"event": event, "at": at, **({"job": job, "attempt": 1} if job else {}), **fields}


def write_ledger(run_dir: Path, *lines: dict[str, Any]) -> Path:
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "ledger.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path
