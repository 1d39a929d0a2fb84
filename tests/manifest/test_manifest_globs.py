"""Patterns find each real file once; files that list ids are read as people write them."""

import os

import pytest

from batcher.errors import UsageError
from batcher.manifest.globs import Globs
from batcher.options.ids import ids_in
from tests.support.manifest_files import PNG, read_text, write


@pytest.fixture
def photos(tmp_path):
    for name in ("b.png", "a.png", "more/c.png", ".hidden/d.png", "more/deep/e.png"):
        write(tmp_path / "photos", name, PNG + name.encode())
    return tmp_path


def found(folder, pattern, rule=2):
    return [str(name) for name in Globs().files(folder, pattern, rule)]


def test_a_pattern_is_sorted_and_leaves_out_what_is_hidden(photos):
    assert found(photos, "photos/*.png") == ["photos/a.png", "photos/b.png"]
    assert found(photos, "photos/**") == [
        "photos/a.png",
        "photos/b.png",
        "photos/more/c.png",
        "photos/more/deep/e.png",
    ]
    assert found(photos, "**/[ce].png") == ["photos/more/c.png", "photos/more/deep/e.png"]
    assert found(photos, "photos/.*/*") == ["photos/.hidden/d.png"]
    assert found(photos, f"{photos}/photos/a*") == [f"{photos}/photos/a.png"]


@pytest.mark.parametrize(
    "pattern", ["./photos/*.png", "photos//*.png", "photos/./*.png", ".//photos/*.png"]
)
def test_spellings_of_a_pattern_find_files_under_one_name(photos, pattern):
    assert found(photos, pattern) == found(photos, "photos/*.png")


def test_an_old_run_directory_keeps_the_paths_that_its_ids_are_made_of(photos):
    assert found(photos, "./photos/*.png", rule=1) == ["./photos/a.png", "./photos/b.png"]


def test_a_search_at_any_depth_does_not_enter_run_directories(photos):
    for number, mark in enumerate(("ledger.jsonl", ".batcher/lock", ".export-folder.json")):
        write(photos / f"photos/out{number}", mark, "")
        write(photos / f"photos/out{number}/media", "x.png", PNG)
    assert [name for name in found(photos, "**/*.png") if "out" in name] == []
    assert found(photos, "photos/*/media/*.png") == [
        "photos/out0/media/x.png",
        "photos/out1/media/x.png",
        "photos/out2/media/x.png",
    ]
    assert found(photos, "photos/out1/**/*.png") == ["photos/out1/media/x.png"]


def test_what_is_left_out_matches_no_pattern(photos):
    os.symlink("photos/more", photos / "linked")
    globs = Globs(os.path.realpath(photos / "photos/more"))
    assert globs.files(photos, "photos/**/*.png") == ["photos/a.png", "photos/b.png"]
    for pattern in ("photos/more/*.png", "linked/deep/*"):
        with pytest.raises(ValueError, match=r"matches no file .* outside of run directories"):
            globs.files(photos, pattern)


def test_links_in_circles_make_no_more_files(photos):
    for name in ("latest", "more/up", "more/deep/top"):
        os.symlink(photos / "photos", photos / "photos" / name)
    os.symlink("a.png", photos / "photos" / "0-best.png")
    assert len(found(photos, "photos/**/*.png")) == 4
    assert found(photos, "photos/*.png") == ["photos/a.png", "photos/b.png"]
    assert found(photos, "photos/latest/*.png") == ["photos/latest/a.png", "photos/latest/b.png"]


def test_a_folder_that_is_only_a_link_is_searched_too(photos):
    os.symlink(photos / "photos" / "more", photos / "linked")
    assert found(photos, "linked/**/*.png") == ["linked/c.png", "linked/deep/e.png"]


def test_a_pattern_without_files_is_refused(photos):
    with pytest.raises(ValueError, match="matches no file"):
        found(photos, "nowhere/*.png")


@pytest.mark.parametrize(
    "content",
    [
        b"a1\na2\n",
        b"\xef\xbb\xbfa1\r\na2\r\n",
        "a1\na2\n".encode("utf-16"),
        b"# rejects\n\n\"a1\"\n 'a2' # blurred\n",
        b'a1,blurred\na2\ttoo dark\n{"job": "a1", "state": "done"}\n',
        b"a1\ra2",
    ],
)
def test_a_list_of_ids_is_read_as_people_write_it(tmp_path, content):
    assert ids_in(write(tmp_path, "ids.txt", content), "--only") == {"a1", "a2"}


def test_a_list_of_ids_that_can_t_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"can't be read: not text in UTF-8 or UTF-16$"):
        ids_in(write(tmp_path, "ids.txt", b"\xff\xfea"), "--only")
    with pytest.raises(UsageError, match=r"can't be read: No such file or directory$"):
        ids_in(tmp_path / "none.txt", "--only")
    with pytest.raises(UsageError, match="without a job"):
        ids_in(write(tmp_path, "ids.txt", b'{"id": 1}'), "--only")


# Files in fields that are not known to take media

BMP = (
    b"BM"
    + (70).to_bytes(4, "little")
    + bytes(4)
    + (54).to_bytes(4, "little")
    + (40).to_bytes(4, "little")
)
ANY = {"model": "some/model"}


@pytest.mark.parametrize(
    "name", ["img_url", "mask", "first_frame", "ctrl_img_1", "voice_sample", "face_img", "x"]
)
def test_a_media_file_is_sent_as_media_in_any_field_but_a_prompt(tmp_path, name):
    write(tmp_path, "cat.png", PNG)
    found = read_text(tmp_path, "m.csv", f"prompt,{name}\ncat.png,cat.png\n", **ANY)
    assert found.inputs[0][name].shown == "cat.png"
    assert found.inputs[0]["prompt"] == "cat.png"


def test_a_path_that_leads_nowhere_is_refused_if_the_field_is_called_after_media(tmp_path):
    found = read_text(tmp_path, "m.csv", "prompt,mask,style\nx,none.png,none.png\n", **ANY)
    assert [line.split(":")[2] for line in found.problems] == [" mask"]


def test_a_text_that_begins_with_bm_is_no_image(tmp_path):
    write(tmp_path, "note.bmp", b"BM is short for bitmap, they say, and more")
    write(tmp_path, "real.bmp", BMP + bytes(60))
    table = "prompt,image_url\nx,note.bmp\nx,real.bmp\n"
    found = read_text(tmp_path, "m.csv", table, **ANY)
    assert "no image, video or audio" in found.problems[0]
    assert found.inputs[0]["image_url"].media_type == "image/bmp"
