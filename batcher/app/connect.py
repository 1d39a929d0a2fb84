"""Connects a run to its API: the real one with a token, or the embedded sandbox."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from batcher.app.host import Host
from batcher.download.downloader import Downloader
from batcher.download.lookup import Lookup
from batcher.download.patience import DownloadLimits
from batcher.download.trust import TrustPolicy
from batcher.download.way import Way
from batcher.errors import CredentialsError, LedgerError
from batcher.http.endpoint import Endpoint, Token
from batcher.http.network import Network
from batcher.jobs.lifecycle import SANDBOX_API
from batcher.layout import HIDDEN_NAME, SANDBOX_NAME
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.media import is_public_url
from batcher.options.facts import SandboxOptions, Trust
from batcher.providers.catalog import Catalog
from batcher.providers.catalog_cache import CatalogCache, cache_dir
from batcher.providers.listing import ListingCache
from batcher.providers.runcomfy.balance import balance_usd
from batcher.providers.runcomfy.client import HttpService
from batcher.providers.runcomfy.credentials import BASE_VARIABLE, DEFAULT_BASE_URL, base_url, find_token
from batcher.terminal import visible


@dataclass(frozen=True, slots=True)
class Site:
    """The API that a run uses. ``api`` is its name in the ledger."""

    api: str
    endpoint: Endpoint
    service: HttpService
    catalog: Catalog
    cache_folder: Path | None
    """None: the catalogue is not cached on disk."""
    network: Network = field(default_factory=Network)

    async def balance_usd(self, host: Host) -> float | None:
        """The account's balance in USD; None if it can't be queried."""
        return None if self.api == SANDBOX_API else await balance_usd(self.endpoint, host.env)

    def listing(self, host: Host) -> ListingCache:
        """The whole catalogue as a list."""
        return ListingCache(self.cache_folder, self.endpoint.origin, host.disk, host.clock)

    def downloader(self, host: Host, trust: Trust, downloads: int) -> Downloader:
        """Fetches outputs from the vendor's hosts, the API's host, and those the user named."""
        policy = TrustPolicy(self.endpoint.base_url, trust.allow_hosts)
        limits = DownloadLimits(downloads=downloads, max_file_bytes=trust.max_file_bytes)
        token = self.endpoint.token
        way = Way(self.network, redact=token.redact) if token is not None else Way(self.network)
        return Downloader(policy, limits, host.clock, host.rng, way)

    def lookup(self) -> Lookup:
        """Checks media that the API will fetch: any public URL, nothing else."""
        return Lookup(TrustPolicy(DEFAULT_BASE_URL), is_public_url, way=Way(self.network))


@asynccontextmanager
async def connect(
    sandbox: SandboxOptions | None, host: Host, run_dir: Path | None, *, spending: bool = True
) -> AsyncIterator[Site]:
    """The API, ready to use. Raises CredentialsError if ``spending`` and there is no token.

    The sandbox stores its requests in ``run_dir``: they survive this process, and other processes that
    work on the same run directory know them.
    """
    if sandbox is not None:
        async with _sandbox(sandbox, host, run_dir if spending else None) as site:
            yield site
        return
    endpoint = _real(host, needs_token=spending)
    network = Network(host.env)
    async with HttpService(endpoint, host.clock, network=network) as service:
        folder = cache_dir(host.env, host.home)
        catalog = Catalog(service, CatalogCache(folder, endpoint.origin, host.disk), host.clock)
        yield Site(endpoint.base_url, endpoint, service, catalog, folder, network)


def _real(host: Host, *, needs_token: bool) -> Endpoint:
    try:
        found = find_token(host.env, host.home)
    except CredentialsError:
        if needs_token:
            raise
        return Endpoint(base_url(host.env))
    for warning in found.warnings:
        host.observer.warn(warning)
    return Endpoint(base_url(host.env), found.token)


@asynccontextmanager
async def _sandbox(options: SandboxOptions, host: Host, run_dir: Path | None) -> AsyncIterator[Site]:
    from batcher.sandbox.server import Sandbox
    from batcher.sandbox.settings import SandboxSettings

    settings = SandboxSettings(
        seed=options.seed,
        speed=options.speed,
        faults=options.faults,
        state=run_dir / HIDDEN_NAME / SANDBOX_NAME if run_dir is not None else None,
        clock=host.clock,
    )
    async with Sandbox(settings) as base:
        endpoint = Endpoint(base, Token(uuid.uuid4().hex))
        async with HttpService(endpoint, host.clock) as service:
            catalog = Catalog(service, CatalogCache(None, endpoint.origin, host.disk), host.clock)
            yield Site(SANDBOX_API, endpoint, service, catalog, None, Network(host.env))


def check_same_api(snapshot: Snapshot, site: Site, run_dir: Path) -> None:
    """A run directory belongs to one API: its request ids are unknown to any other.

    Sandbox and real API, or two base URLs of the real API, never share one. Raises LedgerError.
    """
    for run in snapshot.runs.values():
        before = run.opening.api
        if before is None or before.rstrip("/") == site.api.rstrip("/"):
            continue
        if SANDBOX_API in (before, site.api):
            held = "the sandbox" if before == SANDBOX_API else "the real API"
            raise LedgerError(f"{run_dir}: holds a run against {held}; choose another directory with -o")
        raise LedgerError(
            f"{run_dir}: its requests were made at {visible(before)}, and {site.api} can't know them. "
            f"Go on there with {BASE_VARIABLE}={shlex.quote(before)}, or choose "
            "another directory with -o"
        )
