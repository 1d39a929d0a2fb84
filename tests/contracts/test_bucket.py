"""What every bucket does, over a plain folder and over a real S3 server; URLs, keys and settings."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batcher.errors import CredentialsError, InputError, RunDirError, UsageError
from batcher.store.objects.failures import NoSuchObject
from batcher.store.objects.interface import Bucket
from batcher.store.objects.opening import open_bucket
from batcher.store.objects.place import is_bucket_url, parse_place
from tests.support.object_store import PAGE_KEYS, QUICK, SECRET
from tests.support.scripted import ScriptedServer

pytest_plugins = ["tests.support.bucket_fixtures"]

CLIP = bytes(range(256)) * 400


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["folder", "s3"])
def bucket(request, tmp_path) -> Bucket:
    if request.param == "folder":
        return open_bucket((tmp_path / "store").as_uri())
    name = request.getfixturevalue("s3_name")
    request.getfixturevalue("signed_in").setenv("AWS_ENDPOINT_URL", request.getfixturevalue("moto"))
    return open_bucket(f"s3://{name}/summer 2026/a%b", QUICK)


@pytest.fixture
def clip(tmp_path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(CLIP)
    return path


async def listed(bucket: Bucket, folder: str = "") -> dict[str, int]:
    return {key: size_bytes async for key, size_bytes in bucket.list(folder)}


async def test_a_file_comes_back_as_it_was(bucket, clip, tmp_path):
    await bucket.put_file(clip, "media/hero.mp4", sha256_of(CLIP), "video/mp4")
    assert await bucket.size("media/hero.mp4") == len(CLIP)
    assert await bucket.sha256("media/hero.mp4") == sha256_of(CLIP)
    assert await bucket.get_bytes("media/hero.mp4") == CLIP
    assert await bucket.get_file("media/hero.mp4", tmp_path / "back.mp4") == sha256_of(CLIP)
    assert (tmp_path / "back.mp4").read_bytes() == CLIP


async def test_putting_a_file_twice_is_putting_it_once(bucket, clip):
    for _ in range(2):
        await bucket.put_file(clip, "media/hero.mp4", sha256_of(CLIP), None)
    assert await listed(bucket) == {"media/hero.mp4": len(CLIP)}


async def test_an_empty_file_is_a_file(bucket, tmp_path):
    (tmp_path / "empty").touch()
    await bucket.put_file(tmp_path / "empty", "empty", sha256_of(b""), None)
    assert await bucket.get_bytes("empty") == b""
    assert await bucket.sha256("empty") == sha256_of(b"")
    assert await bucket.get_file("empty", tmp_path / "back") == sha256_of(b"")
    assert (tmp_path / "back").read_bytes() == b""


async def test_a_file_that_is_not_the_one_that_was_downloaded_is_not_stored(bucket, clip):
    with pytest.raises(RunDirError, match=r"clip\.mp4: is not the file that was downloaded"):
        await bucket.put_file(clip, "media/hero.mp4", sha256_of(b"another"), None)
    assert await listed(bucket) == {}


async def test_a_file_that_is_gone_is_named(bucket, tmp_path):
    with pytest.raises(RunDirError, match=r"gone\.mp4: can't read"):
        await bucket.put_file(tmp_path / "gone.mp4", "media/hero.mp4", sha256_of(b""), None)


async def test_bytes_replace_what_was_there(bucket):
    await bucket.put_bytes("metadata.jsonl", b"one")
    await bucket.put_bytes("metadata.jsonl", b"two")
    assert await bucket.get_bytes("metadata.jsonl") == b"two"


async def test_what_is_not_there_is_none(bucket):
    assert await bucket.get_bytes("media/none") is None
    assert await bucket.size("media/none") is None
    assert await bucket.sha256("media/none") is None
    assert await listed(bucket, "media") == {}


async def test_fetching_what_is_not_there_leaves_nothing_behind(bucket, tmp_path):
    (tmp_path / "to").mkdir()
    with pytest.raises(NoSuchObject, match=r"media/none: can't"):
        await bucket.get_file("media/none", tmp_path / "to" / "file")
    assert list((tmp_path / "to").iterdir()) == []


async def test_a_list_names_what_is_below_a_folder_and_not_beside_it(bucket):
    for key in ("media/a.mp4", "media/b/c.mp4", "media.txt", "ledger/0001.jsonl", "media-more/d"):
        await bucket.put_bytes(key, key.encode())
    assert await listed(bucket, "media") == {"media/a.mp4": 11, "media/b/c.mp4": 13}
    assert len(await listed(bucket)) == 5


async def test_a_list_is_complete_beyond_one_page(bucket):
    keys = {f"media/{number:04}.png" for number in range(3 * PAGE_KEYS + 1)}
    await asyncio.gather(*(bucket.put_bytes(key, b"x") for key in keys))
    assert set(await listed(bucket, "media")) == keys


async def test_of_all_who_mark_a_place_at_once_one_wins_and_may_ask_again(bucket):
    runs = [f"run-{number}".encode() for number in range(8)]
    won = await asyncio.gather(*(bucket.put_new(".batcher/run", run) for run in runs))
    assert won.count(True) == 1
    winner = runs[won.index(True)]
    assert await bucket.get_bytes(".batcher/run") == winner
    assert await bucket.put_new(".batcher/run", winner) is True
    assert await bucket.put_new(".batcher/run", b"another") is False


async def test_a_moved_object_is_in_one_place_and_moving_it_again_changes_nothing(bucket, clip):
    await bucket.put_file(clip, "media/hero.mp4", sha256_of(CLIP), "video/mp4")
    for _ in range(2):
        await bucket.move("media/hero.mp4", "superseded/hero.1.mp4")
        assert await listed(bucket) == {"superseded/hero.1.mp4": len(CLIP)}
    assert await bucket.get_bytes("superseded/hero.1.mp4") == CLIP


async def test_moving_what_never_was_is_an_error(bucket):
    with pytest.raises(NoSuchObject, match="can't move: there is no such object"):
        await bucket.move("media/none", "media/new")


async def test_deleting_is_repeatable(bucket):
    await bucket.put_bytes("media/a", b"a")
    for _ in range(2):
        await bucket.delete("media/a")
    assert await listed(bucket) == {}


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/./b", "a/", "a\nb", "a\\b", "a?b", "a#b"])
async def test_a_key_that_is_none_is_refused_by_every_call(bucket, key, clip, tmp_path):
    calls = [
        bucket.put_file(clip, key, sha256_of(CLIP), None),
        bucket.put_bytes(key, b""),
        bucket.put_new(key, b""),
        bucket.get_bytes(key),
        bucket.get_file(key, tmp_path / "file"),
        bucket.size(key),
        bucket.sha256(key),
        bucket.move(key, "a"),
        bucket.move("a", key),
        bucket.delete(key),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"part|backslash|parameters"):
            await call
    assert await listed(bucket) == {}


@pytest.mark.parametrize(
    "key", ["media/a b+c.mp4", "media/ünï-日本.png", "media/a%20b.png", "media/a&b=c;d'e.png", ".x"]
)
async def test_a_key_with_unusual_signs_is_one_key(bucket, key):
    await bucket.put_bytes(key, b"x")
    assert await listed(bucket) == {key: 1}
    assert await bucket.get_bytes(key) == b"x"
    await bucket.delete(key)
    assert await listed(bucket) == {}


async def test_a_folder_shows_nothing_of_a_file_under_way(tmp_path, clip):
    bucket = open_bucket((tmp_path / "store").as_uri())
    await bucket.put_bytes("media/a", b"a")
    (tmp_path / "store" / "media" / f".b.{'0' * 16}.tmp").write_bytes(b"left by a crash")
    assert await listed(bucket) == {"media/a": 1}


async def test_who_reads_a_file_in_a_folder_as_it_is_replaced_goes_on_reading_the_old_one(tmp_path):
    bucket = open_bucket((tmp_path / "store").as_uri())
    await bucket.put_bytes("metadata.jsonl", b"one")
    with (tmp_path / "store" / "metadata.jsonl").open("rb") as reader:
        await bucket.put_bytes("metadata.jsonl", b"two")
        assert reader.read() == b"one"
    assert await bucket.get_bytes("metadata.jsonl") == b"two"


async def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    bucket = open_bucket((tmp_path / "file").as_uri())
    with pytest.raises(RunDirError, match="file"):
        await bucket.put_bytes("media/a", b"a")


async def test_an_object_keeps_its_media_type_and_its_hash(s3_name, moto, signed_in, client, clip):
    signed_in.setenv("AWS_ENDPOINT_URL", moto)
    bucket = open_bucket(f"s3://{s3_name}", QUICK)
    await bucket.put_file(clip, "hero.mp4", sha256_of(CLIP), "video/mp4")
    await bucket.move("hero.mp4", "old/hero.mp4")
    head = client.head_object(Bucket=s3_name, Key="old/hero.mp4")
    assert (head["ContentType"], head["Metadata"]) == ("video/mp4", {"sha256": sha256_of(CLIP)})


@pytest.mark.parametrize(
    ("url", "scheme", "bucket", "prefix"),
    [
        ("s3://clips", "s3", "clips", ""),
        ("s3://clips/", "s3", "clips", ""),
        ("gs://clips/a/b/", "gs", "clips", "a/b"),
        ("az://clips/summer 2026", "az", "clips", "summer 2026"),
        ("file:///srv/a%20b/", "file", "", "/srv/a b"),
        ("file://localhost/srv", "file", "", "/srv"),
    ],
)
def test_a_url_names_a_place(url, scheme, bucket, prefix):
    place = parse_place(url)
    assert (place.scheme, place.bucket, place.prefix) == (scheme, bucket, prefix)
    assert parse_place(place.url) == place or "%" in url


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a",
        "https://bucket.s3.amazonaws.com/a",
        "output/a",
        "s3://",
        "s3:///a",
        "s3://a b/c",
        "s3://a/../b",
        "s3://a/b?versionId=1",
        "file://folder/a",
        "file:a",
    ],
)
def test_a_url_that_names_none_is_a_usage_error(url):
    with pytest.raises(UsageError, match="--output"):
        open_bucket(url)


@pytest.mark.parametrize("url", [f"s3://AKIA:{SECRET}@clips/a", f"az://a:{SECRET}/x", f"{SECRET}!://a"])
def test_a_url_with_credentials_is_refused_without_repeating_them(url):
    with pytest.raises(UsageError) as refused:
        open_bucket(url)
    assert SECRET not in str(refused.value)


def test_a_path_is_no_url():
    assert not is_bucket_url("output/run")
    assert is_bucket_url("s3://clips")


@given(st.text(max_size=40))
@example("a/../b")
@example("/")
def test_a_key_that_is_accepted_stays_inside_its_place(key):
    place = parse_place("file:///srv/clips")
    try:
        place.checked(key)
    except UsageError:
        return
    assert os.path.normpath(f"/srv/clips/{key}") == f"/srv/clips/{key}"


def test_a_key_may_not_be_longer_than_stores_take():
    place = parse_place("s3://clips/" + "p" * 1000)
    assert place.checked("k" * 23)
    with pytest.raises(UsageError, match="too long: 1025 bytes"):
        place.checked("é" * 12)


def test_without_the_extra_a_folder_still_works_and_a_store_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    open_bucket(tmp_path.as_uri())
    with pytest.raises(InputError, match=r"pip install obstore boto3"):
        open_bucket("s3://clips")


@pytest.mark.parametrize("url", ["gs://clips/a", "az://clips/a"])
def test_the_other_clouds_are_set_by_their_own_variables(url, signed_in):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    signed_in.setenv("AZURE_STORAGE_ACCOUNT_NAME", "clipsaccount")
    signed_in.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    assert open_bucket(url).url == url


def test_settings_that_do_not_fit_together_are_a_usage_error(signed_in):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    with pytest.raises(UsageError, match="az://clips: the settings in the environment"):
        open_bucket("az://clips")


def test_without_any_credentials_a_machine_that_has_no_role_says_so(signed_in):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    signed_in.delenv("AWS_ACCESS_KEY_ID")
    signed_in.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CredentialsError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        open_bucket("s3://clips")


@pytest.mark.parametrize("answers", [True, False])
async def test_a_machine_whose_role_gives_no_credentials_says_what_to_set(signed_in, answers):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        signed_in.delenv(name)
    async with ScriptedServer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n") as role:
        signed_in.setenv(
            "AWS_METADATA_ENDPOINT", role.url.removesuffix("/v1") if answers else "http://127.0.0.1:9"
        )
        signed_in.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        bucket = open_bucket("s3://clips", QUICK)
        for call in (bucket.put_bytes("metadata.jsonl", b""), bucket.get_bytes("metadata.jsonl")):
            with pytest.raises(
                CredentialsError, match="no credentials were found; set AWS_ACCESS_KEY_ID"
            ):
                await call


async def test_a_profile_signs_where_no_variable_does(s3_name, moto, signed_in, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        signed_in.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[clips]\naws_access_key_id = AKIATESTKEY\naws_secret_access_key = {SECRET}\n"
    )
    signed_in.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    signed_in.setenv("AWS_PROFILE", "clips")
    signed_in.setenv("AWS_ENDPOINT_URL", moto)
    bucket = open_bucket(f"s3://{s3_name}", QUICK)
    await bucket.put_bytes("a", b"a")
    assert await bucket.get_bytes("a") == b"a"


def test_a_profile_that_is_not_there_is_named(signed_in, tmp_path):
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    signed_in.delenv("AWS_ACCESS_KEY_ID")
    signed_in.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(CredentialsError, match="profile"):
        open_bucket("s3://clips")
