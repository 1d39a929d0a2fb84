"""Which URLs may be fetched, and which addresses may be connected to.

Output URLs come from a server's answer, and redirects from other servers: every hop is checked, so that
a run can't be made to read a cloud's metadata service or a local router.
Two gates: :meth:`TrustPolicy.check` for the URL, and :class:`TrustedResolver` for the addresses that
a name resolves to. The connector uses exactly the addresses that the resolver checked, so a name
that resolves differently the second time (DNS rebinding) has no effect.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp.abc import AbstractResolver
from yarl import URL

from batcher.errors import DownloadRefused, UsageError
from batcher.http.network import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp.abc import ResolveResult

    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_PORTS: Final = {"https": 443, "http": 80}
HOST_MAX_CHARS: Final = 253
HOSTS_KEPT: Final = 1024
SHOWN_MAX_CHARS: Final = 200

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# A name whose last label is a number is an address in one of the old spellings (2130706433, 127.1,
# 0x7f.1): WHATWG URL, "ends in a number". No URL needs them.
_NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
_USERINFO = re.compile(r"//[^/]*@")

# RFC 4291 section 2.4: all global unicast; excludes loopback, link-local, multicast.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
# RFC 6052 section 2.1 (NAT64), RFC 4291 section 2.5.5.1 (IPv4-compatible): IPv4 in the last 32 bits.
_CARRIES_IPV4 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))


class HostRule(msgspec.Struct, frozen=True):
    """One rule of the policy.

    ``host`` is normalised (see :func:`normal_host`); ``subdomains`` means the names below it, not
    itself. ``port`` is allowed besides the default one. ``named`` says that the user chose this host,
    so it may have a private address; ``plain`` that http is allowed.
    """

    host: str
    subdomains: bool = False
    port: int | None = None
    named: bool = False
    plain: bool = False

    def covers_host(self, host: str) -> bool:
        if self.subdomains:
            return host.endswith(f".{self.host}") and _address(host) is None
        return host == self.host

    def covers(self, scheme: str, host: str, port: int) -> bool:
        if not self.covers_host(host):
            return False
        if scheme == "http" and not self.plain:
            return False
        return port == (self.port or DEFAULT_PORTS[scheme])


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """The hosts that outputs may come from.

    ``apis`` are the APIs' URLs (their own hosts are trusted, with their own scheme and port as well);
    ``domains`` those of which the vendors use subdomains; ``allow_hosts`` the user's ``--allow-host``
    entries: ``HOST``, ``*.DOMAIN``, either with ``:PORT``. Raises UsageError if one of them names no
    host.
    """

    apis: tuple[str, ...]
    domains: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    rules: tuple[HostRule, ...] = field(init=False)

    def __post_init__(self) -> None:
        vendors = (HostRule(domain, subdomains=True) for domain in self.domains)
        apis = (rule for api in self.apis for rule in _api_rules(api))
        named = (_named_rule(entry) for entry in self.allow_hosts)
        object.__setattr__(self, "rules", (*vendors, *apis, *named))

    def check(self, url: str | URL) -> URL:
        """The URL to request: ``url`` with its host normalised, otherwise unchanged.

        Raises DownloadRefused (code ``host``) for anything but an HTTPS URL on the default port of
        a trusted host. Plain HTTP and other ports are allowed only for the API's own origin and for
        hosts that the user named with them.
        """
        parsed = _parse(url)
        scheme, host = parsed.scheme, normal_host(parsed.host or "")
        if scheme not in DEFAULT_PORTS:
            raise _refused(url, "is not an https URL")
        if "@" in parsed.raw_authority:
            raise _refused(url, "carries a user name or password")
        if host is None:
            raise _refused(url, "names no usable host")
        port = parsed.port or 0
        if not any(rule.covers(scheme, host, port) for rule in self.rules):
            raise _refused(url, self._reason(scheme, host, port))
        return parsed if parsed.raw_host == host else parsed.with_host(host)

    def follow(self, base: URL, location: str) -> URL:
        """:meth:`check` for a redirect from ``base`` (RFC 3986 section 5, RFC 9110 section 10.2.2)."""
        return self.check(base.join(_parse(location)))

    def is_named(self, host: str) -> bool:
        """Whether the user chose ``host`` by name, so that a private address is allowed."""
        normal = normal_host(host)
        return normal is not None and any(rule.named and rule.covers_host(normal) for rule in self.rules)

    def _reason(self, scheme: str, host: str, port: int) -> str:
        if not any(rule.covers_host(host) for rule in self.rules):
            return f"is on a host that is not trusted (--allow-host {host} would allow it)"
        if scheme == "http":
            return "is plain http; only https is accepted"
        return f"is on port {port}, which is not trusted (--allow-host {host}:{port} would allow it)"


class TrustedResolver(AbstractResolver):
    """``inner``, but refuses names with an address that is not public.

    ``resolve`` raises DownloadRefused (code ``host``) if any of a name's addresses is not a public
    one, unless the policy says that the user named the host, or it is one of ``proxies``.
    """

    def __init__(
        self, policy: TrustPolicy, inner: AbstractResolver, proxies: frozenset[str] = frozenset()
    ) -> None:
        self._policy = policy
        self._inner = inner
        self._proxies = proxies

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host not in self._proxies and not self._policy.is_named(host):
            _require_public(host, (result["host"] for result in found))
        return found

    async def close(self) -> None:
        await self._inner.close()


def _require_public(host: str, addresses: Iterable[str]) -> None:
    for address in addresses:
        if not is_public(address):
            raise DownloadRefused(
                f"{host} resolves to {address}, which is not a public address "
                f"(--allow-host {host} would allow it)",
                "host",
            )


def is_public(address: str) -> bool:
    """Whether an IP address (textual; a zone is ignored) is unicast on the public Internet.

    IPv6 addresses that carry an IPv4 address (mapped, compatible, 6to4, NAT64) are judged by that.
    What is no address at all is not public.
    """
    try:
        ip = _inner_ipv4(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast


def _inner_ipv4(ip: IPAddress) -> IPAddress:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if any(ip in network for network in _CARRIES_IPV4):
        return ipaddress.IPv4Address(ip.packed[-4:])
    return ip.ipv4_mapped or ip.sixtofour or ip


@lru_cache(HOSTS_KEPT)
def normal_host(host: str) -> str | None:
    """``host`` in the normal form used for comparisons; None if it is not a usable host.

    Lower case, IDNA-encoded, without the root's dot; addresses in their shortest form, without
    brackets.
    """
    address = _address(host)
    if address is not None:
        return str(address)
    try:
        name = URL.build(scheme="https", host=host.lower().removesuffix(".")).raw_host or ""
    except ValueError:
        return None
    if len(name) > HOST_MAX_CHARS or not _NAME.fullmatch(name) or _NUMERIC_END.fullmatch(name):
        return None
    return name


def _address(host: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _parse(url: str | URL) -> URL:
    text = str(url)
    if _UNSAFE.search(text):
        raise _refused(url, "holds control characters")
    try:
        # Signed text must be sent unchanged; only characters that can't be sent are quoted.
        parsed = url if isinstance(url, URL) else URL(text, encoded=text.isascii() and " " not in text)
        _ = parsed.host, parsed.port  # parsed lazily: an invalid one raises here
    except ValueError:
        raise _refused(url, "is not a URL") from None
    return parsed


def _refused(url: str | URL, reason: str) -> DownloadRefused:
    return DownloadRefused(f"{shown(str(url))} {reason}", "host")


def shown(url: str) -> str:
    """``url`` as it may be logged: one short line, without a password or a query that signs it."""
    bare = _USERINFO.sub("//", url.partition("?")[0])
    return ascii(bare[:SHOWN_MAX_CHARS])[1:-1]


def _api_rules(api_base: str) -> tuple[HostRule, HostRule]:
    """The API's host over https, and its exact origin."""
    url = URL(api_base)
    host = normal_host(url.host or "")
    if host is None or url.scheme not in DEFAULT_PORTS:
        raise UsageError(f"{api_base!r} is not the URL of an API")
    plain = url.scheme == "http"
    return HostRule(host, named=True), HostRule(host, port=url.port, named=True, plain=plain)


def _named_rule(entry: str) -> HostRule:
    subdomains = entry.startswith("*.")
    text = entry.removeprefix("*.").strip()
    try:
        url = URL(f"https://{f'[{text}]' if _address(text) and ':' in text else text}")
        host, port = normal_host(url.host or ""), url.explicit_port
    except ValueError:
        host, port = None, None
    if host is None or url.path_qs != "/" or "@" in text:
        raise UsageError(
            f"--allow-host {entry!r}: expected HOST, *.DOMAIN or HOST:PORT, without a scheme or path"
        )
    return HostRule(host, subdomains, port, named=True, plain=is_loopback(host))
