"""Suggests options that would load a file whose columns have other names. Never applies them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from batcher.manifest.tally import Unfit
from batcher.schema.spec import ModelSpec

_NAMED_MAX = 6
_PROMPT_WORDS = (
    "prompt", "caption", "text", "instruction", "description", "prompts", "captions", "sentence",
    "positive", "positive_prompt", "prompt_en", "user_prompt", "query", "input", "content", "title",
)  # fmt: skip
_FILE_WORDS = ("file_name", "filename", "file", "path", "url")
_MEDIA_WORDS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img", "photo", "picture", "pic", "frame", *_FILE_WORDS),
    "video": ("video", "clip", "movie", *_FILE_WORDS),
    "audio": ("audio", "sound", "voice", "music", *_FILE_WORDS),
}
_ADDRESS = re.compile(r"(?:https?://\S+|\S[^\n]*\.[A-Za-z0-9]{2,4})")


@dataclass(frozen=True, slots=True)
class Remedy:
    """Options that would fix the names: ``rename`` by column, ``meta`` to keep the other columns."""

    rename: dict[str, str]
    meta: tuple[str, ...]

    def over(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The options, merged with those in ``values``, which the user gave already."""
        more: dict[str, Any] = {}
        if self.rename:
            more["rename"] = {**values.get("rename", {}), **self.rename}
        if self.meta:
            more["meta"] = (*values.get("meta", ()), *self.meta)
        return more


def remedy_of(unfit: Unfit, specs: Mapping[str, ModelSpec]) -> Remedy | None:
    """The likely mapping of columns that are not inputs; None if none fits the missing inputs."""
    left = dict(unfit.unknown)
    rename: dict[str, str] = {}
    for name, model in unfit.missing.items():
        column = next(_likely(name, left, specs.get(model)), None)
        if column is None:
            return None
        rename[column] = name
        del left[column]
    if not unfit.unknown:
        return None
    names = tuple(left)
    many = len(names) > _NAMED_MAX or any("," in name for name in names)
    return Remedy(rename, ("*",) if many else names)


def _likely(name: str, columns: Mapping[str, str], spec: ModelSpec | None) -> Iterator[str]:
    """The columns that may be the input ``name``, the most likely first."""
    lowered = {column.lower(): column for column in columns}
    kind = spec.media.get(name) if spec is not None else None
    words = _MEDIA_WORDS.get(kind, ()) if kind is not None else ()
    if kind is None and name.lower().endswith(("prompt", "text")):
        words = _PROMPT_WORDS
    yield from (lowered[word] for word in words if word in lowered)
    yield from (lowered[near] for near in get_close_matches(name.lower(), lowered, cutoff=0.75))
    for word in words:
        for column, value in columns.items():
            parts = re.split(r"[^a-z]+", column.lower())
            if word in parts and (kind is None or _ADDRESS.fullmatch(value.strip())):
                yield column
