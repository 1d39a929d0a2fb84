"""Servers that mean harm, against the installed command: nothing but whole media under our names gets in.

Single rules are held elsewhere: ``test_download_trust.py`` (hosts, addresses, DNS names that resolve to
private ones), ``test_download.py`` (redirects, encodings, sizes), ``test_service_answers.py``.
"""

import gzip
import json
import re

import pytest
from aiohttp import web

from tests.support.api_server import TOKEN, run_command
from tests.support.faults import SlowServer, ledger, run, states, write_pairs

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def server():
    served = SlowServer(generate_s=0.0).start()
    yield served
    served.stop()


def completed(output, **more):
    return lambda *_: web.json_response({"status": "completed", "output": output, **more})


def files(tmp_path):
    """Everything beside our own state that a run left anywhere below."""
    ours = {"ledger.jsonl", "metadata.jsonl", "README.md", "pairs.csv", "book.jsonl"}
    return sorted(
        path.name
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name not in ours and ".batcher" not in path.parts
    )


REFUSED_URLS = {
    "another host": "https://evil.example.com/a.mp4",
    "a look-alike host": "https://runcomfy.net.evil.example/a.mp4",
    "the cloud's metadata": "http://169.254.169.254/latest/meta-data/",
    "a neighbour": "https://192.168.0.1/a.mp4",
    "another port of this machine": "http://127.0.0.1:1/a.mp4",
    "a user name in front": "https://runcomfy.net@evil.example/a.mp4",
}


def test_outputs_on_hosts_that_are_not_trusted_are_refused_and_told(server, tmp_path):
    urls = iter(REFUSED_URLS.values())
    seen = {}
    server.on_result = lambda _, asked: web.json_response(
        {
            "status": "completed",
            "output": {
                "video": seen.setdefault(asked["id"], None)
                or seen.update({asked["id"]: next(urls)})
                or seen[asked["id"]]
            },
        }
    )
    write_pairs(tmp_path / "pairs.csv", len(REFUSED_URLS))
    ended = run(server, tmp_path, "pairs.csv")
    assert ended.returncode == 1
    assert {one["code"] for one in ledger(tmp_path / "output/pairs") if one["event"] == "failed"} == {
        "host"
    }
    assert states(tmp_path / "output/pairs") == {"failed": len(REFUSED_URLS)}
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://169.254.169.254/", "https://evil.example/a.mp4", "/media/loop.mp4"],
)
def test_redirects_out_of_trust_or_without_end_bring_nothing(server, tmp_path, location):
    server.on_media = lambda *_: web.Response(status=302, headers={"Location": location})
    server.created["loop"] = (
        server.created.get("loop")
        or type("Made", (), {"id": "loop", "media": b"", "seen_finished": True})()
    )
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = run(server, tmp_path, "pairs.csv", timeout_s=50)
    assert ended.returncode == 1
    assert states(tmp_path / "output/pairs") == {"failed": 1}
    assert files(tmp_path) == []


BODIES = {
    "an error page": (b"<!doctype html><h1>oops</h1>", {}, "not_media"),
    "JSON": (b'{"error": "gone"}', {}, "not_media"),
    "nothing": (b"", {}, "not_media"),
    "a gzip bomb": (gzip.compress(bytes(20 << 20)), {"Content-Encoding": "gzip"}, "too_large"),
    "more than the limit": (b"\x00\x00\x00\x18ftypmp42" + bytes(200_000), {}, "too_large"),
}


@pytest.mark.parametrize(("body", "headers", "code"), BODIES.values(), ids=BODIES)
def test_what_is_no_whole_media_file_is_not_an_output(server, tmp_path, body, headers, code):
    server.on_media = lambda *_: web.Response(
        body=body, headers={"Content-Type": "video/mp4", **headers}
    )
    write_pairs(tmp_path / "pairs.csv", 1)
    ended = run(server, tmp_path, "pairs.csv", "--max-file-size", "100KB")
    assert ended.returncode == 1
    assert [one["code"] for one in ledger(tmp_path / "output/pairs") if one["event"] == "failed"] == [
        code
    ]
    assert files(tmp_path) == []


def test_a_file_name_is_ours_whatever_the_url_and_the_headers_call_it(server, tmp_path):
    server.on_result = lambda s, asked: web.json_response(
        {
            "status": "completed",
            "output": {
                "video": f"{s.base[:-3]}/media/{asked['id']}.mp4?name=../../../evil.sh&/..%2f..%2fx"
            },
        }
    )
    disposition = {
        "Content-Disposition": 'attachment; filename="../../evil.sh"',
        "Content-Type": "application/x-sh",
    }
    server.on_media = lambda s, made: web.Response(body=s.created[made["id"]].media, headers=disposition)
    (tmp_path / "pairs.csv").write_text("id,prompt,image_url\nhero,a,https://example.com/a.png\n")
    assert (
        run(server, tmp_path, "pairs.csv", "--model", "kling/kling-2-1/master/image-to-video").returncode
        == 0
    )
    assert files(tmp_path) == ["hero.mp4"]


NO_IDS = [
    "../../v1/models/x",
    "a/b",
    "..",
    "a\nb",
    "a\x1b[2Jb",
    "",
    "x" * 5000,
    ["a"],
    {"id": 1},
    None,
    1.5,
]


def test_a_request_id_that_is_none_makes_the_job_unknown_and_no_other_call(server, tmp_path):
    server.after_post = lambda _, body: web.json_response(
        {"request_id": NO_IDS[int(body["prompt"].split()[-1])], "status_url": "file:///etc/passwd"}
    )
    write_pairs(tmp_path / "pairs.csv", len(NO_IDS))
    ended = run(server, tmp_path, "pairs.csv", "-c", 20)
    assert ended.returncode == 3  # a row of submissions without an answer stops a run
    assert states(tmp_path / "output/pairs") == {"unknown": len(NO_IDS)}
    assert (server.polls, len(server.posts)) == (0, len(NO_IDS))


def test_no_control_character_of_a_servers_reaches_the_terminal(server, tmp_path):
    nasty = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202egpj.evil\u2028"
    server.on_post = lambda _, body: (
        web.json_response({"message": nasty, "detail": nasty}, status=422)
        if body["prompt"].endswith("0")
        else None
    )
    server.on_result = lambda *_: web.json_response(
        {"status": "failed" if server.polls % 2 else nasty, "error": nasty}
    )
    write_pairs(tmp_path / "pairs.csv", 3)
    ended = run(server, tmp_path, "pairs.csv", "-v", "--job-timeout", 1)
    said = ended.stdout + ended.stderr
    for arguments in (
        ["status", "output/pairs"],
        ["status", "output/pairs", "--list", "failed,unknown,submitted"],
        ["plan", "pairs.csv"],
    ):
        told = run_command(server, tmp_path, *arguments)
        said += told.stdout + told.stderr
    assert "owned" in said
    assert not CONTROL.search(said)


def test_no_control_character_of_a_ledger_or_a_path_reaches_the_terminal(server, tmp_path):
    nasty = "evil\x1b[2J\x9b31m\x07\u202e"
    write_pairs(tmp_path / f"{nasty}.csv", 1)
    run_dir = tmp_path / f"out{nasty}"
    run_dir.mkdir()
    job = {
        "event": "submitting",
        "at": nasty,
        "job": nasty,
        "attempt": 1,
        "model": nasty,
        "input": {"prompt": nasty},
    }
    failed = {**job, "event": "failed", "stage": "submit", "code": nasty, "message": nasty}
    (run_dir / "ledger.jsonl").write_text(
        "".join(json.dumps(one) + "\n" for one in (job, failed, {**job, "job": f"2{nasty}"}))
    )
    said = ""
    for arguments in (
        ["status", run_dir],
        ["status", run_dir, "--list", "failed,unknown"],
        ["status", run_dir, "--json"],
        ["verify", run_dir],
        ["resolve", run_dir, nasty, "--not-created"],
        ["resolve", run_dir, f"2{nasty}", "--not-created"],
        ["cancel", run_dir],
        ["plan", f"{nasty}.csv", "-o", run_dir],
        ["run", f"{nasty}.csv", "-o", run_dir],
        ["run", f"{nasty}.csv", "-o", run_dir, "--yes", "--poll", "0.1"],
        ["run", f"no{nasty}.csv"],
        [nasty],
    ):
        told = run_command(server, tmp_path, *arguments)
        assert "Traceback" not in told.stderr
        assert told.returncode != 70, told.stderr
        said += told.stdout + told.stderr
    assert "evil" in said
    assert not CONTROL.search(said)


def test_the_token_is_nowhere_even_where_the_server_repeats_it(server, tmp_path):
    echo = {"message": f"bad token {TOKEN}", "detail": [{"loc": ["body", TOKEN], "msg": TOKEN[3:20]}]}
    server.on_post = lambda _, body: (
        web.json_response(echo, status=422) if body["prompt"].endswith("0") else None
    )
    server.on_result = lambda s, asked: (
        web.json_response({"status": "failed", "error": echo}) if s.polls % 2 else None
    )
    server.on_media = lambda *_: web.Response(status=403, text=TOKEN)
    write_pairs(tmp_path / "pairs.csv", 4)
    ended = run(server, tmp_path, "pairs.csv", "-v", "--log-format", "json", "--job-timeout", 2)
    server.on_result = lambda *_: web.json_response({"message": TOKEN}, status=401)
    again = run(server, tmp_path, "pairs.csv", "-v", "--retry-failed", "--json")
    said = ended.stdout + ended.stderr + again.stdout + again.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for part in (TOKEN, TOKEN[:12], TOKEN[-12:]):
        assert part not in said
        assert part.encode() not in written
    assert "***" in said


def test_the_token_is_not_on_the_command_line_of_the_process(server, tmp_path):
    from tests.support.faults import started, wait_for

    server.generate_s = 60.0
    write_pairs(tmp_path / "pairs.csv", 1)
    with started(server, tmp_path, "run", "pairs.csv") as process:
        wait_for(lambda: server.created)
        for name in ("cmdline", "comm"):
            with open(f"/proc/{process.pid}/{name}", "rb") as file:
                assert TOKEN.encode() not in file.read()


def test_a_token_file_that_others_can_read_is_warned_about_and_a_private_one_is_not(server, tmp_path):
    config = tmp_path / ".config/runcomfy"
    config.mkdir(parents=True)
    (config / "token.json").write_text(json.dumps({"access_token": TOKEN}))
    write_pairs(tmp_path / "pairs.csv", 1)
    for mode, warned in ((0o644, True), (0o600, False)):
        (config / "token.json").chmod(mode)
        ended = run(server, tmp_path, "pairs.csv", "-o", f"run-{mode}", RUNCOMFY_TOKEN="")
        assert ended.returncode == 0
        assert ("chmod 600" in ended.stderr) == warned
        assert TOKEN not in ended.stderr
