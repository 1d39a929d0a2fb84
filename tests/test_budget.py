"""``--max-cost`` as a property: whatever prices, answers and crashes, no more is charged than was allowed."""

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.errors import OutcomeUnknown, Rejected, TurnedAway
from batcher.ledger import LEDGER_NAME
from batcher.plan import Policy
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
    """An API that knows what it charged: the price of each request, or less where it reports less."""

    def __init__(self, prices, posting, results):
        super().__init__(takes_s=3.0, posting=posting, results=results)
        self.prices, self.charges = prices, []

    async def submit(self, model, body):
        number = len(self.charges)
        self.charges.append(None)
        try:
            request_id = await super().submit(model, body)
        except (TurnedAway, Rejected):
            self.charges[number] = 0.0
            raise
        finally:
            if self.charges[number] is None:  # accepted, unanswered, or cut off: it may have been charged
                self.charges[number] = self.prices[self.posts[number][1]]
        return request_id

    @property
    def charged_usd(self):
        return sum(charge for charge in self.charges if charge is not None)


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
    posting = {one.id: [ANSWERS[name]() for name in script[0]] for one, script in zip(jobs, scripts, strict=False)}
    posting = {name: [step for step in steps if step is not None] for name, steps in posting.items()}
    results = {one.id: [RESULTS[name](prices[one.id]) for name in script[1]] for one, script in zip(jobs, scripts, strict=False)}
    batch = Batch(path, api=Till(prices, posting, results))
    batch.price_of = lambda one: prices[one.id]
    batch.max_cost_usd = cap_cents * CENT_USD
    batch.policy = Policy(retry_failed=True, retry_unknown=True, max_attempts=9)
    for crash_s in [*crashes_s, None]:
        await run_until(batch, jobs, crash_s)
        assert batch.api.charged_usd <= batch.max_cost_usd + DUST_USD


SCRIPT = st.tuples(
    st.lists(st.sampled_from(sorted(ANSWERS)), max_size=4), st.lists(st.sampled_from(sorted(RESULTS)), max_size=3)
)


@settings(max_examples=80, deadline=None)
@given(
    cents=st.lists(st.integers(1, 300), min_size=1, max_size=8),
    cap_cents=st.integers(0, 900),
    scripts=st.lists(SCRIPT, max_size=8),
    crashes_s=st.lists(st.floats(0.01, 12.0), max_size=3),
)
def test_the_sum_charged_never_exceeds_the_cap(cents, cap_cents, scripts, crashes_s):
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=virtual_loop) as runner:
        runner.run(story(Path(folder), cents, cap_cents, scripts, crashes_s))
