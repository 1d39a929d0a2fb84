"""``--max-cost`` as a property: whatever prices, answers and crashes, no more is charged than was allowed."""

import asyncio
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import OutcomeUnknown, Rejected, TurnedAway
from batcher.ledger import LEDGER_NAME
from batcher.planning import Policy
from batcher.service import Phase
from tests.engine import Api, Batch, answer, job, virtual_loop

CENT_USD = 0.01
DUST_USD = 1e-6
ANSWERS = {
    "accepted": lambda: None,
    "lost": lambda: OutcomeUnknown("no answer"),
    "busy": lambda: TurnedAway("429", retry_after_s=1.0),
    "refused": lambda: Rejected("422", http_status=422),
}
RESULTS = {
    "done": lambda price: answer(urls=("https://cdn/x.mp4",)),
    "cheaper": lambda price: answer(cost_usd=price / 2),
    "failed": lambda price: answer(Phase.FAILED, message="no"),
    "free failure": lambda price: answer(Phase.FAILED, message="no", cost_usd=0.0),
}


class Till(Api):
    """An API that knows what it charged: the price of each request, or what it reports in its place.

    ``fates`` are, by prompt, how its first request ends, its second, and so on.
    """

    def __init__(self, prices, posting, fates):
        super().__init__(takes_s=3.0, posting=posting)
        self.prices, self.fates = prices, fates
        self.charges, self.ends = [], {}

    async def submit(self, model, body):
        prompt, number = json.loads(body)["prompt"], len(self.charges)
        self.charges.append(self.prices[prompt])  # unless it is surely refused
        try:
            request_id = await super().submit(model, body)
        except (TurnedAway, Rejected):
            self.charges[number] = 0.0
            raise
        end = RESULTS[self.fates[prompt].pop(0) if self.fates.get(prompt) else "done"](
            self.prices[prompt]
        )
        self.ends[request_id] = number, end
        return request_id

    async def result(self, request_id):
        result = await super().result(request_id)
        if not result.phase.terminal:
            return result
        number, end = self.ends[request_id]
        if end.cost_usd is not None:
            self.charges[number] = end.cost_usd
        return end

    @property
    def charged_usd(self):
        return sum(self.charges)


async def run_until(batch, jobs, crash_s):
    """One run. Where it crashes, nothing that happens afterwards reaches the disk."""
    crashed = {}

    async def crash(runner):
        await asyncio.sleep(crash_s)
        crashed["ledger"] = batch.ledger_bytes if (batch.path / LEDGER_NAME).exists() else b""
        runner.control.abort(RuntimeError("crash"))

    await batch.run(jobs, meanwhile=None if crash_s is None else crash, concurrency=3)
    if crashed:
        (batch.path / LEDGER_NAME).write_bytes(crashed["ledger"])


async def story(path, cents, cap_cents, scripts, crashes_s):
    jobs = [job(f"j{number}") for number in range(len(cents))]
    prices = {one.id: count * CENT_USD for one, count in zip(jobs, cents, strict=True)}
    posting = {
        one.id: [ANSWERS[name]() for name in script[0]]
        for one, script in zip(jobs, scripts, strict=False)
    }
    posting = {name: [step for step in steps if step is not None] for name, steps in posting.items()}
    fates = {one.id: list(script[1]) for one, script in zip(jobs, scripts, strict=False)}
    batch = Batch(path, api=Till(prices, posting, fates))
    batch.price_of = lambda one: prices[one.id]
    batch.max_cost_usd = cap_cents * CENT_USD
    batch.policy = Policy(retry_failed=True, retry_unknown=True, max_attempts=9)
    for crash_s in [*crashes_s, None]:
        await run_until(batch, jobs, crash_s)
        assert batch.api.charged_usd <= batch.max_cost_usd + DUST_USD


SCRIPT = st.tuples(
    st.lists(st.sampled_from(sorted(ANSWERS)), max_size=4),
    st.lists(st.sampled_from(sorted(RESULTS)), max_size=3),
)


@settings(max_examples=80, deadline=None)
@given(
    cents=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    cap_percent=st.integers(0, 150),
    scripts=st.lists(SCRIPT, min_size=4, max_size=8),
    crashes_s=st.lists(st.floats(0.01, 12.0), max_size=3),
)
def test_the_sum_charged_never_exceeds_the_cap(cents, cap_percent, scripts, crashes_s):
    cap_cents = sum(cents) * cap_percent // 100
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=virtual_loop) as runner:
        runner.run(story(Path(folder), cents, cap_cents, scripts, crashes_s))
