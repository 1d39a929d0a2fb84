"""Reports each API call and download to an observer: what it was, its outcome, its duration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from batcher.clock import Clock
from batcher.download.downloader import Fetcher
from batcher.download.transfer import Fetched
from batcher.engine.gateway import Providers
from batcher.errors import BatcherError
from batcher.jobs.job import Job
from batcher.ports import (
    CancelOutcome,
    EndedCall,
    Handle,
    Lost,
    Observer,
    Provider,
    Result,
    Trace,
    listens,
)

T = TypeVar("T")


class CallTimer:
    """Times calls by ``clock`` and reports each to ``observer`` after it has ended, also on errors."""

    def __init__(self, observer: Observer, clock: Clock) -> None:
        self._observer = observer
        self._clock = clock

    async def timed(self, kind: str, what: str, call: Awaitable[T], said: Callable[[T], str]) -> T:
        """Await ``call``; ``said`` describes its answer. Raises what the call raises."""
        began_s = self._clock.monotonic()
        outcome, phase = "given up", None
        try:
            answer = await call
            outcome = said(answer)
            phase = answer.phase if isinstance(answer, Result) else None
            return answer
        except BatcherError as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            took_s = self._clock.monotonic() - began_s
            self._observer.call(EndedCall(kind, what, outcome, took_s, phase))


class TimedProvider:
    """See :class:`batcher.ports.Provider`."""

    def __init__(self, provider: Provider, timer: CallTimer) -> None:
        self.name, self.traits = provider.name, provider.traits
        self._provider = provider
        self._timer = timer

    async def prepare(self, job: Job) -> bytes:
        return await self._provider.prepare(job)

    async def submit(self, model: str, body: bytes) -> Handle:
        posted = self._provider.submit(model, body)
        return await self._timer.timed("submit", model, posted, lambda request: request.id)

    async def result(self, request: Handle) -> Result:
        asked = self._provider.result(request)
        return await self._timer.timed("result", request.id, asked, lambda result: result.word)

    async def cancel(self, request: Handle) -> CancelOutcome:
        return await self._timer.timed("cancel", request.id, self._provider.cancel(request), str)

    async def trace(self, lost: Sequence[Lost], known: Callable[[str], bool]) -> dict[str, Trace]:
        found = self._provider.trace(lost, known)
        return await self._timer.timed("trace", self.name, found, lambda told: f"{len(told)} found")


class TimedFetcher:
    """See :class:`batcher.download.downloader.Fetcher`."""

    def __init__(self, fetcher: Fetcher, timer: CallTimer) -> None:
        self._fetcher = fetcher
        self._timer = timer

    async def fetch(self, url: str, partial: Path, refresh: Callable[[], Awaitable[str]]) -> Fetched:
        host = urlsplit(url).hostname or "?"
        fetching = self._fetcher.fetch(url, partial, refresh)
        return await self._timer.timed("download", host, fetching, lambda file: f"{file.bytes} bytes")


def timed(
    providers: Providers, fetcher: Fetcher, observer: Observer, clock: Clock
) -> tuple[Providers, Fetcher]:
    """Both with each call reported to ``observer``; unchanged if it ignores calls."""
    if not listens(observer, "call"):
        return providers, fetcher
    timer = CallTimer(observer, clock)
    return lambda model: TimedProvider(providers(model), timer), TimedFetcher(fetcher, timer)
