"""The state that all APIs of one sandbox share: requests, clock, prices, faults, output URLs."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from batcher.jobs.identity import input_digest
from batcher.jobs.job import recorded
from batcher.sandbox.answers import INSUFFICIENT_RESOURCES, Refusal, not_found
from batcher.sandbox.faults import FAILURES, SLOWNESS, Fault, FaultStage, dice
from batcher.sandbox.journal import JobCreated
from batcher.sandbox.outputs import Signer, names

if TYPE_CHECKING:
    from aiohttp import web

    from batcher.sandbox.catalogue import Model
    from batcher.sandbox.settings import SandboxSettings, SandboxStats
    from batcher.sandbox.store import Request, Store


@dataclass(frozen=True, slots=True)
class Submission:
    """The outcome of a POST: its order, and the fault that affects its answer.

    With a fault, the order may or may not have been created: the answer does not tell.
    """

    order: JobCreated
    fault: Fault | None


class Backend:
    """The state of a sandbox, shared by the APIs that it serves.

    Each API (see ``server.py``) speaks its own paths, words and errors; requests, queue, balance and
    faults are shared, and a request belongs to the API that created it.
    """

    def __init__(self, settings: SandboxSettings, store: Store, stats: SandboxStats) -> None:
        self.settings = settings
        self.store = store
        self.stats = stats
        self.signer = Signer(settings.seed, settings.url_ttl_s)
        self._faults = settings.dice()
        self._unread: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._lost: set[str] = set()

    def now(self) -> datetime:
        """The sandbox's time, in UTC."""
        return self.settings.clock.now()

    def find(self, api: str, request_id: str) -> Request:
        """The request of this ``api``. Raises Refusal: 404."""
        found = self.store.get(request_id)
        if found is None or found.order.api != api:
            raise not_found("request")
        return found

    def drops_unread(self, request: web.Request) -> bool:
        """Whether a POST's connection closes before its body is read: then nothing is created."""
        # Drawn from everything known about the job before its body is read.
        key = f"{request.path}:{request.content_length}"
        self._unread[key] += 1
        drawn = self._faults.draw(FaultStage.CONNECT, key, self._unread[key])
        return self._met(drawn) is not None

    def submit(
        self, model: Model, inputs: dict[str, Any], *, charges_failures: bool = True
    ) -> Submission:
        """Charge for a job with these (valid) inputs and enqueue it, or simulate a fault.

        Raises Refusal if the balance is too low, RunDirError if the state file can't be written.
        """
        with self.store.alone():
            return self._submit(model, inputs, charges_failures)

    def _submit(self, model: Model, inputs: dict[str, Any], charges_failures: bool) -> Submission:
        price_usd = model.price_usd(inputs)
        if not self.store.affords(price_usd):
            raise Refusal(400, "Insufficient balance", error_code=INSUFFICIENT_RESOURCES)
        key = input_digest(model.model_id, inputs)
        nth = self.store.posts_for(key)
        order = self._order(model, inputs, key, nth)
        if order.fate in FAILURES and not charges_failures:
            order = msgspec.structs.replace(order, price_usd=0.0)
        fault = self._met(self._faults.draw(FaultStage.SUBMIT, key, nth))
        if self._faults.creates(fault, key, nth):
            self.store.create(order)
            self._met(Fault(order.fate) if order.fate else None)
        else:
            self.store.spurn(key)
        return Submission(order, fault)

    def poll_fault(self, asked: Request) -> Fault | None:
        """The fault of this call about the request, if any."""
        request_id = asked.order.id
        fault = self._drawn(FaultStage.POLL, request_id)
        if fault is Fault.POLL_LOST:
            if request_id in self._lost:
                return None
            self._lost.add(request_id)
        if fault is Fault.POLL_NOT_READY and asked.phase(self.store.now_s()).terminal:
            return None
        return self._met(fault)

    def download_fault(self, path: str) -> Fault | None:
        """The fault of this download of the path, if any."""
        return self._met(self._drawn(FaultStage.DOWNLOAD, path))

    def output_urls(self, request: web.Request, order: JobCreated) -> list[str]:
        """A signed URL for each output of ``order``, on the host that ``request`` was sent to."""
        now_s = self.store.now_s()
        paths = [f"/outputs/{order.id}/{name}" for name in names(order)]
        return [origin_of(request) + self.signer.sign(path, now_s) for path in paths]

    def _drawn(self, stage: FaultStage, key: str) -> Fault | None:
        if self._faults.share:
            self._asked[key] += 1
        return self._faults.draw(stage, key, self._asked[key])

    def _met(self, fault: Fault | None) -> Fault | None:
        if fault is not None:
            self.stats.faults[fault.value] += 1
        return fault

    def _order(self, model: Model, inputs: dict[str, Any], key: str, nth: int) -> JobCreated:
        """The ``nth`` order for these inputs. Its durations and its fate are drawn here."""
        rng = dice(self.settings.seed, "order", key, nth)
        simulation, speed = model.simulation, self.settings.speed
        fate = self._faults.draw(FaultStage.GENERATE, key, nth)
        slowness = SLOWNESS if fate is Fault.GENERATE_SLOW else 1.0
        return JobCreated(
            id=str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            at=self.store.now_s(),
            api=model.api,
            model=model.model_id,
            key=key,
            input=msgspec.Raw(msgspec.json.encode(recorded(inputs))),
            price_usd=model.price_usd(inputs),
            queue_s=rng.uniform(*simulation.queue_s) / speed,
            run_s=rng.uniform(*simulation.run_s) / speed * slowness,
            fate=fate or "",
            instances=simulation.instances,
            wake_s=simulation.wake_s / speed,
        )


def origin_of(request: web.Request) -> str:
    """Scheme, host and port that ``request`` was sent to."""
    return f"{request.scheme}://{request.host}"
