"""``batcher view``: the page of a run directory, live, for one person on this machine.

Binds to loopback, and only answers requests that name it as their host, come from its own page and have
the secret in its URL. Serves the page, its data, and files that the ledger names. It takes no lock,
sends nothing to the API, and writes nothing but marks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import msgspec

from batcher.clock import Clock, iso
from batcher.disk import Disk
from batcher.errors import BatcherError, UsageError
from batcher.jobs.marks import NOTE_MAX_CHARS, JobMark
from batcher.layout import MARKS_NAME
from batcher.ledger.marks_file import append_mark
from batcher.ledger.segments import segments_in
from batcher.media.file_types import MEDIA_TYPES
from batcher.report.fetched import FetchedOutputs
from batcher.report.page import render
from batcher.report.render import page_data
from batcher.store.bucket_outputs import bucket_url_of

if TYPE_CHECKING:
    from aiohttp import web

LOOPBACK = "127.0.0.1"
LOOK_EVERY_S = 0.5
REST_FACTOR = 4.0
"""The pause between two reads of a large ledger, as a multiple of the time that a read takes."""
QUIET_S = 10.0
"""A killed run changes no file, so its state is checked again after this long."""
_MARK_MAX_BYTES = 64 * 1024
_INPUT = "input/"
_SAFE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


class _Sent(msgspec.Struct):
    """A mark in the form in which the page sends it."""

    job: str
    mark: str | None = None
    note: str | None = None


class Showcase:
    """The content to serve: data for the page, and the files that it may load."""

    def __init__(self, run_dir: Path, disk: Disk, clock: Clock) -> None:
        self._run_dir, self._disk, self._clock = run_dir, disk, clock
        self.files: dict[str, tuple[Path, str | None]] = {}
        """The file, and an input's hash, by the path below the secret."""
        self.bucket_url = bucket_url_of(run_dir)
        self.keys: frozenset[str] = frozenset()
        """Paths below the secret that are keys of outputs in that bucket."""
        self.jobs: frozenset[str] = frozenset()
        self.data: dict[str, Any] = {}

    def sizes(self) -> tuple[int | None, ...]:
        """Changes when there is something new to read."""
        paths = [self._run_dir / name for name in segments_in(self._run_dir, self._disk)]
        return tuple(self._disk.size(path) for path in (*paths, self._run_dir / MARKS_NAME))

    def look(self) -> None:
        """Read the ledger and the marks. Raises BatcherError."""
        data = page_data(self._run_dir, self._disk, self._clock)
        data["view"] = True
        files: dict[str, tuple[Path, str | None]] = {}
        keys = set()
        for job in data["jobs"]:
            for file in job.get("files", ()):
                if self.bucket_url is not None:
                    keys.add(_in_bucket(file, self.bucket_url))
                else:
                    self._add_output(file, files)
            for medium in job.get("media", ()):
                self._add_input(medium, files)
        self.files, self.keys, self.data = files, frozenset(keys), data
        self.jobs = frozenset(job["job"] for job in data["jobs"])

    def _add_output(self, file: dict[str, Any], files: dict[str, tuple[Path, str | None]]) -> None:
        """Add an output, only if it is inside the run directory: the ledger is not trusted on that."""
        name = unquote(file["path"])
        path = (self._run_dir / name).resolve()
        if path.is_relative_to(self._run_dir.resolve()):
            files[name] = (path, None)

    def _add_input(self, medium: dict[str, str], files: dict[str, tuple[Path, str | None]]) -> None:
        """Add a local input, if it is media; its hash is checked when it is requested."""
        sha256 = medium.get("sha256", "")
        if "path" not in medium:
            return
        path = (self._run_dir / unquote(medium["path"])).resolve()
        if path.suffix.lower() in MEDIA_TYPES and sha256.isalnum():
            medium["path"] = f"{_INPUT}{sha256}{path.suffix.lower()}"
            files[medium["path"]] = (path, sha256)
        else:
            del medium["path"]

    def mark(self, sent: _Sent) -> None:
        """Save a mark. Raises ValueError if it is invalid, OSError."""
        if sent.job not in self.jobs:
            raise ValueError("no job of this run")
        if len(sent.note or "") > NOTE_MAX_CHARS:
            raise ValueError("the note is too long")
        word: Any = sent.mark
        mark = msgspec.convert(
            {"job": sent.job, "mark": word, "note": sent.note, "at": iso(self._clock.now())}, JobMark
        )
        append_mark(self._run_dir, mark)
        self.data["marks"][sent.job] = {"mark": sent.mark, "note": sent.note}


def _in_bucket(file: dict[str, Any], bucket_url: str) -> str:
    """The key of an output, by which the page requests it; ``away`` is its URL."""
    key = unquote(file["path"]).removeprefix(f"{bucket_url}/")
    file["path"], file["away"] = quote(key), f"{bucket_url}/{key}"
    return key


class View:
    """The server of one run directory; calls ``complain`` once for each problem."""

    def __init__(
        self, run_dir: Path, disk: Disk, clock: Clock, complain: Callable[[str], None] | None = None
    ) -> None:
        self.book = Showcase(run_dir, disk, clock)
        self._fetched: FetchedOutputs | None = None
        self._complain, self._complaints = complain, set[str]()
        self._clock = clock
        self._secret = secrets.token_urlsafe(24)
        self._hosts: frozenset[str] = frozenset()
        self._version = 0
        self._changed = asyncio.Event()
        self._verified: dict[tuple[Path, str], tuple[int, int]] = {}

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[str]:
        """Serve until the block ends; yields the URL. Raises BatcherError."""
        from aiohttp import web

        await asyncio.to_thread(self.book.look)
        app = web.Application(middlewares=[self._guard()], client_max_size=_MARK_MAX_BYTES)
        app.router.add_get("/{secret}/", self._page)
        app.router.add_get("/{secret}/data", self._data)
        app.router.add_get("/{secret}/events", self._events)
        app.router.add_post("/{secret}/marks", self._mark)
        app.router.add_get("/{secret}/{path:.+}", self._file)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        watching = asyncio.create_task(self._watch())
        try:
            try:
                await web.TCPSite(runner, LOOPBACK, port).start()
            except OSError as error:
                what = error.strerror
                raise UsageError(f"--port {port}: {what}: leave it out for a free one") from None
            port = runner.addresses[0][1]
            self._hosts = frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})
            yield f"http://{LOOPBACK}:{port}/{self._secret}/"
        finally:
            watching.cancel()
            self._hosts = frozenset()
            self._wake()
            await runner.cleanup()
            if self._fetched is not None:
                self._fetched.close()

    def _guard(self) -> Any:
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            origin = request.headers.get("Origin")
            secret = request.match_info.get("secret", "")
            if request.headers.get("Host") not in self._hosts:
                raise web.HTTPForbidden(text="another host", headers=_SAFE)
            if origin is not None and origin.removeprefix("http://") not in self._hosts:
                raise web.HTTPForbidden(text="another origin", headers=_SAFE)
            if not hmac.compare_digest(secret.encode(), self._secret.encode()):
                raise web.HTTPNotFound(headers=_SAFE)
            try:
                return await handler(request)
            except ConnectionError:  # the tab was closed
                return web.Response()

        return guard

    async def _page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        page = await asyncio.to_thread(render, self.book.data["batch"], self.book.data)
        return web.Response(text=page, content_type="text/html", headers=_SAFE)

    async def _data(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        body = await asyncio.to_thread(msgspec.json.encode, self.book.data)
        return web.Response(body=body, content_type="application/json", headers=_SAFE)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: the version number of the data, whenever it changes."""
        from aiohttp import web

        response = web.StreamResponse(headers={**_SAFE, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            changed = self._changed
            await response.write(f"data: {self._version}\n\n".encode())
            await changed.wait()
            if not self._hosts:
                return response

    async def _mark(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        if request.content_type != "application/json" or "Origin" not in request.headers:
            raise web.HTTPForbidden(text="not from the page", headers=_SAFE)
        try:
            sent = msgspec.json.decode(await request.read(), type=_Sent)
            await asyncio.to_thread(self.book.mark, sent)
        except (msgspec.MsgspecError, ValueError) as error:
            raise web.HTTPBadRequest(text=str(error), headers=_SAFE) from None
        except OSError as error:
            text = f"{MARKS_NAME}: {error.strerror}"
            raise web.HTTPInsufficientStorage(text=text, headers=_SAFE) from None
        return web.Response(status=204, headers=_SAFE)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        name = request.match_info["path"]
        path, sha256 = self.book.files.get(name, (None, None))
        if name in self.book.keys:
            path = await self._from_bucket(name)
        if path is None or not path.is_file():
            raise web.HTTPNotFound(headers=_SAFE)
        if sha256 is not None and not await asyncio.to_thread(self._is_same, path, sha256):
            raise web.HTTPNotFound(headers=_SAFE)
        # A document among the outputs must not run scripts in the page's own origin.
        return web.FileResponse(path, headers={**_SAFE, "Content-Security-Policy": "sandbox"})

    async def _from_bucket(self, key: str) -> Path | None:
        self._fetched = self._fetched or FetchedOutputs(self.book.bucket_url or "")
        try:
            return await self._fetched.path_of(key)
        except BatcherError as error:
            if self._complain is not None and str(error) not in self._complaints:
                self._complaints.add(str(error))
                self._complain(str(error))
            return None

    def _is_same(self, path: Path, sha256: str) -> bool:
        """Whether an input is unchanged since the ledger recorded it."""
        found = path.stat()
        look = (found.st_mtime_ns, found.st_size)
        if self._verified.get((path, sha256)) != look:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
            self._verified[path, sha256] = look
        return True

    async def _watch(self) -> None:
        """Read again when the ledger or the marks grow, and periodically while a run is live."""
        seen, rest_s, quiet_s = self.book.sizes(), LOOK_EVERY_S, 0.0
        while True:
            await self._clock.sleep(rest_s)
            quiet_s += rest_s
            sizes = await asyncio.to_thread(self.book.sizes)
            if sizes == seen and not (quiet_s > QUIET_S and self.book.data["status"].live):
                rest_s = LOOK_EVERY_S
                continue
            began = self._clock.monotonic()
            try:
                await asyncio.to_thread(self.book.look)
            except BatcherError:
                continue  # the ledger is being created: keep what was read before
            seen, quiet_s = sizes, 0.0
            rest_s = max(LOOK_EVERY_S, REST_FACTOR * (self._clock.monotonic() - began))
            self._version += 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
