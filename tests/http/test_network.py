"""The way out: proxies and certificate authorities, by the variables that other tools read."""

from __future__ import annotations

import asyncio
import random
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from batcher.clock import SystemClock
from batcher.download.downloader import Downloader
from batcher.download.patience import DownloadLimits
from batcher.download.trust import TrustPolicy
from batcher.download.way import Way
from batcher.errors import DownloadRefused, NotSent, UsageError
from batcher.http.endpoint import Endpoint, Token
from batcher.http.network import Network
from batcher.http.words import error_text
from batcher.providers.runcomfy.provider import RunComfy
from tests.download.test_download_trust import FakeResolver
from tests.support.connections import Connections
from tests.support.model_api import model_api

API = URL("https://api.corp.test/v1")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
SECRET = "s3cr3t-Token-0123456789abcdef"


def by(variable: str, value: str = "http://proxy:3128", **more: str) -> Network:
    return Network({variable: value, **more})


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_found_under_either_case(variable: str) -> None:
    proxy = by(variable).proxy_for(API)
    assert proxy is not None
    assert (str(proxy.url), proxy.variable) == ("http://proxy:3128", variable)


def test_the_more_special_variable_and_lower_case_win() -> None:
    env = {"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower", "ALL_PROXY": "http://all"}
    proxy = Network(env).proxy_for(API)
    assert proxy is not None
    assert proxy.host == "lower"
    assert Network({**env, "https_proxy": ""}).proxy_for(API) is None, "empty switches it off"
    assert by("HTTP_PROXY").proxy_for(API) is None


@pytest.mark.parametrize(
    ("entries", "url", "direct"),
    [
        ("corp.test", "https://api.corp.test", True),
        (".corp.test", "https://api.corp.test", True),
        ("other.test, api.corp.test", "https://api.corp.test", True),
        ("api.corp.test:8443", "https://api.corp.test:8443", True),
        ("api.corp.test:8443", "https://api.corp.test", False),
        ("*", "https://api.corp.test", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("fd00::/8", "https://[fd00::1]", True),
        ("corp", "https://api.corp.test", False),
        ("", "https://api.corp.test", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_hosts_of_no_proxy_are_asked_directly(
    variable: str, entries: str, url: str, direct: bool
) -> None:
    network = by("HTTPS_PROXY", **{variable: entries})
    assert (network.proxy_for(URL(url)) is None) == direct


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "a.localhost", "[::1]"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_always_asked_directly(scheme: str, host: str) -> None:
    env = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://proxy")
    assert Network(env).proxy_for(URL(f"{scheme}://{host}:80/v1")) is None


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "http://", "ftp://x", "http://u:pw-123@ :x"])
def test_what_is_no_usable_proxy_is_said_with_its_variable_and_without_its_password(value: str) -> None:
    with pytest.raises(UsageError, match="ALL_PROXY") as caught:
        by("ALL_PROXY", value).proxy_for(API)
    assert "pw-123" not in str(caught.value)


def test_the_password_of_a_proxy_goes_into_its_header_and_is_never_shown() -> None:
    proxy = by("HTTPS_PROXY", "http://me:pw-123@proxy:1").proxy_for(API)
    assert proxy is not None
    assert proxy.headers == {"Proxy-Authorization": "Basic bWU6cHctMTIz"}
    assert "pw-123" not in f"{proxy} {proxy.url}"


@pytest.mark.parametrize(
    "variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
)
def test_a_bundle_that_can_not_be_read_is_said_with_its_variable(variable: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=variable):
        by(variable, str(tmp_path / "none.pem")).trusted()
    assert Network().trusted() is True


def test_certificates_are_read_once_and_only_for_what_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, made = by("SSL_CERT_FILE", str(authority(tmp_path))), []
    whole = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda: made.append(1) or whole())
    assert network.arguments(URL("http://127.0.0.1:8080/v1")) == {}
    assert not made
    first = network.arguments(API)["ssl"]
    assert network.arguments(URL("https://cdn.test/a.png"))["ssl"] is first
    assert len(made) == 1
    assert by("HTTP_PROXY", "https://proxy").arguments(URL("http://api.test"))["ssl"] is True


async def test_a_download_that_needs_certificates_which_can_not_be_read_is_refused(
    tmp_path: Path,
) -> None:
    way = Way(by("SSL_CERT_FILE", str(tmp_path / "none.pem")))
    guard = way.guard(TrustPolicy((str(API),)))
    with pytest.raises(DownloadRefused, match="SSL_CERT_FILE"):
        await way.arguments(API, guard)
    assert await way.arguments(URL("http://127.0.0.1:1/a.png"), guard) == {}


# --- a tunnel -------------------------------------------------------------------------------------


@dataclass
class Site:
    """An API and media server behind TLS of the test's own CA, and a proxy that leads to it."""

    proxy: str
    ca: Path
    connects: list[bytes] = field(default_factory=list)
    served: list[Any] = field(default_factory=list)
    refuse: bytes = b""


def authority(folder: Path, name: str = "DNS:api.corp.test") -> Path:
    """A CA with a certificate for ``name``; returns the CA's file. Its key is in ``key.pem``."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=corp", "-addext", f"subjectAltName={name}"]
    files = ["-keyout", "key.pem", "-out", "ca.pem", "-days", "2"]
    subprocess.run([*made, *names, *files], cwd=folder, check=True, capture_output=True)
    return folder / "ca.pem"


@asynccontextmanager
async def behind_a_proxy(folder: Path) -> AsyncIterator[Site]:
    ca = authority(folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca, folder / "key.pem")
    found = Site("", ca)

    async def serve(request: web.Request) -> web.Response:
        found.served.append(request)
        if request.path.startswith("/v1/models"):
            return web.json_response({"request_id": "r1"})
        return web.Response(body=PNG, content_type="image/png")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connects.append(await reader.readuntil(b"\r\n\r\n"))
        if found.refuse:
            writer.write(found.refuse)
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))

    proxy = Connections(tunnel)
    found.proxy = f"http://127.0.0.1:{await proxy.listen()}"
    try:
        yield found
    finally:
        await proxy.close()
        await runner.cleanup()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


def service(network: Network) -> AbstractAsyncContextManager[RunComfy]:
    return model_api(Endpoint(str(API), Token(SECRET)), SystemClock(), network=network)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_a_post_and_a_download_go_through_the_tunnel_and_the_proxy_sees_no_token(
    tmp_path: Path, variable: str
) -> None:
    async with behind_a_proxy(tmp_path) as site:
        network = Network({"HTTPS_PROXY": site.proxy, variable: str(site.ca)})
        async with service(network) as api:
            assert (await api.submit("acme/paint", b"{}")).id == "r1"
        policy, way = TrustPolicy((str(API),)), Way(network)
        limits, clock = DownloadLimits(), SystemClock()
        async with Downloader(policy, limits, clock, random.Random(1), way) as fetcher:
            fetched = await fetcher.fetch(
                "https://api.corp.test/a.png", tmp_path / "part", lambda: asyncio.sleep(0, "")
            )
            with pytest.raises(DownloadRefused):
                await fetcher.fetch(
                    "https://elsewhere.test/a.png", tmp_path / "p2", lambda: asyncio.sleep(0, "")
                )
        assert fetched.bytes == len(PNG)
        assert [head.split()[:2] for head in site.connects] == [[b"CONNECT", b"api.corp.test:443"]] * 2
        assert SECRET.encode() not in b"".join(site.connects)
        assert [request.headers.get("Authorization") for request in site.served] == [
            f"Bearer {SECRET}",
            None,
        ]


REFUSALS = {
    "needs a password": (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
    "knows no way": (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
    "hangs up": (b"HTTP/1.1 200", "proxy"),
}


@pytest.mark.parametrize(("refusal", "word"), REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_makes_no_tunnel_means_that_nothing_was_sent(
    tmp_path: Path, refusal: bytes, word: str
) -> None:
    async with behind_a_proxy(tmp_path) as site:
        site.refuse = refusal
        async with service(Network({"HTTPS_PROXY": site.proxy})) as api:
            with pytest.raises(NotSent, match=word) as caught:
                await api.submit("acme/paint", b"{}")
        assert "HTTPS_PROXY" in str(caught.value)
        assert not site.served


async def test_a_certificate_of_an_unknown_authority_names_the_variable_that_helps(
    tmp_path: Path,
) -> None:
    async with behind_a_proxy(tmp_path) as site, service(Network({"ALL_PROXY": site.proxy})) as api:
        with pytest.raises(NotSent, match="SSL_CERT_FILE"):
            await api.submit("acme/paint", b"{}")


async def test_an_api_that_can_not_be_reached_names_the_variable_of_a_proxy() -> None:
    async with model_api(Endpoint("https://api.invalid/v1", Token(SECRET)), SystemClock()) as api:
        with pytest.raises(NotSent, match="HTTPS_PROXY"):
            await api.submit("acme/paint", b"{}")


async def test_a_host_that_resolves_to_a_private_address_is_refused_behind_a_proxy_too(
    tmp_path: Path,
) -> None:
    network = Network({"HTTPS_PROXY": "http://127.0.0.1:1"})
    way = Way(network, FakeResolver("10.0.0.7"))
    async with Downloader(
        TrustPolicy(("https://api.example.test/v1",), ("runcomfy.net",)),
        DownloadLimits(),
        SystemClock(),
        random.Random(1),
        way,
    ) as fetcher:
        with pytest.raises(DownloadRefused, match="not a public address"):
            await fetcher.fetch(
                "https://cdn.runcomfy.net/a.png", tmp_path / "part", lambda: asyncio.sleep(0, "")
            )


async def test_an_unreachable_server_is_told_without_the_tls_context():
    with pytest.raises(aiohttp.ClientConnectorError) as failed:
        async with aiohttp.ClientSession() as session, session.get("https://127.0.0.1:1"):
            pass
    assert " ssl:" in str(failed.value)
    assert error_text(failed.value).startswith("Cannot connect to host 127.0.0.1:1 [")
    made = aiohttp.ClientConnectorError(
        failed.value._conn_key._replace(ssl=ssl.create_default_context()), OSError(1, "x")
    )
    assert error_text(made) == "Cannot connect to host 127.0.0.1:1 [x]"
