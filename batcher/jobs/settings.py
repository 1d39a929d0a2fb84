"""Which inputs are settings: what jobs of one kind, and of one price, have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from batcher.jobs.job import Job

KEY_CHARS = 16
SETTING_MAX_CHARS = 24
_FREE_FIELDS = frozenset({"prompt", "negative_prompt", "seed", "text"})


def settings_of(inputs: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """The inputs that are settings, not what makes each job its own (prompts, media, seeds)."""
    return frozenset((name, value) for name, value in inputs.items() if _is_setting(name, value))


def _is_setting(name: str, value: Any) -> bool:
    if name in _FREE_FIELDS:
        return False
    if isinstance(value, str):
        return len(value) <= SETTING_MAX_CHARS and "://" not in value
    return isinstance(value, int | float)


def price_key(job: Job) -> str:
    """Stands for the model and the parameters of ``job``: jobs that have it in common cost the same."""
    settings = sorted((name, str(value)) for name, value in settings_of(job.input))
    text = msgspec.json.encode([job.model, settings])
    return hashlib.sha256(text).hexdigest()[:KEY_CHARS]
