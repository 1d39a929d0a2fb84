"""Done only for whole files: bodies without a length, parts that were not asked for, false labels."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batcher.download.patience import DownloadLimits
from batcher.errors import DownloadRefused
from batcher.media.wholeness import is_torn, is_whole
from tests.download.test_download import Bench, Refresh
from tests.support.dataset import clip, picture
from tests.support.media_server import MediaServer, RangedFile, Reply


def saved(kind: str, **how: Any) -> bytes:
    noise = Image.frombytes("RGB", (64, 48), random.Random(3).randbytes(64 * 48 * 3))
    file = io.BytesIO()
    noise.save(file, kind, **how)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello" * 40)
    return file.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(8)


def webm(**how: str) -> bytes:
    return encoded("webm", "vp8", **how)


def encoded(kind: str, codec: str, **how: str) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=how) as container:
        stream = container.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 48), "navy"))))
        container.mux(stream.encode())
    return file.getvalue()


WHOLE = {
    ".png": picture("x"),
    ".jpg": saved("JPEG"),
    ".jpeg": saved("JPEG", progressive=True),
    ".gif": saved("GIF"),
    ".webp": saved("WEBP"),
    ".avif": saved("AVIF"),
    ".bmp": saved("BMP"),
    ".mp4": clip("x"),
    ".webm": webm(),
    ".wav": b"RIFF" + struct.pack("<I", 204) + b"WAVE" + bytes(200),
    ".glb": b"glTF" + struct.pack("<II", 2, 112) + bytes(100),
    ".zip": zipped(),
    ".pdf": b"%PDF-1.7\n" + bytes(300) + b"\n%%EOF\n",
    ".svg": b"<svg xmlns='x'>" + b"<path/>" * 40 + b"</svg>\n",
    ".gltf": json.dumps({"asset": {"version": "2.0"}, "nodes": [{}] * 40}).encode(),
    ".gz": gzip.compress(random.Random(1).randbytes(400)),
    ".stl": bytes(80) + struct.pack("<I", 3) + bytes(150),
    ".safetensors": safetensors(),
}


@pytest.mark.parametrize("extension", WHOLE)
def test_a_format_that_tells_its_end_is_whole_only_with_all_of_its_bytes(
    tmp_path: Path, extension: str
) -> None:
    content, path = WHOLE[extension], tmp_path / "x"
    path.write_bytes(content)
    assert is_whole(path, extension)
    for share in (0.05, 0.4, 0.9, 0.97):
        path.write_bytes(content[: int(len(content) * share)])
        assert not is_whole(path, extension), share
    path.write_bytes(b"")
    assert not is_whole(path, extension)


def box(kind: bytes, size: int = 40) -> bytes:
    return struct.pack(">I4s", size, kind) + bytes(size - 8)


@pytest.mark.parametrize(
    ("boxes", "whole"),
    [
        ([b"ftyp", b"moov", b"mdat"], True),
        ([b"ftyp", b"mdat", b"moov"], True),
        ([b"ftyp", b"moov"], False),
        ([b"ftyp", b"moov", b"moof", b"mdat"], False),
        ([b"ftyp", b"moov", b"moof", b"mdat", b"mfra"], True),
    ],
)
def test_a_movie_that_ends_between_two_boxes_is_whole_only_if_nothing_can_follow(
    tmp_path: Path, boxes: list[bytes], whole: bool
) -> None:
    (tmp_path / "x").write_bytes(b"".join(map(box, boxes)))
    assert is_whole(tmp_path / "x", ".mp4") is whole


@pytest.mark.parametrize("extension", [".mp3", ".txt", ".csv", ".obj", ".bin", ".flac", ".ply"])
def test_a_format_that_tells_no_end_is_never_known_to_be_whole(tmp_path: Path, extension: str) -> None:
    (tmp_path / "x").write_bytes(b"all of it")
    assert not is_whole(tmp_path / "x", extension)


async def fetched(tmp_path: Path, name: str, *replies: Any) -> tuple[Bench, Any]:
    async with MediaServer(*replies) as server:
        bench = Bench(server, tmp_path, DownloadLimits())
        async with bench.downloader:
            url = f"{server.origin}/{name}"
            return bench, await bench.fetch(url, Refresh(url))


async def test_a_body_without_a_length_that_ended_early_is_fetched_again(tmp_path: Path) -> None:
    whole = WHOLE[".mp4"]
    early = Reply(body=whole[: len(whole) // 2], length=-1)
    bench, got = await fetched(tmp_path, "a.mp4", early, early, Reply(body=whole, length=-1))
    assert (got.bytes, len(bench.requests)) == (len(whole), 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.txt"])
async def test_one_that_never_shows_that_it_is_whole_is_refused_and_nothing_is_left(
    tmp_path: Path, name: str
) -> None:
    body = WHOLE[".mp4"][:-90] if name == "a.mp4" else b"a text, perhaps all of it"
    with pytest.raises(DownloadRefused, match="without a length") as refused:
        await fetched(
            tmp_path, name, Reply(body=body, length=-1, headers={"Content-Type": "text/plain"})
        )
    assert refused.value.code == "no_length"
    assert not list(tmp_path.iterdir())


async def test_a_part_that_was_not_asked_for_is_not_the_file(tmp_path: Path) -> None:
    part = WHOLE[".png"][:300]
    extent = {"Content-Range": "bytes 0-299/300"}
    bench, got = await fetched(tmp_path, "a.png", Reply(206, part, extent), RangedFile(WHOLE[".png"]))
    assert (got.bytes, len(bench.requests)) == (len(WHOLE[".png"]), 2)


async def test_a_text_under_a_media_type_is_no_output(tmp_path: Path) -> None:
    error = Reply(body=b"upstream request timeout", headers={"Content-Type": "video/mp4"})
    with pytest.raises(DownloadRefused, match="page or a message") as refused:
        await fetched(tmp_path, "a.mp4", error)
    assert refused.value.code == "not_media"


@pytest.mark.parametrize("label", ["aws-chunked", "utf-8", "none", "gzip", "br", "deflate", "zstd"])
async def test_a_label_of_a_coding_on_plain_bytes_counts_for_nothing(tmp_path: Path, label: str) -> None:
    bench, got = await fetched(
        tmp_path, "a.png", Reply(body=WHOLE[".png"], headers={"Content-Encoding": label})
    )
    assert (got.extension, bench.partial.read_bytes()) == (".png", WHOLE[".png"])


@pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {}])
@pytest.mark.parametrize(("name", "kind"), [("a.png", ".png"), ("a", ".png"), ("a.gltf", ".gltf")])
async def test_gzip_that_was_not_asked_for_is_unpacked(
    tmp_path: Path, headers: dict[str, str], name: str, kind: str
) -> None:
    packed = gzip.compress(WHOLE[kind])
    bench, got = await fetched(tmp_path, name, Reply(body=packed, headers=headers))
    assert (got.extension, got.bytes) == (kind, len(WHOLE[kind]))
    assert bench.partial.read_bytes() == WHOLE[kind]
    assert [file.name for file in tmp_path.iterdir()] == [bench.partial.name]


async def test_a_gzip_file_stays_one(tmp_path: Path) -> None:
    packed = WHOLE[".gz"]
    bench, got = await fetched(
        tmp_path, "a.gz", Reply(body=packed, headers={"Content-Encoding": "gzip"})
    )
    assert (got.extension, bench.partial.read_bytes()) == (".gz", packed)


async def test_gzip_that_unpacks_beyond_the_limit_or_is_an_error_page_is_refused(tmp_path: Path) -> None:
    bomb = Reply(body=gzip.compress(WHOLE[".png"] + bytes(3 << 20)))
    page = Reply(body=gzip.compress(b"<html>" + bytes(900)))
    for reply, code in ((bomb, "too_large"), (page, "not_media")):
        async with MediaServer(reply) as server:
            bench = Bench(server, tmp_path, DownloadLimits(max_file_bytes=2 << 20))
            async with bench.downloader:
                with pytest.raises(DownloadRefused) as refused:
                    await bench.fetch(server.url, Refresh(server.url))
        assert refused.value.code == code
        assert not list(tmp_path.iterdir())


async def test_a_fragment_is_no_part_of_a_files_name(tmp_path: Path) -> None:
    reply = Reply(body=WHOLE[".gltf"], headers={"Content-Type": "application/json"})
    _, got = await fetched(tmp_path, "a.gltf#scene.html", reply)
    assert got.extension == ".gltf"


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.mark.parametrize(
    ("media_type", "whole"),
    [
        ("video/mp4", clip("x")),
        ("video/mp4", encoded("mp4", "mpeg4")),
        ("video/quicktime", encoded("mov", "mpeg4")),
        ("video/webm", webm()),
    ],
)
def test_a_video_that_was_cut_off_is_torn_wherever_it_was_cut(tmp_path, media_type, whole):
    path = tmp_path / "clip"
    for more in (b"", b"\n", bytes(100), b"what a camera adds"):
        path.write_bytes(whole + more)
        assert not is_torn(path, media_type)
    for kept in (64, len(whole) // 2, len(whole) - 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert is_torn(path, media_type), kept


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("video/mp4", encoded("mp4", "mpeg4", **FRAGMENTED)),
        ("video/webm", webm(live="1")),
        ("video/webm", webm(live="1")[:-200]),
        ("video/mp4", encoded("mp4", "mpeg4") + struct.pack(">I4s", 3, b"abcd")),
        ("video/x-msvideo", b"RIFF"),
    ],
)
def test_a_video_that_can_not_tell_its_end_is_not_called_torn(tmp_path, media_type, content):
    path = tmp_path / "clip"
    path.write_bytes(content)
    assert not is_torn(path, media_type)
