"""Connects a run to the APIs of its models: the real ones with a token, or the embedded sandbox."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from batcher.download.downloader import Downloader
from batcher.download.lookup import Lookup
from batcher.download.patience import DownloadLimits
from batcher.download.trust import TrustPolicy
from batcher.download.way import Way
from batcher.engine.host import Host
from batcher.engine.interrupt import surely_closed
from batcher.errors import BatcherError, CredentialsError, LedgerError, UsageError
from batcher.http.network import Network
from batcher.jobs.lifecycle import SANDBOX_API, Record, Stage, State
from batcher.layout import HIDDEN_NAME, SANDBOX_NAME
from batcher.ledger.snapshot import Snapshot
from batcher.manifest.media import is_public_url
from batcher.options.facts import Outage, SandboxOptions, Trust
from batcher.ports import Provider
from batcher.providers.catalog import Catalog, Specs
from batcher.providers.catalog_cache import CachedEntry, cache_dir
from batcher.providers.model_list import ListingCache
from batcher.providers.registry import OPENERS, RUNCOMFY, opener_of, vendor_of, vendors_of
from batcher.providers.runcomfy.credentials import BASE_VARIABLE, base_url
from batcher.providers.vendor import Surroundings, Vendor
from batcher.terminal import visible


@dataclass(frozen=True, slots=True)
class Site:
    """The APIs that a run uses, by vendor. ``api`` is their name in the ledger."""

    api: str
    vendors: dict[str, Vendor]
    network: Network
    _around: Surroundings
    _open: AsyncExitStack

    async def reach(self, models: Iterable[str]) -> None:
        """Connect to the vendors of ``models`` too. Raises CredentialsError."""
        for name in vendors_of(models):
            if name not in self.vendors:
                await self._connect(name, self._around)

    async def reach_all(self) -> dict[str, BatcherError]:
        """Connect to every vendor that is set up: that has a token and an address to use it at.

        Returns why the others can't be reached.
        """
        around, missing = replace(self._around, needs_token=True), dict[str, BatcherError]()
        for name in OPENERS:
            if name not in self.vendors:
                try:
                    await self._connect(name, around)
                except (CredentialsError, UsageError) as error:
                    missing[name] = error
        return missing

    @property
    def other_apis(self) -> dict[str, str]:
        """The base URLs of the connected vendors besides RunComfy's Model API; of a sandbox, none."""
        if self.api == SANDBOX_API:
            return {}
        return {name: self.vendors[name].endpoint.base_url for name in self.others()}

    def others(self) -> list[str]:
        """The names of the connected vendors, without RunComfy's Model API."""
        return [name for name in self.vendors if name != RUNCOMFY]

    async def _connect(self, name: str, around: Surroundings) -> None:
        vendor = opener_of(name)(around)
        self.vendors[name] = await self._open.enter_async_context(vendor)

    def provider(self, model: str) -> Provider:
        """The provider of a model. Raises KeyError for a vendor that was not reached."""
        return self.vendors[vendor_of(model)].provider

    def catalog(self, model: str = "") -> Catalog:
        """The catalogue that lists a model."""
        return self.vendors[vendor_of(model)].catalog

    async def specs(
        self, models: Iterable[str], kept: Mapping[str, CachedEntry], outage: Outage
    ) -> Specs:
        """The spec of each model, from its own vendor. Raises nothing: each source holds its problem."""
        wanted = list(models)
        specs = Specs({}, {})
        for name in vendors_of(wanted):
            own = [model for model in wanted if vendor_of(model) == name]
            catalog = replace(
                self.vendors[name].catalog, limit_s=outage.first_s, persists=outage.is_asked
            )
            specs |= await catalog.specs(own, kept=kept)
        return specs

    async def balance_usd(self, models: Iterable[str]) -> float | None:
        """The balance of the account that pays for ``models``; None if it can't be asked."""
        named = ((name, self.vendors[name]) for name in vendors_of(models))
        payers = {vendor.wallet or name: vendor for name, vendor in named}
        return await next(iter(payers.values())).balance_usd() if len(payers) == 1 else None

    def listing(self, host: Host) -> ListingCache:
        """RunComfy's whole catalogue as a list."""
        folder = None if self.api == SANDBOX_API else cache_dir(host.env, host.home)
        return ListingCache(folder, self.vendors[RUNCOMFY].endpoint.origin, host.disk, host.clock)

    def downloader(self, host: Host, trust: Trust, downloads: int) -> Downloader:
        """Fetches outputs from the vendors' hosts, the APIs' hosts, and those the user named."""
        vendors = self.vendors.values()
        domains = (domain for vendor in vendors for domain in vendor.provider.traits.output_domains)
        apis = tuple(vendor.endpoint.base_url for vendor in vendors)
        policy = TrustPolicy(apis, tuple(domains), trust.allow_hosts)
        limits = DownloadLimits(downloads=downloads, max_file_bytes=trust.max_file_bytes)
        return Downloader(policy, limits, host.clock, host.rng, Way(self.network, redact=self._redact))

    def lookup(self) -> Lookup:
        """Checks media that the APIs will fetch: any public URL, nothing else."""
        return Lookup(TrustPolicy(()), is_public_url, way=Way(self.network))

    def _redact(self, text: str) -> str:
        for vendor in self.vendors.values():
            text = vendor.endpoint.redact(text)
        return text


@asynccontextmanager
async def connect(
    sandbox: SandboxOptions | None,
    host: Host,
    run_dir: Path | None,
    *,
    models: Collection[str] = (),
    spending: bool = True,
) -> AsyncIterator[Site]:
    """The APIs of ``models``, ready to use; RunComfy's if there are none.

    Raises CredentialsError if ``spending`` and there is no token for one of them. The sandbox stores its
    requests in ``run_dir``: they survive this process, and other processes that work on the same run
    directory know them.
    """
    around = Surroundings(
        host.env, host.home, host.clock, host.disk, Network(host.env), spending, warn=host.observer.warn
    )
    async with surely_closed(AsyncExitStack()) as stack:
        api = base_url(host.env) if sandbox is None else SANDBOX_API
        if sandbox is not None:
            kept_in = run_dir if spending else None
            origin = await stack.enter_async_context(_sandbox(sandbox, host, kept_in))
            around = replace(around, sandbox=origin)
        site = Site(api, {}, around.network, around, stack)
        await site.reach(models or [""])
        yield site


@asynccontextmanager
async def _sandbox(options: SandboxOptions, host: Host, run_dir: Path | None) -> AsyncIterator[str]:
    """An embedded sandbox; its origin."""
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
        yield base.removesuffix("/v1")


def apis_in(snapshot: Snapshot) -> dict[str, str]:
    """The base URLs at which earlier runs used other vendors than RunComfy's Model API, by name."""
    runs = snapshot.runs.values()
    return {name: base for run in runs for name, base in (run.opening.other_apis or {}).items()}


def models_to_ask(snapshot: Snapshot) -> set[str]:
    """The models of jobs whose requests or results are still to be asked for, in the manifest or not."""
    return {record.model or "" for _, record in snapshot.unfinished() if _is_to_ask(record)}


def _is_to_ask(record: Record) -> bool:
    if record.state is State.FAILED:
        return record.stage is Stage.DOWNLOAD
    return record.state in (State.UNKNOWN, State.SUBMITTED, State.COMPLETED)


def _has_asked(snapshot: Snapshot, vendor: str) -> bool:
    """Whether the ledger may know requests to ``vendor``. Packed jobs have one each."""
    packed = (model or "" for model in snapshot.records.packed_models())
    return vendor in map(vendor_of, packed) or any(
        vendor_of(record.model or "") == vendor
        and (record.request_id is not None or record.state is State.UNKNOWN)
        for record in snapshot.records.open.values()
    )


def check_same_api(snapshot: Snapshot, site: Site, run_dir: Path) -> None:
    """A run directory belongs to one API of each vendor: its request ids are unknown to any other.

    Sandbox and real API, or two base URLs of a real API at which requests were made, never share one.
    Raises LedgerError.
    """
    now = site.other_apis
    for name, before in apis_in(snapshot).items():
        if now.get(name, before) != before and _has_asked(snapshot, name):
            raise LedgerError(
                f"{run_dir}: its requests to {name} were made at {visible(before)}, and {now[name]} "
                "can't know them. Go on with that address, or choose another directory with -o"
            )
    for run in snapshot.runs.values():
        first = run.opening.api
        if first is None or first.rstrip("/") == site.api.rstrip("/"):
            continue
        if SANDBOX_API in (first, site.api):
            held = "the sandbox" if first == SANDBOX_API else "the real API"
            raise LedgerError(f"{run_dir}: holds a run against {held}; choose another directory with -o")
        if not _has_asked(snapshot, RUNCOMFY):
            continue
        raise LedgerError(
            f"{run_dir}: its requests were made at {visible(first)}, and {site.api} can't know them. "
            f"Go on there with {BASE_VARIABLE}={shlex.quote(first)}, or choose "
            "another directory with -o"
        )
