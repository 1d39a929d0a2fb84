"""Clips and pictures have the shape and duration that were asked for, and show the prompt."""

from __future__ import annotations

import io
import json
import random
import time
from math import isqrt
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.dataset.acceptance import differences
from batcher.media.probe import read_headers
from batcher.sandbox.catalogue import catalogue
from batcher.sandbox.clips import draw_clip
from batcher.sandbox.lettering import INK, LINE_DOTS, PAPER, band
from batcher.sandbox.pictures import draw_png
from batcher.sandbox.sizes import CLIP_PIXELS, SIDES, duration_s_of, size_of
from tests.sandbox.test_sandbox import FLUX_EDIT, VIDEO_TO_VIDEO, serving
from tests.sandbox.test_sandbox_media import media
from tests.support.browser import browser, chromium

SHAPES = [(256, 144), (144, 256), (192, 192), (294, 126), (320, 180), (34, 18)]
FOX = "a red fox runs through deep snow"


def clip(size: tuple[int, int], duration_s: float = 2.0, caption: str = FOX, seed: int = 1) -> bytes:
    return draw_clip(random.Random(seed), size, duration_s, caption, "label")


def decoded(content: bytes) -> list[Any]:
    """All frames as grey values, row by row."""
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("duration_s", [0.1, 2.5, 10.0])
def test_a_clip_has_the_size_and_duration_that_it_was_made_for(size, duration_s):
    with av.open(io.BytesIO(clip(size, duration_s))) as container:
        (stream,) = container.streams
        assert (stream.width, stream.height) == size
        assert float(stream.duration * stream.time_base) == pytest.approx(duration_s)
        frames = [frame.pts * stream.time_base for frame in container.decode(stream)]
        assert frames == sorted(set(frames))
        assert len(frames) == pytest.approx(duration_s * 15, abs=1)


def test_a_clip_moves_below_a_caption_that_stands_still():
    first, *_, middle, _ = decoded(clip((256, 144), 1.0))
    lines = len(band(FOX, 256, 144))
    assert abs(first[:lines] - middle[:lines]).max() <= 2
    assert abs(first[lines:] - middle[lines:]).mean() > 2


def test_letters_stand_out_from_what_is_below_them():
    """Samples come as they were drawn: ink has one luma, and nothing beside it comes near."""
    first, *_ = decoded(clip((256, 144), 0.5))
    letters = band(FOX, 256, 144)
    ink, paper = (
        {int(first[y][x]) for y, row in enumerate(letters) for x in range(256) if row[x : x + 1] == kind}
        for kind in (INK, PAPER)
    )
    assert len(ink) == 1
    assert min(ink) - max(paper) > 120


def test_clips_differ_by_their_prompt_and_seed_and_repeat_with_both():
    assert clip((256, 144)) == clip((256, 144))
    assert clip((256, 144)) != clip((256, 144), seed=2)
    assert clip((256, 144)) != clip((256, 144), caption="a red fox sleeps")


def test_a_clip_is_made_in_a_moment():
    fastest_s = 1.0
    for seed in range(6):
        started_s = time.process_time()
        clip((256, 144), 10.0, seed=seed)
        fastest_s = min(fastest_s, time.process_time() - started_s)
    assert fastest_s < 0.02


def offered() -> list[tuple[str, dict[str, Any]]]:
    """Every aspect ratio and duration that the catalogue lists, with each model that lists it."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, model in catalogue().items():
        fields = model.input_schema["properties"]
        found += [(name, {"aspect_ratio": a}) for a in fields.get("aspect_ratio", {}).get("enum", ())]
        found += [(name, {"duration": d}) for d in fields.get("duration", {}).get("enum", ())]
    return found


@pytest.mark.parametrize(("model", "inputs"), [*offered(), (VIDEO_TO_VIDEO, {"duration": 3})])
async def test_what_the_catalogue_offers_comes_without_a_note_on_its_quality(model, inputs, tmp_path):
    whole = {"prompt": "x", **inputs}
    whole |= {
        name: "https://example.com/a" for name in catalogue()[model].input_schema["required"][1:] if name
    }
    async with serving() as caller:
        (content,) = await media(caller, model, whole)
    path = tmp_path / "output"
    path.write_bytes(content)
    found = read_headers(path)
    assert (found.judged, found.problems) == (True, ())
    assert [*differences(found, whole)] == []


async def test_a_prompt_is_drawn_and_its_lack_is_not():
    async with serving() as caller:
        job = {"prompt": "a cat", "image_url": "https://example.com/a", "seed": 4}
        (with_words,) = await media(caller, FLUX_EDIT, job)
        (other_words,) = await media(caller, FLUX_EDIT, job | {"prompt": "a dog"})
    assert with_words != other_words
    assert band("", 256, 256) == band("  \n", 256, 256) == []
    assert draw_png(random.Random(1), (256, 256), "", "") != draw_png(
        random.Random(1), (256, 256), "a", ""
    )


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=300), width=st.integers(16, 900), height=st.integers(16, 900))
def test_a_caption_takes_at_most_half_of_any_picture(text, width, height):
    rows = band(text, width, height)
    assert {len(row) for row in rows} <= {width}
    scale = max(2, isqrt(width * height) // 96)
    assert len(rows) <= max(height // 2, LINE_DOTS * scale) + 2 * scale, "lines and margins"
    assert not rows or text.split()
    assert rows or not any(sign.isascii() and sign.isalnum() for sign in text), (
        "others may have no picture"
    )
    assert {*b"".join(rows)} <= {*PAPER, *INK}


def test_long_prompts_are_set_smaller_and_then_cut_short():
    short, long, endless = (band("word " * count, 256, 144) for count in (3, 30, 3000))
    assert len(short) < len(long) <= len(endless) <= 72 + 4
    dots = [sum(row.count(INK) for row in rows) / len(rows) for rows in (short, endless)]
    assert dots[1] > dots[0]


@given(
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_any_ratio_gives_even_sides_of_that_shape(across, down):
    width, height = size_of({"aspect_ratio": f"{across}:{down}"}.get, CLIP_PIXELS, "16:9")
    assert width % 2 == height % 2 == 0
    if 1 / 8 <= across / down <= 8:
        assert width / height == pytest.approx(across / down, rel=0.05)
        assert width * height == pytest.approx(CLIP_PIXELS, rel=0.3)


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        ({}, (256, 144)),
        ({"aspect_ratio": "9:16"}, (144, 256)),
        ({"aspect_ratio": "auto"}, (256, 144)),
        ({"aspect_ratio": "1:0"}, (256, 144)),
        ({"aspect_ratio": "1:99"}, (256, 144)),
        ({"width": 512, "height": 384}, (512, 384)),
        ({"width": 512}, (256, 144)),
        ({"width": 10**9, "height": 10**9}, (256, 144)),
        ({"size": "1024x768", "aspect_ratio": "1:1"}, (1024, 768)),
        ({"image_size": "333*111"}, (332, 110)),
    ],
)
def test_the_size_is_the_one_asked_for(inputs, size):
    assert size_of(inputs.get, CLIP_PIXELS, "16:9") == size
    assert min(size) in SIDES


@pytest.mark.parametrize(
    ("asked", "duration_s"),
    [(5, 5), ("10", 10), ("4s", 4), (2.5, 2.5), ("auto", 5), (None, 5), (9000, 60), (0, 0.1), (True, 5)],
)
def test_the_duration_is_a_number_in_any_spelling(asked, duration_s):
    assert duration_s_of({"duration": asked}.get) == duration_s


@pytest.mark.skipif(chromium() is None, reason="no Chromium here: apt-get install chromium")
async def test_a_browser_plays_clips_of_every_shape_to_their_end(tmp_path):
    durations_s = [5.0, 10.0, 2.5, 7.0, 0.5, 1.0]
    for number, (size, duration_s) in enumerate(zip(SHAPES, durations_s, strict=True)):
        (tmp_path / f"{number}.mp4").write_bytes(clip(size, duration_s))
    page_of = "".join(f'<video muted src="{number}.mp4"></video>' for number in range(len(SHAPES)))
    (tmp_path / "page.html").write_text(
        f"<!DOCTYPE html>{page_of}<script>document.documentElement.dataset.ready = 1</script>"
    )
    async with browser() as page:
        await page.open(tmp_path / "page.html")
        await page.js("window.all = [...document.querySelectorAll('video')]; 1")
        await page.until("all.every(v => v.readyState >= 2)")
        shown = json.loads(
            await page.js("JSON.stringify(all.map(v => [v.videoWidth, v.videoHeight, v.duration]))")
        )
        assert [tuple(sides) for *sides, _ in shown] == SHAPES
        assert [duration_s for *_, duration_s in shown] == pytest.approx(durations_s, abs=0.01)
        await page.js("all.forEach(v => { v.playbackRate = 8; v.play() }); 1")
        await page.until("all.every(v => v.ended)")
        assert await page.js("all.every(v => !v.error && v.getVideoPlaybackQuality().totalVideoFrames)")
        assert page.errors == []
