"""Networks and servers that fail under the installed command, and money or rights that run out.

What each kind of failure means for a single call, slow and silent servers included, is held by
``test_runcomfy_provider.py`` and ``test_download.py``.
"""

import json
import signal
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from aiohttp import web

from tests.support.api_server import TOKEN, run_command
from tests.support.faults import (
    SlowServer,
    end_with,
    ledger,
    posted_once,
    run,
    started,
    states,
    wait_for,
    write_pairs,
)


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


def real_api(base):
    return {"RUNCOMFY_TOKEN": TOKEN, "RUNCOMFY_MODEL_API_BASE": base}


def test_a_name_that_does_not_resolve_is_given_up_with_69_and_nothing_was_sent(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    ended = run(
        None, tmp_path, "pairs.csv", "--outage-timeout", 1, **real_api("https://api.nowhere.invalid/v1")
    )
    assert ended.returncode == 69
    assert "api.nowhere.invalid" in ended.stdout + ended.stderr
    assert states(tmp_path / "output/pairs") == {"pending": 2}


def test_planning_counts_for_an_outage_timeout_and_waits_that_long_for_a_model(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    dead = real_api("http://127.0.0.1:9/v1")
    began_s = time.monotonic()
    ended = run(None, tmp_path, "pairs.csv", "--outage-timeout", 3, **dead)
    took_s = time.monotonic() - began_s
    assert ended.returncode == 69
    assert 3 <= took_s < 5.5, "not 3 s of planning and then 3 s of submitting"
    assert (
        len([line for line in ledger(tmp_path / "output/pairs") if line["event"] == "submitting"]) <= 2
    )


def test_a_server_that_speaks_no_tls_is_given_up_with_69_and_nothing_was_sent(server, tmp_path):
    write_pairs(tmp_path / "pairs.csv", 2)
    ended = run(
        None,
        tmp_path,
        "pairs.csv",
        "--outage-timeout",
        1,
        **real_api(f"https://127.0.0.1:{server.port}/v1"),
    )
    assert ended.returncode == 69
    assert "ssl" in (ended.stdout + ended.stderr).lower()
    assert states(tmp_path / "output/pairs") == {"pending": 2}
    assert not server.posts


def test_a_token_never_goes_over_plain_http_to_another_machine(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = run(None, tmp_path, "pairs.csv", **real_api("http://api.example.com/v1"))
    assert ended.returncode == 64
    assert TOKEN not in ended.stderr


def test_a_server_that_dies_half_way_and_comes_back_costs_nothing_twice(server, tmp_path):
    server.generate_s = 0.5
    write_pairs(tmp_path / "pairs.csv", 20)
    log = ("--log-file", "calls.log", "--log-level", "debug")
    words = ("run", "pairs.csv", "-c", 4, "--poll", 0.1, "--json", *log)
    with started(server, tmp_path, *words) as process:
        wait_for(lambda: len(server.created) >= 8)
        server.stop()
        wait_for(lambda: (tmp_path / "calls.log").read_text().count("NotSent") >= 3)
        server.start()
        out, err = process.communicate(timeout=60)
    told = json.loads(out)
    assert told["done"] + told["unknown"] == 20, err
    assert told["unknown"] <= 4, "at most what was in flight"
    assert process.returncode == int(told["unknown"] > 0)
    assert posted_once(server)


def test_a_server_that_never_comes_back_ends_the_run_with_69_and_the_next_one_goes_on(server, tmp_path):
    server.generate_s = 0.5
    write_pairs(tmp_path / "pairs.csv", 8)
    with started(
        server, tmp_path, "run", "pairs.csv", "-c", 2, "--poll", 0.1, "--outage-timeout", 1.5
    ) as process:
        wait_for(lambda: len(server.created) >= 4)
        server.stop()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 69, err
    assert "has not answered" in out
    server.start()
    again = run(server, tmp_path, "pairs.csv")
    assert again.returncode in (0, 1)
    assert posted_once(server)
    found = states(tmp_path / "output/pairs")
    assert found["done"] + found.get("unknown", 0) == 8


REFUSALS = {
    "code 400002": (
        lambda: web.json_response(
            {"error_code": 400002, "message": "InsufficientResources"}, status=400
        ),
        3,
        "balance",
    ),
    "402": (lambda: web.json_response({"message": "top up"}, status=402), 3, "balance"),
    "401": (lambda: web.json_response({"message": "revoked"}, status=401), 77, "token"),
}


@pytest.mark.parametrize(("refusal", "code", "about"), REFUSALS.values(), ids=REFUSALS)
def test_when_balance_or_token_give_out_what_is_in_flight_is_finished_and_the_rest_waits(
    server, tmp_path, refusal, code, about
):
    server.generate_s = 0.5
    server.on_post = lambda s, _: refusal() if len(s.created) >= 3 else None
    write_pairs(tmp_path / "pairs.csv", 12)
    ended = run(server, tmp_path, "pairs.csv", "-c", 4)
    assert ended.returncode == code
    assert about in ended.stdout
    assert "same command again" in ended.stdout
    assert states(tmp_path / "output/pairs") == {"done": 3, "pending": 9}
    assert len(server.posts) <= 3 + 4, "nothing was submitted after the refusal but what was on its way"
    server.on_post = None
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.created) == 12


def test_a_token_that_is_refused_on_polls_too_leaves_the_requests_for_later(server, tmp_path):
    def refused():
        return web.json_response({"message": "revoked"}, status=401)

    server.on_post = lambda s, _: refused() if len(s.created) >= 3 else None
    server.on_result = lambda s, _: refused() if len(s.created) >= 3 else None
    write_pairs(tmp_path / "pairs.csv", 10)
    ended = run(server, tmp_path, "pairs.csv", "-c", 3)
    assert ended.returncode == 77
    assert "3 requests are still running at the API" in ended.stdout
    assert states(tmp_path / "output/pairs") == {"submitted": 3, "pending": 7}
    server.on_post = server.on_result = None
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.created) == 10


@contextmanager
def dripping_server():
    """Accepts, reads, and answers with one header byte after another, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))
    over, seen = threading.Event(), []

    def drip(connection):
        with connection:
            try:
                seen.append(connection.recv(65536)[:60].decode("latin-1"))
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not over.wait(0.1):
                    connection.sendall(b"x")
            except OSError:
                pass

    def accept():
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        over.set()
        listener.close()


def test_ctrl_c_ends_a_run_that_a_dripping_server_holds_up(tmp_path):
    write_pairs(tmp_path / "pairs.csv", 1)
    with (
        dripping_server() as (port, seen),
        started(
            None, tmp_path, "run", "pairs.csv", env=real_api(f"http://127.0.0.1:{port}/v1")
        ) as process,
    ):
        wait_for(lambda: seen)
        ended = end_with(process, signal.SIGINT)
    assert ended.code == 130
    assert ended.took_s < 4.0


def test_a_job_that_its_server_drips_at_is_left_running_when_its_time_is_up(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 2)
    ended = run(server, tmp_path, "pairs.csv", "--job-timeout", 1)
    assert ended.returncode == 1
    assert "2 requests are still running at the API" in ended.stdout
    assert states(tmp_path / "output/pairs") == {"submitted": 2}


def test_nobody_listening_to_the_log_any_more_does_not_end_the_run(server, tmp_path):
    server.generate_s = 1.0
    write_pairs(tmp_path / "pairs.csv", 3)
    with started(server, tmp_path, "run", "pairs.csv", "--poll", 0.1) as process:
        process.stderr.close()
        process.stdout.close()
        assert process.wait(40) == 0
        process.stdout = process.stderr = None
    assert states(tmp_path / "output/pairs") == {"done": 3}
    assert any(line.get("ended") for line in ledger(tmp_path / "output/pairs"))


def test_two_runs_of_two_manifests_in_one_directory_are_told_apart(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 2)
    write_pairs(tmp_path / "others.csv", 2, first=10)
    with started(server, tmp_path, "run", "pairs.csv", "-o", "out") as process:
        wait_for(lambda: len(server.created) == 2)
        for arguments in (
            ["run", "others.csv", "-o", "out"],
            ["cancel", "out"],
            ["resolve", "out", "x", "--not-created"],
        ):
            second = run_command(server, tmp_path, *arguments)
            assert second.returncode in (64, 75), second.stderr
        end_with(process, signal.SIGTERM)
    assert len(server.posts) == 2
