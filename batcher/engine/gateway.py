"""The line to each provider: every call passes its gate, and outages are detected here.

A provider that stops answering, or refuses the token or the balance, ends only its own jobs if the run
has others: they stay as they are, for a later run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol, TypeVar

from batcher.clock import Clock, time_of_day
from batcher.engine.stop import Control
from batcher.engine.turns import Turns
from batcher.errors import (
    BatcherError,
    CallError,
    NotSent,
    OutcomeUnknown,
    TurnedAway,
    Unavailable,
    UnreachableError,
)
from batcher.jobs.job import Job
from batcher.options.facts import DEFAULT_OUTAGE, Outage
from batcher.pacing.gate import Gate
from batcher.ports import Provider


class Traffic(Protocol):
    """Called before and around each call. ``model`` is None except for a POST."""

    def waiting(self, model: str | None) -> AbstractContextManager[None]:
        """Wraps all waiting before a call."""
        ...

    def calling(self, model: str | None) -> AbstractContextManager[None]:
        """Wraps the call itself."""
        ...

    async def turn(self, model: str | None) -> None:
        """Wait until our own limits allow the call."""
        ...

    def answered(self, model: str | None, took_s: float) -> None: ...
    def refused(self, model: str | None, pause_s: float) -> None: ...
    def expects(self, model: str | None, polls: float, takes_s: float) -> None: ...
    def finished(self, model: str | None, took_s: float) -> None: ...
    def queued(self, model: str | None) -> None: ...

    def polls(self, model: str | None, usual: float) -> float:
        """How many polls a request is worth now, if it is usually worth ``usual``."""
        ...


_UNCOUNTED: Final = nullcontext()


class Unlimited:
    """For a fixed ``-c``: no limit to discover."""

    def waiting(self, model: str | None) -> AbstractContextManager[None]:
        return _UNCOUNTED

    def calling(self, model: str | None) -> AbstractContextManager[None]:
        return _UNCOUNTED

    async def turn(self, model: str | None) -> None: ...
    def answered(self, model: str | None, took_s: float) -> None: ...
    def refused(self, model: str | None, pause_s: float) -> None: ...
    def expects(self, model: str | None, polls: float, takes_s: float) -> None: ...
    def finished(self, model: str | None, took_s: float) -> None: ...
    def queued(self, model: str | None) -> None: ...

    def polls(self, model: str | None, usual: float) -> float:
        return usual


T = TypeVar("T")

Providers = Callable[[str], Provider]
"""The provider of a model, by the model's name. Raises KeyError if this run is not connected to it."""


class Silent(UnreachableError):
    """A call was to go to a provider that has stopped answering: its job is left for a later run."""


OnSilence = Callable[["ApiLine", UnreachableError], None]
"""Called once, when a provider has not answered for too long."""


class ApiLine:
    """Makes calls to one provider, one exchange each; the lanes do the retries.

    ``closed`` is why nothing more is submitted; None while jobs are. ``silent``: it makes no calls.
    """

    def __init__(
        self,
        provider: Provider,
        gate: Gate,
        clock: Clock,
        on_silence: OnSilence,
        *,
        outage: Outage = DEFAULT_OUTAGE,
        traffic: Traffic | None = None,
    ) -> None:
        self.provider = provider
        self._gate = gate
        self._clock = clock
        self._on_silence = on_silence
        self._outage = outage
        self._traffic = traffic or Unlimited()
        self._turns = Turns()
        self._failing_since_s: float | None = None
        self._last_miss: CallError | None = None
        self._ever_answered = False
        self._pauses = clock.pauses
        self.closed: BatcherError | None = None
        self.silent = False

    @property
    def is_open(self) -> bool:
        """Whether a call may go out now."""
        return not self.silent and self._gate.delay_s(self._clock.monotonic()) == 0.0

    def waits(self) -> Iterator[str]:
        """What all calls are waiting for and until when, in words; empty if they are not waiting."""
        now_s = self._clock.monotonic()
        closed_s = self._gate.closed_s(now_s)
        if self.silent:
            return
        if self._failing_since_s is not None:
            failing_s = now_s - self._failing_since_s
            left_s = max(self._limit_s - failing_s, 0.0)
            yield (
                f"{self._silence(failing_s)}; if that lasts, it is given up at "
                f"{time_of_day(self._clock, left_s)}"
            )
        elif closed_s >= 1:
            yield (
                f"waiting: the API asked for a pause, {closed_s:.0f} s more, until "
                f"{time_of_day(self._clock, closed_s)}"
            )

    @property
    def _limit_s(self) -> float:
        """How long the API may fail to answer."""
        return self._outage.later_s if self._ever_answered else self._outage.first_s

    async def turn(self) -> None:
        """Wait until an event-loop iteration has room for one more call."""
        await self._turns.take()

    def standing_by(self, model: str) -> AbstractContextManager[None]:
        """Wraps waiting for something else than the API, before a POST."""
        return self._traffic.waiting(model)

    async def ready(self, model: str | None = None) -> None:
        """Wait until a call may go out; ``model`` is that of a POST. Raises Silent."""
        with self._traffic.waiting(model):
            while True:
                while delay_s := self._gate.delay_s(self._clock.monotonic()):
                    await self._clock.sleep(delay_s)
                if self.silent:
                    raise Silent(f"{self.provider.name} has stopped answering")
                await self._traffic.turn(model)
                if self.is_open:
                    return

    async def call(self, exchange: Callable[[], Awaitable[T]]) -> T:
        """Wait for the gate, then make one exchange. Raises Silent, and what the exchange raises."""
        await self._turns.take()
        await self.ready()
        return await self.exchange(exchange)

    async def exchange(self, exchange: Callable[[], Awaitable[T]], model: str | None = None) -> T:
        """Make one exchange now, and learn from its outcome; ``model`` is that of a POST."""
        began_s = self._clock.monotonic()
        try:
            with self._traffic.calling(model):
                answer = await exchange()
        except CallError as error:
            self._failed(error, began_s, model)
            raise
        self._answered()
        self._traffic.answered(model, self._clock.monotonic() - began_s)
        return answer

    async def prepare(self, job: Job) -> bytes:
        """The body of a job's POST. A failed upload counts like any failed call.

        Raises what :meth:`batcher.ports.Provider.prepare` raises.
        """
        began_s = self._clock.monotonic()
        try:
            return await self.provider.prepare(job)
        except CallError as error:
            self._failed(error, began_s, None)
            raise

    def _failed(self, error: CallError, began_s: float, model: str | None) -> None:
        match error:
            case TurnedAway():
                pause_s = self._gate.turned_away(self._clock.monotonic(), error.retry_after_s)
                self._traffic.refused(model, pause_s)
                self._failing_since_s = None  # it answered and asked us to wait: not an outage
            case NotSent():
                self._gate.unreachable(self._clock.monotonic())
                self._missed(began_s, error)
            case Unavailable() | OutcomeUnknown():
                self._missed(began_s, error)
            case _:
                self._answered()

    def _answered(self) -> None:
        self._ever_answered = True
        self._failing_since_s = None
        self._gate.answered()

    def _missed(self, began_s: float, error: CallError) -> None:
        now_s = self._clock.monotonic()
        if self._clock.pauses != self._pauses:  # this process was stopped, not the API
            self._pauses, self._failing_since_s = self._clock.pauses, None
        if self._failing_since_s is None:
            self._failing_since_s = began_s
        self._last_miss = error
        failing_s = now_s - self._failing_since_s
        if failing_s >= self._limit_s and not self.silent:
            self.silent = True
            self._on_silence(self, UnreachableError(self._silence(failing_s)))

    def _silence(self, failing_s: float) -> str:
        """How long the API has not answered, in words, with the last error.

        The time of planning counts if it never did.
        """
        silent_s = failing_s + (0.0 if self._ever_answered else self._outage.spent_s)
        error = self._last_miss
        has_answered = error is not None and error.http_status is not None
        how = "given no usable answer" if has_answered else "not answered"
        lasting = f" for {silent_s:.0f} s" if silent_s >= 1 else ""
        why = f" ({error.message})" if error is not None else ""
        return f"the API has {how}{lasting}{why}"


class Lines:
    """The line to each provider, made when it is first needed: a pause at one holds up no other.

    ``vendors`` is how many providers the run is connected to. What ends the last one ends the run.
    """

    def __init__(
        self,
        providers: Providers,
        make: Callable[[Provider], ApiLine],
        control: Control,
        warn: Callable[[str], None],
        vendors: int = 1,
    ) -> None:
        self._providers = providers
        self._make = make
        self._control = control
        self._warn = warn
        self._vendors = vendors
        self._by_name: dict[str, ApiLine] = {}

    def of(self, model: str | None) -> ApiLine:
        """The line to the provider of ``model``."""
        provider = self._providers(model or "")
        if provider.name not in self._by_name:
            self._by_name[provider.name] = self._make(provider)
        return self._by_name[provider.name]

    def close(self, line: ApiLine, error: BatcherError) -> None:
        """Submit nothing more to one provider; the first reason stays. The others go on, if any do."""
        if line.closed is None:
            line.closed = self._of_one(line, error)
            self._control.note(line.closed)
            if self._all(lambda one: one.closed is not None):
                self._control.drain(line.closed)
            else:
                self._warn(f"{line.closed}. Its other jobs stay pending; those of other providers go on")

    def silence(self, line: ApiLine, error: UnreachableError) -> None:
        """Stop all calls to a provider that does not answer."""
        if self._all(lambda one: one.silent):
            self._control.halt(self._of_one(line, error))
        else:
            self.close(line, error)

    def waits(self) -> Iterator[str]:
        """What the lines are waiting for, in words."""
        for line in self._by_name.values():
            yield from (
                f"{line.provider.name}: {told}" if self._vendors > 1 else told for told in line.waits()
            )

    def _all(self, holds: Callable[[ApiLine], bool]) -> bool:
        return sum(map(holds, self._by_name.values())) >= self._vendors

    def _of_one(self, line: ApiLine, error: BatcherError) -> BatcherError:
        """The error with the provider's name, if there are several."""
        return type(error)(f"{line.provider.name}: {error}") if self._vendors > 1 else error
