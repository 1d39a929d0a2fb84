"""``--max-cost`` as a property: whatever prices, answers and crashes, no more is charged than was allowed."""

import asyncio
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.engine.budget import Budget, Caps, even_level_usd
from batcher.errors import OutcomeUnknown, Rejected, TurnedAway
from batcher.jobs.lifecycle import EventName
from batcher.jobs.shard import Shard, shard_number
from batcher.layout import LEDGER_NAME
from batcher.options.facts import Policy
from batcher.ports import Phase
from tests.support.engine import Api, Batch, answer, job, virtual_loop
from tests.support.histories import open_ledger

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
            handle = await super().submit(model, body)
        except (TurnedAway, Rejected):
            self.charges[number] = 0.0
            raise
        end = RESULTS[self.fates[prompt].pop(0) if self.fates.get(prompt) else "done"](
            self.prices[prompt]
        )
        self.ends[handle.id] = number, end
        return handle

    async def result(self, handle):
        result = await super().result(handle)
        if not result.phase.terminal:
            return result
        number, end = self.ends[handle.id]
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


@settings(max_examples=80)
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


AMOUNTS_USD = st.integers(0, 10_000).map(lambda cents: cents * CENT_USD)
SPENT = st.lists(AMOUNTS_USD, min_size=1, max_size=9)


@given(SPENT, AMOUNTS_USD)
def test_the_shards_below_the_level_share_out_all_that_is_left(spent_usd, max_cost_usd):
    level_usd = even_level_usd(spent_usd, max_cost_usd)
    below = [usd for usd in spent_usd if usd < level_usd - DUST_USD]
    filled_usd = sum(max(usd, level_usd) for usd in spent_usd)
    if below:
        assert abs(filled_usd - max_cost_usd) < DUST_USD
    else:
        assert sum(spent_usd) >= max_cost_usd - DUST_USD or max_cost_usd == 0


@given(SPENT, AMOUNTS_USD, st.data())
def test_the_level_stays_as_shards_are_filled_up_to_it(spent_usd, max_cost_usd, data):
    level_usd = even_level_usd(spent_usd, max_cost_usd)
    more_usd = [data.draw(st.floats(usd, level_usd)) if usd < level_usd else usd for usd in spent_usd]
    if any(usd < level_usd for usd in spent_usd):
        assert abs(even_level_usd(more_usd, max_cost_usd) - level_usd) < DUST_USD


DEEDS = st.lists(
    st.tuples(st.sampled_from(["begin", "buy", "buy", "buy", "give back"]), st.integers(0, 39)),
    max_size=60,
)


@settings(max_examples=60)
@given(
    count=st.integers(1, 4),
    earlier_cents=st.lists(st.integers(1, 400), max_size=6),
    cap_cents=st.integers(0, 1500),
    prices_cents=st.lists(st.integers(1, 300), min_size=40, max_size=40),
    deeds=DEEDS,
)
def test_shards_stay_within_the_cap_together_whenever_each_of_them_begins(
    count, earlier_cents, cap_cents, prices_cents, deeds
):
    """They know of each other only what the ledger says as they begin; and money comes back."""
    cap_usd = max(cap_cents, sum(earlier_cents)) * CENT_USD
    prices_usd = {f"job-{number}": cents * CENT_USD for number, cents in enumerate(prices_cents)}
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(share(Path(folder), count, earlier_cents, cap_usd, prices_usd, deeds))


async def share(path, count, earlier_cents, cap_usd, prices_usd, deeds):
    whole = open_ledger(path)
    for number, cents in enumerate(earlier_cents):
        price_usd = cents * CENT_USD
        await whole.record(EventName.SUBMITTING, f"old-{number}", attempt=1, price_usd=price_usd)
    await whole.close()
    running, charged_usd = {}, {}
    for deed, number in deeds:
        name = f"job-{number}"
        shard = Shard(count, number % count + 1 if deed == "begin" else shard_number(name, count))
        if deed == "begin":
            if shard in running:
                await running[shard][0].close()
            ledger = open_ledger(path, shard)
            price_of = lambda one: prices_usd[one.id]  # noqa: E731
            running[shard] = ledger, Budget(ledger, price_of, Caps(cap_usd), shard)
        elif shard in running:
            ledger, budget = running[shard]
            if deed == "buy" and name not in charged_usd and budget.admits(job(name)):
                charged_usd[name] = prices_usd[name]
                fields = {"attempt": 1, "price_usd": prices_usd[name]}
                await ledger.record(EventName.SUBMITTING, name, **fields)
            elif deed == "give back" and charged_usd.get(name):
                charged_usd[name] = 0.0
                await ledger.record(EventName.DEFERRED, name, reason="interrupted")
        spent_usd = sum(earlier_cents) * CENT_USD + sum(charged_usd.values())
        assert spent_usd <= cap_usd + DUST_USD
    for ledger, _ in running.values():
        await ledger.close()
