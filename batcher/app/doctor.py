"""``doctor``: checks what a run depends on, without running: token, API, balance, clock, disk, lock.

Nothing is bought, and nothing stays on disk. Each check reports its finding; if a run would fail because
of it, it has that run's exit code.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from batcher.app.connect import Site, apis_in, connect
from batcher.engine.host import Host
from batcher.errors import (
    AuthRefused,
    BatcherError,
    CallError,
    CredentialsError,
    NotFound,
    RunDirError,
    StoppedError,
    UnreachableError,
)
from batcher.http.network import CA_VARIABLES
from batcher.jobs.nodes import PARTNER_VARIABLE
from batcher.layout import HIDDEN_NAME
from batcher.ledger.book_file import XDG_STATE_VARIABLE
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.run_dir_lock import check_free
from batcher.ledger.segments import segments_in
from batcher.ledger.summary import status_of
from batcher.ports import Handle
from batcher.providers.registry import RUNCOMFY, vendors_of
from batcher.providers.runcomfy.credentials import LAST_RESORT_VARIABLE, XDG_CONFIG_VARIABLE, find_token
from batcher.providers.runcomfy.server_time import server_time
from batcher.terminal import money, visible

CRON_PATH = "/usr/bin:/bin"
NO_SUCH_REQUEST = "00000000-0000-0000-0000-000000000000"
SKEW_MAX_S = 60.0
FREE_MIN_BYTES = 1 << 30
_PREFIXES = ("BATCHER_", "RUNCOMFY_", "REPLICATE_", "FAL_", "AWS_", "GOOGLE_", "AZURE_")
"""Of the variables of batcher, of the vendors, and of the stores for buckets."""
_NAMED = (LAST_RESORT_VARIABLE, PARTNER_VARIABLE, XDG_CONFIG_VARIABLE, XDG_STATE_VARIABLE)
_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@dataclass(frozen=True, slots=True)
class Check:
    """A finding. ``exit_code`` is that of a run that fails because of it, 0 if it would not fail."""

    name: str
    found: str
    exit_code: int = 0
    is_warning: bool = False

    @property
    def mark(self) -> str:
        """``ok``, ``careful`` or ``bad``."""
        return "bad" if self.exit_code else "careful" if self.is_warning else "ok"


async def checks(run_dir: Path | None, host: Host) -> AsyncIterator[Check]:
    """All checks, in the order in which a run needs what they check."""
    used = _used_vendors(run_dir, host)
    async for check in _account(host, used):
        yield check
    if run_dir is not None:
        yield _ledger(run_dir, host)
        yield _lock(run_dir, host)
    for check in _disk(_existing(run_dir or Path.cwd()), host):
        yield check
    yield _cron(host)


def _used_vendors(run_dir: Path | None, host: Host) -> frozenset[str]:
    """The vendors of the run directory's jobs; RunComfy if none are known."""
    try:
        snapshot = read_snapshot(run_dir, host.disk) if run_dir is not None else None
    except BatcherError:
        snapshot = None
    if snapshot is None:
        return frozenset((RUNCOMFY,))
    unfinished = (record.model or "" for _, record in snapshot.unfinished())
    named = {*vendors_of((*snapshot.timings.by_model(), *unfinished)), *apis_in(snapshot)}
    return frozenset(named or (RUNCOMFY,))


async def _account(host: Host, used: frozenset[str]) -> AsyncIterator[Check]:
    found = None
    try:
        found = find_token(host.env, host.home)
        yield Check("token", "; ".join((f"in {found.origin}", *found.warnings)), 0, bool(found.warnings))
    except CredentialsError as error:
        yield Check("token", str(error), error.exit_code if RUNCOMFY in used else 0, is_warning=True)
    try:
        async with connect(None, host, None, spending=False) as site:
            if found is not None:
                async for check in _model_api(site, host):
                    yield check
            missing = await site.reach_all()
            for name in site.others():
                yield await _vendor(name, site, is_needed=name in used)
            for name in sorted(used & missing.keys()):
                yield Check(name, str(missing[name]), missing[name].exit_code)
    except BatcherError as error:
        yield Check("API", str(error), error.exit_code)


async def _model_api(site: Site, host: Host) -> AsyncIterator[Check]:
    api = await _api(site, host)
    yield api
    if not api.exit_code:
        yield await _balance(site, host)
    yield await _clock(site, host)


async def _vendor(name: str, site: Site, *, is_needed: bool) -> Check:
    """Whether another vendor that there is a token for takes it; a run fails only if it needs it."""
    vendor = site.vendors[name]
    try:
        await vendor.catalog.search(limit=1)
    except CallError as error:
        cause = CredentialsError if isinstance(error, AuthRefused) else UnreachableError
        code = cause.exit_code if is_needed else 0
        return Check(name, f"{vendor.api}: {error}", code, is_warning=True)
    usd = await vendor.balance_usd() if not vendor.wallet else None
    balance = "" if usd is None else f", balance {money(usd)}"
    is_empty = is_needed and usd is not None and usd <= 0
    return Check(
        name, f"{vendor.api} took the token{balance}", StoppedError.exit_code if is_empty else 0
    )


async def _api(site: Site, host: Host) -> Check:
    """Request a nonexistent id: that costs nothing, and is refused without a valid token."""
    began_s = host.clock.monotonic()
    try:
        await site.provider("").result(Handle("", NO_SUCH_REQUEST))
    except NotFound:
        pass
    except AuthRefused as error:
        return Check("API", f"{site.api}: {error}", CredentialsError.exit_code)
    except CallError as error:
        return Check("API", f"{site.api}: {error}", UnreachableError.exit_code)
    took_ms = 1000 * (host.clock.monotonic() - began_s)
    return Check("API", f"{site.api} answered in {took_ms:.0f} ms and took the token")


async def _balance(site: Site, host: Host) -> Check:
    usd = await site.balance_usd([""])
    if usd is None:
        return Check("balance", "can't be asked", is_warning=True)
    return Check("balance", money(usd), StoppedError.exit_code if usd <= 0 else 0)


async def _clock(site: Site, host: Host) -> Check:
    """Compare to the API's ``Date``, which is exact to a second."""
    theirs = await server_time(site.vendors[RUNCOMFY].endpoint, site.network)
    if theirs is None:
        return Check("clock", "can't be compared: the API gave no time", is_warning=True)
    skew_s = (host.clock.now() - theirs).total_seconds()
    far = abs(skew_s) > SKEW_MAX_S
    ahead = "ahead of" if skew_s > 0 else "behind"
    return Check("clock", f"{abs(skew_s):.0f} s {ahead} the API's" if far else "agrees with the API's",
                 is_warning=far)  # fmt: skip


def _ledger(run_dir: Path, host: Host) -> Check:
    if not segments_in(run_dir, host.disk):
        return Check("ledger", f"{run_dir}: none yet")
    try:
        status = status_of(run_dir, read_snapshot(run_dir, host.disk))
    except BatcherError as error:
        return Check("ledger", str(error), error.exit_code)
    return Check("ledger", f"{run_dir}: can be read, {status.done} of {status.total} jobs done")


def _lock(run_dir: Path, host: Host) -> Check:
    if not segments_in(run_dir, host.disk):
        return Check("lock", "free")
    try:
        check_free(run_dir / HIDDEN_NAME, host.disk)
    except BatcherError as error:
        return Check("lock", str(error), error.exit_code)
    return Check("lock", "free")


def _existing(path: Path) -> Path:
    """``path``, or the nearest existing folder above it."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _disk(folder: Path, host: Host) -> Iterator[Check]:
    """Write a file there, make it durable, remove it."""
    try:
        free_bytes = shutil.disk_usage(folder).free
        began_s = host.clock.monotonic()
        with tempfile.NamedTemporaryFile(prefix=".batcher-doctor-", dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
        took_ms = 1000 * (host.clock.monotonic() - began_s)
    except OSError as error:
        yield Check("disk", f"{folder}: {error.strerror or error}", RunDirError.exit_code)
        return
    free = f"{folder}: {free_bytes / 1e9:.1f} GB free"
    yield Check("disk", free, is_warning=free_bytes < FREE_MIN_BYTES)
    yield Check("fsync", f"{took_ms:.1f} ms")


def _cron(host: Host) -> Check:
    """The settings of this environment that cron's would lack."""
    lacks = []
    if shutil.which("batcher", path=CRON_PATH) is None:
        folders = (host.env.get("PATH", ""), str(Path(sys.executable).parent))
        here = next(filter(None, (shutil.which("batcher", path=folder) for folder in folders)), None)
        where = str(Path(here).parent) if here is not None else "the folder of batcher"
        lacks.append(f"PATH={where}:{CRON_PATH}")
    named = (*_NAMED, *_PROXIES, *CA_VARIABLES)
    ours = [name for name in sorted(host.env) if name.startswith(_PREFIXES) and name not in named]
    lacks += [name for name in (*ours, *named) if host.env.get(name)]
    if not lacks:
        return Check("cron", "a crontab line would find the program, and the same settings")
    return Check("cron", f"a crontab needs, above its lines: {', '.join(map(visible, lacks))}")
