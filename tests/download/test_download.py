"""The downloader against servers that serve, break off, lie and stall."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import resource
import threading
from asyncio import timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batcher.download.downloader import Downloader
from batcher.download.patience import DownloadLimits, Patience, ServerBusy
from batcher.download.sink import PIECE_BYTES
from batcher.download.transfer import Fetched
from batcher.download.trust import TrustPolicy
from batcher.errors import (
    DownloadInterrupted,
    DownloadRefused,
    DownloadStalled,
    NotFound,
    RetryKind,
    RunDirError,
)
from tests.support.dataset import picture
from tests.support.media_server import MP4, PNG, JumpingClock, MediaServer, RangedFile, Reply, Request

BIG = PNG + random.Random(7).randbytes(3 * PIECE_BYTES)
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


async def no_refresh() -> str:
    raise AssertionError("asked for a fresh URL")


class Refresh:
    """A source of fresh URLs: the given ones in turn, then the last again and again."""

    def __init__(self, *urls: str) -> None:
        self._urls = list(urls)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        return self._urls.pop(0) if len(self._urls) > 1 else self._urls[0]


class Bench:
    """A downloader that trusts one server, and a place for its file."""

    def __init__(self, server: MediaServer, folder: Path, limits: DownloadLimits) -> None:
        self.server = server
        self.clock = JumpingClock()
        self.partial = folder / "job.part"
        self.downloader = Downloader(TrustPolicy((server.origin,)), limits, self.clock, random.Random(1))

    async def fetch(
        self, url: str | None = None, refresh: Callable[[], Awaitable[str]] = no_refresh
    ) -> Fetched:
        return await self.downloader.fetch(url or self.server.url, self.partial, refresh)

    @property
    def requests(self) -> list[Request]:
        return self.server.requests


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    @asynccontextmanager
    async def open_bench(
        *replies: Any, limits: DownloadLimits | None = None, **server: Any
    ) -> AsyncIterator[Bench]:
        async with MediaServer(*replies, **server) as media:
            made = Bench(media, tmp_path, limits or DownloadLimits())
            async with made.downloader:
                yield made

    return open_bench


def check(bench: Bench, fetched: Fetched, body: bytes) -> None:
    assert bench.partial.read_bytes() == body
    assert fetched.bytes == len(body)
    assert fetched.sha256 == hashlib.sha256(body).hexdigest()


# --- Whole files


@pytest.mark.parametrize("body", [PNG[:8], PNG, PNG + bytes(PIECE_BYTES - len(PNG)), BIG])
async def test_a_file_of_any_size_arrives_whole_with_its_hash(bench: Any, body: bytes) -> None:
    async with bench(RangedFile(body)) as b:
        fetched = await b.fetch()
        check(b, fetched, body)
    assert (fetched.extension, fetched.media_type) == (".png", "image/png")


async def test_a_chunked_body_needs_no_length(bench: Any) -> None:
    async with bench(Reply(body=BIG, chunks=70_000)) as b:
        check(b, await b.fetch(), BIG)


async def test_a_body_without_length_counts_if_its_format_says_that_it_is_whole(bench: Any) -> None:
    whole = picture("whole")
    async with bench(Reply(body=whole, length=-1)) as b:
        check(b, await b.fetch(), whole)


async def test_a_leftover_of_an_earlier_run_is_overwritten(bench: Any) -> None:
    async with bench(RangedFile(PNG)) as b:
        b.partial.write_bytes(bytes(10 * len(PNG)))
        check(b, await b.fetch(), PNG)


async def test_no_credential_and_no_cookie_ever_leaves(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    hop = Reply(302, headers={"Location": "/b.png", "Set-Cookie": "session=1; Path=/"})
    async with bench(hop, RangedFile(PNG)) as b:
        await b.fetch()
    for request in b.requests:
        assert not {"authorization", "cookie", "proxy-authorization"} & request.headers.keys()
        assert request.headers["accept-encoding"] == "identity"


async def test_a_signed_url_goes_out_byte_for_byte(bench: Any) -> None:
    target = "/a%2fb%20c/x.png?X-Amz-Signature=a%2Bb%7e+/=&e="
    async with bench(RangedFile(PNG)) as b:
        await b.fetch(b.server.origin + target)
    assert b.requests[0].target == target


async def test_many_files_share_the_connections_that_are_allowed(bench: Any) -> None:
    async with bench(RangedFile(PNG), limits=DownloadLimits(downloads=3), cut_pause_s=0.0) as b:
        partials = [b.partial.with_name(f"{i}.part") for i in range(40)]
        fetched = await asyncio.gather(
            *(b.downloader.fetch(b.server.url, partial, no_refresh) for partial in partials)
        )
        assert {f.sha256 for f in fetched} == {hashlib.sha256(PNG).hexdigest()}
        assert all(partial.read_bytes() == PNG for partial in partials)
    assert b.server.most_at_once <= 3
    assert len({request.port for request in b.requests}) <= 3


class HeldDisk:
    """Holds up every fsync until it is released, and then lets all through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._released = threading.Event()
        fsync = os.fsync

        def held_up(fd: int) -> None:
            self._released.wait(10)
            fsync(fd)

        monkeypatch.setattr(os, "fsync", held_up)

    def release(self) -> None:
        self._released.set()


@pytest.mark.parametrize(("body", "most"), [(PNG, 1 + 4), (BIG, 1)])
async def test_small_files_that_wait_for_the_disk_keep_no_connection_from_others(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, most: int
) -> None:
    disk = HeldDisk(monkeypatch)
    monkeypatch.setattr("batcher.download.downloader.GROUP_FILES", 4)
    async with bench(RangedFile(body), limits=DownloadLimits(downloads=1)) as b, timeout(10):
        fetches = [
            asyncio.create_task(b.downloader.fetch(b.server.url, tmp_path / f"{n}", no_refresh))
            for n in range(most + 2)
        ]
        try:
            while len(b.requests) < most:
                await asyncio.sleep(0.005)
            assert b.server.most_at_once == 1
            await asyncio.sleep(0.05)
            assert len(b.requests) == most, "what waits for the disk is bounded"
        finally:
            disk.release()
        assert len({fetched.sha256 for fetched in await asyncio.gather(*fetches)}) == 1
    assert len(b.requests) == most + 2


# --- Breaking off and going on


@pytest.mark.parametrize("body", [PNG, BIG])
async def test_a_broken_transfer_goes_on_where_it_broke(bench: Any, body: bytes) -> None:
    cut = len(body) - 700
    async with bench(RangedFile(body, cuts=[cut])) as b:
        check(b, await b.fetch(), body)
    first, second = b.requests
    assert "range" not in first.headers
    # What was still on its way when the connection broke is lost, so it may go on before the cut.
    asked_from = int(second.headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < asked_from <= cut
    assert second.headers["if-range"] == '"v1"'


async def test_a_date_serves_as_validator_where_there_is_no_tag(bench: Any) -> None:
    dates = {
        "Last-Modified": "Sat, 31 Jan 2026 09:00:00 GMT",
        "Date": "Sat, 31 Jan 2026 09:30:00 GMT",
    }
    async with bench(RangedFile(PNG, cuts=[100], validators=dates)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].headers["if-range"] == dates["Last-Modified"]


@pytest.mark.parametrize("validators", [{}, {"ETag": 'W/"v1"'}])
async def test_without_a_strong_validator_it_starts_over(bench: Any, validators: dict[str, str]) -> None:
    async with bench(RangedFile(BIG, cuts=[len(BIG) - 9], validators=validators)) as b:
        check(b, await b.fetch(), BIG)
    assert "range" not in b.requests[1].headers


async def test_a_file_that_changed_meanwhile_starts_over(bench: Any) -> None:
    new = MP4 + BIG
    before = RangedFile(BIG, cuts=[len(BIG) - 9])
    async with bench(before, RangedFile(new, validators={"ETag": '"v2"'})) as b:
        fetched = await b.fetch()
        check(b, fetched, new)
    assert "range" in b.requests[1].headers
    assert fetched.extension == ".mp4"


@pytest.mark.parametrize(
    ("content_range", "headers"),
    [
        ("bytes 90-2055/2056", {}),
        ("bytes 100-2055/9999", {}),
        ("bytes 100-2055/*", {}),
        ("bytes 100-1000/2056", {}),
        ("pages 1-2/3", {}),
        (None, {}),
        ("bytes 100-2055/2056", {"ETag": '"v2"'}),
    ],
)
async def test_a_range_that_does_not_fit_starts_over(
    bench: Any, content_range: str | None, headers: dict[str, str]
) -> None:
    assert len(PNG) == 2056
    extent = {"Content-Range": content_range} if content_range else {}
    wrong = Reply(206, PNG[100:], {**extent, **headers})
    async with bench(RangedFile(PNG, cuts=[100]), wrong, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].headers["range"] == "bytes=100-"
    assert "range" not in b.requests[2].headers


async def test_a_range_that_ends_before_the_file_does_is_followed_by_the_rest(bench: Any) -> None:
    part = Reply(206, PNG[100:300], {"Content-Range": f"bytes 100-299/{len(PNG)}", "ETag": '"v1"'})
    async with bench(RangedFile(PNG, cuts=[100]), part, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[2].headers["range"] == "bytes=300-"


async def test_a_range_that_outgrows_the_file_starts_over(bench: Any) -> None:
    extent = {"Content-Range": f"bytes 100-{len(PNG) - 1}/{len(PNG)}"}
    more = Reply(206, PNG[100:] + b"more", extent, chunks=500)
    async with bench(RangedFile(PNG, cuts=[100]), more, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert "range" not in b.requests[2].headers


async def test_a_range_that_is_not_satisfiable_starts_over(bench: Any) -> None:
    async with bench(RangedFile(PNG, cuts=[100]), Reply(416), RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert "range" not in b.requests[2].headers


async def test_a_body_shorter_than_announced_is_completed(bench: Any) -> None:
    short = Reply(body=PNG[:50], length=len(PNG), headers={"ETag": '"v1"'})
    async with bench(short, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].headers["range"] == "bytes=50-"


async def test_more_than_was_announced_is_never_taken_for_the_file(bench: Any) -> None:
    async with bench(Reply(body=PNG, length=100), RangedFile(MP4)) as b:
        fetched = await b.fetch()
        check(b, fetched, PNG[:100] if fetched.bytes == 100 else MP4)


async def test_what_is_not_http_is_tried_again_and_named_in_one_line(bench: Any) -> None:
    garbage = Reply(headers={"Broken": "a\r\nno colon here\r\n\x00"})
    async with bench(garbage) as b:
        with pytest.raises(DownloadStalled) as stalled:
            await b.fetch(f"{b.server.url}?sig=secret")
    assert "\n" not in str(stalled.value)
    assert "secret" not in str(stalled.value)


async def test_a_chunked_body_without_its_end_is_truncated(bench: Any) -> None:
    broken = Reply(body=PNG, chunks=64, cut=640, headers={"ETag": '"v1"'})
    async with bench(broken, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].headers["range"] == "bytes=640-"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 3 * PIECE_BYTES),
    cuts=st.lists(st.integers(0, 2 * PIECE_BYTES), max_size=5),
    validators=st.sampled_from([{"ETag": '"v1"'}, {}]),
)
def test_any_sequence_of_cuts_yields_the_same_bytes(
    tmp_path: Path, size: int, cuts: list[int], validators: dict[str, str]
) -> None:
    body = PNG[:8] + BIG[100 : 100 + size]

    async def scenario() -> None:
        served = RangedFile(body, cuts=[cut for cut in cuts if cut < len(body)], validators=validators)
        async with MediaServer(served, cut_pause_s=0.0) as server:
            b = Bench(server, tmp_path, DownloadLimits())
            async with b.downloader:
                check(b, await b.fetch(), body)

    asyncio.run(scenario())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 200_000), chunk=st.integers(100, 100_000))
def test_any_chunking_yields_the_same_bytes(tmp_path: Path, size: int, chunk: int) -> None:
    body = BIG[: 8 + size]

    async def scenario() -> None:
        async with MediaServer(Reply(body=body, chunks=chunk)) as server:
            b = Bench(server, tmp_path, DownloadLimits())
            async with b.downloader:
                check(b, await b.fetch(), body)

    asyncio.run(scenario())


# --- Trying again, and giving up


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
async def test_a_server_in_trouble_is_asked_again(bench: Any, status: int) -> None:
    async with bench(Reply(status), RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert 0.0 <= b.clock.sleeps_s[0] <= DownloadLimits().backoff_base_s


@pytest.mark.parametrize("retry_after", ["30", "Sat, 31 Jan 2026 00:00:30 GMT"])
async def test_retry_after_is_kept(bench: Any, retry_after: str) -> None:
    busy = Reply(429, headers={"Retry-After": retry_after})
    async with bench(busy, RangedFile(PNG)) as b:
        await b.fetch()
    assert b.clock.sleeps_s == [30.0]


async def test_two_minutes_without_a_byte_are_enough(bench: Any) -> None:
    async with bench(Reply(503)) as b:
        with pytest.raises(DownloadStalled, match=r"no progress for 120 s; last: .*HTTP 503") as stalled:
            await b.fetch()
    assert stalled.value.code == "stalled"
    assert stalled.value.kind is RetryKind.TRANSIENT
    assert 120.0 <= b.clock.elapsed_s < 121.0
    assert len(b.requests) < 60


async def test_a_server_that_is_gone_stalls(bench: Any) -> None:
    async with bench(Reply(503)) as b:
        await b.server.end()
        with pytest.raises(DownloadStalled):
            await b.fetch()


async def test_every_byte_of_progress_renews_the_patience(bench: Any) -> None:
    drip = RangedFile(PNG, cuts=[20] * 60)
    steps = [Reply(503, headers={"Retry-After": "100"}) if i % 2 else drip for i in range(121)]
    async with bench(*steps, cut_pause_s=0.001) as b:
        check(b, await b.fetch(), PNG)
    assert b.clock.elapsed_s >= 6000.0


async def test_breaking_off_at_the_same_place_without_resuming_is_no_progress(bench: Any) -> None:
    forever = Reply(body=PNG, cut=500)
    async with bench(forever, cut_pause_s=0.001) as b:
        with pytest.raises(DownloadStalled):
            await b.fetch()
    assert not b.partial.exists()


async def test_a_silent_connection_is_given_up(bench: Any) -> None:
    limits = DownloadLimits(read_timeout_s=0.05)
    silent = Reply(body=PNG[:100], length=len(PNG), headers={"ETag": '"v1"'}, hang=True)
    async with bench(silent, RangedFile(PNG), limits=limits) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].headers["range"] == "bytes=100-"


async def test_waiting_for_a_turn_does_not_wear_out_patience() -> None:
    clock = JumpingClock()
    patience = Patience(DownloadLimits(), clock, random.Random(1))
    clock.elapsed_s += 500.0
    patience.forgive(500.0)
    assert patience.wait_s(DownloadInterrupted("broke off")) <= 0.5


@given(
    retry_afters_s=st.lists(st.floats(0, 1e6), min_size=1, max_size=50),
    seed=st.integers(0, 1000),
)
def test_waits_stay_within_what_patience_is_left(retry_afters_s: list[float], seed: int) -> None:
    clock, limits = JumpingClock(), DownloadLimits()
    patience = Patience(limits, clock, random.Random(seed))
    with pytest.raises((DownloadStalled, StopIteration)):
        for retry_after_s in retry_afters_s:
            wait_s = patience.wait_s(ServerBusy("busy", retry_after_s))
            assert min(retry_after_s, limits.stall_s - clock.elapsed_s) <= wait_s <= limits.stall_s
            clock.elapsed_s += wait_s
        raise StopIteration


# --- Fresh URLs


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_an_expired_url_is_replaced_at_once(bench: Any, status: int) -> None:
    async with bench(Reply(status), RangedFile(PNG)) as b:
        refresh = Refresh(f"{b.server.origin}/fresh.png?sig=2")
        check(b, await b.fetch(refresh=refresh), PNG)
    assert refresh.calls == 1
    assert b.requests[1].target == "/fresh.png?sig=2"
    assert b.clock.elapsed_s == 0.0


async def test_a_fresh_signature_goes_on_where_the_old_one_expired(bench: Any) -> None:
    async with bench(RangedFile(PNG, cuts=[100]), Reply(403), RangedFile(PNG)) as b:
        check(b, await b.fetch(refresh=Refresh(f"{b.server.url}?sig=2")), PNG)
    assert b.requests[2].headers["range"] == "bytes=100-"


async def test_a_fresh_url_of_another_path_is_another_file(bench: Any) -> None:
    async with bench(RangedFile(PNG, cuts=[100]), Reply(403), RangedFile(MP4)) as b:
        check(b, await b.fetch(refresh=Refresh(f"{b.server.origin}/other.mp4")), MP4)
    assert "range" not in b.requests[2].headers


async def test_urls_that_stay_forbidden_stall(bench: Any) -> None:
    async with bench(Reply(403)) as b:
        with pytest.raises(DownloadStalled, match="HTTP 403"):
            await b.fetch(refresh=Refresh(b.server.url))
    assert b.clock.sleeps_s[:2] == [0.0, 0.0]
    assert 120.0 <= b.clock.elapsed_s < 121.0
    assert len(b.requests) < 60


async def test_an_error_of_the_refresh_passes_through(bench: Any) -> None:
    async def gone() -> str:
        raise NotFound("the request has expired", http_status=404)

    async with bench(Reply(404)) as b:
        with pytest.raises(NotFound):
            await b.fetch(refresh=gone)
    assert not b.partial.exists()


# --- What is not accepted


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "image/png"),
        (HTML, "text/html; charset=utf-8"),
        (HTML, "image/png"),
        (b'\xef\xbb\xbf {"error": "not ready"}', "application/json"),
        (b"[1, 2]", ""),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "application/xml"),
        (b"try again later", "text/plain"),
        (b"<!-- " + b"x" * 9000, "text/html"),
    ],
)
async def test_a_page_instead_of_media_is_asked_for_thrice(
    bench: Any, body: bytes, content_type: str
) -> None:
    async with bench(Reply(body=body, headers={"Content-Type": content_type})) as b:
        refresh = Refresh(b.server.url)
        with pytest.raises(DownloadRefused) as refused:
            await b.fetch(refresh=refresh)
    assert refused.value.code == "not_media"
    assert len(b.requests) == 3
    assert refresh.calls == 2
    assert not b.partial.exists()


async def test_a_page_may_be_a_passing_fault(bench: Any) -> None:
    async with bench(Reply(body=HTML), Reply(body=b""), RangedFile(PNG)) as b:
        check(b, await b.fetch(refresh=Refresh(b.server.url)), PNG)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate, br"])
async def test_a_body_in_a_coding_that_we_can_not_undo_is_refused(bench: Any, encoding: str) -> None:
    body = b"\x8b\x02\x80\x07packed" * 90
    async with bench(Reply(body=body, headers={"Content-Encoding": encoding})) as b:
        with pytest.raises(DownloadRefused) as refused:
            await b.fetch()
    assert refused.value.code == "encoding"


async def test_the_encoding_identity_is_none(bench: Any) -> None:
    async with bench(Reply(body=PNG, headers={"Content-Encoding": "Identity"})) as b:
        check(b, await b.fetch(), PNG)


async def test_a_file_announced_as_too_large_is_refused_before_its_body(bench: Any) -> None:
    limits = DownloadLimits(max_file_bytes=1000)
    async with bench(Reply(body=PNG[:500], length=1001, hang=True), limits=limits) as b:
        with pytest.raises(DownloadRefused, match="larger than 1000 bytes") as refused:
            await b.fetch()
    assert refused.value.code == "too_large"


async def test_a_file_of_just_the_limit_is_fine(bench: Any) -> None:
    async with bench(RangedFile(PNG), limits=DownloadLimits(max_file_bytes=len(PNG))) as b:
        check(b, await b.fetch(), PNG)


@pytest.mark.parametrize("limit_bytes", [5000, 2 * PIECE_BYTES + 5])
async def test_an_endless_body_stops_at_the_limit(bench: Any, limit_bytes: int) -> None:
    endless = Reply(body=PNG * 20, length=-1, endless=True)
    async with bench(endless, limits=DownloadLimits(max_file_bytes=limit_bytes)) as b:
        with pytest.raises(DownloadRefused) as refused:
            await b.fetch()
        assert not b.partial.exists()
    assert refused.value.code == "too_large"
    assert len(b.requests) == 1


# --- Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_trust_is_followed(bench: Any, status: int) -> None:
    async with bench(Reply(status, headers={"Location": "/moved/b.png?s=%2b"}), RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[1].target == "/moved/b.png?s=%2b"


async def test_the_range_is_asked_for_at_the_end_of_the_redirect(bench: Any) -> None:
    hop = Reply(302, headers={"Location": "/b.png"})
    async with bench(hop, RangedFile(PNG, cuts=[100]), hop, RangedFile(PNG)) as b:
        check(b, await b.fetch(), PNG)
    assert b.requests[3].headers["range"] == "bytes=100-"


@pytest.mark.parametrize(
    "location",
    [
        "http://evil.example/x.png",
        "https://runcomfy.com.evil.example/x.png",
        "//evil.example/x.png",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x.png",
        "http://127.0.0.1:1/x.png",
        "http://me:pw@127.0.0.1/x.png",
        "http://[::1/x.png",
        "data:image/png;base64,AAAA",
    ],
)
async def test_a_redirect_out_of_trust_is_refused(bench: Any, location: str) -> None:
    async with bench(Reply(302, headers={"Location": location})) as b:
        with pytest.raises(DownloadRefused) as refused:
            await b.fetch()
    assert refused.value.code == "host"
    assert len(b.requests) == 1


async def test_a_loop_of_redirects_ends(bench: Any) -> None:
    async with bench(Reply(302, headers={"Location": "/cat.png"})) as b:
        with pytest.raises(DownloadRefused, match="redirected too often") as refused:
            await b.fetch()
    assert refused.value.code == "redirects"
    assert len(b.requests) == 6


async def test_a_redirect_to_nowhere_asks_for_a_fresh_url(bench: Any) -> None:
    async with bench(Reply(302), RangedFile(PNG)) as b:
        check(b, await b.fetch(refresh=Refresh(b.server.url)), PNG)


async def test_a_url_out_of_trust_is_never_asked_for(bench: Any) -> None:
    async with bench(RangedFile(PNG)) as b:
        with pytest.raises(DownloadRefused, match="not trusted"):
            await b.fetch("https://evil.example/x.png")
    assert not b.requests


# --- Disk and cancellation


def open_files_in(folder: Path) -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [
        os.readlink(link) for link in links if os.path.lexists(link) and str(folder) in os.readlink(link)
    ]


@pytest.mark.parametrize("sent_bytes", [10, 2 * PIECE_BYTES + 5])
async def test_a_cancelled_download_leaves_nothing(bench: Any, tmp_path: Path, sent_bytes: int) -> None:
    async with bench(Reply(body=BIG[:sent_bytes], length=len(BIG), hang=True)) as b:
        task = asyncio.create_task(b.fetch())
        while not b.requests or (sent_bytes > PIECE_BYTES and not b.partial.exists()):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not open_files_in(tmp_path)
        assert not b.partial.exists()


async def test_cancelled_again_and_again_it_still_leaves_nothing(bench: Any, tmp_path: Path) -> None:
    """Wherever the cancellations strike: in a read, in a write, in the tidying up."""
    for steps in range(40):
        async with bench(RangedFile(BIG)) as b:
            task = asyncio.create_task(b.fetch())
            for _ in range(steps):
                await asyncio.sleep(0.0005)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([task])
            if task.cancelled():
                assert not b.partial.exists()
            assert not open_files_in(tmp_path)


@pytest.mark.parametrize("body", [PNG, BIG])
async def test_a_full_disk_ends_the_run_with_the_file_named(bench: Any, body: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with bench(RangedFile(body)) as b:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(RunDirError, match=r"job\.part: can't write: File too large") as full:
                await b.fetch()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not open_files_in(b.partial.parent)
        assert not b.partial.exists()
    assert full.value.exit_code == 73


@pytest.mark.parametrize("body", [PNG, BIG])
async def test_a_folder_that_is_gone_ends_the_run(bench: Any, body: bytes) -> None:
    async with bench(RangedFile(body)) as b:
        b.partial = b.partial.parent / "gone" / "job.part"
        with pytest.raises(RunDirError, match="No such file"):
            await b.fetch()
