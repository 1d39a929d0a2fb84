"""Media: public URLs, local files, data URIs, and what is none of these."""

import base64
import hashlib
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs.job import LocalMedia
from batcher.manifest.media import LocalFiles, MediaError, check_body_size, is_public_url, media_type_of
from batcher.schema.spec import ModelSpec
from tests.support.dataset import clip
from tests.support.manifest_files import MP4, PNG, URL, read_text, write


def data_uri(content=b"x" * 9, media_type="image/png"):
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def problem_of(value, kind=None, folder=None):
    with pytest.raises(MediaError) as caught:
        LocalFiles().resolved(value, kind, folder)
    return str(caught.value)


# URLs


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://example.com",
        "https://example.com?x=1",
        "https://example.com#top",
        "https://example.com:8443/a.png?sig=%20",
        "HTTPS://EXAMPLE.COM/A.PNG",
        "https://a-b.c_d.example.co.uk./x",
        "https://xn--bcher-kva.example/x",
        "https://bücher.example/猫.png",
        "https://8.8.8.8/a.png",
        "https://[2001:4860:4860::8888]/a.png",
        "https://example.com/a@b:c",
        "https://cdn.example.com/local/10.0.0.1/a.png",
    ],
)
def test_a_public_https_url_is_sent_as_it_is(url):
    assert is_public_url(url)
    assert LocalFiles().resolved(url, "image", None) == url


@pytest.mark.parametrize("around", [" {}", "{} ", "\t{}\n", "\u00a0{}"])
def test_spaces_around_a_url_or_a_path_are_no_part_of_it(tmp_path, around):
    """As in a CSV with a space after each comma, and as a cell that was copied from a page."""
    write(tmp_path, "cat.png", PNG)
    files = LocalFiles()
    assert files.resolved(around.format(URL), "image", tmp_path) == URL
    assert files.resolved([around.format(URL)], "image", tmp_path) == [URL]
    assert files.resolved(around.format("cat.png"), "image", tmp_path).path.endswith("/cat.png")


def test_a_file_whose_name_has_spaces_around_it_is_found(tmp_path):
    write(tmp_path, " cat.png", PNG)
    write(tmp_path, "cat.png", PNG + b"other")
    assert LocalFiles().resolved(" cat.png", "image", tmp_path).path.endswith("/ cat.png")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "https://",
        "https:///a.png",
        "https://localhost/a.png",
        "https://localhost:8000/a.png",
        "https://intranet/a.png",
        "https://printer.local/a.png",
        "https://db.internal/a.png",
        "https://x.localhost/a.png",
        "https://router.lan/a.png",
        "https://nas.home.arpa/a.png",
        "https://127.0.0.1/a.png",
        "https://127.1/a.png",
        "https://2130706433/a.png",
        "https://0x7f.1/a.png",
        "https://0.0.0.0/a.png",
        "https://10.0.0.1/a.png",
        "https://172.16.0.1/a.png",
        "https://192.168.1.1/a.png",
        "https://100.64.0.1/a.png",
        "https://169.254.169.254/latest/meta-data",
        "https://192.0.2.1/a.png",
        "https://224.0.0.1/a.png",
        "https://255.255.255.255/a.png",
        "https://999.1.1.1/a.png",
        "https://[::1]/a.png",
        "https://[fe80::1]/a.png",
        "https://[fc00::1]/a.png",
        "https://[::ffff:127.0.0.1]/a.png",
        "https://[2002:7f00:1::]/a.png",
        "https://[::banana]/a.png",
        "https://user:secret@example.com/a.png",
        "https://user@example.com/a.png",
        "https://example.com /a.png",
        "https://example.com/a b.png",
        "https://example.com/a\nb.png",
        "https://exa mple.com/a.png",
        "https://-bad.example.com/a.png",
        "https://a..b/a.png",
        f"https://{'a' * 250}.com/a.png",
        "https://example.com\\@evil.org/a.png",
    ],
)
def test_what_the_server_can_t_fetch_is_refused(url, tmp_path):
    assert not is_public_url(url)
    problem_of(url, "image", tmp_path)


def test_a_refused_url_shows_no_login_and_no_signature(tmp_path):
    assert "secret" not in problem_of("https://user:secret@example.com/a.png", None, tmp_path)
    assert "secret" not in problem_of("http://example.com/a.png?token=secret", None, tmp_path)


@given(st.text(max_size=30))
@settings(max_examples=100)
def test_no_text_is_both_a_url_and_something_else(text):
    assert isinstance(is_public_url(text), bool)
    assert isinstance(is_public_url(f"https://{text}"), bool)


# Data URIs


def test_a_data_uri_of_media_is_sent_as_it_is():
    assert LocalFiles().resolved(data_uri(), "image", None) == data_uri()
    assert LocalFiles().resolved(data_uri(media_type="audio/mp4;codecs=x"), None, None)


@pytest.mark.parametrize(
    ("uri", "what"),
    [
        ("data:image/png,abc", "not a data: URI of media in base64"),
        ("data:image/png;base64,", "not a data: URI of media in base64"),
        ("data:image/png;base64,abc", "not a data: URI of media in base64"),
        ("data:image/png;base64,ab?=", "not a data: URI of media in base64"),
        ("data:text/html;base64,abcd", "not a data: URI of media in base64"),
        ("DATA:image/png", "not a data: URI of media in base64"),
        (data_uri(media_type="video/mp4"), "a data: URI of video, not image"),
    ],
)
def test_a_data_uri_of_anything_else_is_refused(uri, what):
    assert problem_of(uri, "image").startswith(what)


def test_a_data_uri_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr("batcher.manifest.media.BODY_MAX_BYTES", 100)
    assert "a request may have" in problem_of(data_uri(b"x" * 100))


# Local files


def test_a_local_file_is_named_by_path_hash_size_and_type(tmp_path):
    write(tmp_path, "pics/cat.dat", PNG)
    media = LocalFiles().resolved("pics/cat.dat", "image", tmp_path)
    sha256 = hashlib.sha256(PNG).hexdigest()
    assert media == LocalMedia(
        str(tmp_path / "pics/cat.dat"), "pics/cat.dat", sha256, len(PNG), "image/png"
    )


def test_a_large_file_is_hashed_whole(tmp_path):
    content = PNG + os.urandom(3_000_000)
    write(tmp_path, "cat.png", content)
    assert LocalFiles().resolved("cat.png", None, tmp_path).sha256 == hashlib.sha256(content).hexdigest()


def test_lists_are_resolved_item_by_item_and_other_values_left_alone(tmp_path):
    write(tmp_path, "cat.png", PNG)
    url, media, number = LocalFiles().resolved([URL, "cat.png", 5], "image", tmp_path)
    assert (url, media.shown, number) == (URL, "cat.png", 5)
    assert LocalFiles().resolved(None, "image", tmp_path) is None


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x1cftypheic", "image/heic"),
        (b"II*\0", "image/tiff"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"\0\0\0\x18ftypqt  ", "video/quicktime"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo"),
        (b"\0\0\0\x18ftypM4A ", "audio/mp4"),
        (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"Get free coffee", None),
        (b"Very wide shot", None),
        (b"BMW in the rain", None),
        (b"<html>", None),
        (b"{}", None),
        (b"%PDF-1.7", None),
        (b"XXXX\0\0\0\0WEBP", None),
        (b"", None),
    ],
)
def test_the_first_bytes_tell_the_type(head, media_type):
    assert media_type_of(head) == media_type


def test_what_is_no_media_file_is_refused(tmp_path):
    write(tmp_path, "page.png", "<html>")
    write(tmp_path, "clip.png", MP4)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert "no image, video or audio" in problem_of("page.png", "image", tmp_path)
    assert problem_of("clip.png", "image", tmp_path) == "'clip.png' is video/mp4, not image"
    for name in ("folder", "pipe", ""):
        assert problem_of(name, None, tmp_path).endswith("is not a file")
    for name in ("nowhere.png", "a\0b", "x" * 5000):
        assert "neither a public HTTPS URL nor a file" in problem_of(name, None, tmp_path)


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        (
            "cat.png (https://host.example/v3/abc)",
            "write only the URL in it: 'https://host.example/v3/abc'",
        ),
        (
            "[cat](https://host.example/cat.png)",
            "write only the URL in it: 'https://host.example/cat.png'",
        ),
        ("<https://host.example/cat.png>", "write only the URL in it: 'https://host.example/cat.png'"),
        ("a (https://host.example/a),b (https://host.example/b)", "it has 2 URLs"),
    ],
)
def test_a_url_with_other_text_around_it_is_told_apart(tmp_path, cell, remedy):
    assert problem_of(cell, None, tmp_path).endswith(f"a file that exists; {remedy}")


def test_a_file_that_can_t_be_read_is_refused(tmp_path, monkeypatch):
    write(tmp_path, "cat.png", PNG)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "Permission denied" in problem_of("cat.png", None, tmp_path)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    path = write(tmp_path, "huge.mp4", MP4)
    os.truncate(path, 100 * 2**20)
    assert problem_of("huge.mp4", None, tmp_path) == (
        f"'huge.mp4' has {100 * 2**20} bytes; a request may have 64 MiB, media in base64 included"
    )


def test_a_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    reads = []
    import batcher.manifest.media as module

    original = module._read_identity
    monkeypatch.setattr(module, "_read_identity", lambda path: reads.append(path) or original(path))
    path = write(tmp_path, "cat.png", PNG)
    files = LocalFiles()
    first = files.resolved("cat.png", None, tmp_path)
    assert files.resolved("cat.png", None, tmp_path) == first
    assert len(reads) == 1
    path.write_bytes(PNG + b"more")
    assert files.resolved("cat.png", None, tmp_path).sha256 != first.sha256
    assert len(reads) == 2


def test_the_memory_of_hashes_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.manifest.media.KNOWN_FILES_MAX", 2)
    files = LocalFiles()
    for n in range(5):
        write(tmp_path, f"{n}.png", PNG)
        files.resolved(f"{n}.png", None, tmp_path)
    assert len(files._known) == 2


def test_a_request_with_its_media_inline_has_a_limit():
    media = LocalMedia("/a", "a", "0" * 64, 30 * 2**20, "video/mp4")
    check_body_size({"video": media, "prompt": "x"})
    with pytest.raises(MediaError, match="with its media inline"):
        check_body_size({"videos": [media, media]})


# In manifests


def test_a_local_file_in_a_manifest_becomes_media_and_its_copy_is_the_same_job(tmp_path):
    write(tmp_path, "a/cat.png", PNG)
    write(tmp_path, "copy.png", PNG)
    found = read_text(tmp_path, "m.csv", "prompt,image_url\nx,a/cat.png\nx,copy.png\n")
    (job,) = found.jobs
    assert job.input["image_url"].shown == "a/cat.png"
    assert found.tally.duplicates == 1


def test_a_list_of_media_in_a_cell_is_json_or_a_single_path(tmp_path):
    spec = ModelSpec.from_catalogue(
        {
            "model_id": "l",
            "input_schema": {
                "properties": {"image_urls": {"type": "array", "items": {"type": "string"}}}
            },
        }
    )
    write(tmp_path, "a.png", PNG)
    cells = ['"[""a.png"", ""https://example.com/b.png""]"', "a.png", URL, '"[""nowhere.png""]"']
    found = read_text(tmp_path, "m.csv", "\n".join(["image_urls", *cells, ""]), {"l": spec}, model="l")
    listed, single, url = (job.input["image_urls"] for job in found.jobs)
    assert (listed[0].shown, listed[1], single[0].shown, url) == (
        "a.png",
        "https://example.com/b.png",
        "a.png",
        [URL],
    )
    assert found.problems == [
        "m.csv:5: image_urls: 'nowhere.png' is neither a public HTTPS URL nor a file that exists"
    ]
    as_yaml = read_text(
        tmp_path,
        "m.yaml",
        "jobs: [{image_urls: [a.png, 'https://example.com/b.png']}]",
        {"l": spec},
        model="l",
    )
    assert as_yaml.ids == found.ids[:1]


def test_fields_are_media_by_their_names_where_there_is_no_schema(tmp_path):
    row = (
        "video_url,num_images,generate_audio,note\nhttp://example.com/a.mp4,5,true,http://example.com\n"
    )
    found = read_text(tmp_path, "m.csv", row, model="some/model")
    assert len(found.problems) == 1
    assert found.problems[0].startswith("m.csv:2: video_url: ")


def test_too_much_inline_media_in_one_job_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr("batcher.manifest.media.BODY_MAX_BYTES", 200)
    write(tmp_path, "a.png", PNG)
    found = read_text(
        tmp_path, "m.yaml", "jobs: [{image_urls: [a.png, a.png, a.png]}]", model="some/model"
    )
    assert "with its media inline" in found.problems[0]


def _pictures(folder, count):
    from PIL import Image

    noise = Image.effect_noise((64, 48), 50).convert("RGB")
    for suffix in ("png", "jpg", "gif", "webp"):
        for n in range(count):
            noise.rotate(n).save(folder / f"{n}.{suffix}")
    return sorted(folder.iterdir())


def test_a_picture_that_was_cut_off_is_told(tmp_path):
    pictures = _pictures(tmp_path, 2)
    files = LocalFiles()
    for path in pictures:
        with path.open("ab") as file:
            file.write(b"\n" if path.stem == "0" else b"what a camera adds")
        files.resolved(path.name, "image", tmp_path)
    assert [*files.warnings()] == []
    for path in pictures:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        files.resolved(path.name, "image", tmp_path)
    (told,) = files.warnings()
    assert told == f"{pictures[0]} (and 7 more): the end of the file is missing"


def test_the_plan_has_the_warning_of_a_picture_that_was_cut_off(tmp_path):
    write(tmp_path, "cat.png", PNG[:40])
    found = read_text(tmp_path, "m.csv", "prompt,image_url\na,cat.png\n")
    assert found.tally.warnings == [f"{tmp_path}/cat.png: the end of the file is missing"]


def test_the_plan_has_the_warning_of_a_video_that_was_cut_off(tmp_path):
    whole = clip("x")
    write(tmp_path, "whole.mp4", whole)
    write(tmp_path, "cut.mp4", whole[: len(whole) // 2])
    jobs = "jobs: [{video_url: whole.mp4}, {video_url: cut.mp4}]"
    found = read_text(tmp_path, "m.yaml", jobs, model="some/model")
    assert found.tally.warnings == [f"{tmp_path}/cut.mp4: the end of the file is missing"]


@pytest.mark.parametrize(
    "text", ["pics\\a b.png", ".\\pics\\a b.png", '"pics/a b.png"', "pics/a%20b.png"]
)
def test_a_path_as_other_programs_write_it_is_refused_with_the_file_that_is_there(tmp_path, text):
    write(tmp_path, "pics/a b.png", PNG)
    told = problem_of(text, "image", tmp_path)
    assert re.search(r"a file that exists; did you mean '(\./)?pics/a b\.png'\?$", told)
    assert "did you mean" not in problem_of("pics\\c\0.png", "image", tmp_path)
