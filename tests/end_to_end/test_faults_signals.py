"""SIGINT and SIGTERM at every stage of a run, once and twice: real signals, the installed command."""

import json
import signal

import pytest
from aiohttp import web

from tests.support.faults import (
    KLING,
    SIGNALS,
    SlowServer,
    end_with,
    events,
    ledger,
    posted_once,
    run,
    started,
    states,
    wait_for,
    write_pairs,
)

AT_ONCE_S = 4.0
"""Well below every grace and every delay here, and far above what a busy machine needs."""


@pytest.fixture
def server():
    served = SlowServer().start()
    yield served
    served.stop()


@pytest.mark.parametrize(("number", "code"), SIGNALS[::2])
def test_a_signal_while_the_catalogue_is_asked_ends_it_at_once_with_nothing_written(
    server, tmp_path, number, code
):
    server.catalogue_delay_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 3)
    with started(server, tmp_path, "run", "pairs.csv", "--json") as process:
        wait_for(lambda: server.catalogue_calls)
        ended = end_with(process, number)
    assert (ended.code, json.loads(ended.out)["exit_code"]) == (code, code)
    assert ended.took_s < AT_ONCE_S
    assert not server.posts
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("number", "code"), SIGNALS[:1])
def test_a_signal_while_a_long_manifest_is_planned_ends_it_at_once(server, tmp_path, number, code):
    write_pairs(tmp_path / "pairs.csv", 100_000)
    with started(server, tmp_path, "run", "pairs.csv", "--yes") as process:
        wait_for(lambda: server.catalogue_calls)
        ended = end_with(process, number)
    assert ended.code == code
    assert ended.took_s < AT_ONCE_S
    assert not server.posts


@pytest.mark.parametrize(("number", "code"), SIGNALS[1:])
def test_a_signal_while_posts_are_in_flight_waits_for_their_answers(server, tmp_path, number, code):
    server.post_delay_s, server.generate_s = 1.0, 60.0
    write_pairs(tmp_path / "pairs.csv", 12)
    with started(server, tmp_path, "run", "pairs.csv", "-c", 4, "--assume-price", 0.25) as process:
        wait_for(lambda: len(server.posts) == 4)
        ended = end_with(process, number)
    assert ended.code == code
    assert len(server.posts) == 4
    run_dir = tmp_path / "output/pairs"
    assert {one["request_id"] for one in ledger(run_dir) if one["event"] == "submitted"} == set(
        server.created
    )
    assert "4 requests are still running at the API, and may cost $1.00" in ended.out
    assert states(run_dir) == {"submitted": 4, "pending": 8}


def test_posts_without_an_answer_within_the_grace_are_unknown_and_told_as_such(server, tmp_path):
    server.post_delay_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 5)
    with started(server, tmp_path, "run", "pairs.csv", "-c", 2, "--grace", 1.5) as process:
        wait_for(lambda: len(server.posts) == 2)
        ended = end_with(process, signal.SIGINT)
    assert ended.code == 130
    assert ended.took_s < 1.5 + AT_ONCE_S
    sent_at = [one["at"] for one in ledger(tmp_path / "output/pairs") if one["event"] == "submitting"]
    assert "2 unknown" in ended.out
    assert all(f"sent {at}" in ended.out for at in sent_at)
    assert "Generations page" in ended.out
    server.post_delay_s = 0.0
    again = run(server, tmp_path, "pairs.csv")
    assert again.returncode == 1
    assert posted_once(server)
    assert states(tmp_path / "output/pairs") == {"unknown": 2, "done": 3}


@pytest.mark.parametrize(("number", "code"), SIGNALS[:1])
def test_a_second_signal_exits_at_once_whatever_the_grace(server, tmp_path, number, code):
    server.post_delay_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 3)
    with started(server, tmp_path, "run", "pairs.csv", "--grace", "5m") as process:
        wait_for(lambda: len(server.posts) == 3)
        ended = end_with(process, number, number)
    assert ended.code == code
    assert ended.took_s < AT_ONCE_S
    assert states(tmp_path / "output/pairs") == {"unknown": 3}


def test_a_burst_of_signals_still_leaves_a_whole_ledger(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 30)
    with started(server, tmp_path, "run", "pairs.csv", "-c", 10) as process:
        wait_for(lambda: len(server.posts) >= 5)
        ended = end_with(process, *[signal.SIGINT, signal.SIGTERM] * 4)
    assert ended.code in (130, 143)
    assert events(tmp_path / "output/pairs")["submitting"] >= len(server.posts)
    server.generate_s = 0.0
    run(server, tmp_path, "pairs.csv", "-c", 30)
    assert posted_once(server)


@pytest.mark.parametrize(("number", "code"), SIGNALS[2:])
def test_a_signal_while_downloading_leaves_no_half_file_and_the_next_run_fetches_it(
    server, tmp_path, number, code
):
    server.media_delay_s, server.generate_s = 60.0, 0.0
    write_pairs(tmp_path / "pairs.csv", 2)
    run_dir = tmp_path / "output/pairs"
    with started(server, tmp_path, "run", "pairs.csv") as process:
        wait_for(lambda: server.downloads == 2)
        ended = end_with(process, number)
    assert ended.code == code
    assert ended.took_s < AT_ONCE_S
    assert "2 are generated but not yet downloaded" in ended.out
    assert not list((run_dir / "media").iterdir())
    assert not list((run_dir / ".batcher/partial").iterdir())
    assert states(run_dir) == {"completed": 2}
    server.media_delay_s = 0.0
    assert run(server, tmp_path, "pairs.csv").returncode == 0
    assert len(server.posts) == 2


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_signal_while_waiting_out_a_long_retry_after_is_obeyed_within_the_grace(
    server, tmp_path, numbers
):
    server.on_post = lambda *_: web.Response(status=429, headers={"Retry-After": "3600"})
    write_pairs(tmp_path / "pairs.csv", 4)
    with started(server, tmp_path, "run", "pairs.csv") as process:
        wait_for(lambda: "deferred" in events_if_any(tmp_path / "output/pairs"))
        ended = end_with(process, *numbers)
    assert ended.code == 128 + numbers[0]
    assert ended.took_s < 5.0 + AT_ONCE_S
    assert states(tmp_path / "output/pairs") == {"pending": 4}
    assert len(server.posts) <= 4


def events_if_any(run_dir):
    path = run_dir / "ledger.jsonl"
    return path.read_text() if path.exists() else ""


def test_a_signal_while_a_large_body_is_sent_leaves_the_job_unknown(server, tmp_path):
    server.reads_uploads = False
    (tmp_path / "big.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(12 << 20))
    (tmp_path / "m.yaml").write_text(
        f"model: {KLING}\njobs:\n- {{id: big, prompt: a, image_url: big.png}}\n"
    )
    with started(server, tmp_path, "run", "m.yaml", "--grace", 1) as process:
        wait_for(lambda: server.uploads_begun)
        ended = end_with(process, signal.SIGINT)
    assert ended.code == 130
    assert ended.took_s < 1.0 + AT_ONCE_S
    assert states(tmp_path / "output/m") == {"unknown": 1}
    assert (tmp_path / "output/m/ledger.jsonl").stat().st_size < 5000
    server.reads_uploads = True
    assert run(server, tmp_path, "m.yaml").returncode == 1
    assert not server.posts


def test_a_name_that_is_being_looked_up_does_not_hold_up_ctrl_c(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\n"
        "def never(*a, **k):\n"
        "    open('asked', 'a').close()\n"
        "    time.sleep(60)\n"
        "socket.getaddrinfo = never\n"
    )
    write_pairs(tmp_path / "pairs.csv", 2)
    env = {"RUNCOMFY_TOKEN": "x" * 20, "RUNCOMFY_MODEL_API_BASE": "https://api.example.com/v1"}
    env["PYTHONPATH"] = f"{tmp_path}:{__file__.rsplit('/', 3)[0]}"
    with started(None, tmp_path, "run", "pairs.csv", env=env) as process:
        wait_for((tmp_path / "asked").exists)
        ended = end_with(process, signal.SIGINT)
    assert ended.code == 130
    assert ended.took_s < 5.0 + AT_ONCE_S


def ignoring_signals():
    """As a shell does for a background job, and ``nohup``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_signals_that_the_shell_or_nohup_ignores_stay_ignored(server, tmp_path):
    server.generate_s = 1.0
    write_pairs(tmp_path / "pairs.csv", 2)
    with started(server, tmp_path, "run", "pairs.csv", preexec_fn=ignoring_signals) as process:
        wait_for(lambda: len(server.posts) == 2)
        ended = end_with(process, signal.SIGINT, signal.SIGHUP)
    assert ended.code == 0


def test_cancelling_on_interrupt_tells_what_was_cancelled_from_what_runs_already(server, tmp_path):
    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 4)
    with started(server, tmp_path, "run", "pairs.csv", "--on-interrupt", "cancel") as process:
        wait_for(lambda: states_if_any(tmp_path / "output/pairs").get("submitted") == 4)
        next(iter(server.created.values())).at -= 40
        ended = end_with(process, signal.SIGINT)
    assert ended.code == 130
    assert (
        "3 requests were cancelled and cost nothing; 1 was not: running, or ended already" in ended.out
    )
    assert "1 request is still running at the API" in ended.out
    assert states(tmp_path / "output/pairs") == {"pending": 3, "submitted": 1}


def states_if_any(run_dir):
    return states(run_dir) if (run_dir / "ledger.jsonl").exists() else {}
