"""A plan says what its run would say: the account's caps, and what the run would ask before it buys."""

import json
from dataclasses import replace

import pytest

from batcher.cli.plan_view import plan_json, plan_page
from batcher.errors import InputError, LedgerError, RunDirError, UsageError
from batcher.ledger.book_file import BOOK_NAME
from batcher.options.facts import Policy
from tests.engine.test_spending import FLUX, PRICE_USD, Bench
from tests.support.api_server import served


@pytest.fixture
def bench(tmp_path):
    with served(FLUX) as server:
        yield Bench(server, tmp_path)


def elsewhere(bench):
    """The same manifest, run before in another directory."""
    bench.write("a cat", "a dog")
    assert bench.run().done == 2
    (bench.path / "out").rename(bench.path / "out-1")
    book = bench.path / ".local/state/batcher" / BOOK_NAME
    book.write_text(book.read_text().replace(f"{bench.path}/out", f"{bench.path}/out-1"))


def test_a_plan_shows_what_the_account_has_left_and_when_it_opens_again(bench):
    elsewhere(bench)
    bench.write("a cat", "a dog", "a fox")
    planned = bench.plan(max_cost_per={"day": 0.06, "month": 9.0})
    shown = "\n".join(plan_page(planned))
    assert "--max-cost-per day=0.06: $0.05 of this day is spent, room for $0.01: the rest would" in shown
    assert "--max-cost-per month=9: $0.05 of this month is spent, room for all of it" in shown
    told = plan_json(planned)["max_cost_per"]
    assert told["day"]["spent_usd"] == 2 * PRICE_USD
    assert told["day"]["left_usd"] == pytest.approx(0.01)
    assert told["day"]["opens_at"] > bench.host().clock.now().isoformat()[:10]
    json.dumps(told)
    assert bench.plan().rooms == ()


def test_a_plan_shows_what_a_cap_of_some_models_leaves_for_their_jobs(bench):
    elsewhere(bench)
    bench.write("a cat", "a dog", "a fox")
    caps = {"day:blackforestlabs/*": 0.06, "day:fal:*": 0.01}
    shown = "\n".join(plan_page(bench.plan(max_cost_per=caps)))
    assert (
        "'day:blackforestlabs/*=0.06': $0.05 of this day is spent on these models, room for $0.01"
        in shown
    )
    assert "'day:fal:*=0.01': $0.00 of this day is spent on these models, $0.01 left until" in shown


def test_a_cap_that_no_model_matches_is_told_by_the_plan_and_by_the_run(bench):
    bench.write("a cat")
    [warning] = bench.plan(max_cost_per={"day:fal:*": 0.01}).warnings
    assert warning.startswith("--max-cost-per 'day:fal:*=0.01' limits nothing")
    assert bench.run(max_cost_per={"day:fal:*": 0.01}).done == 1
    assert warning in bench.told


def test_a_cap_of_some_models_is_not_enough_for_a_run_that_nobody_watches(bench):
    bench.write("a cat")
    with pytest.raises(UsageError, match="no cap for all of them"):
        bench.run(bench.host(unattended=True), assume_yes=False, max_cost_per={"day:fal:*": 1.0})
    assert not bench.server.posts
    host = bench.host(unattended=True)
    assert bench.run(host, assume_yes=False, max_cost_per={"day:fal:*": 1.0, "day": 1.0}).done == 1


def test_a_plan_names_jobs_that_another_directory_has_paid_for_as_the_run_does(bench):
    elsewhere(bench)
    warnings = bench.plan(assume_yes=False).warnings
    [asked] = [line for line in warnings if "already paid for" in line]
    with pytest.raises(InputError) as refused:
        bench.run(assume_yes=False, max_cost_usd=1.0)
    words = f"2 of the jobs that would be bought were already paid for in {bench.path}/out-1"
    assert asked == f"{words}: a run asks, or needs --yes"
    assert str(refused.value).startswith(words)
    assert not [line for line in bench.plan(assume_yes=True).warnings if "already paid" in line]


def test_a_plan_says_that_paid_jobs_left_the_manifest(bench):
    bench.write("a cat")
    bench.run()
    bench.write("a dog")
    [asked] = [line for line in bench.plan(assume_yes=False).warnings if "no longer in the" in line]
    assert asked.endswith("a run asks, or needs --allow-removed (for a rolling manifest) or --yes")
    assert not bench.plan(assume_yes=False, allow_removed=True).warnings


def test_a_plan_writes_nothing_to_the_book_and_refuses_one_that_its_run_would_refuse(bench):
    bench.write("a cat")
    book = bench.path / ".local/state/batcher" / BOOK_NAME
    assert bench.plan(max_cost_per={"day": 1.0}).rooms[0].spent_usd == 0.0
    assert not book.parent.exists()
    book.parent.mkdir(parents=True)
    book.write_text("no line\n")
    assert bench.plan().rooms == ()
    with pytest.raises(LedgerError, match="--rebuild"):
        bench.plan(max_cost_per={"day": 1.0})
    with pytest.raises(RunDirError, match="--existing"):
        bench.plan(existing=True)


def test_a_plan_says_what_retries_may_add(bench):
    bench.write("a cat")
    shown = "\n".join(plan_page(bench.plan(policy=replace(Policy(), retries=2))))
    assert "--retries 2: a generation that fails may be bought up to 2 times more" in shown


def page(bench, **money):
    return "\n".join(plan_page(bench.plan(**money)))


def test_a_cap_of_exactly_the_price_has_room_for_all_of_it(bench):
    bench.server.catalogue[FLUX]["base_price_usd"] = 0.1
    bench.write("a cat", "a dog", "a fox")
    assert 0.1 + 0.1 + 0.1 > 0.3
    assert "--max-cost $0.30 has room for all of it" in page(bench, max_cost_usd=0.3)
    assert bench.run(max_cost_usd=0.3).exit_code == 0


def test_a_plan_counts_earlier_attempts_without_a_price_at_the_assumed_one_as_its_run_does(bench):
    del bench.server.catalogue[FLUX]["base_price_usd"]
    bench.write("a cat", "a dog")
    assert bench.run().done == 2
    bench.write("a cat", "a dog", "a fox")
    capped = {"assume_price_usd": 0.5, "max_cost_usd": 1.25}
    shown = page(bench, **capped)
    assert "already spent in this run directory $1.00" in shown
    assert "--max-cost $1.25 has room for $0.25: the rest would stay pending" in shown
    assert bench.run(**capped).exit_code == 3


def test_a_plan_fills_a_cap_at_the_costs_reported_so_far_as_its_run_does(bench):
    bench.server.cost_usd = 10 * PRICE_USD
    bench.write("a cat")
    bench.run()
    bench.write("a cat", "a dog", "a fox")
    shown = page(bench, max_cost_usd=0.6)
    assert "total $0.05" in shown
    assert "up to $0.50 by the costs that the API has reported so far" in shown
    assert "--max-cost $0.60 has room for $0.35: the rest would stay pending" in shown
    assert bench.run(max_cost_usd=0.6).exit_code == 3
