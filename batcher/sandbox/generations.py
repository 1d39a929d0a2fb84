"""Lists a sandbox's requests from its state file, like the vendor's Generations page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from batcher.clock import iso
from batcher.errors import InputError
from batcher.sandbox.faults import FAILURES
from batcher.sandbox.journal import read_entries
from batcher.sandbox.settings import SandboxSettings, SandboxStats
from batcher.sandbox.store import Request, RequestPhase, Store


class Generation(msgspec.Struct, frozen=True):
    """One request: ``created_at`` in UTC, ``state`` as a word for people."""

    request_id: str
    created_at: str
    state: str
    model: str
    prompt: str | None


def generations(state: Path) -> Iterator[Generation]:
    """Every request in the state file, oldest first; nothing is written. Raises InputError."""
    store = Store(SandboxSettings(), SandboxStats())
    try:
        for entry in read_entries(state):
            store.apply(entry)
    except OSError as error:
        raise InputError(f"{state}: {error.strerror}: has a run with --sandbox been here?") from error
    except KeyError as error:
        raise InputError(f"{state}: cancels {error}, which it never created") from error
    now_s = store.now_s()
    return (_told(request, now_s) for request in store.all())


def _told(request: Request, now_s: float) -> Generation:
    order = request.order
    inputs: dict[str, Any] = msgspec.json.decode(order.input)
    prompt = inputs.get("prompt", inputs.get("text"))
    at = iso(datetime.fromtimestamp(order.at, UTC))
    return Generation(order.id, at, _state(request, now_s), order.model, prompt)


def _state(request: Request, now_s: float) -> str:
    phase = request.phase(now_s)
    if phase is not RequestPhase.FINISHED:
        return phase.name.lower()
    return "failed" if request.order.fate in FAILURES else "succeeded"
