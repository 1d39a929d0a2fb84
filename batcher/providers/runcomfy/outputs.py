"""Which of a result's strings are its outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

DEPTH_MAX: Final = 16
COUNT_MAX: Final = 1000
URL_MAX_CHARS: Final = 8192

_WEB_URL = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)


def output_urls(output: Any) -> tuple[str, ...]:
    """The distinct URLs under ``output``, in its order: at most 1000, from at most 16 levels.

    ``output`` may be a string, a list, or objects of such (API.md, "Outputs"). A string counts where
    all of it is an http(s) URL: not a prompt that mentions one, and not a ``data:`` URI.
    """
    return tuple(islice(dict.fromkeys(_urls(output, DEPTH_MAX)), COUNT_MAX))


def _urls(value: Any, levels: int) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) <= URL_MAX_CHARS and _WEB_URL.fullmatch(value):
            yield value
    elif isinstance(value, list | dict) and levels:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _urls(item, levels - 1)
