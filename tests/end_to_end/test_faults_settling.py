"""Unknown jobs and queued requests, settled by the user's word: ``resolve``, ``cancel``, ``--retry-unknown``."""

import json

import pytest
from aiohttp import web

from tests.support.api_server import ApiServer, run_command
from tests.support.faults import KLING, SlowServer, events, line, run, states, write_ledger, write_pairs


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


@pytest.fixture
def unknown(server, tmp_path):
    """A run directory with one unknown job, whose request exists, and two that are done; its id."""
    server.after_post = lambda _, body: (
        web.Response(status=502) if body["prompt"].endswith("1") else None
    )
    write_pairs(tmp_path / "pairs.csv", 3)
    assert run(server, tmp_path, "pairs.csv").returncode == 1
    server.after_post = None
    listed = run_command(None, tmp_path, "status", "output/pairs", "--list", "unknown")
    return json.loads(listed.stdout)["job"]


def resolve(server, tmp_path, *arguments, **env):
    ended = run_command(server, tmp_path, "resolve", "output/pairs", *arguments, **env)
    assert "Traceback" not in ended.stderr
    return ended


def request_of(server, number):
    return next(made.id for made in server.created.values() if made.body["prompt"].endswith(number))


def unchanged(tmp_path):
    return (tmp_path / "output/pairs/ledger.jsonl").read_bytes()


def test_an_unknown_job_is_listed_with_when_it_was_sent_and_where_to_look(tmp_path, server, unknown):
    told = run(server, tmp_path, "pairs.csv")
    sent_at = json.loads(
        run_command(None, tmp_path, "status", "output/pairs", "--list", "unknown").stdout
    )["submitting_at"]
    assert f"{unknown}: sent {sent_at}; HTTP 502" in told.stdout
    assert "Generations page" in told.stdout
    assert "batcher resolve output/pairs" in told.stdout
    assert len(server.posts) == 3


def test_a_request_that_was_found_is_taken_up_and_costs_nothing_more(tmp_path, server, unknown):
    settled = resolve(server, tmp_path, unknown, "--request-id", request_of(server, "1"))
    assert settled.returncode == 0, settled.stderr
    assert "the next run takes it up" in settled.stdout
    assert "does not say of which model" in settled.stdout
    assert states(tmp_path / "output/pairs") == {"submitted": 1, "done": 2}
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 3


def test_a_request_that_was_never_made_is_submitted_by_the_next_run(tmp_path, server, unknown):
    settled = resolve(None, tmp_path, unknown, "--not-created")
    assert settled.returncode == 0, "needs neither token nor network"
    assert states(tmp_path / "output/pairs") == {"pending": 1, "done": 2}
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 4


def test_buying_again_is_the_one_other_way(tmp_path, server, unknown):
    assert run(server, tmp_path, "pairs.csv", "--retry-failed").returncode == 1
    assert len(server.posts) == 3
    assert run(server, tmp_path, "pairs.csv", "--retry-unknown").returncode == 0
    assert len(server.posts) == 4
    assert events(tmp_path / "output/pairs")["submitting"] == 4


REFUSED = {
    "an id that the API does not know": ("no-such-request", 65, "no such request"),
    "an id with a slash": ("../models/x", 65, "not a usable request id"),
    "an id with a line break": ("a\nb", 65, "not a usable request id"),
    "an empty id": ("", 65, "not a usable request id"),
}


@pytest.mark.parametrize(("request_id", "code", "why"), REFUSED.values(), ids=REFUSED)
def test_an_id_that_can_not_be_its_request_is_refused(tmp_path, server, unknown, request_id, code, why):
    before = unchanged(tmp_path)
    refused = resolve(server, tmp_path, unknown, "--request-id", request_id)
    assert (refused.returncode, why in refused.stderr) == (code, True), refused.stderr
    assert unchanged(tmp_path) == before


def test_a_request_of_another_job_or_of_another_model_is_refused(tmp_path, server, unknown):
    before = unchanged(tmp_path)
    taken = resolve(server, tmp_path, unknown, "--request-id", request_of(server, "2"))
    assert (taken.returncode, "already" in taken.stderr) == (65, True)
    server.on_result = lambda *_: web.json_response({"status": "in_queue", "model_id": "acme/other"})
    other = resolve(server, tmp_path, unknown, "--request-id", request_of(server, "1"))
    assert (other.returncode, "of model acme/other" in other.stderr) == (65, True)
    assert unchanged(tmp_path) == before
    server.on_result = lambda *_: web.json_response({"status": "in_queue", "model_id": KLING})
    fitting = resolve(server, tmp_path, unknown, "--request-id", request_of(server, "1"))
    assert fitting.returncode == 0
    assert "does not say" not in fitting.stdout


def test_an_id_of_any_earlier_attempt_is_refused(tmp_path, server, unknown):
    path = tmp_path / "output/pairs/ledger.jsonl"
    first = (
        line("submitting", "gone", attempt=1, price_usd=None),
        line("submitted", "gone", request_id="old-1"),
    )
    again = (
        line("failed", "gone", stage="generate"),
        line("submitting", "gone", attempt=2, price_usd=None),
    )
    path.write_text(path.read_text() + "".join(json.dumps(one) + "\n" for one in (*first, *again)))
    taken = resolve(server, tmp_path, unknown, "--request-id", "old-1")
    assert (taken.returncode, "job gone already (attempt 1)" in taken.stderr) == (65, True), taken.stderr


def test_where_the_api_can_not_be_asked_nothing_is_settled(tmp_path, server, unknown):
    before = unchanged(tmp_path)
    there = request_of(server, "1")
    server.on_result = lambda *_: web.json_response({"message": "revoked"}, status=401)
    assert resolve(server, tmp_path, unknown, "--request-id", there).returncode == 77
    server.on_result = lambda *_: web.Response(status=500)
    assert resolve(server, tmp_path, unknown, "--request-id", there).returncode == 69
    dead = ApiServer().start()
    dead.stop()
    elsewhere = resolve(dead, tmp_path, unknown, "--request-id", there)
    assert (elsewhere.returncode, "can't know them" in elsewhere.stderr) == (65, True)
    assert resolve(server, tmp_path, unknown, "--request-id", there, RUNCOMFY_TOKEN="").returncode == 77
    assert unchanged(tmp_path) == before


def test_only_unknown_jobs_can_be_settled_and_by_one_word_only(tmp_path, server, unknown):
    done = next(
        json.loads(one)["job"]
        for one in run_command(
            None, tmp_path, "status", "output/pairs", "--list", "done"
        ).stdout.splitlines()
    )
    assert "is done" in resolve(server, tmp_path, done, "--not-created").stderr
    cases = [
        (done, "--not-created"),
        ("nobody", "--not-created"),
        (unknown,),
        (unknown, "--not-created", "--request-id", "x"),
    ]
    assert [resolve(server, tmp_path, *case).returncode for case in cases] == [64, 64, 64, 64]
    assert run_command(server, tmp_path, "resolve", "nowhere", "x", "--not-created").returncode == 65


def test_cancel_says_what_it_could_not_ask_and_stops_where_nothing_can_be_asked(server, tmp_path):
    held = [line("submitting", f"job-{n}", model=KLING, price_usd=1.0) for n in range(3)]
    held += [line("submitted", f"job-{n}", request_id=f"req-{n}") for n in range(3)]
    write_ledger(
        tmp_path / "run",
        line("run", run="x", manifest="m.yaml", version=1, total=3, api=server.base),
        *held,
    )
    before = (tmp_path / "run/ledger.jsonl").read_bytes()
    lost = run_command(server, tmp_path, "cancel", "run", "--json")
    assert lost.returncode == 1
    assert len(json.loads(lost.stdout)["unanswered"]) == 3
    server.stop()
    gone = run_command(server, tmp_path, "cancel", "run")
    assert (gone.returncode, "nothing was changed" in gone.stderr) == (69, True)
    assert (tmp_path / "run/ledger.jsonl").read_bytes() == before
