"""What a run may spend: prices that are wrong, costs that come late, rows that nobody planned, balances."""

import asyncio
import json
import os
from copy import deepcopy
from dataclasses import replace

import pytest

from batcher.app import run as app
from batcher.app.plan import plan as app_plan
from batcher.app.spend import entries_of
from batcher.engine.gateway import Silent
from batcher.engine.host import Host
from batcher.engine.poll import LateCosts
from batcher.errors import InputError, InterruptedRunError, OutcomeUnknown, TurnedAway, UnreachableError
from batcher.jobs.lifecycle import EventName, Stage, State
from batcher.ledger.ledger import Ledger
from batcher.manifest.id_table import Roll
from batcher.options.facts import Money, Overrides, Pace, Policy, Selection
from batcher.options.run import Options
from batcher.ports import Phase
from batcher.providers.runcomfy.balance import balance_base, balance_in
from batcher.sandbox.catalogue import catalogue
from tests.support.api_server import TOKEN, ApiServer, run_typed
from tests.support.engine import (
    Api,
    Batch,
    after,
    answer,
    bought,
    for_ever,
    in_virtual_time,
    job,
    observer_that,
    some_jobs,
)

FLUX = "blackforestlabs/flux-1/dev/text-to-image"
PRICE_USD = 0.025


@pytest.fixture
def batch(tmp_path):
    return Batch(tmp_path)


class Dear(Api):
    """An API whose requests cost ``costs_usd`` by prompt, told ``late_s`` seconds after the result."""

    def __init__(self, costs_usd, late_s=0.0, **fields):
        super().__init__(**fields)
        self.costs_usd, self.late_s = costs_usd, late_s

    async def result(self, handle):
        result = await super().result(handle)
        request = self.requests[handle.id]
        age_s = asyncio.get_running_loop().time() - request.at_s
        if not result.phase.terminal or age_s < self.takes_s + self.late_s:
            return result
        return answer(urls=result.urls, cost_usd=self.costs_usd(request.prompt))

    @property
    def charged_usd(self):
        return sum(self.costs_usd(one.prompt) for one in self.requests.values())


# Prices that are wrong


@pytest.mark.parametrize("concurrency", [1, 4, 8])
@pytest.mark.parametrize("late_s", [0.0, 3.0])
@in_virtual_time
async def test_a_cap_is_passed_at_most_by_what_was_in_flight_at_the_first_surprise(
    batch, concurrency, late_s
):
    batch.api = Dear(lambda prompt: 10.0, late_s)
    batch.max_cost_usd = 30.0
    ended = await batch.run(some_jobs(40), concurrency=concurrency)
    assert ended.error.exit_code == 3
    before_it_was_known = concurrency * (2 if late_s else 1)
    assert batch.api.charged_usd <= max(30.0, 10.0 * before_it_was_known)
    await asyncio.sleep(60)
    again = await batch.run(some_jobs(40), concurrency=concurrency)
    assert again.spent_usd == pytest.approx(batch.api.charged_usd)


@in_virtual_time
async def test_after_a_surprise_what_is_in_flight_counts_at_what_it_will_cost(batch):
    batch.api = Dear(lambda prompt: 10.0)
    batch.max_cost_usd = 100.0
    await batch.run(some_jobs(40), concurrency=8)
    assert batch.api.charged_usd == 100.0


@in_virtual_time
async def test_what_was_learned_holds_in_the_next_run(batch):
    batch.api = Dear(lambda prompt: 10.0)
    await batch.run(some_jobs(1))
    batch.max_cost_usd = 35.0
    ended = await batch.run(some_jobs(20), concurrency=8)
    assert (ended.spent_usd, len(batch.api.posts)) == (30.0, 3)


@in_virtual_time
async def test_each_set_of_parameters_has_its_own_highest_cost(batch):
    def costs_usd(prompt):
        return 10.0 if prompt.startswith("long") else 1.0

    short = [job(f"short-{n}", duration=5) for n in range(12)]
    long = [job(f"long-{n}", duration=10) for n in range(3)]
    batch.api = Dear(costs_usd)
    batch.max_cost_usd = 26.0
    await batch.run([short[0], *long[:1], *short[1:], *long[1:]], concurrency=1)
    assert batch.api.charged_usd == 22.0, "12 short ones, one long one, no room for a second"


@in_virtual_time
async def test_parameters_that_were_never_seen_are_priced_as_badly_as_the_rest_of_their_model(batch):
    batch.api = Dear(lambda prompt: 10.0)
    batch.max_cost_usd = 25.0
    await batch.run([job(f"j{n}", cfg_scale=n / 10) for n in range(9)], concurrency=1)
    assert batch.api.charged_usd == 20.0


@in_virtual_time
async def test_another_model_is_not_dearer_for_it(batch):
    batch.api = Dear(lambda prompt: 10.0 if prompt == "dear" else 1.0)
    batch.max_cost_usd = 15.0
    others = [job(f"j{n}", model="acme/other") for n in range(5)]
    ended = await batch.run([job("dear"), *others], concurrency=1)
    assert (batch.api.charged_usd, ended.states) == (15.0, {"done": 6})


@in_virtual_time
async def test_a_cost_below_the_price_makes_room_but_promises_nothing(batch):
    batch.api = Dear(lambda prompt: 0.5)
    batch.max_cost_usd = 3.0
    await batch.run(some_jobs(20), concurrency=1)
    assert batch.api.charged_usd == 2.5, "the sixth may cost its price again"


# Attempts of unknown price


@in_virtual_time
async def test_attempts_of_unknown_price_count_at_the_assumed_one(batch):
    batch.price_of = lambda one: None
    await batch.run(some_jobs(3))
    batch.price_of = lambda one: 1.0
    batch.max_cost_usd, batch.assume_price_usd = 5.0, 1.0
    ended = await batch.run(some_jobs(20), concurrency=1)
    assert ended.error.exit_code == 3
    assert len(batch.api.posts) == 5


@in_virtual_time
async def test_every_attempt_counts_whatever_became_of_it(batch):
    """Failed, unknown, orphaned, replaced: all but refused and cancelled ones."""
    batch.api.results["failed"] = [answer(Phase.FAILED)]
    batch.api.posting["unknown"] = [OutcomeUnknown("504")]
    batch.api.results["cancelled"] = [answer(Phase.CANCELLED)]
    await batch.run([job("failed"), job("unknown"), job("cancelled"), job("gone"), job("twice")])
    batch.policy, batch.selection = Policy(redo=True), Selection(only="twice")
    await batch.run([job("twice")])
    batch.policy, batch.selection = Policy(), Selection()
    batch.max_cost_usd = 6.0
    ended = await batch.run(some_jobs(9))
    assert ended.states["done"] == 3, "5 were spent: the sixth dollar buys one more"
    assert ended.spent_usd == 6.0


@in_virtual_time
async def test_what_ran_until_it_was_cancelled_costs_the_same_in_spend_as_in_its_ledger(batch):
    batch.api.results["ran"] = [answer(Phase.CANCELLED, may_cost=True)]
    batch.api.results["queued"] = [answer(Phase.CANCELLED)]
    ended = await batch.run([job("ran"), job("queued"), job("done")])
    assert ended.spent_usd == 2.0
    counted = entries_of(Host(clock=batch.clock, disk=batch.disk), batch.path)
    assert {entry.job: entry.usd for entry in counted} == {"ran": 1.0, "queued": 0.0, "done": 1.0}
    assert {entry.kind for entry in counted} == {"settle"}


# Costs that come late


@in_virtual_time
async def test_costs_of_a_vendor_that_left_the_manifest_are_not_asked_and_hold_up_no_others(
    batch, monkeypatch
):
    await batch.run([job("fox", model="other:fox"), job("cat")])
    polls = len(batch.api.polls)

    def connected(model):
        if model.startswith("other:"):
            raise KeyError(model)
        return batch.api

    monkeypatch.setattr(
        batch, "_deps", lambda *held: replace(Batch._deps(batch, *held), providers=connected)
    )
    batch.max_cost_usd, batch.assume_price_usd = 9.0, 1.0
    ended = await batch.run([job("cat")])
    assert (ended.states, ended.error) == ({"done": 2}, None)
    assert {request_id for _, request_id in batch.api.polls[polls:]} == {"r1-cat"}


@in_virtual_time
async def test_a_fault_of_ours_beside_the_lanes_is_not_hidden(batch, monkeypatch):
    async def fault(self, is_ours):
        raise ZeroDivisionError

    monkeypatch.setattr(LateCosts, "take_over", fault)
    with pytest.raises(ZeroDivisionError):
        await batch.run([job("cat")])


@in_virtual_time
async def test_a_cost_that_comes_after_the_result_is_asked_for_again(batch):
    batch.api = Dear(lambda prompt: 2.0 if prompt == "late" else 1.0, late_s=25.0)
    batch.max_cost_usd = 100.0
    slow = [job(f"j{n}") for n in range(3)]
    ended = await batch.run([job("late"), *slow], concurrency=1)
    assert ended.records["late"].reported_usd == 2.0
    assert batch.story("late") == ["submitting", "submitted", "completed", "done", "cost"]
    assert [row["cost_usd"] for row in batch.rows if row["job"] == "late"] == [2.0]


@in_virtual_time
async def test_a_cost_that_comes_while_its_job_is_taken_up_again_is_left_alone(batch):
    """The question is slow; meanwhile ``--retry-failed`` finds that the old request goes on."""
    failed = job("failed")
    batch.api.results["failed"] = [answer(Phase.FAILED, message="no")]
    batch.api.results["known"] = [answer(cost_usd=1.0)]
    await batch.run([job("known"), failed])
    late = after(20, answer(Phase.FAILED, message="no", cost_usd=2.0))
    batch.api.results["failed"] = [late, *[answer(Phase.RUNNING)] * 30]
    batch.policy = Policy(retry_failed=True)
    ended = await batch.run([job("first"), failed], concurrency=1, poll_interval_s=5.0)
    assert (ended.error, ended.ids(State.DONE)) == (None, ["known", "first", "failed"])
    assert "cost" not in batch.story("failed")


@in_virtual_time
async def test_a_cost_of_zero_is_asked_for_again_and_believed_in_the_end(batch):
    batch.api = Dear(lambda prompt: 0.0)
    batch.max_cost_usd = 100.0
    ended = await batch.run(some_jobs(3), concurrency=1)
    assert (ended.spent_usd, ended.states) == (0.0, {"done": 3})


class MovedOn:
    """A watcher whose answer comes when the job was bought again already."""

    def __init__(self, ledger):
        self.ledger = ledger

    def hears_costs(self, model):
        return True

    async def ask(self, request_id, timeout_s):
        self.ledger.append(EventName.SUBMITTING, "cat", price_usd=1.0)
        self.ledger.append(EventName.SUBMITTED, "cat", request_id="r2")
        self.ledger.append(EventName.COMPLETED, "cat")
        return answer(cost_usd=9.0)


@in_virtual_time
async def test_a_cost_that_comes_when_its_job_was_bought_again_is_not_that_of_the_new_attempt(batch):
    ledger = Ledger(batch.path, batch.disk, batch.clock)
    ledger.append(EventName.SUBMITTING, "cat", price_usd=1.0)
    ledger.append(EventName.SUBMITTED, "cat", request_id="r1")
    ledger.append(EventName.FAILED, "cat", stage=Stage.GENERATE)
    costs = LateCosts(MovedOn(ledger), ledger, batch.clock, wanted=True)
    await costs.take_over(lambda job_id: False)
    assert ledger.snapshot.records["cat"].request_id == "r1", "a job of another shard is not asked about"
    await costs.take_over(lambda job_id: True)
    record = ledger.snapshot.records["cat"]
    assert (record.request_id, record.reported_usd) == ("r2", None)
    await ledger.close()


class OneSilent:
    """A watcher of two vendors, of which one has stopped answering."""

    def hears_costs(self, model):
        return True

    async def ask(self, request, timeout_s):
        if request.id == "r1":
            raise Silent("has stopped answering")
        await asyncio.sleep(1.0)
        return answer(cost_usd=0.5)


@in_virtual_time
async def test_costs_of_a_vendor_that_stopped_answering_keep_no_other_cost_away(batch):
    ledger = Ledger(batch.path, batch.disk, batch.clock)
    for number, name in enumerate(("cat", "dog"), 1):
        ledger.append(EventName.SUBMITTING, name, price_usd=1.0)
        ledger.append(EventName.SUBMITTED, name, request_id=f"r{number}")
        ledger.append(EventName.FAILED, name, stage=Stage.GENERATE)
    await LateCosts(OneSilent(), ledger, batch.clock, wanted=True).take_over(lambda job_id: True)
    assert ledger.snapshot.records["dog"].reported_usd == 0.5
    await ledger.close()


@in_virtual_time
async def test_a_run_that_is_interrupted_while_it_asks_for_old_costs_ends_at_once(batch):
    batch.max_cost_usd = 9.0
    await batch.hold(*bought(job("cat")), (EventName.FAILED, "cat", {"stage": Stage.GENERATE}))
    batch.api.knows("r1")
    batch.api.results["r1"] = for_ever(TurnedAway("429", retry_after_s=100.0))

    async def interrupt(runner):
        await asyncio.sleep(3.0)
        runner.control.halt(InterruptedRunError("interrupted"))

    await batch.run([job("cat")], meanwhile=interrupt)
    assert asyncio.get_running_loop().time() < 3.0 + Pace().grace_s


@in_virtual_time
async def test_an_api_that_names_no_costs_is_soon_left_alone(batch):
    batch.max_cost_usd = 1000.0
    await batch.run(some_jobs(200), concurrency=2)
    assert len(batch.api.polls) < 600 + 100


@in_virtual_time
async def test_without_a_cap_and_without_any_cost_nothing_more_is_asked(batch):
    batch.api.takes_s = 0.0
    await batch.run(some_jobs(20), concurrency=4)
    assert len(batch.api.polls) == 20


@in_virtual_time
async def test_at_80_percent_of_the_cap_it_says_so_once(batch):
    told = []
    batch.observer = observer_that(warn=told.append)
    batch.max_cost_usd = 10.0
    await batch.run(some_jobs(20), concurrency=1)
    assert told == ["$8.00 of --max-cost $10.00 is spent (80 %)"]


# Bought again by the user's word


@in_virtual_time
async def test_a_ledger_with_costs_folds_to_the_same_money(batch):
    batch.api = Dear(lambda prompt: 2.0, late_s=5.0)
    batch.max_cost_usd = 100.0
    ended = await batch.run(some_jobs(3))
    assert ended.spent_usd == 3.0, "it ended before a cost was named"
    await asyncio.sleep(60)
    again = await batch.run(some_jobs(3))
    assert again.spent_usd == (await batch.run(some_jobs(3))).spent_usd == 6.0
    assert len(again.ids(State.DONE)) == 3


# Rows that the plan did not count


def jobs_of(*names):
    return [job(name) for name in names]


def kept(roll, *names):
    blocks = [jobs_of(*names[:2]), jobs_of(*names[2:])]
    return [one.id for block in roll.keep(blocks) for one in block]


def test_a_later_pass_keeps_what_was_counted_in_any_order_each_once():
    roll = Roll()
    assert [len(block) for block in roll.note([jobs_of("a", "b"), jobs_of("c")])] == [2, 1]
    assert kept(roll, "a", "b", "c") == ["a", "b", "c"]
    assert kept(roll, "x", "c", "a", "a", "y") == ["c", "a"]
    assert roll.added == 3
    assert kept(roll, "a", "b", "c", "d") == ["a", "b", "c"]
    assert roll.added == 1
    assert kept(roll) == []


def test_the_same_id_with_other_inputs_was_not_counted():
    roll = Roll()
    list(roll.note([[job("a", duration=5)]]))
    assert list(roll.keep([[job("a", duration=10)]])) == [[]]


@pytest.fixture
def server():
    served = ApiServer(generate_s=0.01)
    listed = {name: model.listing(include_schema=True) for name, model in catalogue().items()}
    served.catalogue = deepcopy(listed)
    served.start()
    yield served
    served.stop()


class Bench:
    """One manifest, run in this process."""

    def __init__(self, server, path):
        self.server, self.path = server, path
        self.manifest = path / "m.yaml"
        self.env = {"RUNCOMFY_MODEL_API_BASE": server.base, "RUNCOMFY_TOKEN": TOKEN}
        self.told = []

    def write_csv(self, *prompts):
        self.manifest.write_text("prompt,model\n" + "".join(f"{one},{FLUX}\n" for one in prompts))

    def write(self, *prompts, **fields):
        jobs = [{"prompt": prompt} for prompt in prompts]
        self.manifest.write_text(json.dumps({"model": FLUX, "jobs": jobs} | fields))

    def host(self, **fields):
        observer = observer_that(warn=self.told.append)
        return Host(env=self.env, home=self.path, observer=observer, **fields)

    def options(self, *, concurrency=1, policy=None, only=None, job_timeout_s=7200.0, **money):
        return Options(
            manifest=self.manifest,
            output=self.path / "out",
            policy=policy or Policy(),
            selection=Selection(only=only),
            pace=Pace(concurrency=concurrency, poll_interval_s=0.02, job_timeout_s=job_timeout_s),
            money=Money(**({"assume_yes": True} | money)),
        )

    def run(self, host=None, **options):
        return asyncio.run(app.run(self.options(**options), host or self.host()))

    def plan(self, **options):
        return asyncio.run(app_plan(self.options(**options), self.host()))


@pytest.fixture
def bench(server, tmp_path):
    return Bench(server, tmp_path)


def test_a_cap_of_some_models_leaves_their_jobs_pending_and_the_others_go_on(bench):
    """The exit code is that of a cap, and the message names it."""
    other = "blackforestlabs/flux-1/schnell/text-to-image"
    bench.server.catalogue[other] = bench.server.catalogue[FLUX] | {"model_id": other}
    jobs = [{"prompt": f"cat {n}", "model": (FLUX, other)[n % 2]} for n in range(8)]
    bench.manifest.write_text(json.dumps({"jobs": jobs}))
    caps = {"day": 9.0, "day:*/dev/*": 2.5 * PRICE_USD}
    for _ in range(2):  # the second run finds its cap full at once
        summary = bench.run(max_cost_per=caps)
        assert (summary.done, summary.pending, summary.exit_code) == (6, 2, 3)
        assert len(bench.server.posts) == 6
        assert "is spent on these models" in summary.stopped


NAMES = [f"n{number:02d}" for number in range(24)]


def editing(bench, edit):
    """A host whose user edits the manifest between the plan and the yes."""

    def confirm(*_):
        edit()
        return True

    return bench.host(confirm=confirm)


def write_unnoticed(bench, names):
    """An edit that leaves the file's size and time as they were."""
    before = bench.manifest.stat()
    bench.write_csv(*names)
    os.utime(bench.manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bench.manifest.stat().st_size == before.st_size


@pytest.mark.parametrize("after", [[*NAMES, "x", "y"], ["x", *NAMES], NAMES[:5], ["x"]])
def test_an_edit_after_the_plan_buys_nothing_that_was_not_planned(bench, after):
    bench.write(*NAMES)
    summary = bench.run(editing(bench, lambda: bench.write(*after)), assume_yes=False)
    assert {post["prompt"] for post in bench.server.posts} <= set(NAMES)
    assert (summary.total, summary.done + summary.pending, summary.exit_code) == (24, 24, 1)
    assert any("changed" in line for line in bench.told)


@pytest.mark.parametrize(
    ("after", "done"),
    [
        (["x00", *NAMES[1:]], 23),
        ([*NAMES[:12], "x12", *NAMES[13:20], "x20", "x21", "x22", NAMES[0]], 19),
        ([f"x{number:02d}" for number in range(24)], 0),
        (NAMES[::-1], 24),
    ],
)
def test_nor_does_one_that_nothing_shows(bench, after, done):
    bench.manifest = bench.path / "m.csv"
    bench.write_csv(*NAMES)
    host = editing(bench, lambda: write_unnoticed(bench, after))
    summary = bench.run(host, assume_yes=False, concurrency=8)
    posted = [post["prompt"] for post in bench.server.posts]
    assert set(posted) <= set(NAMES)
    assert len(posted) == len(set(posted)) == summary.done == done
    assert (summary.total, summary.pending, summary.exit_code) == (24, 24 - done, int(done < 24))
    assert any("during the run" in line for line in bench.told) == (set(after) != set(NAMES))


def test_the_first_rows_that_a_limit_chooses_are_those_of_the_plan(bench):
    bench.manifest = bench.path / "m.csv"
    bench.write_csv(*NAMES)
    host = editing(bench, lambda: write_unnoticed(bench, [*NAMES[2:], "x00", "x01"]))
    options = replace(bench.options(assume_yes=False, concurrency=8), selection=Selection(limit=22))
    asyncio.run(app.run(options, host))
    assert {post["prompt"] for post in bench.server.posts} <= set(NAMES)


def test_rows_appended_to_a_large_file_while_it_is_read_are_not_bought(bench):
    bench.manifest = bench.path / "m.csv"
    bench.manifest.write_text("prompt\n" + "".join(f"row {n}\n" for n in range(6)))

    def append(*_):
        with bench.manifest.open("a") as file:
            file.writelines(f"more {n}\n" for n in range(30))

    host = bench.host()
    host.observer.started = append
    summary = asyncio.run(app.run(replace(bench.options(), overrides=Overrides(model=FLUX)), host))
    assert {post["prompt"] for post in bench.server.posts} <= {f"row {n}" for n in range(6)}
    assert (summary.total, summary.exit_code in (0, 1)) == (6, True)


@pytest.mark.parametrize("content", ["{", "", "jobs: [{prompt: 3, nonsense: [}]"])
def test_a_manifest_that_breaks_after_the_plan_ends_the_run_in_good_order(bench, content):
    bench.write(*NAMES)
    host = editing(bench, lambda: bench.manifest.write_text(content))
    summary = bench.run(host, assume_yes=False)
    assert (summary.exit_code, summary.done, summary.pending) == (1, 0, 24)
    assert bench.server.posts == []
    assert any("manifest" in line for line in bench.told)


@pytest.mark.parametrize("moved", [None, "it is a copy"])
def test_in_a_suspected_copy_nothing_is_traced_before_the_yes(bench, monkeypatch, moved):
    async def trace(*_):
        traced.append(True)
        return False

    traced = []
    monkeypatch.setattr(app, "moved_since", lambda *_: moved)
    monkeypatch.setattr(app, "trace_first", trace)
    bench.write("a cat")
    assert bench.run().done == 1
    assert traced == ([] if moved else [True])


# --redo after --max-attempts


def test_what_was_to_be_bought_again_and_has_no_attempt_left_is_told(bench):
    bench.write("a", "b")
    assert bench.run().exit_code == 0
    again = bench.run(policy=Policy(redo=True, max_attempts=1), only="*")
    assert (again.exit_code, again.not_redone, again.submitted_now, again.done) == (1, 2, 0, 2)
    assert bench.run(policy=Policy(redo=True, max_attempts=2), only="*").exit_code == 0
    assert len(bench.server.posts) == 4


# Prices that are not known


@pytest.mark.parametrize(
    "price",
    [
        *({}, {"base_price_usd": 0}, {"base_price_usd": None}, {"base_price_usd": "0"}),
        *({"base_price_usd": 1, "price_unit": "furlong"}, {"base_price_usd": -1}),
    ],
)
def test_a_price_that_can_not_be_computed_stops_the_plan_unless_one_is_assumed(bench, price):
    entry = bench.server.catalogue[FLUX]
    entry.pop("base_price_usd")
    entry |= {"price_unit": "output"} | price
    bench.write("a", "b", "c")
    with pytest.raises(InputError, match="--assume-price"):
        bench.run(max_cost_usd=5.0)
    with pytest.raises(InputError, match="--assume-price"):
        bench.plan(max_cost_usd=5.0)
    assert bench.server.posts == []
    assert bench.run(max_cost_usd=5.0, assume_price_usd=2.5).exit_code == 3
    assert len(bench.server.posts) == 2


def test_earlier_attempts_of_unknown_price_need_an_assumed_one_under_a_cap(bench):
    price_usd = bench.server.catalogue[FLUX].pop("base_price_usd")
    bench.write("a", "b")
    bench.run()
    bench.server.catalogue[FLUX]["base_price_usd"] = price_usd
    for kept_file in (bench.path / ".cache").rglob("*.json"):
        kept_file.unlink()
    bench.write("a", "b", "c")
    with pytest.raises(InputError, match="2 earlier attempts"):
        bench.run(max_cost_usd=5.0)
    assert bench.run(max_cost_usd=5.0, assume_price_usd=1.0).exit_code == 0


def test_an_api_that_is_down_is_an_outage_and_no_bad_manifest(bench):
    bench.write("a")
    bench.server.stop()
    with pytest.raises(UnreachableError, match="--assume-price"):
        bench.run(max_cost_usd=5.0)
    assert not (bench.path / "out").exists()
    assert bench.plan(max_cost_usd=5.0).prepared.plan.estimated_cost_usd is None


def test_the_plan_shows_the_vendors_note_and_says_what_may_raise_a_price(bench, tmp_path):
    entry = bench.server.catalogue[FLUX]
    entry["pricing_note"] = "4K costs four times as much"
    entry["input_schema"]["properties"]["resolution"] = {"type": "string"}
    bench.write("a")
    env = {"RUNCOMFY_MODEL_API_BASE": bench.server.base}
    page = run_typed(bench.server, tmp_path, "plan", "m.yaml", **env).stdout
    assert "4K costs four times as much" in page
    assert f"the price of {FLUX} is a floor: resolution may raise it" in page


# Without a terminal


@pytest.mark.parametrize(
    ("options", "code"),
    [([], 64), (["--max-cost", "9"], 0), (["--yes"], 0), (["--sandbox"], 0)],
)
def test_without_a_terminal_only_a_cap_or_a_yes_lets_a_run_spend(bench, options, code):
    bench.write("a", "b")
    speed = ["--sandbox-speed", "50"] if "--sandbox" in options else []
    result = run_typed(bench.server, bench.path, "run", "m.yaml", "--poll", "0.05", *options, *speed)
    assert result.returncode == code, result.stderr
    if code:
        assert bench.server.posts == []
        assert "--max-cost" in result.stderr
        assert not (bench.path / "output").exists()


def test_a_run_that_has_nothing_to_buy_needs_neither(bench):
    bench.write("a")
    assert run_typed(bench.server, bench.path, "run", "m.yaml", "--yes").returncode == 0
    assert run_typed(bench.server, bench.path, "run", "m.yaml").returncode == 0


# The canary


def test_a_canary_that_outlasts_its_time_is_not_passed(bench):
    bench.write(*"abcdef")
    bench.server.generate_s = 600.0
    summary = bench.run(canary=2, job_timeout_s=0.2, concurrency=8)
    assert (summary.exit_code, len(bench.server.posts)) == (3, 2)
    assert "0 of 2 jobs went well, 2 have not ended" in summary.stopped


def test_a_canary_that_did_not_fit_the_budget_is_not_passed(bench):
    bench.write(*"abcdef")
    summary = bench.run(canary=2, max_cost_usd=PRICE_USD * 1.5, concurrency=8)
    assert (summary.exit_code, len(bench.server.posts)) == (3, 1)
    assert "1 have not ended" in summary.stopped


# The balance


def asks_balance(bench, **balance):
    bench.server.balance = balance or None
    bench.env["RUNCOMFY_SERVERLESS_API_BASE"] = bench.server.base.replace("/v1", "/prod/v2")


@pytest.mark.parametrize(
    ("balance", "words"),
    [
        ({"balance_usd": 0.05}, "needs $0.10, balance $0.05: stops after about 2 jobs"),
        ({"balance_usd": -1}, "needs $0.10, balance $-1.00: stops before the first job"),
        ({"balance_usd": 0.10}, None),
        ({}, None),
    ],
)
def test_plan_and_run_say_where_the_balance_ends(bench, balance, words):
    bench.write("a", "b", "c", "d")
    asks_balance(bench, **balance)
    planned = bench.plan()
    assert [line for line in planned.warnings if "balance" in line] == ([words] if words else [])
    assert planned.balance_usd == balance.get("balance_usd")
    assert bench.run().exit_code == 0
    assert [line for line in bench.told if "balance" in line] == ([words] if words else [])


def test_within_a_cap_only_the_cap_is_needed(bench):
    bench.write("a", "b", "c", "d")
    asks_balance(bench, balance_usd=0.06)
    assert bench.plan(max_cost_usd=0.05).warnings == ()


def test_where_there_is_nothing_to_buy_the_balance_is_not_asked(bench):
    bench.write("a")
    bench.run()
    asks_balance(bench, balance_usd=0.0)
    assert bench.plan().balance_usd is None


@pytest.mark.parametrize(
    ("body", "usd"),
    [
        ({"balance_usd": 30, "currency": "USD"}, 30.0),
        ({"balance_usd": "12.5"}, 12.5),
        ({"balance_usd": -3.25}, -3.25),
        ({"balance_usd": 0}, 0.0),
        ({"balance_microdollars": 30_500_000}, 30.5),
        ({"balance_usd": 30, "currency": "EUR"}, None),
        ({"balance_usd": True}, None),
        ({"balance_usd": "NaN"}, None),
        ({"balance_usd": 10**400}, None),
        ([], None),
        ({}, None),
    ],
)
def test_what_an_answer_says_of_the_balance(body, usd):
    assert balance_in(json.dumps(body).encode()) == usd


@pytest.mark.parametrize("body", [b"", b"{", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_answer_says_nothing_of_it(body):
    assert balance_in(body) is None


@pytest.mark.parametrize(
    ("env", "base"),
    [
        ({}, "https://api.runcomfy.net/prod/v2"),
        ({"RUNCOMFY_MODEL_API_BASE": "http://127.0.0.1:9/v1"}, None),
        ({"RUNCOMFY_SERVERLESS_API_BASE": "http://127.0.0.1:8/x/"}, "http://127.0.0.1:8/x"),
        ({"RUNCOMFY_SERVERLESS_API_BASE": "http://example.com/x"}, None),
        ({"RUNCOMFY_SERVERLESS_API_BASE": "https://me:pw@example.com"}, None),
        ({"RUNCOMFY_SERVERLESS_API_BASE": "ftp://example.com"}, None),
    ],
)
def test_the_token_goes_to_the_balance_of_the_vendor_or_where_it_was_told_to(env, base):
    assert balance_base(env) == base
