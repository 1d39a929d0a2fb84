"""What the engine counts on in a provider: the simulated one and the real client keep the same contract.

The real clients talk to the sandbox over loopback, the simulated one to its server in virtual time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from batcher.disk import LocalDisk
from batcher.errors import (
    AuthRefused,
    BalanceExhausted,
    CallError,
    NotFound,
    OutcomeUnknown,
    Rejected,
    TurnedAway,
)
from batcher.ports import CancelOutcome, Handle, Phase, Provider
from batcher.providers.registry import opener_of
from batcher.providers.vendor import Surroundings
from batcher.sandbox.faults import Fault
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings
from tests.simulation.server import Climate, Server, SimService
from tests.simulation.world import World

T = TypeVar("T")
LONG_S = 120.0


@dataclass(frozen=True)
class Shop:
    """A vendor in the sandbox: where its client finds address and token, and what is bought there.

    In values of ``env``, ``{origin}`` and ``{token}`` are filled in.
    """

    env: dict[str, str]
    model: str
    inputs: dict[str, Any]


RUNCOMFY_ENV = {
    "RUNCOMFY_TOKEN": "{token}",
    "RUNCOMFY_MODEL_API_BASE": "{origin}/v1",
    "RUNCOMFY_SERVERLESS_API_BASE": "{origin}/prod/v2",
}
SHOPS = {
    "runcomfy": Shop(
        RUNCOMFY_ENV,
        "kling/kling-2-1/master/image-to-video",
        {"prompt": "cat", "image_url": "https://example.com/cat.png"},
    ),
    "deployments": Shop(
        RUNCOMFY_ENV,
        "deployment/demo-portrait",
        {"overrides": {"6": {"inputs": {"text": "cat"}}}},
    ),
    "replicate": Shop(
        {"REPLICATE_API_TOKEN": "{token}", "REPLICATE_API_BASE_URL": "{origin}/replicate"},
        "replicate:black-forest-labs/flux-schnell",
        {"input": {"prompt": "a cat"}},
    ),
    "fal": Shop(
        {"FAL_KEY": "{token}", "FAL_QUEUE_RUN_HOST": "{origin}/fal/queue"},
        "fal:fal-ai/flux/dev",
        {"prompt": "a cat"},
    ),
}
SITUATIONS: dict[str, tuple[Climate, dict[str, Any]]] = {
    "fine": (Climate(), {}),
    "rejecting": (
        Climate(post=1.0, kinds=frozenset({"rejected by error_code"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.SUBMIT_ERROR_CODE})},
    ),
    "busy": (
        Climate(post=1.0, kinds=frozenset({"turned away 503"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.SUBMIT_BUSY})},
    ),
    "losing answers": (
        Climate(post=1.0, kinds=frozenset({"lost, yet created"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.SUBMIT_DROPPED})},
    ),
    "losing requests": (
        Climate(post=1.0, kinds=frozenset({"lost before arriving"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.CONNECT_DROPPED})},
    ),
    "failing": (
        Climate(fate=1.0, kinds=frozenset({"failed"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.GENERATE_FAILED})},
    ),
    "failing with a list": (
        Climate(fate=1.0, kinds=frozenset({"error_code"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.GENERATE_ERROR_LIST})},
    ),
    "empty-handed": (
        Climate(fate=1.0, kinds=frozenset({"no_output"})),
        {"faults": 1.0, "only_faults": frozenset({Fault.GENERATE_NO_OUTPUT})},
    ),
}


class Api(Protocol):
    """A provider, and the hands on its server that a test needs."""

    provider: Provider
    model: str

    def body(self) -> bytes: ...
    def run(self, call: Coroutine[Any, Any, T]) -> T: ...
    def wait(self, delay_s: float) -> None: ...
    def created(self) -> int: ...
    def charged_usd(self) -> float: ...


class Indifferent:
    """Watches a simulated provider and has no objections."""

    def post_leaves(self, job_id: str) -> int:
        return 1

    def call_leaves(self) -> None: ...
    def poll_leaves(self, request: str) -> None: ...
    def created(self) -> None: ...


class Simulated:
    model = "simulated/model"

    def __init__(self, climate: Climate, *, poor: bool, revoked: bool) -> None:
        self.world = World(1)
        self.server = Server(self.world)
        self.server.climate = climate
        if poor:
            self.server.balance_usd = 0.0
        if revoked:
            self.server.token_dies_s = 0.0
        self.provider = SimService(self.server, 1, Indifferent())

    def body(self) -> bytes:
        return json.dumps({"job": "cat", "input": {"prompt": "cat"}}).encode()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.world.loop.run_until_complete(call)

    def wait(self, delay_s: float) -> None:
        self.run(asyncio.sleep(delay_s))

    def created(self) -> int:
        return len(self.server.requests)

    def charged_usd(self) -> float:
        return self.server.charged_usd()


class HandClock:
    """Time that passes when told to."""

    pauses = 0

    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s

    async def sleep(self, delay_s: float) -> None:
        self.elapsed_s += delay_s


class Real:
    def __init__(
        self, shop: str, settings: dict[str, Any], loop: asyncio.Runner, *, poor: bool, revoked: bool
    ) -> None:
        self._shop = SHOPS[shop]
        self.model = self._shop.model
        self.clock = HandClock()
        self._loop = loop
        balance_usd = 0.0 if poor else None
        self._sandbox = Sandbox(SandboxSettings(clock=self.clock, balance_usd=balance_usd, **settings))
        origin = self.run(self._sandbox.start()).removesuffix("/v1")
        token = "revoked" if revoked else "s3cr3t-token-0123456789"
        env = {key: text.format(origin=origin, token=token) for key, text in self._shop.env.items()}
        around = Surroundings(env, Path("/nowhere"), self.clock, LocalDisk())
        self._open = AsyncExitStack()
        vendor = self.run(self._open.enter_async_context(opener_of(shop)(around)))
        self.provider = vendor.provider

    def body(self) -> bytes:
        return json.dumps(self._shop.inputs).encode()

    def close(self) -> None:
        self.run(self._open.aclose())
        self.run(self._sandbox.stop())

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(call)

    def wait(self, delay_s: float) -> None:
        self.clock.elapsed_s += delay_s

    def created(self) -> int:
        return self._sandbox.stats.jobs_created

    def charged_usd(self) -> float:
        return self._sandbox.stats.spent_usd


class Apis:
    """Makes APIs of one kind; those made end with the test."""

    def __init__(self, kind: str, ending: ExitStack) -> None:
        self._kind = kind
        self._ending = ending

    def __call__(self, situation: str = "fine", *, poor: bool = False, revoked: bool = False) -> Api:
        climate, settings = SITUATIONS[situation]
        if self._kind == "simulated":
            made = Simulated(climate, poor=poor, revoked=revoked)
            self._ending.callback(made.world.close)
            return made
        loop = self._ending.enter_context(asyncio.Runner())
        real = Real(self._kind, settings, loop, poor=poor, revoked=revoked)
        self._ending.callback(real.close)
        return real


@pytest.fixture(params=["simulated", *SHOPS])
def api(request) -> Iterator[Apis]:
    with ExitStack() as ending:
        yield Apis(request.param, ending)


def submit(api: Api) -> Handle:
    return api.run(api.provider.submit(api.model, api.body()))


@contextmanager
def refused(api: Api, error: type[CallError]) -> Iterator[Any]:
    """A submission that raises ``error`` and, surely, creates nothing."""
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    assert api.created() == 0
    assert api.charged_usd() == 0.0


def test_a_submission_creates_one_job_and_charges_for_it_at_once(api):
    here = api()
    request = submit(here)
    assert request
    assert here.created() == 1
    assert here.charged_usd() > 0.0


def test_each_submission_is_a_job_of_its_own_even_of_the_same_inputs(api):
    here = api()
    assert submit(here) != submit(here)
    assert here.created() == 2


def test_a_request_is_not_terminal_until_its_end_then_has_outputs_and_stays_so(api):
    here = api()
    request = submit(here)
    first = here.run(here.provider.result(request))
    assert not first.phase.terminal
    assert first.urls == ()
    here.wait(LONG_S)
    last = here.run(here.provider.result(request))
    assert last.phase is Phase.SUCCEEDED
    assert last.urls
    again = here.run(here.provider.result(request))
    assert (again.phase, len(again.urls)) == (last.phase, len(last.urls))


def test_a_reported_cost_is_what_was_charged(api):
    here = api()
    request = submit(here)
    here.wait(LONG_S)
    for _ in range(2):  # fal's is billed later, and asked for when the result is asked for again
        assert here.run(here.provider.result(request)).cost_usd in (None, here.charged_usd())


def test_asking_changes_nothing(api):
    here = api()
    request = submit(here)
    for _ in range(5):
        here.run(here.provider.result(request))
    assert here.created() == 1


def test_what_is_queued_can_be_cancelled_and_costs_nothing_then(api):
    here = api()
    request = submit(here)
    told = here.run(here.provider.cancel(request))
    assert told in (CancelOutcome.CANCELLED, CancelOutcome.REQUESTED)  # fal only ever notes the wish
    assert here.charged_usd() == 0.0
    here.wait(LONG_S)
    assert here.run(here.provider.result(request)).phase is Phase.CANCELLED


def test_what_has_ended_can_not_be_cancelled(api):
    here = api()
    request = submit(here)
    here.wait(LONG_S)
    assert here.run(here.provider.cancel(request)) is CancelOutcome.NOT_CANCELLABLE
    assert here.run(here.provider.result(request)).phase is Phase.SUCCEEDED
    assert here.charged_usd() > 0.0


@pytest.mark.parametrize("call", ["result", "cancel"])
def test_a_request_that_nobody_made_is_not_found(api, call):
    here = api()
    with pytest.raises(NotFound):
        here.run(getattr(here.provider, call)(Handle(here.model, "r-unheard-of")))


def test_without_balance_nothing_is_created(api):
    here = api(poor=True)
    with refused(here, BalanceExhausted):
        submit(here)


def test_without_a_good_token_nothing_is_created_and_nothing_told(api):
    here = api(revoked=True)
    with refused(here, AuthRefused):
        submit(here)
    with pytest.raises(AuthRefused):
        here.run(here.provider.result(Handle(here.model, "r1")))


def test_what_is_rejected_is_not_created(api):
    here = api("rejecting")
    with refused(here, Rejected):
        submit(here)


def test_what_is_turned_away_is_not_created_and_may_name_a_wait(api):
    here = api("busy")
    with refused(here, TurnedAway) as caught:
        submit(here)
    assert caught.value.retry_after_s > 0.0


def test_an_answer_that_is_lost_leaves_a_job_that_was_charged(api):
    here = api("losing answers")
    with pytest.raises(OutcomeUnknown):
        submit(here)
    assert here.created() == 1
    assert here.charged_usd() > 0.0


def test_a_request_that_is_lost_looks_the_same_and_leaves_nothing(api):
    here = api("losing requests")
    with refused(here, OutcomeUnknown):
        submit(here)


@pytest.mark.parametrize("situation", ["failing", "failing with a list"])
def test_a_failed_generation_is_a_result_and_no_error(api, situation):
    here = api(situation)
    request = submit(here)
    here.wait(LONG_S)
    result = here.run(here.provider.result(request))
    assert result.phase is Phase.FAILED
    assert result.urls == ()
    assert result.message or result.error_code


def test_completed_may_come_without_any_output(api):
    here = api("empty-handed")
    request = submit(here)
    here.wait(LONG_S)
    result = here.run(here.provider.result(request))
    assert (result.phase, result.urls) == (Phase.SUCCEEDED, ())
