"""Which of a result's strings are its outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, TypeGuard

DEPTH_MAX: Final = 16
COUNT_MAX: Final = 1000
URL_MAX_CHARS: Final = 8192

_WEB_URL = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)


def output_urls(output: Any) -> tuple[str, ...]:
    """The distinct URLs under ``output``, in its order: at most 1000, from at most 16 levels.

    ``output`` may be a string, a list, or objects of such (docs/api.md, "Outputs"). A string counts if
    all of it is an http(s) URL: not a prompt that mentions one, and not a ``data:`` URI.
    """
    return tuple(islice(dict.fromkeys(_urls(output, DEPTH_MAX)), COUNT_MAX))


TEXT_KEYS: Final = frozenset(
    {"text", "texts", "caption", "captions", "transcript", "transcripts", "transcription", "lyrics"}
    | {"subtitles", "srt", "vtt", "answer", "completion"}
)
"""Under these names a string is an output; under others it may be an echo of the inputs."""


def output_texts(output: Any) -> tuple[str, ...]:
    """The distinct outputs under ``output`` that are no URLs, in its order: texts, and ``data:`` URIs.

    A text counts if it is the whole output, or is under a name that means a text.
    """
    found = dict.fromkeys(_texts(output, DEPTH_MAX, named=not isinstance(output, dict)))
    return tuple(islice(found, COUNT_MAX))


def _texts(value: Any, levels: int, *, named: bool) -> Iterator[str]:
    if isinstance(value, str):
        is_data = value.startswith("data:") and "," in value[:200]
        if (is_data or (named and value.strip())) and not _WEB_URL.fullmatch(value):
            yield value
    elif isinstance(value, list) and levels:
        for item in value:
            yield from _texts(item, levels - 1, named=named and not isinstance(item, dict))
    elif isinstance(value, dict) and levels:
        for name, item in value.items():
            yield from _texts(item, levels - 1, named=name.lower() in TEXT_KEYS)


def is_web_url(value: object) -> TypeGuard[str]:
    """Whether all of ``value`` is an http(s) URL."""
    return isinstance(value, str) and len(value) <= URL_MAX_CHARS and bool(_WEB_URL.fullmatch(value))


def _urls(value: Any, levels: int) -> Iterator[str]:
    if isinstance(value, str):
        if is_web_url(value):
            yield value
    elif isinstance(value, list | dict) and levels:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _urls(item, levels - 1)
