"""Who else is told: webhooks, metrics, a log file, systemd. None of them changes how a run ends."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from batcher.app import log_file, notify
from batcher.app.log_file import LogFile
from batcher.app.metrics_file import MetricsFile
from batcher.app.notify import Notifier, event_of, send
from batcher.app.observers import Ending, ObserverGroup
from batcher.app.systemd import Systemd
from batcher.ports import EndedCall, Phase, RunView, Silence
from tests.end_to_end.test_faults_disk import small_disk
from tests.support.api_server import command, in_background, run_command, run_typed, served
from tests.support.engine import FakeClock, in_virtual_time
from tests.support.faults import FAST, KLING, write_pairs


@pytest.fixture
def server():
    with served(KLING) as server:
        yield server


class Hook:
    """A webhook on loopback that keeps what it is sent."""

    def __init__(self, status=200):
        self.got, hook = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.got.append((self.path, body.decode()))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args): ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def events(self):
        return [json.loads(body)["event"] for _, body in self.got]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook():
    made = Hook()
    yield made
    made.close()


def samples(path):
    text = path.read_text()
    names = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(set(names)) == len(names), "Prometheus refuses a file with a sample twice"
    return {
        (sample.name, sample.labels.get("state") or sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_is_told_to_a_webhook_to_metrics_and_to_a_log(server, tmp_path, hook):
    write_pairs(tmp_path / "pairs.csv", 2)
    server.on_post = lambda served, body: (
        web.json_response({"message": "not this"}, status=400)
        if body["prompt"] == "cat number 1"
        else None
    )
    ended = run_command(
        server, tmp_path, "run", "pairs.csv", *FAST, "--quiet", "--notify", hook.url, "--metrics-file", "m.prom",
        "--log-file", "batcher.log", "--log-level", "debug", "--log-format", "json",
    )  # fmt: skip
    assert ended.returncode == 1
    assert hook.events == ["start", "failure"]
    last = json.loads(hook.got[-1][1])
    assert (last["exit_code"], last["batch"], last["summary"]["failed_now"]) == (1, "pairs", 1)
    found = samples(tmp_path / "m.prom")
    assert found["batcher_exit_code", None] == 1
    assert (found["batcher_jobs", "done"], found["batcher_jobs", "failed"]) == (1, 1)
    assert (found["batcher_posts", "accepted"], found["batcher_posts", "Rejected"]) == (1, 1)
    assert found["batcher_generation_seconds_count", None] == 1
    assert ("batcher_last_success_timestamp_seconds", None) not in found
    lines = [json.loads(line) for line in (tmp_path / "batcher.log").read_text().splitlines()]
    assert lines[0]["message"] == "started"
    failed = next(line for line in lines if line.get("state") == "failed")
    assert (failed["level"], failed["stage"], failed["attempt"]) == ("error", "submit", 1)
    assert failed["job"].startswith("cat-number-1-")
    done = next(line for line in lines if line.get("state") == "done")
    assert done["request_id"] in server.created
    assert len({line["run"] for line in lines}) == 1
    assert any(line["level"] == "debug" and line["took_s"] >= 0 for line in lines)
    assert (lines[-1]["level"], lines[-1]["exit_code"]) == ("error", 1)


def test_with_the_json_log_format_every_line_on_stderr_is_a_record(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    server.on_post = lambda served, body: (
        web.json_response({"message": "not this"}, status=400)
        if body["prompt"] == "cat number 1"
        else None
    )
    words = ("run", "pairs.csv", *FAST, "--log-format", "json")
    ended = run_command(server, tmp_path, *words, "-v")
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert all({"at", "level", "message"} <= line.keys() for line in told)
    assert len({line["run"] for line in told if "run" in line}) == 1
    (started,) = [line for line in told if line["message"].startswith("started")]
    assert (started["level"], started["selected"], started["done"]) == ("info", 2, 0)
    (failed,) = [line for line in told if line.get("state") == "failed"]
    assert (failed["level"], failed["stage"], failed["attempt"]) == ("error", "submit", 1)
    (done,) = [line for line in told if line.get("state") == "done"]
    assert done["request_id"] in server.created
    assert 0 < done["took_s"] < 60
    polls = [line for line in told if line.get("call") == "result"]
    assert polls
    assert all(line["level"] == "debug" and line["took_s"] >= 0 for line in polls)
    assert (told[-1]["level"], told[-1]["exit_code"]) == ("error", 1)

    quiet = run_command(server, tmp_path, *words, "--quiet")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    lines = [json.loads(line) for line in quiet.stderr.splitlines()]
    assert any("--retry-" in line["message"] for line in lines)
    for more in ((), ("--quiet",), ("-v",)):
        ended = run_command(server, tmp_path, "run", "gone.csv", "--log-format", "json", *more)
        levels = [json.loads(line)["level"] for line in ended.stderr.splitlines()]
        assert levels.count("error") == 1, ended.stderr


def test_what_does_not_begin_is_told_too(tmp_path, hook):
    (tmp_path / "pairs.csv").write_text("prompt\n")
    ended = run_command(
        None,
        tmp_path,
        "run",
        "pairs.csv",
        "--notify",
        hook.url,
        "--metrics-file",
        "m.prom",
        "--log-file",
        "b.log",
    )
    assert ended.returncode in (65, 77)
    assert hook.events == ["attention"]
    assert samples(tmp_path / "m.prom")["batcher_exit_code", None] == ended.returncode
    assert f"exit_code={ended.returncode}" in (tmp_path / "b.log").read_text()


def test_a_run_that_is_told_to_end_tells_of_its_end_and_one_that_is_killed_can_not(
    server, tmp_path, hook
):
    server.generate_s = 30
    for number, expected in ((signal.SIGTERM, ["start", "failure"]), (signal.SIGKILL, ["start"])):
        hook.got.clear()
        write_pairs(tmp_path / "pairs.csv", 1)
        process = in_background(
            server,
            tmp_path,
            command("run", "pairs.csv", *FAST, "--quiet", "--notify", hook.url, "-o", f"out{number}"),
        )
        until = time.monotonic() + 60
        while not hook.got and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(60)
        assert hook.events == expected


def test_nobody_who_is_told_can_change_how_a_run_ends(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = run_command(
        server, tmp_path, "run", "pairs.csv", *FAST, "--notify", "http://127.0.0.1:9/secret-path", "--notify",
        "nonsense", "--metrics-file", "no/such/folder/m.prom", "--log-file", "/dev/full",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "--notify http://127.0.0.1/...: can't be reached" in ended.stderr
    assert "--metrics-file" in ended.stderr
    assert "--log-file" in ended.stderr
    assert "secret-path" not in ended.stderr


@pytest.mark.parametrize(
    ("code", "event"), [(0, "success"), (1, "failure"), (69, "failure"), (143, "failure"), (3, "attention"),
                        (65, "attention"), (77, "attention")],
)  # fmt: skip
def test_an_end_is_named_by_who_can_deal_with_it(code, event):
    assert event_of(Ending(code)) == event


def test_only_the_events_that_were_asked_for_are_told(hook):
    told = Notifier(hook.url, frozenset({"failure"}), {"batch": "b"}, FakeClock(), pytest.fail)
    told.started(RunView())
    told.ended(Ending(1))
    assert hook.events == ["failure"]


def test_healthchecks_get_a_ping_at_the_start_and_the_exit_code_at_the_end(monkeypatch):
    urls = []

    async def post(url, body, media_type):
        urls.append(url)

    monkeypatch.setattr(notify, "post", post)
    send("https://hc-ping.com/abc", {"event": "start", "text": ""})
    send("healthchecks://hc.example.com/ping/abc/", {"event": "failure", "text": "", "exit_code": 69})
    assert urls == ["https://hc-ping.com/abc/start", "https://hc.example.com/ping/abc/69"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_addresses_are_told_through_apprise(hook):
    port = hook.server.server_port
    assert send(f"json://127.0.0.1:{port}/x", {"event": "attention", "text": "look at it"}) is None
    assert json.loads(hook.got[0][1])["message"] == "look at it"
    assert send("nonsense", {"event": "start", "text": ""}) == "apprise knows no such address"


def test_a_refusal_of_the_webhook_is_a_warning():
    refuses, said = Hook(status=500), []
    told = Notifier(refuses.url, frozenset(notify.EVENTS), {"batch": "b"}, FakeClock(), said.append)
    told.ended(Ending(0))
    refuses.close()
    assert said == ["--notify http://127.0.0.1/...: answered 500"]


def test_metrics_remember_the_last_success_and_are_replaced_as_a_whole(tmp_path):
    path, clock = tmp_path / "m.prom", FakeClock()
    MetricsFile(path, 'a "b"\\', clock, pytest.fail).ended(Ending(0))
    at = samples(path)["batcher_last_success_timestamp_seconds", None]
    before = path.stat().st_ino
    MetricsFile(path, 'a "b"\\', clock, pytest.fail).ended(Ending(69))
    found = samples(path)
    assert (found["batcher_last_success_timestamp_seconds", None], found["batcher_exit_code", None]) == (
        at,
        69,
    )
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["m.prom"]


def test_metrics_tell_how_long_requests_waited_and_ran(tmp_path):
    clock = FakeClock()
    metrics = MetricsFile(tmp_path / "m.prom", "b", clock, pytest.fail)
    for kind, what, outcome, at, phase in (
        ("submit", "m", "r1", 0, None), ("result", "r1", "starting", 2, Phase.QUEUED),
        ("result", "r1", "booting", 5, Phase.RUNNING), ("result", "r1", "canceled", 12, Phase.CANCELLED),
        ("submit", "m", "TurnedAway: 429", 13, None), ("submit", "m", "given up", 14, None),
        ("trace", "replicate", "1 found", 15, None),
    ):  # fmt: skip
        clock.seconds = at
        metrics._clock = type("At", (), {"monotonic": lambda self, at=at: at, "now": clock.now})()
        metrics.call(EndedCall(kind, what, outcome, 0.1, phase))
    metrics.ended(Ending(0))
    found = samples(tmp_path / "m.prom")
    assert (found["batcher_queue_seconds_sum", None], found["batcher_generation_seconds_sum", None]) == (
        5,
        7,
    )
    assert found["batcher_throttled", None] == 1
    assert found["batcher_posts", "given_up"] == 1
    assert 'batcher_calls{batch="b",kind="trace"} 1\n' in (tmp_path / "m.prom").read_text()


def test_the_log_is_rotated_and_keeps_a_bounded_number_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(log_file, "ROTATE_AT_BYTES", 200)
    file = LogFile(tmp_path / "b.log", FakeClock(), as_json=False, level="info", warn=pytest.fail)
    for number in range(60):
        file.warn(f"line {number}\nwith a break")
    file.ended(Ending(0))
    assert len(os.listdir(tmp_path)) == log_file.KEPT_FILES + 1
    assert all("Z warning line " in line for line in (tmp_path / "b.log.1").read_text().splitlines())


def test_a_log_that_another_program_renamed_goes_on_in_a_new_file(tmp_path):
    path = tmp_path / "b.log"
    file = LogFile(path, FakeClock(), as_json=False, level="info", warn=pytest.fail)
    file.warn("first")
    path.rename(tmp_path / "b.log.old")
    file.warn("second")
    path.unlink()
    file.warn("third")
    file.ended(Ending(0))
    assert "first" in (tmp_path / "b.log.old").read_text()
    assert [line.split()[2] for line in path.read_text().splitlines()] == ["third", "ended"]


def test_systemd_is_told_that_a_service_is_ready_and_how_it_ended(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind(str(tmp_path / "s"))
        told = Systemd({"NOTIFY_SOCKET": str(tmp_path / "s")}, FakeClock())
        told.started(RunView(selected=3))
        told.ended(Ending(0))
        assert listens.recv(99).startswith(b"READY=1\n")
        assert listens.recv(99).startswith(b"STOPPING=1\n")
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}, FakeClock()).ended(Ending(0))


@in_virtual_time
async def test_the_watchdog_of_systemd_is_fed_while_nothing_happens(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind(str(tmp_path / "s"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "s"), "WATCHDOG_USEC": "40000"}
        Systemd(env, FakeClock()).started(RunView(selected=3))
        await asyncio.sleep(0.1)
        assert listens.recv(99).startswith(b"READY=1\n")
        assert [listens.recv(99) for _ in range(3)] == [b"WATCHDOG=1"] * 3


def test_a_disk_that_is_full_is_told_and_leaves_whole_metrics(server, tmp_path, hook):
    """Ledger, metrics and log lie on it: the end can't be written, but it is sent."""
    server.catalogue = {}  # its schema limits prompts
    write_pairs(tmp_path / "pairs.csv", 60, prompt="cat number {} " + "x" * 40_000)
    with small_disk(1) as disk:
        ended = run_command(
            server, tmp_path, "run", "pairs.csv", *FAST, "-c", "4", "--quiet", "-o", disk / "run", "--notify",
            hook.url, "--metrics-file", disk / "m.prom", "--log-file", disk / "b.log",
        )  # fmt: skip
        assert ended.returncode == 73
        assert hook.events == ["start", "attention"]
        last = json.loads(hook.got[-1][1])
        assert "no space left" in last["reason"].lower()
        assert last["exit_code"] == 73
        found = samples(disk / "m.prom")
        assert found["batcher_live", None] in (0, 1), "whole: the one of the end, or the one before"
        assert "Traceback" not in ended.stderr
        assert not [path for path in disk.iterdir() if path.name.startswith(".m.prom")]


def test_without_reporters_the_engine_is_watched_as_before():
    assert not ObserverGroup(Silence(), ()).wants_more


def test_config_tells_where_values_come_from_and_no_secret(tmp_path):
    (tmp_path / "m.yaml").write_text(
        "model: kling/a\nrun:\n  notify: [slack://T-SECRET1/B/C, 'https://hook.example.com/SECRET2?t=SECRET3']\n"
        "jobs: [{prompt: a}]\n"
    )
    words = (
        "--set", "image_url=https://cdn.example.com/a.png?X-Amz-Signature=SECRET4&width=100",
        "--set", "video_url=https://me:SECRET5@cdn.example.com/v.mp4", "-o", "s3://key:SECRET6@bucket/clips",
    )  # fmt: skip
    env = {"BATCHER_MAX_COST": "20", "RUNCOMFY_TOKEN": "SECRET7", "HTTPS_PROXY": "http://u:SECRET8@p:1"}
    for more in ((), ("--json",)):
        told = run_typed(None, tmp_path, "config", "m.yaml", *words, *more, **env)
        assert told.returncode == 0, told.stderr
        assert "SECRET" not in told.stdout
        for shown in (
            "slack://...", "https://hook.example.com/...", "m.yaml:3: run: notify", "$BATCHER_MAX_COST",
            "image_url=https://cdn.example.com/a.png?X-Amz-Signature=***&width=100",
            "video_url=https://me:***@cdn.example.com/v.mp4", "s3://key:***@bucket/clips",
        ):  # fmt: skip
            assert shown in told.stdout
