"""An API server of the tests' own, in a thread: independent of the sandbox, it counts and remembers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from batcher.sandbox.catalogue import catalogue
from tests import forked

TOKEN = "a-token-of-the-tests-0123456789"
MP4_HEAD = bytes.fromhex("000000206674797069736f6d0000020069736f6d69736f32617663316d703431")
Hook = Callable[["ApiServer", dict[str, Any]], web.StreamResponse | None]


@dataclass
class Created:
    """One request as the server keeps it."""

    id: str
    body: dict[str, Any]
    at: float
    status: str = "in_queue"
    seen_finished: bool = False

    @property
    def media(self) -> bytes:
        return MP4_HEAD + hashlib.sha256(self.id.encode()).digest() * 64


@dataclass
class ApiServer:
    """``async with`` is not needed: ``start`` and ``stop`` from any thread.

    ``generate_s`` is how long a request takes. ``on_post`` may answer a POST in place of the server,
    before (``on_post``) or after (``after_post``) the request was created.
    """

    generate_s: float = 0.2
    on_post: Hook | None = None
    after_post: Hook | None = None
    on_result: Hook | None = None
    on_media: Hook | None = None
    post_delay_s: float = 0.0
    posts_held: bool = False
    """Answer no POST while this is set."""
    catalogue: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries by model id."""
    empty_catalogue: int = 404
    """What the catalogue answers without any entries. 5xx is repeated, which takes two seconds."""
    balance: dict[str, Any] | None = None
    """What the account has; without any, the question is answered 404."""
    cost_usd: float | None = None
    """What a finished request reports."""
    lookups: list[str] = field(default_factory=list)
    posts: list[dict[str, Any]] = field(default_factory=list)
    created: dict[str, Created] = field(default_factory=dict)
    polls: int = 0
    downloads: int = 0
    cancels: int = 0
    max_unfinished: int = 0
    tokens: set[str] = field(default_factory=set)
    media_headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def start(self) -> ApiServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def posts_of(self, prompt: str) -> int:
        return sum(post.get("prompt") == prompt for post in self.posts)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=80 << 20)
        app.router.add_post("/v1/models/{model:.+}", self._post)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/requests/{id}/{what:status|result}", self._result)
        app.router.add_post("/v1/requests/{id}/cancel", self._cancel)
        app.router.add_get("/prod/v2/balance", self._balance)
        app.router.add_get("/media/{id}.mp4", self._media)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _balance(self, request: web.Request) -> web.Response:
        return web.json_response(self.balance, status=404 if self.balance is None else 200)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.tokens.add(request.headers.get("Authorization", ""))
        self.posts.append(body)
        if self.on_post and (answer := self.on_post(self, body)) is not None:
            return answer
        made = Created(f"req-{len(self.created):05d}-{os.urandom(3).hex()}", body, time.monotonic())
        self.created[made.id] = made
        unfinished = [c for c in self.created.values() if not c.seen_finished]
        self.max_unfinished = max(self.max_unfinished, len(unfinished))
        if self.post_delay_s:
            await asyncio.sleep(self.post_delay_s)
        while self.posts_held:
            await asyncio.sleep(0.01)
        if self.after_post and (answer := self.after_post(self, body)) is not None:
            return answer
        root = f"{self.base}/requests/{made.id}"
        return web.json_response(
            {"request_id": made.id, "status_url": f"{root}/status", "result_url": f"{root}/result"}
        )

    async def _model(self, request: web.Request) -> web.Response:
        model = request.match_info["model"]
        self.lookups.append(model)
        if not self.catalogue:
            return web.json_response({"message": "no catalogue here"}, status=self.empty_catalogue)
        if model not in self.catalogue:
            return web.json_response({"error_code": 404001, "message": "no such model"}, status=404)
        return web.json_response(self.catalogue[model])

    async def _models(self, request: web.Request) -> web.Response:
        self.lookups.append("")
        if not self.catalogue:
            return web.json_response({"message": "no catalogue here"}, status=self.empty_catalogue)
        start, count = int(request.query.get("offset", 0)), int(request.query.get("limit", 100))
        entries = list(self.catalogue.values())
        return web.json_response({"models": entries[start : start + count], "total": len(entries)})

    def _state(self, made: Created) -> str:
        if made.status == "cancelled":
            return made.status
        age = time.monotonic() - made.at
        if age < self.generate_s / 3:
            return "in_queue"
        return "in_progress" if age < self.generate_s else "completed"

    async def _result(self, request: web.Request) -> web.StreamResponse:
        self.polls += 1
        made = self.created.get(request.match_info["id"])
        if self.on_result and (answer := self.on_result(self, {"id": request.match_info["id"]})):
            return answer
        if made is None:
            return web.json_response({"error_code": 404001, "message": "no such request"}, status=404)
        state = self._state(made)
        answer: dict[str, Any] = {"request_id": made.id, "status": state}
        if state in ("completed", "cancelled"):
            made.seen_finished = True
        if state == "completed":
            if self.cost_usd is not None:
                answer["cost"] = self.cost_usd
            answer["output"] = {"video": f"http://127.0.0.1:{self.port}/media/{made.id}.mp4"}
        return web.json_response(answer)

    async def _cancel(self, request: web.Request) -> web.Response:
        self.cancels += 1
        made = self.created[request.match_info["id"]]
        if self._state(made) == "in_queue":
            made.status, made.seen_finished = "cancelled", True
            return web.json_response({"outcome": "cancelled", "status": "cancelled"})
        return web.json_response({"outcome": "not_cancellable", "status": self._state(made)})

    async def _media(self, request: web.Request) -> web.StreamResponse:
        self.downloads += 1
        self.media_headers.append(dict(request.headers))
        made = self.created[request.match_info["id"]]
        if self.on_media and (answer := self.on_media(self, {"id": made.id})) is not None:
            return answer
        return web.Response(body=made.media, content_type="video/mp4", headers={"ETag": f'"{made.id}"'})


@contextmanager
def served(*models: str, **settings: Any) -> Iterator[ApiServer]:
    """A started server whose catalogue has ``models``, with ``settings``."""
    listed = {model: catalogue()[model].listing(include_schema=True) for model in models}
    server = ApiServer(catalogue=listed, **settings).start()
    try:
        yield server
    finally:
        server.stop()


def command(*arguments: object) -> list[str]:
    """The installed command: ``batcher ARGUMENTS``; ``run`` with ``--yes``, since there is no terminal."""
    return typed(arguments[0], *(["--yes"] if arguments[0] == "run" else []), *arguments[1:])


def typed(*arguments: object) -> list[str]:
    """``batcher ARGUMENTS`` as they stand."""
    return [sys.executable, "-m", "batcher", *map(str, arguments)]


def environment(server: ApiServer | None, home: Path, **extra: str) -> dict[str, str]:
    """A clean environment: nothing of this machine's user, the server's base, the tests' token."""
    kept = {name: os.environ[name] for name in ("PATH", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    base = {"RUNCOMFY_MODEL_API_BASE": server.base, "RUNCOMFY_TOKEN": TOKEN} if server else {}
    return kept | base | {"HOME": str(home)} | forked.AT_START | extra


def in_background(
    server: ApiServer | None,
    cwd: Path,
    words: list[str],
    *,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start ``words`` in ``cwd``, without a terminal. What it prints is dropped, unless ``options`` say."""
    nothing = subprocess.DEVNULL
    settings = {"stdin": nothing, "stdout": nothing, "stderr": nothing, "text": True, **options}
    return forked.popen(words, cwd=cwd, env=environment(server, cwd, **(env or {})), **settings)


def run_command(
    server: ApiServer | None, cwd: Path, *arguments: object, timeout_s: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in ``cwd``, without a terminal."""
    return _run(server, cwd, command(*arguments), timeout_s, env)


def run_typed(
    server: ApiServer | None, cwd: Path, *arguments: object, timeout_s: float = 60, **env: str
) -> subprocess.CompletedProcess[str]:
    """The same with the arguments as they stand: ``run`` without ``--yes``."""
    return _run(server, cwd, typed(*arguments), timeout_s, env)


def _run(
    server: ApiServer | None, cwd: Path, words: list[str], timeout_s: float, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return forked.run(
        words,
        cwd=cwd,
        env=environment(server, cwd, **env),
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
    )
