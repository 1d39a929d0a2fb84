"""Which URLs may be fetched, and which addresses may be connected to."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import is_ip_address
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from batcher.clock import SystemClock
from batcher.download.downloader import Downloader
from batcher.download.patience import DownloadLimits
from batcher.download.trust import TrustedResolver, TrustPolicy, is_public, normal_host
from batcher.download.way import Way
from batcher.errors import DownloadRefused, DownloadStalled, UsageError
from tests.support.media_server import PNG, JumpingClock, MediaServer, RangedFile

API = "https://model-api.runcomfy.net/v1"
SANDBOX = "http://127.0.0.1:8188/v1"

TRUSTED = [
    (API, (), "https://cdn.runcomfy.net/x.png"),
    (API, (), "https://a.b.c.runcomfy.com/x.png"),
    (API, (), "https://model-api.runcomfy.net/x.png"),
    (API, (), "HTTPS://CDN.RunComfy.Net./x.png"),
    (API, (), "https://cdn.runcomfy.net:443/x.png"),
    (API, (), "https://bücher.runcomfy.net/x.png"),
    (API, (), "https://ｃｄｎ。runcomfy.net/x.png"),
    (API, (), "https://under_score.runcomfy.net/x.png"),
    (SANDBOX, (), "http://127.0.0.1:8188/x.png"),
    ("http://localhost:80/v1", (), "http://localhost/x.png"),
    ("https://api.example:8443", (), "https://api.example:8443/x.png"),
    ("https://api.example:8443", (), "https://api.example/x.png"),
    (API, ("media.example",), "https://media.example/x.png"),
    (API, ("Media.Example.",), "https://media.example/x.png"),
    (API, ("*.example",), "https://a.b.example/x.png"),
    (API, ("*.example:9000",), "https://a.example:9000/x.png"),
    (API, ("media.example:9000",), "https://media.example:9000/x.png"),
    (API, ("localhost:9000",), "http://localhost:9000/x.png"),
    (API, ("localhost:9000",), "https://localhost:9000/x.png"),
    (API, ("10.0.0.7",), "https://10.0.0.7/x.png"),
    (API, ("::1",), "http://[::1]/x.png"),
    (API, ("[::1]:9000",), "http://[0:0:0:0:0:0:0:1]:9000/x.png"),
    (API, ("bücher.example",), "https://xn--bcher-kva.example/x.png"),
]

UNTRUSTED = [
    (API, (), "https://evil.example/x.png"),
    (API, (), "https://runcomfy.com.evil.example/x.png"),
    (API, (), "https://evilruncomfy.com/x.png"),
    (API, (), "https://runcomfy.net/x.png"),
    (API, (), "https://.runcomfy.net/x.png"),
    (API, (), "https://cdn..runcomfy.net/x.png"),
    (API, (), "https://cdn.runcomfy.net../x.png"),
    (API, (), "https://run%63omfy.com/x.png"),
    (API, (), "https://evil.example%2f.runcomfy.net/x.png"),
    (API, (), "https://evil.example\\.runcomfy.net/x.png"),
    (API, (), "https://evil.example\t.runcomfy.net/x.png"),
    (API, (), "https://evil.example#.runcomfy.net/x.png"),
    (API, (), "https://evil.example?.runcomfy.net/x.png"),
    (API, (), f"https://{'a' * 64}.runcomfy.net/x.png"),
    (API, (), f"https://{'a.' * 130}runcomfy.net/x.png"),
    (API, (), "https://-a.runcomfy.net/x.png"),
    (API, (), "http://cdn.runcomfy.net/x.png"),
    (API, (), "http://model-api.runcomfy.net/x.png"),
    (API, (), "https://cdn.runcomfy.net:8443/x.png"),
    (API, (), "https://cdn.runcomfy.net:80/x.png"),
    (API, (), "https://cdn.runcomfy.net:0/x.png"),
    (API, (), "https://cdn.runcomfy.net:99999/x.png"),
    (API, (), "https://cdn.runcomfy.net:x/x.png"),
    (API, (), "https://me@cdn.runcomfy.net/x.png"),
    (API, (), "https://me:pw@cdn.runcomfy.net/x.png"),
    (API, (), "https://@cdn.runcomfy.net/x.png"),
    (API, (), "file:///etc/passwd"),
    (API, (), "ftp://cdn.runcomfy.net/x.png"),
    (API, (), "javascript:alert(1)"),
    (API, (), "//cdn.runcomfy.net/x.png"),
    (API, (), "cdn.runcomfy.net/x.png"),
    (API, (), "https:///x.png"),
    (API, (), "https://"),
    (API, (), ""),
    (API, (), "https://[::1/x.png"),
    (API, (), "https://127.0.0.1/x.png"),
    (API, (), "https://169.254.169.254/latest/meta-data"),
    (API, (), "https://2130706433/x.png"),
    (API, (), "https://0x7f.1/x.png"),
    (API, (), "https://127.1/x.png"),
    (API, (), "https://[::1]/x.png"),
    (API, (), "https://[::ffff:127.0.0.1]/x.png"),
    (API, (), "https://8.8.8.8/x.png"),
    (SANDBOX, (), "http://127.0.0.1:8189/x.png"),
    (SANDBOX, (), "http://127.0.0.1/x.png"),
    (SANDBOX, (), "http://localhost:8188/x.png"),
    (SANDBOX, (), "http://[::ffff:127.0.0.1]:8188/x.png"),
    (API, ("media.example",), "https://a.media.example/x.png"),
    (API, ("media.example",), "http://media.example/x.png"),
    (API, ("*.example",), "https://example/x.png"),
    (API, ("media.example:9000",), "https://media.example/x.png"),
    (API, ("10.0.0.7",), "http://10.0.0.7/x.png"),
]


def policy_of(api: str, allowed: tuple[str, ...] = ()) -> TrustPolicy:
    return TrustPolicy((api,), ("runcomfy.net", "runcomfy.com"), allowed)


@pytest.mark.parametrize(("api", "allowed", "url"), TRUSTED)
def test_these_are_fetched(api: str, allowed: tuple[str, ...], url: str) -> None:
    checked = policy_of(api, allowed).check(url)
    assert checked.path == "/x.png"
    assert checked.raw_host == normal_host(checked.host or "")


@pytest.mark.parametrize(("api", "allowed", "url"), UNTRUSTED)
def test_these_are_refused(api: str, allowed: tuple[str, ...], url: str) -> None:
    policy = policy_of(api, allowed)
    with pytest.raises(DownloadRefused) as refused:
        policy.check(url)
    assert refused.value.code == "host"


def test_a_refusal_says_what_would_allow_it_and_nothing_secret() -> None:
    policy = policy_of(API)
    with pytest.raises(DownloadRefused, match=r"--allow-host evil.example would allow"):
        policy.check("https://evil.example/x.png")
    with pytest.raises(DownloadRefused, match=r"--allow-host cdn.runcomfy.net:81 would allow"):
        policy.check("https://cdn.runcomfy.net:81/x.png")
    with pytest.raises(DownloadRefused, match="only https") as refused:
        policy.check("http://cdn.runcomfy.net/x.png?sig=secret")
    assert "secret" not in str(refused.value)
    with pytest.raises(DownloadRefused, match="password") as refused:
        policy.check("https://me:secret@cdn.runcomfy.net/x.png?sig=secret")
    assert "secret" not in str(refused.value)


def test_only_the_host_of_a_url_is_changed() -> None:
    checked = policy_of(API).check("https://CDN.runcomfy.net./a%2fb;c?x=%7e+1&s=a%2Bb/=")
    assert str(checked) == "https://cdn.runcomfy.net/a%2fb;c?x=%7e+1&s=a%2Bb/="


def test_spaces_and_other_scripts_in_a_path_are_quoted() -> None:
    checked = policy_of(API).check("https://cdn.runcomfy.net/a b/ü.png")
    assert str(checked) == "https://cdn.runcomfy.net/a%20b/%C3%BC.png"


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "https://x.example", "x.example/path", "x:y", "a@b", "a b", "127.1", "*.0.0.1"],
)
def test_an_allowed_host_that_names_none_is_a_usage_error(entry: str) -> None:
    with pytest.raises(UsageError, match=r"--allow-host"):
        policy_of(API, (entry,))


@pytest.mark.parametrize("api", ["", "model-api.runcomfy.net", "ftp://x.example", "https://"])
def test_an_api_base_that_is_no_url_is_a_usage_error(api: str) -> None:
    with pytest.raises(UsageError, match="not the URL of an API"):
        policy_of(api)


URL_PARTS = (
    *("https", "http", ":", "//", "/", "@", "?", "#", "[", "]", "%", "\\", ".", "::1", "127.0.0.1"),
    *("runcomfy.net", "cdn", "evil", ":443", ":0", "\ud800", "。", "xn--", "ß", " ", "\x00"),
)
URL_LIKE = st.lists(st.sampled_from(URL_PARTS), max_size=12).map("".join)


@given(url=st.text() | URL_LIKE | URL_LIKE.map("https://{}".format))
def test_no_text_raises_anything_but_a_refusal(url: str) -> None:
    policy = policy_of(API)
    for check in (policy.check, lambda text: policy.follow(URL("https://cdn.runcomfy.net/a"), text)):
        with suppress(DownloadRefused):
            checked = check(url)
            assert checked.scheme == "https"
            assert (checked.raw_host or "").endswith((".runcomfy.net", ".runcomfy.com"))
            assert checked.port == 443
            assert checked.user is None


@given(url=st.text() | URL_LIKE)
def test_a_refusal_is_one_printable_line(url: str) -> None:
    with pytest.raises(DownloadRefused) as refused:
        policy_of(API).check(f"gopher://{url}")
    assert str(refused.value).isprintable()


# --- Addresses

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]
NOT_PUBLIC = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "::ffff:0:127.0.0.1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "100::1",
    "nonsense",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_of_somebodys_own_network_is_not(address: str) -> None:
    assert not is_public(address)


class FakeResolver(AbstractResolver):
    """Every name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("::ffff:127.0.0.1",)])
async def test_a_name_with_any_private_address_is_refused(addresses: tuple[str, ...]) -> None:
    resolver = TrustedResolver(policy_of(API), FakeResolver(*addresses))
    with pytest.raises(DownloadRefused, match="not a public address") as refused:
        await resolver.resolve("cdn.runcomfy.net", 443)
    assert refused.value.code == "host"


async def test_a_name_with_public_addresses_keeps_them() -> None:
    inner = FakeResolver("8.8.8.8", "2606:4700::1")
    resolver = TrustedResolver(policy_of(API), inner)
    found = await resolver.resolve("cdn.runcomfy.net", 443)
    assert [result["host"] for result in found] == ["8.8.8.8", "2606:4700::1"]
    await resolver.close()
    assert inner.closed


@pytest.mark.parametrize("host", ["media.corp.example", "a.lab.example", "model-api.runcomfy.net"])
async def test_a_host_that_the_user_named_may_be_private(host: str) -> None:
    policy = policy_of(API, ("media.corp.example", "*.lab.example"))
    found = await TrustedResolver(policy, FakeResolver("10.0.0.1")).resolve(host, 443)
    assert found[0]["host"] == "10.0.0.1"


async def never() -> str:
    raise AssertionError("asked for a fresh URL")


async def test_a_trusted_name_that_resolves_to_this_machine_is_never_connected_to(
    tmp_path: Path,
) -> None:
    async with MediaServer(RangedFile(PNG)) as server:
        downloader = Downloader(
            policy_of(API),
            DownloadLimits(),
            SystemClock(),
            random.Random(1),
            Way(resolver=FakeResolver("127.0.0.1")),
        )
        async with downloader:
            with pytest.raises(DownloadRefused, match=r"resolves to 127.0.0.1"):
                await downloader.fetch("https://cdn.runcomfy.net/x.png", tmp_path / "part", never)
        assert not server.requests


async def test_the_address_that_was_checked_is_the_one_connected_to(tmp_path: Path) -> None:
    """The name exists nowhere but in the fake resolver, so there is no second look-up to fool."""
    async with MediaServer(RangedFile(PNG)) as server:
        resolver = FakeResolver("127.0.0.1")
        base = f"http://media.invalid:{server.port}"
        downloader = Downloader(
            policy_of(base), DownloadLimits(), SystemClock(), random.Random(1), Way(resolver=resolver)
        )
        async with downloader:
            await downloader.fetch(f"{base}/x.png", tmp_path / "part", never)
        assert resolver.asked == ["media.invalid"]
        assert resolver.closed


class Unresolvable(FakeResolver):
    async def resolve(
        self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        raise OSError(None, "DNS lookup failed")


async def test_a_name_that_does_not_resolve_just_now_is_tried_again(tmp_path: Path) -> None:
    resolver = Unresolvable()
    downloader = Downloader(
        policy_of(API), DownloadLimits(), JumpingClock(), random.Random(1), Way(resolver=resolver)
    )
    async with downloader:
        with pytest.raises(DownloadStalled):
            await downloader.fetch("https://cdn.runcomfy.net/x.png", tmp_path / "part", never)
    assert len(resolver.asked) > 5


def test_aiohttp_skips_the_resolver_only_for_addresses() -> None:
    """The URL check stands in for the resolver there; this would tell if that changed."""
    assert is_ip_address("127.0.0.1")
    assert is_ip_address("::1")
    assert not is_ip_address("cdn.runcomfy.net")
