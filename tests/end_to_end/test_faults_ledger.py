"""Ledgers that something happened to between two runs, and manifests that were edited meanwhile."""

import json
import re
import shutil
import signal

import pytest
from aiohttp import web

from tests.support.api_server import run_command, run_typed
from tests.support.faults import (
    KLING,
    SlowServer,
    end_with,
    events,
    ledger,
    line,
    posted_once,
    run,
    started,
    states,
    wait_for,
    write_ledger,
    write_pairs,
)


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


@pytest.fixture
def finished(server, tmp_path):
    """A run directory of four finished jobs."""
    write_pairs(tmp_path / "pairs.csv", 4)
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    return tmp_path / "output/pairs"


def refusal(server, tmp_path, *arguments):
    """The error of a run and of a plan that must both refuse."""
    posts = len(server.posts)
    ran = run(server, tmp_path, "pairs.csv", *arguments, "--json")
    planned = run_command(server, tmp_path, "plan", "pairs.csv", *arguments)
    assert (ran.returncode, planned.returncode) == (65, 65), ran.stderr + planned.stderr
    assert json.loads(ran.stdout)["exit_code"] == 65
    assert len(server.posts) == posts
    assert "Traceback" not in ran.stderr + planned.stderr
    return ran.stderr


@pytest.mark.parametrize("how", ["emptied", "removed", "metadata alone"])
def test_a_ledger_that_is_gone_while_its_results_are_here_is_not_taken_for_a_new_run(
    server, tmp_path, finished, how
):
    path = finished / "ledger.jsonl"
    path.write_bytes(b"") if how == "emptied" else path.unlink()
    if how == "metadata alone":
        for media in (finished / "media").iterdir():
            media.unlink()
    said = refusal(server, tmp_path)
    assert "would buy again what was paid for" in said
    assert "backup" in said
    assert "-o" in said


def test_an_older_ledger_that_does_not_know_all_results_is_not_taken_for_the_present_one(
    server, tmp_path, finished
):
    older = (finished / "ledger.jsonl").read_bytes()
    write_pairs(tmp_path / "pairs.csv", 6)
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    (finished / "ledger.jsonl").write_bytes(older)
    assert "metadata.jsonl names the job" in refusal(server, tmp_path)


def test_after_moving_the_results_away_buying_again_is_the_users_word(server, tmp_path, finished):
    (finished / "ledger.jsonl").unlink()
    (finished / "media").rename(tmp_path / "old-media")
    (finished / "metadata.jsonl").unlink()
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 8


def test_a_torn_last_line_is_dropped_with_a_warning_and_its_job_falls_back(server, tmp_path, finished):
    path = finished / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    ends = [n for n, one in enumerate(lines) if b'"done"' in one]
    path.write_bytes(b"".join(lines[: ends[-1]]) + lines[ends[-1]][:-20])
    again = run(server, tmp_path, "pairs.csv")
    assert again.returncode == 0, again.stderr
    assert "dropped" in again.stderr
    assert states(finished) == {"done": 4}
    assert len(server.posts) == 4


def test_garbage_in_the_middle_stops_everything_and_leaves_the_file_alone(server, tmp_path, finished):
    path = finished / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b"\x00\xff garbage\n"
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    assert "ledger.jsonl:4" in refusal(server, tmp_path)
    assert "ledger.jsonl:4" in run_command(None, tmp_path, "status", finished).stderr
    assert path.read_bytes() == before


def test_a_ledger_of_a_newer_version_is_not_written(server, tmp_path, finished):
    path = finished / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    before = path.read_bytes()
    ran = run(server, tmp_path, "pairs.csv")
    assert ran.returncode == 65
    assert "newer" in ran.stderr
    assert path.read_bytes() == before
    assert len(server.posts) == 4


def test_a_clock_that_was_set_back_changes_nothing(server, tmp_path, finished):
    path = finished / "ledger.jsonl"
    path.write_bytes(re.sub(rb'"at":"[^"]+"', b'"at":"2199-01-01T00:00:00.000Z"', path.read_bytes()))
    assert {one["at"] for one in ledger(finished)} == {"2199-01-01T00:00:00.000Z"}
    before = path.read_bytes()
    write_pairs(tmp_path / "pairs.csv", 5)
    again = run(server, tmp_path, "pairs.csv")
    assert again.returncode == 0, again.stderr
    assert path.read_bytes().startswith(before)
    assert states(finished) == {"done": 5}
    assert posted_once(server)


def test_a_lock_left_by_a_dead_process_holds_nobody(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 2)
    with started(server, tmp_path, "run", "pairs.csv") as process:
        wait_for(lambda: len(server.created) == 2)
        wait_for(lambda: events(tmp_path / "output/pairs")["submitted"] == 2)
        end_with(process, signal.SIGKILL)
    assert (tmp_path / "output/pairs/.batcher/lock").exists()
    server.generate_s = 0.0
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 2


def test_rows_added_removed_and_reordered_between_runs_are_still_the_same_jobs(
    server, tmp_path, finished
):
    def rewrite(change):
        header, *rows = (tmp_path / "pairs.csv").read_text().splitlines()
        (tmp_path / "pairs.csv").write_text("\n".join([header, *change(rows)]) + "\n")

    rewrite(lambda rows: rows[::-1])
    before = (finished / "ledger.jsonl").read_bytes()
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert (finished / "ledger.jsonl").read_bytes() == before, "a new order is no change"
    rewrite(lambda rows: rows[1:])
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    told = json.loads(run_command(None, tmp_path, "status", finished, "--json").stdout)
    assert (told["total"], told["done"], told["orphaned"]) == (3, 3, 1)
    rewrite(lambda rows: [*rows, f"a new one,https://example.com/new.png,5,{KLING}"])
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert [post["prompt"] for post in server.posts].count("a new one") == 1
    assert len(server.posts) == 5


EDITED = [
    # what the ledger says of the last attempt with the old inputs, and whether new inputs may be bought
    ("pending", [line("deferred", "hero", reason="429")], True),
    ("cancelled", [line("submitted", "hero", request_id="r1"), line("cancelled", "hero")], True),
    ("failed at submit", [line("failed", "hero", stage="submit", code=422, message="no")], True),
    (
        "failed at generate",
        [
            line("submitted", "hero", request_id="r1"),
            line("failed", "hero", stage="generate", code=1, message="no"),
        ],
        True,
    ),
    ("unknown", [], False),
    ("submitted", [line("submitted", "hero", request_id="r1")], False),
    ("completed", [line("submitted", "hero", request_id="r1"), line("completed", "hero")], False),
    (
        "failed at download",
        [
            line("submitted", "hero", request_id="r1"),
            line("completed", "hero"),
            line("failed", "hero", stage="download", code="stalled", message="no"),
        ],
        False,
    ),
    (
        "done",
        [
            line("submitted", "hero", request_id="r1"),
            line("completed", "hero"),
            line("done", "hero", files=[]),
        ],
        False,
    ),
]


@pytest.mark.parametrize(("state", "history", "bought"), EDITED, ids=[case[0] for case in EDITED])
def test_new_inputs_under_an_old_id_are_bought_only_where_nothing_was_paid_for(
    server, tmp_path, state, history, bought
):
    intent = line(
        "submitting", "hero", model=KLING, digest="0" * 16, input={"prompt": "old"}, price_usd=None
    )
    write_ledger(
        tmp_path / "run", line("run", run="x", manifest="m.yaml", version=1, total=1), intent, *history
    )
    (tmp_path / "m.yaml").write_text(
        f"model: {KLING}\njobs:\n- {{id: hero, prompt: new, image_url: https://example.com/a.png}}\n"
    )
    ran = run(server, tmp_path, "m.yaml", "-o", "run")
    if bought:
        assert ran.returncode == 0, ran.stderr
        assert [post["prompt"] for post in server.posts] == ["new"]
    else:
        assert ran.returncode == 65
        assert "m.yaml:3: id: " in ran.stderr
        assert not server.posts


def test_a_manifest_that_is_edited_while_it_runs_stops_the_run_in_good_order(server, tmp_path):
    """Rows are read some hundred at a time: it is noticed when the next ones are."""
    rows = 1500
    server.posts_held = True
    write_pairs(tmp_path / "pairs.csv", rows)
    with started(server, tmp_path, "run", "pairs.csv", "-c", 64, "--yes", "--poll", 0.05) as process:
        wait_for(lambda: len(server.posts) >= 2)
        write_pairs(tmp_path / "pairs.csv", rows + 1)
        server.posts_held = False
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "changed while it was being read" in out + err
    assert states(tmp_path / "output/pairs").keys() == {"done", "pending"}
    assert posted_once(server)


def test_a_refused_row_is_told_from_a_refused_run(server, tmp_path):
    server.on_post = lambda _, body: (
        web.json_response({"detail": [{"loc": ["body", "prompt"], "msg": "too rude"}]}, status=422)
        if body["prompt"].endswith("2")
        else None
    )
    write_pairs(tmp_path / "pairs.csv", 4)
    ran = run(server, tmp_path, "pairs.csv")
    assert ran.returncode == 1
    assert "prompt: too rude" in ran.stdout
    assert states(tmp_path / "output/pairs") == {"done": 3, "failed": 1}


def contents(run_dir):
    """Of all files but the locks, which say who held them last."""
    files = [
        file for file in run_dir.rglob("*") if file.is_file() and file.name not in ("lock", "start")
    ]
    return {file: file.read_bytes() for file in files}


def test_an_older_ledger_is_noticed_by_the_outputs_alone(server, tmp_path, finished):
    older = (finished / "ledger.jsonl").read_bytes()
    write_pairs(tmp_path / "pairs.csv", 6)
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    (finished / "ledger.jsonl").write_bytes(older)
    (finished / "metadata.jsonl").unlink()
    before = contents(finished)
    said = refusal(server, tmp_path)
    assert "2 outputs" in said
    assert contents(finished) == before


def test_another_api_is_never_asked_about_the_requests_of_the_first(server, tmp_path, finished):
    write_pairs(tmp_path / "pairs.csv", 6)
    other = SlowServer(generate_s=0.0).start()
    try:
        said = refusal(other, tmp_path, "--retry-failed")
        resolved = run_command(other, tmp_path, "cancel", finished)
    finally:
        other.stop()
    assert "can't know them" in said
    assert resolved.returncode == 65
    assert not other.posts
    assert run(server, tmp_path, "pairs.csv").returncode == 0


def test_a_copy_of_a_run_directory_buys_nothing_unasked_and_goes_on_with_yes(server, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "copy")
    assert run(server, tmp_path, "pairs.csv", "-o", "copy").returncode == 0, "there is nothing to buy"
    write_pairs(tmp_path / "pairs.csv", 5)
    capped = ("run", "pairs.csv", "-o", "copy", "--poll", 0.05, "--max-cost", 9, "--assume-price", 0.5)
    ran = run_typed(server, tmp_path, *capped)
    assert ran.returncode == 65
    assert "a copy of it" in ran.stderr
    assert len(server.posts) == 4
    assert run(server, tmp_path, "pairs.csv", "-o", "copy", "--yes").returncode == 0
    write_pairs(tmp_path / "pairs.csv", 6)
    assert run_typed(server, tmp_path, *capped).returncode == 0, "it is known here now"


def test_a_run_directory_that_is_moved_meanwhile_keeps_the_answers_on_their_way(server, tmp_path):
    server.post_delay_s = 0.5
    write_pairs(tmp_path / "pairs.csv", 3)
    with started(server, tmp_path, "run", "pairs.csv", "-c", 2, "--yes") as process:
        wait_for(lambda: len(server.posts) == 2)
        moved = (tmp_path / "output/pairs").rename(tmp_path / "output/moved")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 73
    assert "was moved to" in out, "this is told, and no other error for want of the directory"
    assert "Resume with" not in out, "the command would begin anew at the old place"
    assert "Traceback" not in out + err
    told = {one["request_id"] for one in ledger(moved) if one["event"] == "submitted"}
    assert told == set(server.created)
    assert run(server, tmp_path, "pairs.csv", "-o", moved).returncode == 0
    assert posted_once(server)
