"""Which inputs are settings: the inputs that jobs of one kind, and of one price, share."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from batcher.jobs.job import Job

KEY_CHARS = 16
SETTING_MAX_CHARS = 24
_FREE_FIELDS = frozenset({"prompt", "negative_prompt", "seed", "text"})
_FREE_IN_NODES = _FREE_FIELDS | {"noise_seed"}


def settings_of(inputs: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The inputs that are settings, without those that usually differ by job (prompts, media, seeds)."""
    return frozenset((name, value) for name, value in inputs.items() if _is_setting(name, value))


def _is_setting(name: str, value: Any) -> bool:
    _, dot, own = name.rpartition(".")
    if own in (_FREE_IN_NODES if dot else _FREE_FIELDS):
        return False
    if isinstance(value, str):
        return len(value) <= SETTING_MAX_CHARS and "://" not in value
    return isinstance(value, int | float)


def price_key(job: Job) -> str:
    """A key of the model and the parameters of ``job``: jobs with the same key cost the same."""
    settings = sorted((name, str(value)) for name, value in settings_of(job.input))
    text = msgspec.json.encode([job.model, settings])
    return hashlib.sha256(text).hexdigest()[:KEY_CHARS]
