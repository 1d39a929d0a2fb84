"""The catalogue entries that a run used, kept in its run directory: ``.batcher/specs.json``.

They record the schemas by which the jobs were checked, and the prices then. They are also used if
the catalogue can't be reached and the cache is on another machine. Like the cache they are optional: a
broken file is ignored, and a failed write too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from batcher.disk import Disk
from batcher.layout import HIDDEN_NAME, SPECS_NAME
from batcher.providers.catalog_cache import CachedEntry


class _KeptFile(msgspec.Struct):
    models: dict[str, CachedEntry] = msgspec.field(default_factory=dict)


def kept_entries(run_dir: Path, disk: Disk) -> dict[str, CachedEntry]:
    """The entries that runs in ``run_dir`` used, by model id; blocks while it reads."""
    try:
        with disk.open_read(run_dir / HIDDEN_NAME / SPECS_NAME) as file:
            return msgspec.json.decode(file.read(), type=_KeptFile).models
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return {}


def keep_entries(run_dir: Path, entries: Mapping[str, CachedEntry], disk: Disk) -> None:
    """Keep ``entries`` beside those of models that earlier runs used; blocks while it writes."""
    before = kept_entries(run_dir, disk)
    now = {**before, **entries}
    if now == before:
        return
    try:
        disk.write_whole(run_dir / HIDDEN_NAME / SPECS_NAME, [msgspec.json.encode(_KeptFile(now))])
    except OSError:
        return  # a full disk shows in the ledger, which matters more
