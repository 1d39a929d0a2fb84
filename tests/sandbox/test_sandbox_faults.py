"""Everything that can go wrong does, as often as told, the same way each time, at the right cost."""

from __future__ import annotations

import json
from collections import Counter
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from batcher.cli.entry import cli
from batcher.errors import UsageError
from batcher.sandbox.faults import CREATION_SHARE, OF_STAGE, PART_OF_SHARE, Fault, Faults, FaultStage
from batcher.sandbox.lessons import LESSONS, share, table
from tests.sandbox.test_sandbox import CAT, KLING, LONG_S, TEXT_TO_IMAGE, Caller, serving

HEADERS = {"Authorization": "Bearer x"}


def always(fault: Fault) -> dict[str, Any]:
    return {"faults": 1.0, "only_faults": frozenset({fault})}


async def seen(
    caller: Caller, method: str, url: str, **options: Any
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; status 0 where the connection closed instead."""
    try:
        async with caller.session.request(method, url, allow_redirects=False, **options) as answer:
            return answer.status, dict(answer.headers), await answer.read()
    except (aiohttp.ServerDisconnectedError, ConnectionError):
        return 0, {}, b""


async def post(caller: Caller, prompt: str = "x") -> tuple[int, dict[str, str], bytes]:
    url = f"{caller.base}/models/{TEXT_TO_IMAGE}"
    return await seen(caller, "POST", url, headers=HEADERS, json={"prompt": prompt})


CALLS = {
    "dropped": (0, None),
    "internal": (500, None),
    "gateway": (502, None),
    "unavailable": (503, None),
    "busy": (503, "Retry-After"),
    "limited": (429, "Retry-After"),
    "limited-date": (429, "Retry-After"),
    "error-code": (200, None),
    "unreadable": (200, None),
    "no-id": (200, None),
    "redirect": (307, "Location"),
    "lost": (404, None),
    "not-ready": (400, None),
}


@pytest.mark.parametrize("fault", [*OF_STAGE[FaultStage.SUBMIT], *OF_STAGE[FaultStage.CONNECT]])
async def test_a_post_goes_wrong_in_this_way(fault):
    async with serving(**always(fault)) as caller:
        status, headers, body = await post(caller)
        expected, header = CALLS[fault.kind]
        assert status == expected
        assert ("Retry-After" in headers) == (header == "Retry-After")
        assert ("Location" in headers) == (header == "Location")
        assert b'"request_id"' not in body or fault is Fault.SUBMIT_UNREADABLE
        assert caller.sandbox.stats.faults == {fault.value: 1}


@pytest.mark.parametrize("fault", [*OF_STAGE[FaultStage.SUBMIT], *OF_STAGE[FaultStage.CONNECT]])
async def test_a_post_that_goes_wrong_creates_a_job_only_where_that_is_ambiguous(fault):
    async with serving(**always(fault)) as caller:
        for number in range(40):
            await post(caller, str(number))
        created = caller.sandbox.stats.jobs_created
        share = CREATION_SHARE.get(fault, 0.0)
        assert created == 40 * share or (share == 0.5 and 10 <= created <= 30)
        assert caller.sandbox.stats.charged_usd == pytest.approx(created * 0.025)


@pytest.mark.parametrize("call", ["status", "result", "cancel"])
@pytest.mark.parametrize("fault", OF_STAGE[FaultStage.POLL])
async def test_a_question_about_a_request_goes_wrong_in_this_way(fault, call):
    async with serving(**always(fault)) as caller:
        request_id = await caller.submit()
        url = f"{caller.base}/requests/{request_id}/{call}"
        method = "POST" if call == "cancel" else "GET"
        status, headers, body = await seen(caller, method, url, headers=HEADERS)
        expected, header = CALLS[fault.kind]
        assert status == expected
        assert ("Retry-After" in headers) == (header == "Retry-After")
        if fault is Fault.POLL_UNREADABLE:
            with pytest.raises(ValueError):
                json.loads(body)
        assert caller.sandbox.stats.jobs_cancelled == 0


async def test_a_request_is_lost_once_and_then_found_again():
    async with serving(**always(Fault.POLL_LOST)) as caller:
        request_id = await caller.submit()
        assert (await caller.call("GET", f"/requests/{request_id}/result"))[0] == 404
        assert (await caller.result(request_id))["status"] == "in_queue"


async def test_retry_after_is_seconds_or_a_date_to_come():
    async with serving(**always(Fault.SUBMIT_LIMITED)) as caller:
        assert (await post(caller))[1]["Retry-After"] == "1"
    async with serving(**always(Fault.SUBMIT_LIMITED_DATE)) as caller:
        moment = parsedate_to_datetime((await post(caller))[1]["Retry-After"])
        assert 0 < (moment - caller.clock.now()).total_seconds() <= 2


async def test_who_follows_a_redirect_is_counted():
    async with serving(**always(Fault.SUBMIT_REDIRECT)) as caller:
        url = f"{caller.base}/models/{TEXT_TO_IMAGE}"
        async with caller.session.post(url, headers=HEADERS, json={"prompt": "x"}) as answer:
            assert answer.status == 404
        assert caller.sandbox.stats.redirects_followed == 1


@pytest.mark.parametrize(
    ("fault", "words", "result"),
    [
        (Fault.GENERATE_FAILED, ["in_queue", "in_progress", "failed"], "failed"),
        (Fault.GENERATE_REFUSED, ["in_queue", "in_progress", "failed"], "failed"),
        (Fault.GENERATE_SLOW, ["in_queue", "in_progress", "completed"], "succeeded"),
        (Fault.GENERATE_FAILED_RESULT, ["in_queue", "in_progress", "completed"], "failed"),
        (Fault.GENERATE_ERROR_LIST, ["in_queue", "in_progress", "completed"], "failed"),
        (Fault.GENERATE_NO_OUTPUT, ["in_queue", "in_progress", "completed"], "succeeded"),
        (Fault.GENERATE_OTHER_SHAPE, ["in_queue", "in_progress", "completed"], "succeeded"),
        (Fault.GENERATE_STRANGE_WORD, ["in_queue", "post_processing", "completed"], "succeeded"),
        (Fault.GENERATE_SYNONYMS, ["pending", "processing", "completed"], "completed"),
    ],
)
async def test_a_generation_ends_in_this_way(fault, words, result):
    async with serving(**always(fault)) as caller:
        request_id = await caller.submit()
        told = []
        for wait_s in (0.0, 1.1, LONG_S):
            caller.clock.elapsed_s += wait_s
            told.append((await caller.call("GET", f"/requests/{request_id}/status"))[1]["status"])
        ended = await caller.result(request_id)
        assert told == words
        assert ended.get("status") == result
        assert ("error" in ended) == (result == "failed")
        assert isinstance(ended.get("error"), list) == (fault is Fault.GENERATE_ERROR_LIST)
        assert ("output" in ended) == (result != "failed"), "output only of what succeeded"
        strange = (Fault.GENERATE_STRANGE_WORD, Fault.GENERATE_SYNONYMS)
        whole = fault in (*strange, Fault.GENERATE_SLOW, Fault.GENERATE_OTHER_SHAPE)
        assert bool(ended.get("output")) == whole
        assert caller.sandbox.stats.faults == {fault.value: 1}


async def test_a_cancelled_request_has_one_spelling_more():
    async with serving(**always(Fault.GENERATE_SYNONYMS)) as caller:
        request_id = await caller.submit()
        answer = await caller.call("POST", f"/requests/{request_id}/cancel")
        assert answer[1]["outcome"] == answer[1]["status"] == "cancellation_requested"
        assert (await caller.result(request_id))["status"] == "canceled"


async def download(caller: Caller) -> tuple[str, int, dict[str, str], bytes | None]:
    url = (await caller.finished(TEXT_TO_IMAGE, {"prompt": "x"}))["output"]["image"]
    try:
        return url, *await seen(caller, "GET", url)
    except aiohttp.ClientPayloadError:
        return url, 200, {}, None


@pytest.mark.parametrize(
    ("fault", "status", "start"),
    [
        (Fault.DOWNLOAD_DROPPED, 0, b""),
        (Fault.DOWNLOAD_INTERNAL, 500, b"<!DOCTYPE html>"),
        (Fault.DOWNLOAD_BUSY, 503, b"{"),
        (Fault.DOWNLOAD_TRUNCATED, 200, None),
        (Fault.DOWNLOAD_WRONG_LENGTH, 200, None),
        (Fault.DOWNLOAD_HTML, 200, b"<!DOCTYPE html>"),
        (Fault.DOWNLOAD_EMPTY, 200, b""),
        (Fault.DOWNLOAD_EXPIRED, 403, b"<?xml"),
        (Fault.DOWNLOAD_RANGE_IGNORED, 200, b"\x89PNG"),
    ],
)
async def test_a_download_goes_wrong_in_this_way(fault, status, start):
    async with serving(**always(fault)) as caller:
        _, got, headers, body = await download(caller)
        assert got == status
        assert body is None if start is None else body is not None and body.startswith(start)
        assert bool(body) == (start != b"" and start is not None)
        if fault is Fault.DOWNLOAD_BUSY:
            assert headers["Retry-After"] == "1"
        # aiohttp's client repeats a GET by itself where a kept connection closed on it.
        assert set(caller.sandbox.stats.faults) == {fault.value}


async def partly(caller: Caller, url: str) -> tuple[int, bytes]:
    """The promised length, and all that came before the connection closed."""
    got = b""
    async with caller.session.get(url) as answer:
        try:
            async for piece in answer.content.iter_any():
                got += piece
        except aiohttp.ClientPayloadError:
            pass
        return int(answer.headers["Content-Length"]), got


async def test_what_breaks_off_can_be_taken_up_again():
    async with serving(**always(Fault.DOWNLOAD_TRUNCATED)) as caller:
        url, *_ = await download(caller)
        promised, got = await partly(caller, url)
        assert len(got) == promised // 2
    async with serving(**always(Fault.DOWNLOAD_WRONG_LENGTH)) as caller:
        url, *_ = await download(caller)
        promised, got = await partly(caller, url)
        assert promised == len(got) + 1000
        assert got.endswith(b"IEND\xaeB\x60\x82")


async def test_a_range_can_be_ignored():
    async with serving(**always(Fault.DOWNLOAD_RANGE_IGNORED)) as caller:
        url, *_ = await download(caller)
        status, _, body = await caller.fetch(url, Range="bytes=10-")
        assert (status, body[:4]) == (200, b"\x89PNG")


async def test_the_head_of_an_output_never_fails():
    async with serving(**always(Fault.DOWNLOAD_INTERNAL)) as caller:
        url, *_ = await download(caller)
        assert (await caller.fetch(url, "HEAD"))[0] == 200


async def session_of(seed: int, share: float) -> tuple[Counter[str], list[int]]:
    async with serving(seed=seed, faults=share) as caller:
        answers = [(await post(caller, str(number)))[0] for number in range(60)]
        return Counter(caller.sandbox.stats.faults), answers


async def test_a_seed_repeats_its_faults_and_another_has_others():
    assert await session_of(1, 0.3) == await session_of(1, 0.3)
    assert await session_of(1, 0.3) != await session_of(2, 0.3)


async def test_without_faults_nothing_goes_wrong():
    faults, answers = await session_of(1, 0.0)
    assert not faults
    assert set(answers) == {200}


def test_what_users_meet_often_is_met_most():
    faults = Faults(seed=3, share=0.9)
    often = {
        FaultStage.SUBMIT: Fault.SUBMIT_LIMITED,
        FaultStage.POLL: Fault.POLL_LIMITED,
        FaultStage.GENERATE: Fault.GENERATE_SLOW,
        FaultStage.DOWNLOAD: Fault.DOWNLOAD_EXPIRED,
    }
    for stage, fault in often.items():
        drawn = Counter(faults.draw(stage, str(number), 0) for number in range(2000))
        del drawn[None]
        assert drawn.most_common(1)[0][0] is fault


@pytest.mark.parametrize("stage", [FaultStage.SUBMIT, FaultStage.POLL])
async def test_no_fault_says_that_the_model_is_unknown(stage):
    for fault in OF_STAGE[stage]:
        async with serving(**always(fault)) as caller:
            assert b"400001" not in (await post(caller))[2]


async def test_a_slow_generation_takes_several_times_as_long():
    orders = []
    for fault in (Fault.GENERATE_SLOW, Fault.GENERATE_SYNONYMS):
        async with serving(**always(fault)) as caller:
            request_id = await caller.submit()
            orders.append(caller.sandbox._store.get(request_id).order)
    assert orders[0].run_s == pytest.approx(5 * orders[1].run_s)


def test_every_fault_is_met_and_about_as_often_as_told():
    faults = Faults(seed=3, share=0.25)
    for stage, pool in OF_STAGE.items():
        drawn = Counter(faults.draw(stage, str(number), 0) for number in range(4000))
        met = 4000 - drawn[None]
        assert set(drawn) == {None, *pool}
        expected = 1000 * PART_OF_SHARE.get(stage, 1.0)
        assert expected * 0.75 < met < expected * 1.25


async def test_the_next_post_of_the_same_job_meets_another_fate():
    async with serving(seed=5, faults=0.5) as caller:
        answers = {(await post(caller))[0] for _ in range(100)}
        assert 200 in answers
        assert len(answers) > 3


async def test_a_fault_never_charges_beyond_the_balance():
    async with serving(balance_usd=0.05, **always(Fault.SUBMIT_DROPPED)) as caller:
        answers = [(await post(caller, str(number)))[0] for number in range(4)]
        assert answers == [0, 0, 400, 400]


async def test_rejections_come_before_faults():
    async with serving(**always(Fault.SUBMIT_DROPPED)) as caller:
        status, _ = await caller.call("POST", f"/models/{KLING}", json=CAT | {"duration": 6})
        assert status == 422
        assert not caller.sandbox.stats.faults


def test_every_fault_is_explained_in_help_and_docs():
    assert {*LESSONS} == {*Fault}
    page = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text("utf-8")
    assert "\n".join(table()) in page, "print it again: python -m batcher.sandbox.lessons"
    told = CliRunner().invoke(cli, ["sandbox", "--help"]).output
    assert all(f"{fault} " in told and LESSONS[fault].outcome in told for fault in Fault)


def test_the_shares_that_are_told_are_those_that_are_drawn():
    assert sum(map(share, Fault)) == pytest.approx(len(FaultStage) - 1), "connect is a part of submit"
    faults = Faults(seed=1, share=1.0)
    drawn = Counter(faults.draw(FaultStage.POLL, str(number), 0) for number in range(5000))
    assert drawn[Fault.POLL_LIMITED] / 5000 == pytest.approx(share(Fault.POLL_LIMITED), abs=0.03)


def test_a_fault_that_there_is_not_is_refused_with_the_nearest():
    said = CliRunner().invoke(cli, ["sandbox", "--only", "submit:droped"], standalone_mode=False)
    assert isinstance(said.exception, UsageError)
    assert "submit:dropped" in str(said.exception)


async def test_not_ready_is_said_only_of_what_is_under_way():
    async with serving(**always(Fault.POLL_NOT_READY)) as caller:
        request_id = await caller.submit()
        assert (await caller.call("GET", f"/requests/{request_id}/result"))[0] == 400
        caller.clock.elapsed_s += LONG_S
        assert (await caller.result(request_id))["status"] == "succeeded"


async def test_error_bodies_have_the_shapes_of_the_api():
    bodies = {}
    for fault in (Fault.POLL_INTERNAL, Fault.POLL_GATEWAY, Fault.POLL_ERROR_CODE):
        async with serving(**always(fault)) as caller:
            request_id = await caller.submit()
            bodies[fault.kind] = (await caller.call("GET", f"/requests/{request_id}/status"))[1]
    assert bodies["internal"]["error_code"] == bodies["error-code"]["error_code"] == 500001
    assert bodies["gateway"] == {"http_code": 502, "message": "Bad Gateway"}
