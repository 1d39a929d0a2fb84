"""What a file is, and what an answer's headers mean."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.download.answer import ContentRange, content_range, read_answer, validator
from batcher.http.headers import retry_after_s
from batcher.media.documents import safe_extension
from batcher.media.file_types import HEAD_BYTES, MEDIA_TYPES, FileType, identify, sniff
from tests.support.media_server import MP4, PNG

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
EBML = b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84"

HEADS = [
    (PNG, ".png"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", ".jpg"),
    (b"GIF87a", ".gif"),
    (b"GIF89a", ".gif"),
    (b"RIFF\x00\x00\x00\x00WEBPVP8 ", ".webp"),
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", ".wav"),
    (b"RIFF\x00\x00\x00\x00AVI LIST", ".avi"),
    (b"FORM\x00\x00\x00\x00AIFFCOMM", ".aiff"),
    (b"BM" + bytes(12) + b"\x28\x00\x00\x00", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"\x00\x00\x00\x1cftypavif", ".avif"),
    (b"\x00\x00\x00\x18ftypheic", ".heic"),
    (b"\x00\x00\x00\x18ftypmif1", ".heif"),
    (MP4, ".mp4"),
    (b"\x00\x00\x00\x20ftypisom", ".mp4"),
    (b"\x00\x00\x00\x14ftypqt  ", ".mov"),
    (b"\x00\x00\x00\x08wide", ".mov"),
    (b"\x00\x00\x00\x1cftypM4A ", ".m4a"),
    (EBML + b"webm", ".webm"),
    (EBML + b"matroska", ".mkv"),
    (b"ID3\x04\x00", ".mp3"),
    (b"\xff\xfb\x90\x00", ".mp3"),
    (b"\xff\xf1\x50\x80", ".aac"),
    (b"OggS\x00", ".ogg"),
    (b"fLaC\x00", ".flac"),
    (b"glTF\x02\x00\x00\x00", ".glb"),
    (b"ply\nformat binary", ".ply"),
    (b"Kaydara FBX Binary  \x00", ".fbx"),
    (b"PK\x03\x04", ".zip"),
    (b"v/1\x01", ".exr"),
    (b"8BPS\x00\x01", ".psd"),
    (b"\xff\x0a\x00", ".jxl"),
    (b'<?xml version="1.0"?>\n<!-- made --><svg xmlns="x">', ".svg"),
    (b"\xef\xbb\xbf<SVG>", ".svg"),
]


@pytest.mark.parametrize(("head", "extension"), HEADS)
def test_first_bytes_name_the_format(head: bytes, extension: str) -> None:
    assert identify(head, ["/x"], "") == FileType(extension, MEDIA_TYPES[extension])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"BMW is a car maker",
        b"\xff",
        b"\xff\xff\xff",
        b"\xff\xeb\x00\x00",
        b"RIFF1234XXXX",
        b"RIFF",
    ],
)
def test_what_only_resembles_a_signature_is_none(head: bytes) -> None:
    assert sniff(head) is None


UNKNOWN = b"\x07\x07binary"


@pytest.mark.parametrize(
    ("head", "paths", "content_type", "extension"),
    [
        (MP4, ["/a/b.mp4"], "", ".mp4"),
        (MP4, ["/a/B.MP4"], "image/png", ".mp4"),
        (MP4, ["/b.mov"], "", ".mov"),
        (MP4, ["/b"], "video/quicktime", ".mov"),
        (MP4, ["/b", "/redirected/b.m4v"], "video/mp4", ".m4v"),
        (PNG, ["/b.mp4"], "video/mp4", ".png"),
        (PNG, ["/b.jpeg"], "image/jpeg", ".png"),
        (b"\xff\xd8\xff", ["/b.jpeg"], "", ".jpeg"),
        (b"\xff\xd8\xff", ["/b"], "image/jpeg; charset=binary", ".jpg"),
        (b"OggS", ["/b.opus"], "audio/ogg", ".opus"),
        (b"PK\x03\x04", ["/b.usdz"], "", ".usdz"),
        (UNKNOWN, ["/b.fbx"], "application/octet-stream", ".fbx"),
        (UNKNOWN, ["/b"], "audio/x-wav", ".wav"),
        (UNKNOWN, ["/b"], "image/tiff", ".tif"),
        (UNKNOWN, ["/b.exe"], "application/x-msdownload", ".bin"),
        (UNKNOWN, ["/b.HTML"], "application/octet-stream", ".bin"),
        (UNKNOWN, ["/b.gsplat"], "application/octet-stream", ".gsplat"),
        (UNKNOWN, ["/b.7"], "", ".bin"),
        (UNKNOWN, ["/b.a/../b"], "", ".bin"),
        (UNKNOWN, ["/b.with space"], "", ".bin"),
        (UNKNOWN, ["/b.lang\u00e9"], "", ".bin"),
        (UNKNOWN, ["/b.averyverylongword"], "", ".bin"),
        (UNKNOWN, ["/b.php/../x.sh"], "", ".bin"),
        (PNG, ["/"], "text/html", ".png"),
    ],
)
def test_the_extension_is_the_urls_unless_the_bytes_contradict(
    head: bytes, paths: list[str], content_type: str, extension: str
) -> None:
    found = identify(head, paths, content_type)
    assert found is not None
    assert found.extension == extension
    assert found.media_type == MEDIA_TYPES.get(extension, "application/octet-stream")


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"<!doctype html>", ""),
        (b"  \r\n<html>", "video/mp4"),
        (b"<h1>Not found</h1>", "video/mp4"),
        (b"<?xml version='1.0'?><Error>", ""),
        (b'{"error": 1}', "video/mp4"),
        (b"{}", ""),
        (b'["a"]', ""),
        (b"not here", "text/plain; charset=utf-8"),
        (b"upstream timed out", "video/mp4"),
        (b"quota of this bucket exceeded", "application/octet-stream"),
        (UNKNOWN, "application/json"),
        (UNKNOWN, "application/problem+json"),
        (UNKNOWN, "application/xhtml+xml"),
    ],
)
def test_a_document_is_no_media_whatever_its_url_says(head: bytes, content_type: str) -> None:
    assert identify(head, ["/b.mp4"], content_type) is None


@given(
    head=st.binary(max_size=HEAD_BYTES),
    path=st.text(),
    content_type=st.text() | st.sampled_from([*MEDIA_TYPES.values()]),
)
def test_an_extension_is_of_the_table_or_a_harmless_word(
    head: bytes, path: str, content_type: str
) -> None:
    found = identify(head, [path], content_type)
    known = found is None or found.extension in {*MEDIA_TYPES, ".bin"}
    assert known or safe_extension(found.extension) == found.extension


DOCUMENTS = [
    ("/a.json", "application/json", b'{"a": 1}'),
    ("/a.json", "", b"[1, 2]"),
    ("/a.jsonl", "application/x-ndjson", b'{"a": 1}\n{"a": 2}'),
    ("/a.gltf", "model/gltf+json", b'{"asset": {"version": "2.0"}}'),
    ("/a.txt", "text/plain; charset=utf-8", b"a caption"),
    ("/a.txt", "binary/octet-stream", b'{"quoted"}'),
    ("/a.md", "text/markdown", b"# Title"),
    ("/a.csv", "text/csv", b"a,b\n1,2"),
    ("/a.srt", "application/x-subrip", b"1\n00:00:00,000 --> 00:00:01,000\nHi"),
    ("/a.vtt", "text/vtt", b"WEBVTT\n"),
    ("/a.obj", "text/plain", b"# obj\nv 0 0 0"),
    ("/a.obj", "application/x-tgif", b"v 0 0 0"),
    ("/a.bvh", "application/octet-stream", b"HIERARCHY\nROOT Hips"),
    ("/a.stl", "model/stl", b"solid cat"),
    ("/a.stl", "application/octet-stream", bytes(84)),
    ("/a.dae", "application/xml", b"<?xml version='1.0'?><COLLADA>"),
    ("/a.ply", "text/plain", b"ply\nformat ascii 1.0"),
    ("/a.usda", "", b"#usda 1.0"),
    ("/a.pdf", "application/pdf", b"%PDF-1.7"),
    ("/a.safetensors", "application/octet-stream", b"\x10" + bytes(7) + b'{"a":{}}'),
    ("/a.usdz", "model/vnd.usdz+zip", b"PK\x03\x04"),
    ("/a.npz", "application/octet-stream", b"PK\x03\x04"),
    ("/a.gz", "application/gzip", b"\x1f\x8b\x08"),
]


@pytest.mark.parametrize(("path", "content_type", "head"), DOCUMENTS)
def test_documents_that_url_and_type_declare_are_outputs(
    path: str, content_type: str, head: bytes
) -> None:
    found = identify(head, [path], content_type)
    assert found is not None
    assert found.extension == path[2:]


@pytest.mark.parametrize(
    ("path", "content_type", "head"),
    [
        ("/a.obj", "text/html", b"<html>"),
        ("/a.obj", "text/plain", b"<!doctype html>"),
        ("/a.obj", "application/json", b'{"error": "gone"}'),
        ("/a.obj", "text/plain", b'{"error": "gone"}'),
        ("/a.txt", "application/json", b'{"error": "gone"}'),
        ("/a.txt", "text/html", b"gone"),
        ("/a.json", "application/xml", b"<Error><Code>AccessDenied</Code></Error>"),
        ("/a.json", "application/json", b"<html>"),
        ("/a.xml", "application/xml", b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code></Error>"),
        ("/a.csv", "text/csv", b"<html>"),
        ("/a", "text/plain", b"a caption"),
        ("/a", "application/json", b'{"a": 1}'),
        ("/a.mp4", "text/csv", b"a,b"),
    ],
)
def test_errors_are_no_documents_whatever_their_url_says(
    path: str, content_type: str, head: bytes
) -> None:
    assert identify(head, [path], content_type) is None


def test_a_head_full_of_comments_costs_no_backtracking() -> None:
    started_s = time.process_time()
    assert sniff(b"<!---->" * (HEAD_BYTES // 7)) is None
    assert sniff(b"<?xml ?>" * (HEAD_BYTES // 8)) is None
    assert time.process_time() - started_s < 0.5


# --- Headers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 9, 10)),
        ("Bytes 5-9/10", ContentRange(5, 9, 10)),
        ("bytes 5-10/10", None),
        ("bytes 9-5/10", None),
        ("bytes 0-9/*", None),
        ("bytes */10", None),
        ("items 0-9/10", None),
        ("", None),
        (f"bytes 0-{'9' * 5000}/{'9' * 5000}", None),
    ],
)
def test_a_content_range_is_read_only_if_it_makes_sense(
    text: str, expected: ContentRange | None
) -> None:
    assert content_range(text) == expected


DATE = "Sat, 31 Jan 2026 09:30:00 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ETag": '"v1"'}, '"v1"'),
        ({"ETag": '""'}, '""'),
        ({"ETag": 'W/"v1"'}, None),
        ({"ETag": "v1"}, None),
        ({"ETag": '"v\r1"'}, None),
        ({"ETag": 'W/"v1"', "Last-Modified": "Sat, 31 Jan 2026 09:00:00 GMT", "Date": DATE}, None),
        (
            {"Last-Modified": "Sat, 31 Jan 2026 09:29:59 GMT", "Date": DATE},
            "Sat, 31 Jan 2026 09:29:59 GMT",
        ),
        ({"Last-Modified": DATE, "Date": DATE}, None),
        ({"Last-Modified": "Sat, 31 Jan 2026 09:00:00 GMT"}, None),
        ({"Last-Modified": "long ago", "Date": DATE}, None),
        ({}, None),
    ],
)
def test_only_a_strong_validator_validates(headers: dict[str, str], expected: str | None) -> None:
    assert validator(headers) == expected


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("7", 7.0),
        ("Sat, 31 Jan 2026 09:30:30 GMT", 30.0),
        ("Sat, 31 Jan 2026 09:30:30 -0000", 30.0),
        ("Sat, 31 Jan 2026 09:00:00 GMT", 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("9" * 5000, 86_400.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, expected_s: float) -> None:
    assert (retry_after_s(text, NOW) or 0.0) == expected_s


@given(
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Content-Type",
                "Content-Encoding",
                "Content-Length",
                "Content-Range",
                "ETag",
                "Last-Modified",
                "Date",
                "Retry-After",
            ]
        ),
        st.text(),
    )
)
@example({"Content-Length": "0\x1f", "Retry-After": "0\x1f"})
@example({"Content-Length": "9" * 5000, "Content-Range": f"bytes 0-0/{'9' * 5000}"})
def test_no_headers_break_the_reading(headers: dict[str, str]) -> None:
    answer = read_answer(200, headers, NOW)
    assert answer.retry_after_s >= 0.0
