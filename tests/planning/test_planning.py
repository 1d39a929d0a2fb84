"""The plan: the resume table row by row, which jobs are selected, who left, and what it costs."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.dataset.metadata_rows import ColumnTypes
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import Event, EventName, Record, Stage, State
from batcher.jobs.shard import Shard, shard_number
from batcher.ledger.snapshot import Snapshot
from batcher.options.facts import Policy, Selection
from batcher.planning.plan import Action, Decision, Plan, PlanGroup, decide, make_plan, next_attempt
from tests.support.engine import MODEL, bought, job, some_jobs
from tests.support.steps import result_of

CAT = job("cat")
FLAGS = {
    "": Policy(),
    "--retry-failed": Policy(retry_failed=True),
    "--retry-unknown": Policy(retry_unknown=True),
    "--redo": Policy(redo=True),
    "--retry-refused": Policy(retry_refused=True),
    "--retries 2": Policy(retries=2),
}
SUBMIT, ASK, WATCH = Action.SUBMIT, Action.ASK, Action.WATCH
COLLECT, CHECK, LEAVE = Action.COLLECT, Action.CHECK, Action.LEAVE


def record(state, stage=None, code=None, *, attempt=1, digest=CAT.digest, **fields):
    return Record(state=state, stage=stage, code=code, attempt=attempt, digest=digest, **fields)


def fold(*events):
    snapshot = Snapshot()
    for name, job_id, fields in events:
        snapshot.apply(Event(event=name, at="x", job=job_id, **{"attempt": 1, **fields}))
    return snapshot


def plan_of(jobs, snapshot=None, *, selection=None, policy=None, price_of=lambda one: 2.0):
    def prices_of(block):
        return [*map(price_of, block)]

    snapshot, selection = snapshot or Snapshot(), selection or Selection()
    return result_of(make_plan([jobs], snapshot, selection, policy or Policy(), prices_of))


DOWNLOAD, GENERATE = Stage.DOWNLOAD, Stage.GENERATE
# What the ledger says, then what a run does: plain, --retry-failed, --retry-unknown.
TABLE = [
    (record(State.PENDING), SUBMIT, SUBMIT, SUBMIT),
    (record(State.UNKNOWN), LEAVE, LEAVE, SUBMIT),
    (record(State.SUBMITTED), WATCH, WATCH, WATCH),
    (record(State.COMPLETED), COLLECT, COLLECT, COLLECT),
    (record(State.DONE), CHECK, CHECK, CHECK),
    (record(State.FAILED, DOWNLOAD, "stalled"), COLLECT, COLLECT, COLLECT),
    (record(State.FAILED, DOWNLOAD, "host"), COLLECT, COLLECT, COLLECT),
    (record(State.FAILED, DOWNLOAD, "expired"), COLLECT, ASK, COLLECT),
    (record(State.FAILED, DOWNLOAD, "no_output"), COLLECT, ASK, COLLECT),
    (record(State.FAILED, Stage.SUBMIT, 422), LEAVE, SUBMIT, LEAVE),
    (record(State.CANCELLED), LEAVE, SUBMIT, LEAVE),
    (record(State.FAILED, GENERATE, 500), LEAVE, ASK, LEAVE),
]


@pytest.mark.parametrize("column", [1, 2, 3], ids=list(FLAGS)[:3])
@pytest.mark.parametrize(
    "row", TABLE, ids=lambda row: " ".join(map(str, filter(None, (row[0].state, row[0].code))))
)
def test_the_resume_table_holds(row, column):
    policy = list(FLAGS.values())[column - 1]
    assert decide(CAT, row[0], policy).action is row[column]


@pytest.mark.parametrize("policy", FLAGS.values(), ids=list(FLAGS))
@pytest.mark.parametrize("known", [None, Record()], ids=["no line", "an empty record"])
def test_a_job_that_the_ledger_does_not_know_is_submitted_whatever_the_flags(known, policy):
    assert decide(CAT, known, policy) == Decision(PlanGroup.NEW, SUBMIT, "not submitted yet")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].state} {row[0].code}")
def test_redo_buys_again_whatever_the_state(row):
    decision = decide(CAT, row[0], Policy(redo=True))
    assert (decision.bucket, decision.action) == (PlanGroup.REDO, SUBMIT)
    assert str(row[0].state) in decision.reason


@pytest.mark.parametrize("flag", ["", "--retry-failed"])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].state} {row[0].code}")
def test_a_paid_request_is_never_paid_again_without_the_users_word(row, flag):
    """Only what surely cost nothing, or what the API was asked about first, leads to a POST."""
    surely_free = row[0].state in (State.PENDING, State.CANCELLED) or row[0].stage is Stage.SUBMIT
    if decide(CAT, row[0], FLAGS[flag]).action is SUBMIT:
        assert surely_free


@pytest.mark.parametrize(
    ("known", "bucket"),
    [
        (record(State.PENDING), PlanGroup.NEW),
        (record(State.UNKNOWN), PlanGroup.UNKNOWN),
        (record(State.SUBMITTED), PlanGroup.RESUME),
        (record(State.COMPLETED), PlanGroup.COLLECT),
        (record(State.DONE), PlanGroup.DONE),
        (record(State.FAILED, DOWNLOAD, "stalled"), PlanGroup.COLLECT),
        (record(State.FAILED, GENERATE), PlanGroup.FAILED),
        (record(State.CANCELLED), PlanGroup.CANCELLED),
    ],
)
def test_each_state_has_its_bucket(known, bucket):
    assert decide(CAT, known, Policy()).bucket is bucket


@pytest.mark.parametrize(
    ("known", "policy", "reason"),
    [
        (record(State.PENDING, message="the API asked for a pause"), "", "the API asked for a pause"),
        (record(State.PENDING), "", "put off earlier"),
        (record(State.UNKNOWN, message="504 Gateway Time-out"), "", "504 Gateway Time-out"),
        (record(State.UNKNOWN), "", "its POST was never answered"),
        (record(State.FAILED, Stage.SUBMIT, 422), "", "failed at submit: 422"),
        (record(State.FAILED, GENERATE, 1, message="unsafe"), "", "failed at generate: unsafe"),
        (record(State.FAILED, GENERATE), "--retry-failed", "asked once more, then bought again: failed"),
        (record(State.FAILED, Stage.SUBMIT, 422), "--retry-failed", "tried again (--retry-failed): 422"),
        (
            record(State.FAILED, DOWNLOAD, "expired"),
            "--retry-failed",
            "expired, asked once more, then bought",
        ),
        (record(State.FAILED, DOWNLOAD, "stalled"), "", "download failed: stalled"),
    ],
)
def test_the_reason_says_what_happened_last(known, policy, reason):
    assert decide(CAT, known, FLAGS[policy]).reason == reason


REFUSED = record(State.FAILED, GENERATE, 422001, message="refused by the content filter")
REFUSED_AT_SUBMIT = record(State.FAILED, Stage.SUBMIT, 422, message="no such duration")
PASSES = record(State.FAILED, GENERATE, 500001, message="internal error")
OWED = record(State.FAILED, GENERATE, 500001, message="internal error", retry=1, retry_due=True)


@pytest.mark.parametrize(
    ("known", "flag", "bucket", "action"),
    [
        (REFUSED, "", PlanGroup.REFUSED, LEAVE),
        (REFUSED, "--retry-failed", PlanGroup.REFUSED, LEAVE),
        (REFUSED, "--retries 2", PlanGroup.REFUSED, LEAVE),
        (REFUSED, "--retry-refused", PlanGroup.RETRY, ASK),
        # A refused submission cost nothing.
        (REFUSED_AT_SUBMIT, "", PlanGroup.REFUSED, LEAVE),
        (REFUSED_AT_SUBMIT, "--retry-failed", PlanGroup.RETRY, SUBMIT),
        (REFUSED_AT_SUBMIT, "--retry-refused", PlanGroup.RETRY, SUBMIT),
        (PASSES, "--retry-refused", PlanGroup.FAILED, LEAVE),
        # Only what a run with --retries owed, not each old failure.
        (PASSES, "--retries 2", PlanGroup.FAILED, LEAVE),
        (OWED, "--retries 2", PlanGroup.RETRY, ASK),
        (OWED, "", PlanGroup.FAILED, LEAVE),
    ],
)
def test_refusals_and_owed_retries_need_their_own_word(known, flag, bucket, action):
    decision = decide(CAT, known, FLAGS[flag])
    assert (decision.bucket, decision.action) == (bucket, action)


def test_the_count_of_retries_ends_what_a_run_owed():
    assert decide(CAT, OWED, Policy(retries=1)).action is LEAVE


# --max-attempts


@pytest.mark.parametrize(
    ("known", "flag", "bucket", "action"),
    [
        (record(State.FAILED, GENERATE, attempt=3), "--retry-failed", PlanGroup.EXHAUSTED, LEAVE),
        (record(State.FAILED, Stage.SUBMIT, attempt=3), "--retry-failed", PlanGroup.EXHAUSTED, LEAVE),
        (record(State.CANCELLED, attempt=4), "--retry-failed", PlanGroup.EXHAUSTED, LEAVE),
        # What a run does unasked, it does all the same.
        (
            record(State.FAILED, DOWNLOAD, "expired", attempt=3),
            "--retry-failed",
            PlanGroup.COLLECT,
            COLLECT,
        ),
        (record(State.UNKNOWN, attempt=3), "--retry-unknown", PlanGroup.UNKNOWN, LEAVE),
        # What was to be bought again and can't be is told, whatever its state.
        (record(State.DONE, attempt=3), "--redo", PlanGroup.EXHAUSTED, CHECK),
    ],
)
def test_after_the_last_attempt_nothing_is_bought(known, flag, bucket, action):
    decision = decide(CAT, known, FLAGS[flag])
    assert (decision.bucket, decision.action) == (bucket, action)
    assert decision.reason.endswith(f"after {known.attempt} attempts (--max-attempts)")


def test_below_the_last_attempt_it_is_bought():
    policy = Policy(retry_failed=True, max_attempts=2)
    assert decide(CAT, record(State.CANCELLED, attempt=1), policy).action is SUBMIT
    assert decide(CAT, record(State.CANCELLED, attempt=2), policy).action is LEAVE


@pytest.mark.parametrize("state", [State.SUBMITTED, State.COMPLETED, State.DONE])
def test_what_buys_nothing_is_not_held_back_by_the_number_of_attempts(state):
    assert decide(CAT, record(state, attempt=9), Policy()).action is not LEAVE


def test_an_attempt_that_was_put_off_is_not_over():
    assert decide(CAT, record(State.PENDING, attempt=3), Policy()).action is SUBMIT
    assert next_attempt(record(State.PENDING, attempt=3)) == 3


@pytest.mark.parametrize("state", [state for state in State if state is not State.PENDING])
def test_any_other_attempt_is_followed_by_the_next_number(state):
    assert next_attempt(record(state, attempt=2)) == 3


def test_the_first_attempt_is_number_one():
    assert next_attempt(None) == 1
    assert next_attempt(Record()) == 1


# Edited rows


EDITED = job("cat", prompt="another cat")


@pytest.mark.parametrize(
    "known",
    [
        record(State.FAILED, Stage.SUBMIT),
        record(State.FAILED, GENERATE),
        record(State.CANCELLED),
        record(State.PENDING),
    ],
    ids=lambda known: f"{known.state} {known.stage}",
)
def test_an_edited_row_is_the_next_attempt_where_the_last_one_came_to_nothing(known):
    decision = decide(EDITED, known, Policy())
    assert (decision.bucket, decision.action, decision.problem) == (PlanGroup.EDITED, SUBMIT, False)


@pytest.mark.parametrize(
    "known",
    [
        record(State.UNKNOWN),
        record(State.SUBMITTED),
        record(State.COMPLETED),
        record(State.DONE),
        record(State.FAILED, DOWNLOAD, "expired"),
    ],
    ids=lambda known: f"{known.state} {known.stage}",
)
def test_an_edited_row_is_a_problem_where_the_old_inputs_were_paid_for(known):
    decision = decide(EDITED, known, Policy(retry_failed=True, retry_unknown=True))
    assert (decision.action, decision.problem) == (LEAVE, True)
    assert "'cat'" in decision.reason
    assert "--only cat --redo" in decision.reason


def test_redo_is_the_users_word_on_an_edited_row():
    assert decide(EDITED, record(State.DONE), Policy(redo=True)).action is SUBMIT


def test_only_ids_that_the_manifest_gave_can_be_edited():
    generated = job("cat", prompt="another cat", explicit=False)
    assert decide(generated, record(State.DONE), Policy()).action is CHECK
    assert decide(EDITED, record(State.DONE, digest=None), Policy()).action is CHECK


def test_conflicts_are_collected_and_name_their_rows():
    done = [(EventName.COMPLETED, "cat", {}), (EventName.DONE, "cat", {"files": ()})]
    snapshot = fold(*bought(CAT), *done, *bought(job("dog")))
    plan = plan_of([job("cat", prompt="x"), job("dog", prompt="y"), job("new")], snapshot)
    assert [(str(row.source), row.problem[:11]) for row in plan.edited.values()] == [
        ("m.yaml:1", "the inputs "),
        ("m.yaml:1", "the inputs "),
    ]
    assert "that is done" in plan.edited["cat"].problem
    assert "that is submitted" in plan.edited["dog"].problem
    assert (plan.to_buy, plan.count(PlanGroup.EDITED)) == (1, 0)


def test_what_an_edited_row_has_bought_already_is_fetched():
    done = [(EventName.COMPLETED, "cat", {})]
    snapshot = fold(*bought(CAT), *done, *bought(job("dog")))
    plan = plan_of([job("cat", prompt="x"), job("dog", prompt="y")], snapshot)
    assert (plan.owed, plan.resumed, plan.to_buy, plan.orphans) == (["cat"], ["dog"], 0, [])


def test_a_conflict_outside_the_selection_stops_nobody():
    snapshot = fold(*bought(CAT))
    assert not plan_of([EDITED, job("new")], snapshot, selection=Selection(only="new")).edited


# Selection


def chosen(selection, jobs):
    return [one.id for _, block in selection.select([jobs[:2], jobs[2:]]) for one in block]


IDS = st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True), unique=True, max_size=60)


@given(ids=IDS, shards=st.integers(1, 9))
def test_shards_are_disjoint_and_complete(ids, shards):
    jobs = [job(name) for name in ids]
    parts = [chosen(Selection(shard=Shard(shards, number)), jobs) for number in range(1, shards + 1)]
    assert sorted(name for part in parts for name in part) == sorted(ids)


@given(ids=IDS, more=IDS, shards=st.integers(1, 9))
def test_a_job_stays_in_its_shard_whatever_other_rows_there_are(ids, more, shards):
    selection = Selection(shard=Shard(shards, 1))
    alone = chosen(selection, [job(name) for name in ids])
    among = chosen(selection, [job(name) for name in dict.fromkeys([*more, *ids])])
    assert set(alone) <= set(among)


def test_shards_are_of_about_one_size():
    sizes = [sum(shard_number(f"job-{n}", 4) == part for n in range(4000)) for part in (1, 2, 3, 4)]
    assert min(sizes) > 900


def test_the_limit_is_the_first_jobs_in_the_order_of_the_manifest():
    jobs = some_jobs(5)
    assert chosen(Selection(limit=2), jobs) == ["job-000", "job-001"]
    assert chosen(Selection(limit=0), jobs) == []
    assert chosen(Selection(limit=9), jobs) == [one.id for one in jobs]


def test_the_limit_counts_only_what_the_other_filters_let_through():
    jobs = [job(name) for name in ("a1", "b1", "a2", "b2", "a3")]
    assert chosen(Selection(limit=2, only="a*"), jobs) == ["a1", "a2"]


def test_only_takes_a_glob_that_minds_the_case():
    jobs = [job(name) for name in ("cat-1", "cat-10", "Cat-2", "dog")]
    assert chosen(Selection(only="cat-?"), jobs) == ["cat-1"]
    assert chosen(Selection(only="*-*"), jobs) == ["cat-1", "cat-10", "Cat-2"]


def test_only_takes_a_set_of_ids_which_are_not_patterns():
    jobs = [job(name) for name in ("a", "b", "c")]
    assert chosen(Selection(only=frozenset({"c", "a", "*"})), jobs) == ["a", "c"]


def test_every_job_is_counted_and_only_the_selected_are_decided_on():
    plan = plan_of(some_jobs(5), selection=Selection(limit=2))
    assert (plan.total, plan.selected, plan.to_buy) == (5, 2, 2)
    assert plan.count(PlanGroup.NEW) == 2
    assert plan.count(PlanGroup.DONE) == 0


@pytest.mark.parametrize("selection", [Selection(limit=9), Selection(only="*")])
def test_a_filter_that_happens_to_take_all_does_not_cover_what_left_the_manifest(selection):
    assert Selection().covers("gone")
    assert not selection.covers("gone")


@given(job_id=st.text(min_size=1), count=st.integers(1, 9))
def test_what_left_the_manifest_belongs_to_the_shard_that_its_id_says(job_id, count):
    covering = [n for n in range(1, count + 1) if Selection(shard=Shard(count, n)).covers(job_id)]
    assert covering == [shard_number(job_id, count)]


# Totals and money


PRICES = st.sampled_from([0.1, 0.2, 0.7, None])


@given(
    st.lists(st.tuples(PRICES, st.booleans(), st.integers(5, 6)), min_size=1, max_size=12),
    st.integers(1, 12),
    st.sampled_from([Selection(), Selection(limit=0), Selection(limit=4), Selection(only="*[0-5]")]),
)
def test_a_plan_does_not_depend_on_the_size_of_its_blocks(found, size, selection):
    jobs = [job(f"job-{n}", duration=duration) for n, (_, _, duration) in enumerate(found)]
    bought_before = [one for one, (_, is_known, _) in zip(jobs, found, strict=True) if is_known]
    prices_usd = {one.id: usd for one, (usd, _, _) in zip(jobs, found, strict=True)}

    def planned(blocks):
        snapshot, types, watch = fold(*itertools.chain(*map(bought, bought_before))), ColumnTypes(), []

        def prices_of(block):
            watch.extend(one.id for one in block)
            return [prices_usd[one.id] for one in block]

        policy = Policy(retry_failed=True)
        plan = result_of(make_plan(types.watch(blocks), snapshot, selection, policy, prices_of))
        return plan, types.types, watch, [record.listed for _, record in snapshot.items()]

    one_by_one = planned([[one] for one in jobs])
    assert planned([jobs[at : at + size] for at in range(0, len(jobs), size)]) == one_by_one


def test_prices_are_added_in_the_order_of_the_jobs():
    jobs, usd = some_jobs(30), 0.0
    for _ in jobs:
        usd += 0.1

    def tenths(block):
        return [0.1] * len(block)

    for size in (1, 7, 30):
        blocks = [jobs[at : at + size] for at in range(0, 30, size)]
        plan = result_of(make_plan(blocks, Snapshot(), Selection(), Policy(), tenths))
        assert plan.estimated_cost_usd == usd


def test_a_plan_holds_examples_and_counts_but_never_all_the_jobs():
    new = plan_of(some_jobs(10)).buckets[PlanGroup.NEW]
    assert (new.count, new.buys, new.price_usd) == (10, 10, 20.0)
    assert new.examples == [(f"job-00{n}", "not submitted yet") for n in range(3)]


def test_only_what_may_be_bought_has_a_price():
    asked = []

    def price_of(one):
        asked.append(one.id)
        return 1.5

    plan = plan_of([CAT, job("dog")], fold(*bought(CAT)), price_of=price_of)
    assert plan.estimated_cost_usd == 1.5
    assert asked == ["dog"]


def test_one_price_that_nobody_knows_makes_the_sum_unknown():
    plan = plan_of([CAT, job("dog")], price_of=lambda one: None if one.id == "cat" else 1.0)
    assert plan.estimated_cost_usd is None
    assert plan.buckets[PlanGroup.NEW].unpriced == 1


def test_nothing_to_buy_costs_nothing():
    assert Plan().estimated_cost_usd == 0
    assert plan_of([CAT], fold(*bought(CAT)), price_of=lambda one: None).estimated_cost_usd == 0


# Who left, who came back, and what is owed


def gone(one, *after):
    return [*bought(one), *((name, one.id, fields) for name, fields in after)]


COMPLETED = (EventName.COMPLETED, {})
DONE = (EventName.DONE, {"files": (Artifact("media/x.mp4", 1, "aa"),)})


def test_a_running_request_of_the_manifest_is_resumed():
    assert plan_of([CAT], fold(*bought(CAT))).resumed == ["cat"]


def test_jobs_that_left_are_orphans_and_what_runs_or_waits_for_them_is_taken_along():
    left = {name: job(name) for name in ("running", "ready", "stuck", "finished")}
    snapshot = fold(
        *gone(left["running"]),
        *gone(left["ready"], COMPLETED),
        *gone(left["stuck"], COMPLETED, (EventName.FAILED, {"stage": DOWNLOAD, "code": "stalled"})),
        *gone(left["finished"], COMPLETED, DONE),
    )
    plan = plan_of([CAT], snapshot)
    assert plan.orphans == ["finished", "running", "ready", "stuck"]
    assert (plan.resumed, plan.owed, plan.left_paid) == (["running"], ["ready", "stuck"], 4)


def test_orphans_of_earlier_runs_are_not_reported_again_but_still_fetched():
    snapshot = fold(*gone(job("old")), (EventName.ORPHANED, "old", {}))
    plan = plan_of([CAT], snapshot)
    assert (plan.orphans, plan.left_paid, plan.resumed) == ([], 0, ["old"])


def test_a_run_of_a_part_leaves_what_others_owe_alone():
    snapshot = fold(*gone(job("running")), *gone(job("ready"), COMPLETED))
    plan = plan_of([CAT], snapshot, selection=Selection(limit=1))
    assert (plan.resumed, plan.owed) == ([], [])
    assert plan.orphans == ["running", "ready"]


def test_a_job_outside_the_selection_has_not_left_the_manifest():
    plan = plan_of([CAT, job("dog")], fold(*bought(CAT)), selection=Selection(only="dog"))
    assert (plan.orphans, plan.resumed) == ([], [])


def test_a_job_that_came_back_is_noted():
    snapshot = fold(*gone(CAT), (EventName.ORPHANED, "cat", {}))
    plan = plan_of([CAT], snapshot)
    assert (plan.returned, plan.orphans, plan.resumed) == (["cat"], [], ["cat"])


@pytest.mark.parametrize(
    ("last", "paid"),
    [
        ((EventName.SUBMITTED, {"request_id": "r"}), 1),
        ((EventName.UNANSWERED, {"message": "504"}), 1),
        ((EventName.DEFERRED, {"reason": "429"}), 0),
        ((EventName.FAILED, {"stage": Stage.SUBMIT}), 0),
    ],
)
def test_who_left_is_counted_as_paid_where_money_may_have_been_spent(last, paid):
    intent = (EventName.SUBMITTING, "old", {"price_usd": 1.0, "model": MODEL})
    snapshot = fold(intent, (last[0], "old", last[1]))
    assert plan_of([CAT], snapshot).left_paid == paid


def test_who_left_after_a_confirmed_cancel_was_not_paid_for():
    snapshot = fold(*gone(job("old"), (EventName.CANCELLED, {})))
    assert plan_of([CAT], snapshot).left_paid == 0
    assert (
        plan_of([CAT], fold(*gone(job("old"), (EventName.FAILED, {"stage": GENERATE})))).left_paid == 1
    )


def test_an_event_loop_can_do_other_work_while_a_large_plan_is_made():
    jobs = [job(f"job-{number}") for number in range(640)]
    for size, stops in ((1, 10), (64, 10), (100, 6), (640, 1)):
        blocks = [jobs[at : at + size] for at in range(0, 640, size)]
        steps = make_plan(blocks, Snapshot(), Selection(), Policy(), lambda block: [2.0] * len(block))
        assert len(list(steps)) == stops
