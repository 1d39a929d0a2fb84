"""Reports each API call and download to an observer: what it was, its outcome, its duration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from batcher.clock import Clock
from batcher.download.downloader import Fetcher
from batcher.download.transfer import Fetched
from batcher.errors import BatcherError
from batcher.ports import CallObserver, CancelOutcome, EndedCall, Result, Service

T = TypeVar("T")


class CallTimer:
    """Times calls by ``clock`` and reports each to ``observer`` after it has ended, also on errors."""

    def __init__(self, observer: CallObserver, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock

    async def timed(self, kind: str, what: str, call: Awaitable[T], said: Callable[[T], str]) -> T:
        """Await ``call``; ``said`` describes its answer. Raises what the call raises."""
        began_s = self._clock.monotonic()
        outcome = "given up"
        try:
            answer = await call
            outcome = said(answer)
            return answer
        except BatcherError as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._observer.call(EndedCall(kind, what, outcome, self._clock.monotonic() - began_s))


class TimedService:
    """See :class:`batcher.ports.Service`."""

    def __init__(self, service: Service, timer: CallTimer) -> None:
        self._service = service
        self._timer = timer

    async def submit(self, model: str, body: bytes) -> str:
        return await self._timer.timed("submit", model, self._service.submit(model, body), str)

    async def result(self, request_id: str) -> Result:
        asked = self._service.result(request_id)
        return await self._timer.timed("result", request_id, asked, lambda result: result.word)

    async def cancel(self, request_id: str) -> CancelOutcome:
        return await self._timer.timed("cancel", request_id, self._service.cancel(request_id), str)


class TimedFetcher:
    """See :class:`batcher.download.downloader.Fetcher`."""

    def __init__(self, fetcher: Fetcher, timer: CallTimer) -> None:
        self._fetcher = fetcher
        self._timer = timer

    async def fetch(self, url: str, partial: Path, refresh: Callable[[], Awaitable[str]]) -> Fetched:
        host = urlsplit(url).hostname or "?"
        fetching = self._fetcher.fetch(url, partial, refresh)
        return await self._timer.timed("download", host, fetching, lambda file: f"{file.bytes} bytes")


def timed(service: Service, fetcher: Fetcher, observer: object, clock: Clock) -> tuple[Service, Fetcher]:
    """Both unchanged, or with each call reported to ``observer`` if it has ``call``."""
    if not isinstance(observer, CallObserver):
        return service, fetcher
    timer = CallTimer(observer, clock)
    return TimedService(service, timer), TimedFetcher(fetcher, timer)
