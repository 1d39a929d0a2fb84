"""Proxies and certificate authorities, as the environment variables configure them.

=====================================  ===========================================================
variable (lower case wins)             meaning
=====================================  ===========================================================
``HTTPS_PROXY``, ``HTTP_PROXY``        the proxy for URLs of that scheme
``ALL_PROXY``                          the proxy for URLs whose scheme has no other
``NO_PROXY``                           hosts that are reached directly: names, ``.domain``, addresses
                                       and networks, each with or without a port; ``*`` is all
``SSL_CERT_FILE``, ``SSL_CERT_DIR``    certificate authorities to trust besides the system's
``REQUESTS_CA_BUNDLE``,                the same, as other tools name it: a file or a folder
``CURL_CA_BUNDLE``
=====================================  ===========================================================

This machine itself (loopback) is always reached directly.
"""

from __future__ import annotations

import ipaddress
import ssl
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib import request

import aiohttp
from yarl import URL

from batcher.errors import UsageError

CA_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
HOSTS_KEPT: Final = 256
CONTEXTS_KEPT: Final = 4
PROXY_SCHEMES: Final = ("http", "https")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, without its password; ``variable`` is the environment variable that names it."""

    url: URL
    variable: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def host(self) -> str:
        return self.url.raw_host or ""

    def arguments(self) -> dict[str, Any]:
        """The request arguments that send it through this proxy."""
        return {"proxy": self.url, "proxy_headers": dict(self.headers)}


@dataclass(frozen=True, slots=True)
class Network:
    """The network settings in the environment ``env``. Without any, every host is reached directly."""

    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def proxy_for(self, url: URL) -> Proxy | None:
        """The proxy for ``url``, or None. Raises UsageError if the proxy's kind is not supported."""
        host = url.host or ""
        if is_loopback(host) or self._is_direct(host, url.port):
            return None
        for name in (f"{url.scheme}_proxy", "all_proxy"):
            value, variable = self._value(name)
            if value is not None:
                return _proxy(value, variable) if value else None
        return None

    def arguments(self, url: URL) -> dict[str, Any]:
        """The arguments of a request for ``url``: its proxy, and what TLS trusts, if it needs that.

        Raises UsageError. Reads the files of certificate authorities for the first URL that needs them:
        it takes a tenth of a second, and plain HTTP over loopback never does.
        """
        proxy = self.proxy_for(url)
        arguments = proxy.arguments() if proxy is not None else {}
        if "https" in (url.scheme, proxy.url.scheme if proxy is not None else None):
            arguments["ssl"] = self.trusted()
        return arguments

    def proxy_hosts(self) -> frozenset[str]:
        """The hosts that the variables name as proxies; values that can't be parsed are skipped."""
        hosts = set()
        for name in ("https_proxy", "http_proxy", "all_proxy"):
            value, variable = self._value(name)
            if value:
                with suppress(UsageError):
                    hosts.add(_proxy(value, variable).host)
        return frozenset(hosts)

    def trusted(self) -> ssl.SSLContext | bool:
        """The certificate authorities to trust; True: the system's. Raises UsageError. Reads files."""
        named = tuple(self._authorities())
        return _trusting(named) if named else True

    def advice(self, error: BaseException, url: URL) -> str:
        """Which variable may fix a failed connection; empty if none would."""
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            named = [variable for variable, _ in self._authorities()]
            told = f"besides the system's, {' and '.join(named)} was trusted" if named else ""
            return told or "name the file with your network's certificate authority in SSL_CERT_FILE"
        proxy = self.proxy_for(url)
        if proxy is not None:
            return f"asked through the proxy of {proxy.variable}; NO_PROXY lists hosts to ask directly"
        if is_loopback(url.host or "") or self._is_direct(url.host or "", url.port):
            return ""
        return "if this network has a proxy, name it in HTTPS_PROXY"

    def _authorities(self) -> Iterator[tuple[str, Path]]:
        for variable in CA_VARIABLES:
            if value := self.env.get(variable, "").strip():
                yield variable, Path(value)

    def _value(self, name: str) -> tuple[str | None, str]:
        for variable in (name, name.upper()):
            if variable in self.env:
                return self.env[variable].strip(), variable
        return None, name.upper()

    def _is_direct(self, host: str, port: int | None) -> bool:
        value, _ = self._value("no_proxy")
        if not value:
            return False
        named = f"[{host}]" if ":" in host else host
        hosts = (named, f"{named}:{port}")
        return any(_bypasses(one, value) for one in hosts) or _in_network(host, value)


@lru_cache(CONTEXTS_KEPT)
def _trusting(named: tuple[tuple[str, Path], ...]) -> ssl.SSLContext:
    """A context that trusts these files and folders besides the system's: each by its variable."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    for variable, path in named:
        try:
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:  # includes ssl.SSLError
            reason = error.strerror or "it holds no certificates"
            raise UsageError(f"{variable}: can't read certificates from {path}: {reason}") from None
    return context


@lru_cache(HOSTS_KEPT)
def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by name or address alone, without DNS (RFC 6761 section 6.3)."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _proxy(value: str, variable: str) -> Proxy:
    try:
        url = URL(value if "://" in value else f"http://{value}")
        usable = bool(url.host) and url.scheme in PROXY_SCHEMES
    except ValueError:
        usable = False
    if not usable:
        # The value is not printed: it may contain a password.
        raise UsageError(
            f"{variable}: not a proxy that can be used: give http://HOST:PORT, "
            "or list the API's host in NO_PROXY"
        )
    return Proxy(url.with_user(None).origin(), variable, _credentials(url))


def _credentials(url: URL) -> dict[str, str]:
    if url.user is None:
        return {}
    pair = f"{url.user}:{url.password or ''}".encode()
    return {"Proxy-Authorization": f"Basic {b64encode(pair).decode()}"}


def _bypasses(host: str, entries: str) -> bool:
    """The rules of ``urllib``, which typeshed does not list."""
    return bool(request.proxy_bypass_environment(host, {"no": entries}))  # type: ignore[attr-defined]


def _in_network(host: str, entries: str) -> bool:
    """Whether ``host`` is an address in one of the networks (``10.0.0.0/8``) of ``entries``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in entries.split(","):
        try:
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False
