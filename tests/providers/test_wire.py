"""What servers and the networks before them do to an exchange: raw bytes against the client."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from batcher.errors import OutcomeUnknown, Unavailable
from batcher.http.connections import HEADER_MAX_BYTES
from batcher.http.exchange import unpack
from batcher.ports import CancelOutcome, Phase
from tests.providers.test_runcomfy_provider import BODY, MODEL, SECRET, TOKEN, error_of, service_at
from tests.support.model_api import named
from tests.support.scripted import Request, ScriptedServer, answer, json_answer

ACCEPTED = {"request_id": "r1"}
BODY_R1 = json.dumps(ACCEPTED).encode()


def raw(head: str, body: bytes = BODY_R1) -> bytes:
    return head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body


def sized(head: str, body: bytes = BODY_R1) -> bytes:
    return raw(f"{head}\nContent-Length: {len(body)}", body)


def with_headers(*headers: str) -> bytes:
    return sized("\n".join(("HTTP/1.1 200 OK", *headers)))


# --- connections that have something to read ------------------------------------------------------

STRAY = {
    "a refusal": json_answer({"error_code": 400001}, 400),
    "another request's id": json_answer({"request_id": "stray"}),
    "a time-out of an idle connection": answer(408),
    "garbage": b"\x00\xff garbage",
}


@pytest.mark.parametrize("stray", STRAY.values(), ids=STRAY)
@pytest.mark.parametrize("late", [True, False], ids=["while it is idle", "with the answer"])
async def test_bytes_that_came_unasked_are_no_answer_to_the_next_post(stray: bytes, late: bool) -> None:
    async def then_stray(_: Request, peer: Any) -> None:
        await peer.send(json_answer({"request_id": "first"}) + (b"" if late else stray))
        if late:
            await asyncio.sleep(0.02)
            await peer.send(stray)

    async with ScriptedServer(then_stray, json_answer(ACCEPTED)) as server:
        async with service_at(server.url) as service:
            assert (await service.submit(MODEL, BODY)).id == "first"
            await asyncio.sleep(0.06)
            assert (await service.submit(MODEL, BODY)).id == "r1"
        assert [request.connection for request in server.posts] == [0, 1]


async def test_bytes_that_the_loop_has_not_read_yet_are_found_before_a_post() -> None:
    sent = asyncio.Event()

    async def then_stray(_: Request, peer: Any) -> None:
        await peer.send(json_answer({"request_id": "first"}))
        await sent.wait()
        # The kernel has them at once; the client's side of the loop hasn't had a turn since.
        peer.writer.get_extra_info("socket")._sock.send(STRAY["a refusal"])
        woken.set_result(None)

    async with ScriptedServer(then_stray, json_answer(ACCEPTED)) as server:
        async with service_at(server.url) as service:
            assert (await service.submit(MODEL, BODY)).id == "first"
            woken = asyncio.get_running_loop().create_future()
            sent.set()
            await woken
            assert (await service.submit(MODEL, BODY)).id == "r1"
        assert [request.connection for request in server.posts] == [0, 1]


# --- heads ----------------------------------------------------------------------------------------

HEADS = {
    "a cookie of 9,000 bytes": with_headers(f"Set-Cookie: a={'x' * 9000}"),
    "a header of nearly 256 KiB": with_headers(f"X-Trace: {'x' * (HEADER_MAX_BYTES - 100)}"),
    "a thousand headers": with_headers(*(f"X-H{n}: {n}" for n in range(1000))),
    "a header above every limit": with_headers(f"X-Trace: {'x' * (HEADER_MAX_BYTES + 100)}"),
    "a control character in a header": with_headers("X-Odd: a\x00b"),
    "a header without a colon": with_headers("nothing to see"),
    "a header with a space in its name": with_headers("Bad Name: x"),
    "two lengths that differ": with_headers("Content-Length: 5"),
    "a length that is none": raw("HTTP/1.1 200 OK\nContent-Length: many"),
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 20\n\n" + BODY_R1,
    "early hints before it": raw("HTTP/1.1 103 Early Hints\nLink: </x>", sized("HTTP/1.1 200 OK")),
    "continue before it": raw("HTTP/1.1 100 Continue", sized("HTTP/1.1 202 Accepted")),
    "HTTP/1.0 with a length": sized("HTTP/1.0 200 OK"),
    "no reason": sized("HTTP/1.1 200"),
    "a length that promises more": raw("HTTP/1.1 200 OK\nContent-Length: 999"),
    "chunks with trailers": raw(
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked",
        b"a\r\n" + BODY_R1[:10] + b"\r\na;x=1\r\n" + BODY_R1[10:] + b"\r\n0\r\nX-Sum: 1\r\n\r\n",
    ),
    "chunks that break off behind the object": raw(
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"14\r\n" + BODY_R1 + b"\r\n"
    ),
    "chunks under broken headers": raw(
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX-Odd: a\x00b",
        b"a\r\n" + BODY_R1[:10] + b"\r\na\r\n" + BODY_R1[10:] + b"\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS)
async def test_the_id_of_a_post_is_read_whatever_the_headers_hold(sent: bytes) -> None:
    async def send_and_close(_: Request, peer: Any) -> None:
        await peer.send(sent)
        peer.close()

    async with ScriptedServer(send_and_close) as server, service_at(server.url) as service:
        assert (await service.submit(MODEL, BODY)).id == "r1"
        assert len(server.posts) == 1


NO_IDS = {
    "a refusal under broken headers": raw("HTTP/1.1 400 Bad\nX-Odd: a\x00b"),
    "half an object": raw("HTTP/1.1 200 OK\nContent-Length: 99", BODY_R1[:-1]),
    "no end of the headers": b"HTTP/1.1 200 OK\r\nX-Body: " + BODY_R1 + b"\r\n",
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.6\r\n\r\n" + BODY_R1,
}


@pytest.mark.parametrize("sent", NO_IDS.values(), ids=NO_IDS)
async def test_what_is_no_whole_2xx_with_an_id_leaves_the_outcome_unknown(sent: bytes) -> None:
    async def send_and_close(_: Request, peer: Any) -> None:
        await peer.send(sent)
        peer.close()

    async with ScriptedServer(send_and_close) as server, service_at(server.url) as service:
        assert type(await error_of("submit", service)) is OutcomeUnknown


# --- packing --------------------------------------------------------------------------------------

RAW_DEFLATE = zlib.compressobj(wbits=-zlib.MAX_WBITS)
PACKED = {
    "plain under gzip": ("gzip", BODY_R1),
    "plain under br": ("br", BODY_R1),
    "plain under zstd": ("zstd", BODY_R1),
    "plain under aws-chunked": ("aws-chunked", BODY_R1),
    "plain under utf-8": ("utf-8", BODY_R1),
    "gzip under gzip": ("gzip", gzip.compress(BODY_R1)),
    "gzip without a label": ("", gzip.compress(BODY_R1)),
    "gzip under identity": ("identity", gzip.compress(BODY_R1)),
    "gzip twice": ("gzip, gzip", gzip.compress(gzip.compress(BODY_R1))),
    "deflate": ("deflate", zlib.compress(BODY_R1)),
}


@pytest.mark.parametrize(("label", "body"), PACKED.values(), ids=PACKED)
async def test_an_answer_is_unpacked_by_its_bytes_and_not_by_its_label(label: str, body: bytes) -> None:
    sent = answer(200, body, {"Content-Encoding": label} if label else {})
    async with ScriptedServer(sent) as server, service_at(server.url) as service:
        assert (await service.submit(MODEL, BODY)).id == "r1"


def test_a_bomb_is_not_unpacked_and_what_only_looks_packed_is_left_as_it_is() -> None:
    assert unpack(gzip.compress(b"0" * 10_000_000), 1000) is None
    assert unpack(gzip.compress(BODY_R1)[:-4], 1000) == BODY_R1, "a cut checksum costs nothing"
    assert unpack(b"\x1f\x8b\x08 no", 1000) == b"\x1f\x8b\x08 no"
    assert unpack(b"x", 1000) == b"x"


# --- polls ----------------------------------------------------------------------------------------


async def test_a_result_of_another_request_is_not_believed() -> None:
    other = json_answer({"request_id": "r2", "status": "succeeded", "output": {"video": "https://x/a"}})
    async with ScriptedServer(other) as server, service_at(server.url) as service:
        assert type(await error_of("result", service)) is Unavailable
        assert type(await error_of("cancel", service)) is Unavailable


@pytest.mark.parametrize("cost", [b"NaN", b"9" * 5000, b"1e999"])
async def test_a_cost_that_is_no_number_costs_no_result(cost: bytes) -> None:
    body = (
        b'{"request_id": "r1", "status": "succeeded", "output": {"video": "https://x/a"}, "cost": %s}'
        % cost
    )
    async with ScriptedServer(answer(200, body)) as server, service_at(server.url) as service:
        found = await service.result(named("r1"))
        assert (found.phase, found.urls, found.cost_usd) == (Phase.SUCCEEDED, ("https://x/a",), None)


async def test_a_cancel_that_was_accepted_is_told_as_such() -> None:
    sent = json_answer({"status": "in_queue"}, 202)
    async with ScriptedServer(sent) as server, service_at(server.url) as service:
        assert await service.cancel(named("r1")) is CancelOutcome.REQUESTED


# --- the token ------------------------------------------------------------------------------------


async def test_a_request_id_that_is_the_token_is_none() -> None:
    sent = json_answer({"request_id": SECRET})
    async with ScriptedServer(sent) as server, service_at(server.url) as service:
        assert type(await error_of("submit", service)) is OutcomeUnknown


async def test_the_catalogue_repeats_no_token_in_any_spelling() -> None:
    spellings = [SECRET, f"Bearer {SECRET}", *TOKEN.spellings()]
    entry = {"model_id": "m", "description": spellings, "input_schema": {SECRET: {"type": "string"}}}
    async with ScriptedServer(json_answer(entry)) as server, service_at(server.url) as service:
        told = json.dumps(await service.model("m"))
    assert not any(spelling in told for spelling in spellings)
    assert "***" in told
