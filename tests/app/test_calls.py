"""``--verbose``: a line for each call, with how it went and how long it took, and no secret in it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from batcher.app.calls import timed
from batcher.app.progress import JsonLines, LogLines, Verbose
from batcher.cli.entry import cli
from batcher.download.transfer import Fetched
from batcher.errors import OutcomeUnknown
from batcher.ports import CancelOutcome, EndedCall, Handle, Phase, Result, RunView, Silence
from tests.support.engine import FakeClock, in_virtual_time

SECRET_URL = "https://cdn.example.com/a.mp4?X-Amz-Signature=s3cret"


class Api:
    """Answers everything, each call after a second."""

    name, traits = "any", None

    def __init__(self, clock):
        self.clock = clock

    async def submit(self, model, body):
        self.clock.at_s += 1
        if b"lost" in body:
            raise OutcomeUnknown("no answer")
        return Handle(model, "request-1")

    async def result(self, handle):
        return Result(Phase.RUNNING, "in_progress")

    async def cancel(self, request_id):
        return CancelOutcome.CANCELLED

    async def fetch(self, url, partial, refresh):
        return Fetched(12, "0" * 64, ".mp4", "video/mp4")


class Heard(Silence):
    def __init__(self):
        self.calls = []

    def call(self, call):
        self.calls.append(call)


@in_virtual_time
async def test_each_call_is_told_with_its_outcome_and_the_time_that_it_took():
    clock, heard = FakeClock(), Heard()
    api = Api(clock)
    providers, fetcher = timed(lambda model: api, api, heard, clock)
    provider = providers("a/model")
    await provider.submit("a/model", b'{"prompt": "private"}')
    await provider.result(Handle("a/model", "request-1"))
    await provider.cancel(Handle("a/model", "request-1"))
    await fetcher.fetch(SECRET_URL, Path("x"), None)
    assert heard.calls == [
        EndedCall("submit", "a/model", "request-1", 1.0),
        EndedCall("result", "request-1", "in_progress", 0.0, Phase.RUNNING),
        EndedCall("cancel", "request-1", "cancelled", 0.0),
        EndedCall("download", "cdn.example.com", "12 bytes", 0.0),
    ]
    assert not re.search("private|s3cret", str(heard.calls))


@in_virtual_time
async def test_a_call_that_fails_is_told_too_and_fails_as_before():
    clock, heard = FakeClock(), Heard()
    providers, _ = timed(lambda model: Api(clock), Api(clock), heard, clock)
    with pytest.raises(OutcomeUnknown):
        await providers("a/model").submit("a/model", b"lost")
    assert [call.outcome.split(":")[0] for call in heard.calls] == ["OutcomeUnknown"]


def test_an_observer_that_does_not_want_calls_costs_nothing():
    api = Api(FakeClock())
    assert timed(api, api, Silence(), FakeClock()) == (api, api)


@pytest.mark.parametrize("lines", [LogLines, JsonLines])
def test_calls_do_not_put_off_the_line_a_minute(lines):
    stream, clock = io.StringIO(), FakeClock()
    watcher, view = Verbose(lines(stream, clock)), RunView(selected=9)
    watcher.started(view)
    for second in range(1, 62):
        clock.at_s = float(second)
        watcher.call(EndedCall("result", "request-1", "in_progress", 0.1))
        watcher.changed(view)
    said = stream.getvalue()
    assert said.count("result request-1: in_progress (0.100 s)") == 61
    assert said.count("0/9 done") == 1


def test_the_command_line_tells_each_call_of_a_run_when_asked_to(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(
        '{"id": "a", "model": "kling/kling-2-1/master/image-to-video", "prompt": "private words",'
        ' "image_url": "https://example.com/a.png"}\n'
    )
    words = [
        "run",
        str(manifest),
        "--sandbox",
        "--sandbox-speed",
        "500",
        "-o",
        str(tmp_path / "out"),
        "-v",
    ]
    told = CliRunner().invoke(cli, words).stderr
    for kind in ("submit kling/", "result ", "download "):
        assert f"batcher: {kind}" in told
    assert "private words" not in told
    assert "?" not in told
