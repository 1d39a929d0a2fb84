"""Outputs are real files behind URLs that expire, on a host that is no place for the token."""

from __future__ import annotations

import random
import struct
import time
import zlib
from typing import Any

import pytest

from batcher.sandbox.pictures import draw_png
from tests.sandbox.test_sandbox import (
    CAT,
    FLUX_EDIT,
    KLING,
    SEVERAL,
    SPEECH,
    TEXT_TO_IMAGE,
    VIDEO_TO_VIDEO,
    Caller,
    serving,
)

URL = "https://example.com/a"


def urls_of(ended: dict[str, Any]) -> list[str]:
    (held,) = ended["output"].values()
    if isinstance(held, dict):
        return [held["url"]]
    return held if isinstance(held, list) else [held]


async def media(caller: Caller, model: str, inputs: dict[str, Any]) -> list[bytes]:
    bodies = []
    for url in urls_of(await caller.finished(model, inputs)):
        status, headers, body = await caller.fetch(url)
        assert (status, headers["Content-Length"]) == (200, str(len(body)))
        bodies.append(body)
    return bodies


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG by kind, each CRC checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind], at = body, at + 12 + length
    return chunks


def pixels(data: bytes) -> bytes:
    return zlib.decompress(png_chunks(data)[b"IDAT"])


def mp4_boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The top boxes of an MP4; fails where they don't add up to the file."""
    boxes, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        assert 8 <= size <= len(data) - at
        boxes.append((kind, data[at + 8 : at + size]))
        at += size
    return boxes


@pytest.mark.parametrize("size", [(256, 256), (180, 320), (1024, 768), (33, 17)])
def test_a_picture_is_a_whole_png_of_its_size(size):
    chunks = png_chunks(draw_png(random.Random(str(size)), size, "", "label"))
    width, height = size
    assert list(chunks) == [b"IHDR", b"PLTE", b"tEXt", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (width, height, 8, 3, 0, 0, 0)
    assert len(chunks[b"PLTE"]) == 3 * 256
    assert chunks[b"tEXt"] == b"Comment\0label"
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (width + 1)
    assert set(rows[:: width + 1]) == {0}
    assert len(set(rows)) > 20


def test_a_picture_is_drawn_in_a_moment():
    fastest_s = 1.0
    for number in range(5):
        started_s = time.process_time()
        draw_png(random.Random(number), (320, 180), "a cat jumps over a wall", "x")
        fastest_s = min(fastest_s, time.process_time() - started_s)
    assert fastest_s < 0.02


async def test_each_video_is_a_file_of_its_own_with_a_box_that_says_whose():
    async with serving() as caller:
        ended = [await caller.finished() for _ in range(8)]
        bodies = [(await caller.fetch(end["output"]["video"]))[2] for end in ended]
        for end, body in zip(ended, bodies, strict=True):
            assert mp4_boxes(body)[-1] == (b"free", f"request={end['request_id']}&output=0.mp4".encode())
        assert len(set(bodies)) == 8


async def test_images_of_one_request_differ_and_carry_its_id():
    async with serving() as caller:
        bodies = await media(caller, SEVERAL, {"prompt": "x", "num_images": 4, "aspect_ratio": "9:16"})
        assert len({pixels(body) for body in bodies}) == 4
        assert struct.unpack_from(">II", png_chunks(bodies[0])[b"IHDR"]) == (198, 352)
        assert png_chunks(bodies[3])[b"tEXt"].endswith(b"&output=3.png")


async def test_a_seed_among_the_inputs_repeats_the_picture_and_not_the_file():
    async with serving() as caller:
        [one], [two], [other] = [
            await media(caller, TEXT_TO_IMAGE, {"prompt": "x", "seed": seed}) for seed in (1, 1, 2)
        ]
        assert pixels(one) == pixels(two)
        assert one != two
        assert pixels(one) != pixels(other)


async def test_without_a_seed_samples_of_a_prompt_differ():
    async with serving() as caller:
        inputs = {"prompt": "x", "image_url": URL}
        [one], [two] = [await media(caller, FLUX_EDIT, inputs) for _ in range(2)]
        assert pixels(one) != pixels(two)


async def test_speech_is_a_wav():
    async with serving() as caller:
        [body] = await media(caller, SPEECH, {"text": "hello"})
        assert (body[:4], body[8:16]) == (b"RIFF", b"WAVEfmt ")
        assert struct.unpack_from("<I", body, 4) == (len(body) - 8,)
        assert b"request=" in body


async def test_a_url_of_any_model_says_what_it_serves():
    async with serving() as caller:
        for model, inputs, media_type in (
            (KLING, CAT, "video/mp4"),
            (VIDEO_TO_VIDEO, {"prompt": "x", "video_url": URL}, "video/mp4"),
            (TEXT_TO_IMAGE, {"prompt": "x"}, "image/png"),
            (SPEECH, {"text": "x"}, "audio/wav"),
        ):
            [url] = urls_of(await caller.finished(model, inputs))
            assert (await caller.fetch(url))[1]["Content-Type"] == media_type


async def test_head_tells_size_and_version_and_sends_nothing():
    async with serving() as caller:
        url = (await caller.finished())["output"]["video"]
        status, headers, body = await caller.fetch(url)
        assert status == 200
        head = await caller.fetch(url, "HEAD")
        assert (head[0], head[2]) == (200, b"")
        for name in ("ETag", "Content-Length", "Last-Modified", "Accept-Ranges"):
            matching = {key.lower(): value for key, value in head[1].items()}
            assert matching[name.lower()] == {k.lower(): v for k, v in headers.items()}[name.lower()]
        assert int(headers["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-100", 206, slice(-100, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
        ("bytes=0-1,5-6", 200, slice(None)),
        ("bytes=9-3", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_a_range_is_served_as_the_rfc_has_it(asked, status, part):
    async with serving() as caller:
        url = (await caller.finished())["output"]["video"]
        whole = (await caller.fetch(url))[2]
        got, headers, body = await caller.fetch(url, Range=asked)
        assert (got, body) == (status, whole[part])
        if status == 206:
            start, stop, _ = part.indices(len(whole))
            assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
        if status == 416:
            assert headers["Content-Range"] == f"bytes */{len(whole)}"


async def test_if_range_serves_a_part_only_of_the_same_version():
    async with serving() as caller:
        url = (await caller.finished())["output"]["video"]
        headers = {name.lower(): value for name, value in (await caller.fetch(url))[1].items()}
        for version, status in ((headers["etag"], 206), (headers["last-modified"], 206), ('"old"', 200)):
            assert (await caller.fetch(url, Range="bytes=5-", If_Range=version))[0] == status


async def test_a_url_expires_and_a_new_result_gives_a_fresh_one():
    async with serving(url_ttl_s=30.0) as caller:
        ended = await caller.finished()
        url = ended["output"]["video"]
        before = (await caller.fetch(url))[2]
        caller.clock.elapsed_s += 30.0
        assert (await caller.fetch(url))[0] == 403
        fresh = (await caller.result(ended["request_id"]))["output"]["video"]
        assert fresh != url
        status, _, content = await caller.fetch(fresh)
        assert (status, content) == (200, before)


async def test_a_url_with_a_query_of_ones_own_is_refused():
    async with serving() as caller:
        url = (await caller.finished())["output"]["video"]
        path = url.partition("?")[0]
        for query in ("", "?Expires=99999999999", "?Expires=x&Signature=y", "?Expires=9&Signature=ü"):
            assert (await caller.fetch(path + query))[0] == 403


async def test_outputs_refuse_the_token_and_say_that_it_leaked():
    async with serving() as caller:
        url = (await caller.finished())["output"]["video"]
        assert (await caller.fetch(url, Authorization="Bearer x"))[0] == 400
        assert caller.sandbox.stats.tokens_leaked == 1


async def test_there_are_no_outputs_but_those_of_finished_requests():
    async with serving() as caller:
        queued = await caller.submit()
        made = (await caller.finished())["request_id"]
        for path in (f"{queued}/0.mp4", f"{made}/1.mp4", f"{made}/0.png", "nothing/0.mp4"):
            if path.startswith(queued):
                caller.clock.elapsed_s -= 60.0
            assert (await caller.fetch(f"{caller.origin}/outputs/{path}"))[0] == 404
            if path.startswith(queued):
                caller.clock.elapsed_s += 60.0
