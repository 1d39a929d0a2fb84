"""A store that misbehaves: what recovers, what fails and how, and that no part of an object is ever seen."""

from __future__ import annotations

import asyncio
import hashlib
import random
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from batcher.errors import CredentialsError, RunDirError
from batcher.store.objects.failures import StoreUnavailable
from batcher.store.objects.interface import Bucket
from batcher.store.objects.opening import open_bucket
from tests.support.object_store import QUICK, SECRET, Fault, FaultyProxy

pytest_plugins = ["tests.support.bucket_fixtures"]

pytest.importorskip("obstore", reason="needs pip install obstore boto3")
from batcher.store.objects.remote import PART_BYTES, PARTS_AT_ONCE  # noqa: E402

KEY = "media/film.mp4"
FILM = random.Random(7).randbytes(2 * PART_BYTES + 1_000_000)
ALWAYS = 1_000


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Store:
    """A bucket behind a proxy, and what a look past the proxy shows."""

    bucket: Bucket
    proxy: FaultyProxy
    name: str
    client: Any

    def keys(self) -> list[str]:
        return [
            entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        ]

    def uploads(self) -> list[str]:
        """Multipart uploads that nobody finished or took back."""
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [entry["Key"] for entry in answer.get("Uploads", [])]

    def content(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()


@pytest.fixture
async def store(client, s3_name, moto, signed_in) -> AsyncIterator[Store]:
    async with FaultyProxy(moto) as proxy:
        signed_in.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield Store(open_bucket(f"s3://{s3_name}", QUICK), proxy, s3_name, client)


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    path.write_bytes(FILM)
    return path


def put_film(store: Store, film: Path) -> Any:
    return store.bucket.put_file(film, KEY, sha256_of(FILM), "video/mp4")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("slow_down", "PUT", part=2, times=2),
        Fault("reset", "PUT", part=2, after_bytes=1_000_000),
        Fault("reset", "PUT", times=3, after_bytes=1_000_000),
        Fault("drop_answer", "PUT", part=2),
        Fault("cut_answer", "PUT", part=2),
        Fault("drip", "PUT", part=2),
        Fault("slow_down", "POST", query="uploads"),
        Fault("slow_down", "POST", query="uploadId"),
        Fault("drop_answer", "POST", query="uploadId"),
        Fault("slow_down", "HEAD", times=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.on}-{fault.query or fault.part}-{fault.times}",
)
async def test_a_large_file_gets_through_and_is_whole(store, film, fault):
    store.proxy.plan(replace(fault, reached=asyncio.Event()))
    await put_film(store, film)
    assert store.content(KEY) == FILM
    assert store.keys() == [KEY]
    assert store.uploads() == []


@pytest.mark.parametrize("kind", ["slow_down", "reset", "drop_answer", "cut_answer", "drip"])
async def test_a_small_file_gets_through_and_is_whole(store, tmp_path, kind):
    (tmp_path / "a.png").write_bytes(FILM[:100_000])
    store.proxy.plan(Fault(kind, "PUT", after_bytes=50_000))
    await store.bucket.put_file(tmp_path / "a.png", "a.png", sha256_of(FILM[:100_000]), None)
    assert store.content("a.png") == FILM[:100_000]


async def test_a_part_that_gets_no_answer_is_sent_again(store, film):
    store.proxy.plan(Fault("hold", "PUT", part=2))
    store.bucket = open_bucket(store.bucket.url, replace(QUICK, request_s=1.0))
    await put_film(store, film)
    assert store.content(KEY) == FILM
    assert store.uploads() == []


@pytest.mark.parametrize("kind", ["slow_down", "reset"])
async def test_a_store_that_goes_on_failing_ends_the_upload_after_bounded_tries(store, film, kind):
    store.proxy.plan(Fault(kind, "PUT", part=2, times=ALWAYS, after_bytes=1))
    with pytest.raises(
        StoreUnavailable, match=rf"s3://{store.name}/{KEY}: can't write: the store"
    ) as failed:
        await put_film(store, film)
    assert (
        len([request for request in store.proxy.seen("PUT") if request.part == 2]) == QUICK.retries + 1
    )
    assert failed.value.exit_code == 73
    assert store.keys() == store.uploads() == []


async def test_an_upload_that_fails_leaves_what_was_there_before(store, film):
    await store.bucket.put_bytes(KEY, b"before")
    store.proxy.plan(Fault("slow_down", "PUT", part=2, times=ALWAYS))
    with pytest.raises(StoreUnavailable):
        await put_film(store, film)
    assert store.content(KEY) == b"before"


async def test_every_request_that_carries_content_carries_its_sha256(store, film):
    await put_film(store, film)
    await store.bucket.put_bytes("a", b"a")
    await store.bucket.put_new("b", b"b")
    assert len(store.proxy.seen("PUT")) == 5
    assert all(request.header("x-amz-checksum-sha256") for request in store.proxy.seen("PUT"))


@pytest.mark.parametrize("part", [None, 2])
async def test_bytes_that_change_on_the_way_are_refused_by_the_store(store, film, tmp_path, part):
    store.proxy.plan(Fault("corrupt", "PUT", part=part))
    if part is None:
        film = tmp_path / "small"
        film.write_bytes(FILM[:1000])
    with pytest.raises(StoreUnavailable, match="went wrong on the way"):
        await store.bucket.put_file(film, KEY, sha256_of(film.read_bytes()), None)
    assert store.keys() == store.uploads() == []


async def test_a_store_that_only_says_that_it_has_a_file_is_not_believed(store):
    store.proxy.plan(Fault("swallow", "PUT"))
    with pytest.raises(StoreUnavailable, match="3 bytes were sent, but the store has 0"):
        await store.bucket.put_bytes(KEY, b"abc")


async def test_a_large_file_that_is_not_the_one_that_was_downloaded_is_not_stored(store, film):
    with pytest.raises(RunDirError, match="is not the file that was downloaded"):
        await store.bucket.put_file(film, KEY, sha256_of(b"another"), None)
    assert store.keys() == store.uploads() == []


async def test_a_server_that_dies_ends_the_upload_and_nothing_of_it_is_seen(store, film):
    hold = Fault("hold", "PUT", part=2)
    store.proxy.plan(hold)
    putting = asyncio.ensure_future(put_film(store, film))
    await hold.reached.wait()
    await store.proxy.die()
    with pytest.raises(StoreUnavailable, match="can't write: the store refuses connections"):
        await putting
    assert store.keys() == []


@pytest.mark.parametrize("under_way", [1, 2])
async def test_a_cancelled_upload_leaves_nothing_behind(store, tmp_path, under_way):
    parts = PARTS_AT_ONCE + 4
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.truncate(parts * PART_BYTES)
    hold = Fault("hold", "PUT", part=under_way)
    store.proxy.plan(hold)
    zeros = "0" * 64  # never asked for: the upload does not come to its end
    putting = asyncio.ensure_future(store.bucket.put_file(path, KEY, zeros, None))
    await hold.reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert store.keys() == store.uploads() == []
    assert store.proxy.seen("DELETE", "uploadId")


async def test_an_upload_that_is_cancelled_as_its_end_stalls_is_let_go_and_not_seen(store, film):
    hold = Fault("hold", "PUT", part=3)
    store.proxy.plan(hold)
    store.bucket = open_bucket(store.bucket.url, replace(QUICK, cancel_s=0.05))
    putting = asyncio.ensure_future(put_film(store, film))
    await hold.reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert store.keys() == []


@pytest.mark.parametrize("kind", ["slow_down", "drop_answer", "cut_answer", "drip"])
async def test_a_large_object_is_fetched_whole(store, kind, tmp_path):
    store.client.put_object(Bucket=store.name, Key=KEY, Body=FILM)
    store.proxy.plan(Fault(kind, "GET"))
    assert await store.bucket.get_file(KEY, tmp_path / "film.mp4") == sha256_of(FILM)
    assert (tmp_path / "film.mp4").read_bytes() == FILM


async def test_a_fetch_that_fails_leaves_what_was_there_before(store, tmp_path):
    store.client.put_object(Bucket=store.name, Key=KEY, Body=FILM)
    (tmp_path / "film.mp4").write_bytes(b"before")
    store.proxy.plan(Fault("cut_answer", "GET", times=ALWAYS))
    with pytest.raises(StoreUnavailable, match="can't read"):
        await store.bucket.get_file(KEY, tmp_path / "film.mp4")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").read_bytes() == b"before"


async def test_an_object_that_is_replaced_while_it_is_read_is_never_a_mixture(store, tmp_path):
    store.client.put_object(Bucket=store.name, Key=KEY, Body=FILM)
    reading = store.bucket._pieces(KEY)
    await anext(reading)
    store.client.put_object(Bucket=store.name, Key=KEY, Body=FILM[::-1])
    with pytest.raises(RunDirError):
        await anext(reading)


@pytest.mark.parametrize("kind", ["slow_down", "drop_answer"])
async def test_a_marker_whose_answer_was_lost_is_still_its_writers(store, kind):
    store.proxy.plan(Fault(kind, "PUT"))
    assert await store.bucket.put_new("run", b"run-1") is True
    assert await store.bucket.put_new("run", b"run-2") is False
    assert store.content("run") == b"run-1"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("AccessDenied", r"refused \(AccessDenied\)"),
        ("SignatureDoesNotMatch", r"refused \(SignatureDoesNotMatch\)"),
        ("RequestTimeTooSkewed", "clock is wrong"),
        ("ExpiredToken", r"refused \(ExpiredToken\)"),
    ],
)
async def test_refused_credentials_are_told_at_once_and_never_shown(store, film, code, told):
    store.proxy.plan(
        *(Fault("refuse", method, times=ALWAYS, code=code) for method in ("PUT", "POST", "GET"))
    )
    for call in (put_film(store, film), store.bucket.put_new("a", b""), store.bucket.get_bytes("a")):
        with pytest.raises(CredentialsError, match=told) as refused:
            await call
        shown = "".join(traceback.format_exception(refused.value))
        assert "AKIATESTKEY" not in shown
        assert SECRET not in shown
        assert "StringToSign" not in shown
    assert len(store.proxy.requests) == 3


async def test_a_bucket_that_is_not_there_is_named_with_what_to_do(store, film):
    bucket = open_bucket("s3://nobodys-clips/a", QUICK)
    told = "s3://nobodys-clips/a/.*: there is no bucket 'nobodys-clips'; create it"
    for call in (
        bucket.put_file(film, KEY, sha256_of(FILM), None),
        bucket.put_new("run", b"1"),
        bucket.get_bytes("run"),
    ):
        with pytest.raises(RunDirError, match=told):
            await call
    with pytest.raises(RunDirError, match="there is no bucket"):
        [found async for found in bucket.list()]


async def test_a_server_that_is_not_there_is_told_apart(store):
    await store.proxy.die()
    with pytest.raises(StoreUnavailable, match="refuses connections"):
        await store.bucket.put_bytes("metadata.jsonl", b"a")
    with pytest.raises(StoreUnavailable, match="refuses connections"):
        await store.bucket.size("a")
