"""What is bought and what is not: budgets, canaries, breakers and systemic refusals, by counted POSTs."""

import asyncio
import base64
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web

from batcher import api
from batcher.app import run as app
from batcher.app.plan import plan as app_plan
from batcher.engine.canary import CanaryReport
from batcher.engine.host import Host
from batcher.errors import InputError, ManifestError
from batcher.options.facts import JobShare, Money, Overrides, Pace, Policy, Selection
from batcher.options.run import Options
from batcher.sandbox.catalogue import catalogue
from tests.forked import popen
from tests.support.api_server import TOKEN, ApiServer, environment, run_command, typed

KLING = "kling/kling-2-1/master/image-to-video"
FLUX = "blackforestlabs/flux-1/dev/text-to-image"
PRICE_USD = 1.40
PNG = b"\x89PNG\r\n\x1a\n" + bytes(60) + b"\0\0\0\0IEND\xaeB`\x82"


@pytest.fixture
def server():
    served = ApiServer(generate_s=0.01)
    served.catalogue = {name: model.listing(include_schema=True) for name, model in catalogue().items()}
    served.start()
    yield served
    served.stop()


@pytest.fixture
def bench(server, tmp_path):
    return Bench(server, tmp_path)


class Bench:
    """Runs one manifest again and again, each time like a command of its own."""

    def __init__(self, server, path):
        self.server, self.path = server, path
        self.manifest = path / "m.yaml"
        self.prompts(10)

    def prompts(self, count, start=0):
        jobs = [
            {"prompt": f"p{n}", "image_url": f"https://example.com/{n}.png"}
            for n in range(start, start + count)
        ]
        self.write({"model": KLING, "jobs": jobs})

    def write(self, document):
        self.manifest.write_text(json.dumps(document))  # JSON is YAML

    def options(self, *, concurrency=1, policy=None, only=None, set_=None, check_urls=False, **money):
        return Options(
            manifest=self.manifest,
            output=self.path / "out",
            overrides=Overrides(set=set_ or {}),
            selection=Selection(only=only),
            policy=policy or Policy(),
            pace=Pace(concurrency=concurrency, poll_interval_s=0.02),
            money=Money(assume_yes=True, **money),
            check_urls=check_urls,
        )

    def host(self, **fields):
        env = {"RUNCOMFY_MODEL_API_BASE": self.server.base, "RUNCOMFY_TOKEN": TOKEN}
        return Host(env=env, home=self.path, **fields)

    def run(self, *, go_on=lambda report: True, **options):
        return asyncio.run(app.run(self.options(**options), self.host(go_on=go_on)))

    def plan(self, **options):
        return asyncio.run(app_plan(self.options(**options), self.host()))

    @property
    def posts(self):
        return len(self.server.posts)

    def ledger(self, *events):
        lines = [json.loads(line) for line in (self.path / "out/ledger.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] in events]


def refuse(status=422, **body):
    return lambda *_: web.json_response(body, status=status)


def fail_request(server, asked):
    return web.json_response(
        {"request_id": asked["id"], "status": "failed", "error": "the model gave up"}
    )


class TestBudget:
    def test_what_does_not_fit_stays_pending_and_counts_over_all_runs(self, bench):
        first = bench.run(max_cost_usd=7.0, concurrency=4)
        assert (first.exit_code, bench.posts, first.pending) == (3, 5, 5)
        assert "--max-cost" in first.stopped
        assert bench.run(max_cost_usd=8.0).exit_code == 3
        assert bench.posts == 5
        assert bench.run(max_cost_usd=14.0).exit_code == 0
        assert bench.posts == 10

    def test_reported_costs_take_the_place_of_prices(self, bench):
        bench.server.cost_usd = 0.70
        summary = bench.run(max_cost_usd=7.0)
        assert (summary.done, summary.cost_usd) == (9, pytest.approx(6.30))
        assert summary.estimated_cost_usd == pytest.approx(9 * PRICE_USD)
        assert summary.reported_cost_usd == pytest.approx(6.30)
        rows = (bench.path / "out/metadata.jsonl").read_text().splitlines()
        assert {json.loads(row)["cost_usd"] for row in rows} == {0.70}

    def test_jobs_that_left_the_manifest_still_count(self, bench):
        bench.prompts(3)
        assert bench.run().done == 3
        bench.prompts(3, start=3)
        assert bench.run(max_cost_usd=5.0).exit_code == 3
        assert bench.posts == 3

    def test_unanswered_and_failed_attempts_count(self, bench):
        bench.prompts(4)
        bench.server.after_post = lambda *_: web.Response(status=500) if bench.posts == 1 else None
        bench.server.on_result = fail_request
        summary = bench.run(max_cost_usd=3 * PRICE_USD, concurrency=2)
        assert (bench.posts, summary.unknown, summary.failed, summary.pending) == (3, 1, 2, 1)
        again = bench.run(
            max_cost_usd=3 * PRICE_USD,
            policy=Policy(retry_failed=True, retry_unknown=True),
            concurrency=2,
        )
        assert (again.exit_code, bench.posts) == (3, 3)

    def test_refused_submissions_cost_nothing(self, bench):
        bench.server.on_post = lambda _, body: (
            refuse(message=f"bad {body['prompt']}")() if bench.posts <= 5 else None
        )
        summary = bench.run(max_cost_usd=5 * PRICE_USD)
        assert (bench.posts, summary.done, summary.failed) == (10, 5, 5)

    def test_an_unknown_price_stops_the_plan_unless_one_is_assumed(self, bench):
        del bench.server.catalogue[KLING]["base_price_usd"]
        with pytest.raises(InputError, match="--assume-price"):
            bench.run(max_cost_usd=5.0)
        assert bench.posts == 0
        assert bench.run(max_cost_usd=5.0, assume_price_usd=2.5).exit_code == 3
        assert bench.posts == 2


class TestCanary:
    def test_too_many_failures_stop_the_run_and_the_rest_stays_pending(self, bench):
        bench.server.on_result = fail_request
        summary = bench.run(canary=4, concurrency=8)
        assert (summary.exit_code, bench.posts, summary.failed, summary.pending) == (3, 4, 4, 6)
        assert "--canary-failures 20%" in summary.stopped

    def test_as_many_failures_as_allowed_let_the_rest_pass(self, bench):
        bench.server.on_result = lambda s, asked: (
            fail_request(s, asked) if asked["id"] == next(iter(s.created)) else None
        )
        summary = bench.run(canary=2, canary_failures=JobShare(1))
        assert (summary.exit_code, bench.posts, summary.done) == (1, 10, 9)

    def test_the_user_sees_cost_and_time_and_may_stop_it(self, bench):
        seen = []
        summary = bench.run(canary=3, go_on=lambda report: bool(seen.append(report)))
        assert (summary.exit_code, bench.posts, summary.done) == (3, 3, 3)
        assert (seen[0].jobs, seen[0].failed, seen[0].cost_usd) == (3, 0, pytest.approx(3 * PRICE_USD))
        assert bench.run(canary=3).done == 10

    def test_it_is_spread_over_models_and_parameters(self, bench):
        many = [
            {"prompt": f"p{n}", "image_url": "https://example.com/a.png", "duration": 5}
            for n in range(20)
        ]
        bench.write(
            {
                "model": KLING,
                "jobs": [*many, {**many[0], "duration": 10}, {"model": FLUX, "prompt": "a"}],
            }
        )
        bench.run(canary=3, go_on=lambda report: False)
        kinds = [(post.get("duration"), "image_url" in post) for post in bench.server.posts]
        assert Counter(kinds) == {(5, True): 1, (10, True): 1, (None, False): 1}

    def test_nothing_is_bought_twice_by_it(self, bench):
        bench.prompts(4)
        bench.run()
        bench.run(canary=2, policy=Policy(redo=True), only="*")
        assert Counter(post["prompt"] for post in bench.server.posts) == dict.fromkeys(
            ["p0", "p1", "p2", "p3"], 2
        )


class TestBreaker:
    def test_a_number_of_failures(self, bench):
        bench.server.on_result = fail_request
        summary = bench.run(max_failures=2)
        assert (summary.exit_code, bench.posts, summary.pending) == (3, 3, 7)
        assert "--max-failures 2" in summary.stopped

    def test_a_share_of_them_from_the_fiftieth_on(self, bench):
        bench.prompts(70)
        bench.server.on_post = lambda _, body: (
            refuse(message=body["prompt"])() if bench.posts % 2 else None
        )
        summary = bench.run(max_failures=40, max_failures_percent=True)
        assert summary.exit_code == 3
        assert 50 <= bench.posts <= 51

    def test_downloads_that_fail_are_no_failures(self, bench):
        bench.server.on_media = lambda *_: web.Response(text="<html>no</html>", content_type="text/html")
        summary = bench.run(max_failures=0)
        assert (bench.posts, summary.failed) == (10, 10)


class TestSystemicRefusals:
    def test_an_unknown_model_stops_at_once_and_the_jobs_stay_pending(self, bench):
        bench.server.on_post = refuse(404, error_code=404001, message="no such model")
        summary = bench.run()
        assert (summary.exit_code, bench.posts, summary.pending) == (3, 1, 10)
        assert KLING in summary.stopped

    def test_the_code_for_a_wrong_model_id_means_the_same(self, bench):
        bench.server.on_post = refuse(400, error_code=400001, message="InvalidResourceIdentifier")
        assert (bench.run().exit_code, bench.posts) == (3, 1)

    def test_the_same_words_for_the_first_rows_stop_at_the_fifth(self, bench):
        bench.server.on_post = refuse(422, message="prompt: not in this region")
        summary = bench.run()
        assert (summary.exit_code, bench.posts, summary.failed, summary.pending) == (3, 5, 5, 5)
        assert "not in this region" in summary.stopped

    def test_other_words_for_each_row_are_the_rows_own_affair(self, bench):
        bench.server.on_post = lambda _, body: refuse(422, message=f"bad prompt {body['prompt']}")()
        assert (bench.run().exit_code, bench.posts) == (1, 10)

    def test_once_a_row_was_accepted_the_rest_goes_on(self, bench):
        bench.server.on_post = lambda *_: None if bench.posts == 3 else refuse(422, message="no")()
        assert (bench.run().exit_code, bench.posts) == (1, 10)

    @pytest.mark.parametrize(
        ("answer", "code"),
        [(refuse(401, message="bad token"), 77), (refuse(402, message="no balance"), 3)],
    )
    def test_token_and_balance_stop_at_the_first_row(self, bench, answer, code):
        bench.server.on_post = answer
        summary = bench.run()
        assert (summary.exit_code, bench.posts, summary.pending) == (code, 1, 10)


class TestLocalMedia:
    def local(self, bench, *names):
        for name in names:
            (bench.path / name).write_bytes(PNG + name.encode())
        bench.write({"model": KLING, "jobs": [{"prompt": name, "image_url": name} for name in names]})

    def test_it_goes_out_inline_and_into_the_ledger_as_path_and_hash(self, bench):
        self.local(bench, "a.png")
        assert bench.run().exit_code == 0
        content = (bench.path / "a.png").read_bytes()
        encoded = base64.b64encode(content).decode()
        assert bench.server.posts[0]["image_url"] == f"data:image/png;base64,{encoded}"
        (intent,) = bench.ledger("submitting")
        assert intent["input"]["image_url"] == {
            "path": "a.png",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        written = [file.read_bytes() for file in (bench.path / "out").rglob("*") if file.is_file()]
        assert not any(encoded.encode() in one for one in written)

    def test_a_file_that_changes_after_the_check_is_not_sent(self, bench):
        self.local(bench, "a.png", "b.png")

        def change(_, body):
            (bench.path / "b.png").write_bytes(PNG + b"other")

        bench.server.on_post = change
        summary = bench.run()
        assert (bench.posts, summary.done, summary.failed) == (1, 1, 1)
        (failed,) = bench.ledger("failed")
        assert (failed["stage"], failed["code"]) == ("submit", "local_media")
        assert "changed" in failed["message"]

    def test_files_are_read_when_their_turn_comes(self, bench):
        self.local(bench, "a.png", "b.png")
        bench.server.on_post = lambda *_: (bench.path / "b.png").unlink(missing_ok=True)
        summary = bench.run()
        assert (bench.posts, summary.failed) == (1, 1)

    def test_its_content_is_part_of_the_job(self, bench):
        self.local(bench, "a.png")
        assert bench.run().done == 1
        (bench.path / "a.png").write_bytes(PNG + b"another picture")
        assert bench.run().done == 1
        assert bench.posts == 2

    @pytest.mark.parametrize("sizes", [[70], [30, 30]], ids=["one file", "two together"])
    def test_more_than_a_request_may_hold_is_said_before_anything_is_sent(self, bench, sizes):
        names = [f"{number}.png" for number in range(len(sizes))]
        for name, size_mib in zip(names, sizes, strict=True):
            with (bench.path / name).open("wb") as file:
                file.write(PNG)
                file.truncate(size_mib << 20)
        edit = "bytedance/seedream-4-5/edit"
        bench.write({"model": edit, "jobs": [{"prompt": "a", "images": names}]})
        with pytest.raises(ManifestError, match="64 MiB"):
            bench.run()
        assert bench.posts == 0


class TestStoredSpecs:
    def test_a_run_whose_inputs_nobody_could_check_says_so(self, bench):
        bench.server.catalogue, bench.server.empty_catalogue = {}, 500
        bench.write({"model": "some/model", "jobs": [{"prompt": "a", "anything": 1}]})
        told = []
        observer = SimpleNamespace(
            **dict.fromkeys(("started", "changed", "finished"), lambda view: None), warn=told.append
        )
        assert asyncio.run(app.run(bench.options(), bench.host(observer=observer))).done == 1
        assert any("some/model: sent unchecked" in line for line in told)

    def test_a_run_keeps_what_it_went_by_and_plans_by_it_when_nobody_answers(self, bench):
        bench.prompts(2)
        bench.run()
        kept = json.loads((bench.path / "out/.batcher/specs.json").read_text())
        assert kept["models"][KLING]["entry"]["base_price_usd"] == 0.28
        for file in (bench.path / ".cache/batcher").iterdir():
            file.unlink()
        bench.server.stop()
        bench.prompts(3)
        planned = bench.plan().prepared
        assert planned.specs.sources[KLING].origin == "stored"
        assert planned.plan.estimated_cost_usd == pytest.approx(PRICE_USD)

    def test_the_catalogue_is_asked_once_for_each_model(self, bench):
        bench.run()
        bench.run()
        assert bench.server.lookups == [KLING]


def test_the_canary_tells_how_it_fared_and_asks_nobody_without_a_terminal(server, tmp_path):
    bench = Bench(server, tmp_path)
    bench.prompts(5)
    result = run_command(server, tmp_path, "run", "m.yaml", "--canary", 2, "--max-cost", "100")
    assert result.returncode == 0, result.stderr
    assert "canary: 2 of 2 jobs went well, for $2.80" in result.stderr
    assert "Go on" not in result.stderr


@pytest.mark.parametrize("bad", [["--canary", "0"], ["--canary-failures", "120%"], ["--max-cost", "-1"]])
def test_limits_that_make_no_sense_exit_64(tmp_path, bad):
    Path(tmp_path / "m.yaml").write_text("jobs: []")
    assert run_command(None, tmp_path, "run", "m.yaml", *bad).returncode == 64


def on_a_terminal(server, tmp_path, reply, *arguments):
    """Run the command with a terminal for stdin and stderr; a signal or a ``reply`` answers its question."""
    ours, theirs = pty.openpty()
    process = popen(
        typed("run", "m.yaml", *arguments),
        cwd=tmp_path,
        env=environment(server, tmp_path),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 4096)
    if isinstance(reply, bytes):
        os.write(ours, reply)
    else:
        process.send_signal(reply)
    code = process.wait(20)
    process.stdout.close()
    os.close(ours)
    return code, shown.decode()


@pytest.mark.parametrize(
    ("reply", "code", "posts"),
    [(b"y\n", 0, 5), (b"n\n", 3, 2), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2)],
)
def test_on_a_terminal_the_canary_asks(server, tmp_path, reply, code, posts):
    bench = Bench(server, tmp_path)
    bench.prompts(5)
    told, shown = on_a_terminal(server, tmp_path, reply, "--canary", 2)
    assert (told, bench.posts) == (code, posts)
    assert "canary: 2 of 2 jobs went well, for $2.80" in shown
    assert "Go on with the rest?" in shown


@pytest.mark.parametrize(("reply", "code"), [(b"n\n", 64), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_on_a_terminal_a_large_purchase_is_asked_about(server, tmp_path, reply, code):
    bench = Bench(server, tmp_path)
    bench.prompts(21)
    told, shown = on_a_terminal(server, tmp_path, reply)
    assert (told, bench.posts) == (code, 0)
    assert "Buy 21 jobs, price $29.40?" in shown
    assert not (tmp_path / "output").exists()


async def test_python_has_the_same_limits(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RUNCOMFY_MODEL_API_BASE", server.base)
    monkeypatch.setenv("RUNCOMFY_TOKEN", TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    Bench(server, tmp_path).prompts(6)
    server.on_result = fail_request
    limits = {"canary": 2, "canary_failures": "49%", "max_failures": "10%"}
    summary = await api.run(tmp_path / "m.yaml", output=tmp_path / "out", poll=0.02, **limits)
    assert (summary.exit_code, len(server.posts)) == (3, 2)
    assert "--canary-failures 49%" in summary.stopped
    assert (await api.plan(tmp_path / "m.yaml", output=tmp_path / "out")).to_buy == 4


def test_the_functions_of_the_package_stay_functions(tmp_path):
    (tmp_path / "m.yaml").write_text(
        f"model: {KLING}\njobs:\n- prompt: a\n  image_url: https://example.com/a.png\n"
    )
    program = (
        "import asyncio, batcher\n"
        "asyncio.run(batcher.run('m.yaml', sandbox=True))\n"
        "print(asyncio.run(batcher.plan('m.yaml', sandbox=True)).total)"
    )
    env = environment(None, tmp_path)
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, check=True
    )
    assert told.stdout.split() == [b"1"]


def test_a_canary_that_was_quick_is_not_said_to_have_taken_no_time():
    told = str(CanaryReport(jobs=2, failed=0, unjudged=0, cost_usd=0.005, took_s=0.2))
    assert told == "canary: 2 of 2 jobs went well, for $0.005, in 1 s"
