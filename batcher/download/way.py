"""The route to a media server: direct or through a proxy, with the same checks on both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp.resolver import DefaultResolver

from batcher.download.trust import TrustedResolver
from batcher.errors import DownloadRefused, UsageError
from batcher.http.network import Network

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver
    from yarl import URL

    from batcher.download.trust import TrustPolicy


def as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Way:
    """The route to servers. ``resolver`` replaces the system's (tests, split DNS).

    ``redact`` hides the token in messages about a URL: a server may echo it there.
    """

    network: Network = field(default_factory=Network)
    resolver: AbstractResolver | None = None
    redact: Callable[[str], str] = as_it_is

    def guard(self, policy: TrustPolicy) -> TrustedResolver:
        """Resolves names and refuses addresses by ``policy``; the proxies may be anywhere."""
        return TrustedResolver(policy, self.resolver or DefaultResolver(), self.network.proxy_hosts())

    async def arguments(self, url: URL, guard: TrustedResolver) -> dict[str, Any]:
        """The arguments of a request for ``url``: its proxy, and what TLS trusts.

        A proxy resolves names itself. A name that can also be resolved here must still be public.
        Raises DownloadRefused, also if proxy or certificates are misconfigured.
        """
        try:
            arguments = self.network.arguments(url)
        except UsageError as error:
            raise DownloadRefused(str(error), "network") from None
        if "proxy" in arguments:
            with suppress(OSError):  # behind some proxies only the proxy can resolve names
                await guard.resolve(url.raw_host or "", url.port or 0)
        return arguments
