"""Where a token may go: an API's base URL, and the token that belongs to its origin alone.

A :class:`Token` never shows its value, so that no log line, traceback, ledger or report contains it by
accident.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from batcher.errors import CredentialsError, UsageError
from batcher.http.network import is_loopback

PART_MIN_CHARS: Final = 8
"""This many consecutive characters of the token count as a part of it; fewer may be an ordinary word."""

_HIDDEN = "***"
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")


class Token:
    """A secret for one API. Its ``str`` and ``repr`` are ``***``; only :meth:`reveal` returns it.

    Raises CredentialsError if ``text`` is not valid in a header: a line break in it could add
    other headers. Surrounding white space is removed.
    """

    __slots__ = ("_parts", "_text")

    def __init__(self, text: str) -> None:
        text = text.strip()
        if not _VISIBLE_ASCII.fullmatch(text):
            raise CredentialsError(
                "the token is empty or holds characters that no token has (spaces, line breaks or "
                "non-ASCII letters); copy it again from your page at the vendor"
            )
        self._text = text
        self._parts = frozenset(
            part for spelling in (text, *self.spellings()) for part in _parts(spelling)
        )

    def __repr__(self) -> str:
        return f"Token({_HIDDEN})"

    def __str__(self) -> str:
        return _HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """The token itself."""
        return self._text

    def spellings(self) -> tuple[str, ...]:
        """Other forms of the token: percent-encoded, and in base64 at each of its three offsets."""
        encoded = self._text.encode()
        spelled = [b64encode(b"\0" * shift + encoded).decode()[2 * shift :] for shift in range(3)]
        # The last letters depend on what follows in the text that was encoded.
        unpadded = [text.rstrip("=")[:-1] for text in spelled]
        return (quote(self._text, safe=""), *unpadded, *(_url_safe(text) for text in unpadded))

    def redact(self, text: str) -> str:
        """``text`` with the token, and any part of it of 8 characters or more, replaced by ``***``.

        In any of its spellings.
        """
        text = text.replace(self._text, _HIDDEN)
        starts = range(len(text) - PART_MIN_CHARS + 1)
        # A short text has fewer pieces than a token has parts.
        if len(starts) > len(self._parts) and not any(part in text for part in self._parts):
            return text
        hits = [start for start in starts if text[start : start + PART_MIN_CHARS] in self._parts]
        if not hits:
            return text
        kept: list[str] = []
        end = 0
        for start in hits:
            if start > end or not kept:
                kept += [text[end:start], _HIDDEN]
            end = start + PART_MIN_CHARS
        return "".join([*kept, text[end:]])


def _parts(text: str) -> Iterator[str]:
    return (text[at : at + PART_MIN_CHARS] for at in range(len(text) - PART_MIN_CHARS + 1))


def _url_safe(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API: its base URL (no trailing slash), the token for it, and the token's scheme.

    ``token`` may be None: parts of a catalogue may be public.
    Raises UsageError if the URL is not one to send a token to.
    """

    base_url: str
    token: Token | None = None
    scheme: str = "Bearer"
    """What precedes the token in the ``Authorization`` header."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", safe_base_url(self.base_url))

    @property
    def origin(self) -> str:
        """Scheme, host and port. The token is bound to it, and the catalogue is cached under it."""
        return origin_of(self.base_url)

    def authorization(self) -> dict[str, str]:
        """The header that carries the token; empty without a token."""
        return {"Authorization": f"{self.scheme} {self.token.reveal()}"} if self.token else {}

    def redact(self, text: str) -> str:
        """``text`` without the token."""
        return self.token.redact(text) if self.token else text


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, in lower case."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def safe_base_url(text: str) -> str:
    """``text`` without a trailing slash, or UsageError if a token must not be sent to it.

    Plain ``http`` is allowed only for loopback hosts: elsewhere the token would be readable.
    """
    problem = _base_problem(text)
    if problem is not None:
        # The URL itself is not repeated: it may hold a password.
        raise UsageError(f"not a base URL for the API: {problem}")
    return text.rstrip("/")


def _base_problem(text: str) -> str | None:
    if not _VISIBLE_ASCII.fullmatch(text):
        return "it is empty, or holds spaces or non-ASCII letters"
    try:
        parts = urlsplit(text)
        usable = parts.hostname is not None and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        return "no usable host and port in it"
    return _origin_problem(parts) or (
        "it has a query or a fragment" if parts.query or parts.fragment else None
    )


def _origin_problem(parts: SplitResult) -> str | None:
    if "@" in parts.netloc:
        return "it holds a user name or password; put the token into its own variable"
    if parts.scheme not in ("http", "https"):
        return "it does not begin with https://"
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return "http:// is accepted for this machine only (localhost, 127.0.0.1); use https://"
    return None
