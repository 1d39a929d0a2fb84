"""One vendor for a run: its provider, catalogue and account; and what opening it may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batcher.clock import Clock
from batcher.disk import Disk
from batcher.http.endpoint import Endpoint
from batcher.http.network import Network
from batcher.ports import Provider
from batcher.providers.catalog import Catalog
from batcher.providers.catalog_cache import CatalogCache, cache_dir


async def no_balance() -> None:
    """For vendors whose balance can't be asked."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor, ready to use. ``api`` is the base URL that a ledger names, without the token."""

    api: str
    provider: Provider
    catalog: Catalog
    endpoint: Endpoint
    balance_usd: Callable[[], Awaitable[float | None]] = no_balance
    """Asks for the account's balance in USD; None if it can't be asked. Raises nothing."""
    wallet: str = ""
    """The account that pays the vendor; vendors with the same one share a balance. Empty: not shared."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What may be used to open a vendor."""

    env: Mapping[str, str]
    home: Path
    clock: Clock
    disk: Disk
    network: Network = field(default_factory=Network)
    needs_token: bool = True
    """Whether to raise CredentialsError if there is no token."""
    sandbox: str | None = None
    """The origin of a sandbox to use instead of the vendor, with any token."""
    warn: Callable[[str], None] = lambda message: None

    def cache(self, origin: str) -> CatalogCache:
        """The catalogue's cache for the API at ``origin``; a sandbox has none."""
        folder = None if self.sandbox else cache_dir(self.env, self.home)
        return CatalogCache(folder, origin, self.disk)
