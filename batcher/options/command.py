"""Builds every command that we print, so that it can be copied into a shell unchanged.

Words are quoted for a POSIX shell. Characters that a terminal would not show literally (a line break, an
escape, a byte that is not UTF-8) are written in ``$'...'``, which bash, zsh and ksh understand. A path
that begins with a dash is never mistaken for an option.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from batcher.options.option import Option, Shapes
from batcher.options.table import TABLE

PROGRAM = "batcher"
_PLAIN = re.compile(r"[\x20-\x7e]*")
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def command(*words: object) -> str:
    """``batcher`` with ``words``, as one line for a shell and for a terminal."""
    return " ".join([PROGRAM, *(quoted(str(word)) for word in words)])


def quoted(word: str) -> str:
    """``word`` as one word for a shell, without characters that a terminal would hide."""
    if _PLAIN.fullmatch(word) or not any(unicodedata.category(char) in _HIDDEN for char in word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if unicodedata.category(char) not in _HIDDEN:
        return char
    # Byte by byte: \u needs a UTF-8 locale, and a file name's bytes need not be UTF-8.
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))


def as_path(path: str | PurePath) -> str:
    """A path as an argument: ``-x.csv`` is ``./-x.csv``."""
    text = str(path)
    return f"./{text}" if text.startswith("-") and text != "-" else text


def with_options(
    verb: str, manifests: Iterable[str], values: Mapping[str, Any], *, leave_out: Iterable[Shapes]
) -> str:
    """``run`` or ``plan`` of ``manifests``, with ``values`` (by key) except those in ``leave_out``."""
    words = [as_path(manifest) for manifest in manifests]
    for option in TABLE:
        if option.key in values and option.shapes not in leave_out and verb in option.on.value:
            words += _words(option, values[option.key])
    return command(verb, *words)


def _words(option: Option, value: Any) -> list[str]:
    if option.is_flag:
        return [f"--{'' if value else 'no-'}{option.name}"]
    name = f"-{option.short}" if option.short else f"--{option.name}"
    texts = [as_path(text) if option.kind.is_path else text for text in option.shown(value)]
    words: list[str] = []
    for text in texts:
        words += [f"--{option.name}={text}"] if text.startswith("-") else [name, text]
    return words
