"""Finds the token and the API's address, in the same order as the vendor's own tool.

The token goes to the API's origin and nowhere else: :class:`Token` never shows itself, so that no
log line, traceback, ledger or report can hold it by accident.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from batcher.errors import CredentialsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIMARY_VARIABLE: Final = "RUNCOMFY_TOKEN"
FILE_VARIABLE: Final = "RUNCOMFY_TOKEN_FILE"
LAST_RESORT_VARIABLE: Final = "YOUR_API_TOKEN"
CONFIG_DIR_VARIABLE: Final = "RUNCOMFY_CONFIG_DIR"
XDG_CONFIG_VARIABLE: Final = "XDG_CONFIG_HOME"
BASE_VARIABLE: Final = "RUNCOMFY_MODEL_API_BASE"
CREDENTIALS_FILE: Final = "token.json"
DEFAULT_BASE_URL: Final = "https://model-api.runcomfy.net/v1"

TOKEN_FILE_MAX_BYTES: Final = 64 * 1024
PART_MIN_CHARS: Final = 8
"""A run of this many characters of the token is a part of it; shorter ones are ordinary words."""

_HIDDEN = "***"
_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


class Token:
    """The bearer token. Its ``str`` and ``repr`` are ``***``; :meth:`authorization` uses it.

    Raises CredentialsError if ``text`` is not valid in a header: a line break in it could add
    other headers. Surrounding white space is removed.
    """

    __slots__ = ("_parts", "_text")

    def __init__(self, text: str) -> None:
        text = text.strip()
        if not _VISIBLE_ASCII.fullmatch(text):
            raise CredentialsError(
                "the token is empty or holds characters that no token has (spaces, line breaks or "
                "non-ASCII letters); copy it again from the RunComfy profile page"
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

    def authorization(self) -> str:
        """The value of the ``Authorization`` header."""
        return f"Bearer {self._text}"

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
        if not any(part in text for part in self._parts):
            return text
        starts = range(len(text) - PART_MIN_CHARS + 1)
        hits = [start for start in starts if text[start : start + PART_MIN_CHARS] in self._parts]
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
class FoundToken:
    """A token, a description of its source, and warnings about it."""

    token: Token
    origin: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The API: its base URL (with ``/v1``, no trailing slash) and the token for it.

    Without a token the calls go out without one: some of the catalogue may be open.
    Raises UsageError if the URL is not one to send a token to.
    """

    base_url: str
    token: Token | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", checked_base_url(self.base_url))

    @property
    def origin(self) -> str:
        """Scheme, host and port: what the token belongs to, and what a catalogue is cached by."""
        parts = urlsplit(self.base_url)
        return f"{parts.scheme}://{parts.netloc}".lower()


def find_token(env: Mapping[str, str], home: Path) -> FoundToken:
    """The token: in ``RUNCOMFY_TOKEN``, in the file that ``RUNCOMFY_TOKEN_FILE`` names (a secret of
    Docker, Kubernetes or systemd), in the vendor's ``token.json``, last in ``YOUR_API_TOKEN``.

    A token file that exists but is broken is an error, and the search ends: the user means that
    account. Raises CredentialsError with the remedy.
    """
    path = config_dir(env, home) / CREDENTIALS_FILE
    found = (
        _from_variable(env, PRIMARY_VARIABLE)
        or _from_named_file(env)
        or _from_file(path)
        or _from_variable(env, LAST_RESORT_VARIABLE)
    )
    if found is None:
        raise CredentialsError(
            f"no API token: set {PRIMARY_VARIABLE} or {FILE_VARIABLE}, or sign in with the vendor's "
            f"tool, which writes {path}; `batcher plan` and `--sandbox` need none"
        )
    return found


def config_dir(env: Mapping[str, str], home: Path) -> Path:
    """The vendor's configuration folder. A relative XDG path is ignored, as the XDG spec asks."""
    if chosen := env.get(CONFIG_DIR_VARIABLE, "").strip():
        return Path(chosen)
    xdg = env.get(XDG_CONFIG_VARIABLE, "").strip()
    return (Path(xdg) if Path(xdg).is_absolute() else home / ".config") / "runcomfy"


def _from_variable(env: Mapping[str, str], name: str) -> FoundToken | None:
    text = env.get(name, "").strip()
    return FoundToken(_token(text, name), f"${name}") if text else None


def _from_named_file(env: Mapping[str, str]) -> FoundToken | None:
    """A file that holds the token alone, or JSON like the vendor's. Raises CredentialsError."""
    name = env.get(FILE_VARIABLE, "").strip()
    if not name:
        return None
    path, origin = Path(name), f"${FILE_VARIABLE} ({name})"
    try:
        with path.open("rb") as file:
            content = file.read(TOKEN_FILE_MAX_BYTES)
    except OSError as error:
        raise CredentialsError(f"{origin}: can't be read: {error.strerror or error}") from error
    is_json = content.lstrip().startswith(b"{")
    text = _access_token(path, content) if is_json else content.decode("utf-8-sig", "replace")
    return FoundToken(_token(text, origin), origin)


def _token(text: str, origin: str) -> Token:
    try:
        return Token(text)
    except CredentialsError as error:
        raise CredentialsError(f"{origin}: {error}") from None


def _from_file(path: Path) -> FoundToken | None:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(TOKEN_FILE_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _broken(path, error.strerror or str(error)) from error
    return FoundToken(_token(_access_token(path, content), str(path)), str(path), _loose(path, mode))


def _access_token(path: Path, content: bytes) -> str:
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # `from None`: a decoder's message may quote what it read.
        raise _broken(path, "not JSON") from None
    text = document.get("access_token") if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise _broken(path, 'no "access_token" in it')
    return text


def _broken(path: Path, what: str) -> CredentialsError:
    return CredentialsError(
        f"{path}: can't read a token from it: {what}; sign in again, remove the file, or set "
        f"{PRIMARY_VARIABLE}"
    )


def _loose(path: Path, mode: int) -> tuple[str, ...]:
    if not mode & _OTHERS_MAY:
        return ()
    return (f"{path}: mode {mode:04o} lets others at the token; run `chmod 600 {path}`",)


def base_url(env: Mapping[str, str]) -> str:
    """The API's base URL: ``RUNCOMFY_MODEL_API_BASE`` if it is set. Raises UsageError."""
    text = env.get(BASE_VARIABLE, "").strip()
    try:
        return checked_base_url(text or DEFAULT_BASE_URL)
    except UsageError as error:
        raise UsageError(f"{BASE_VARIABLE}: {error}") from None


def checked_base_url(text: str) -> str:
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
    return _origin_problem(parts) or _path_problem(parts)


def _origin_problem(parts: SplitResult) -> str | None:
    if "@" in parts.netloc:
        return "it holds a user name or password; the token goes into a variable of its own"
    if parts.scheme not in ("http", "https"):
        return "it does not begin with https://"
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return "http:// is accepted for this machine only (localhost, 127.0.0.1); use https://"
    return None


def _path_problem(parts: SplitResult) -> str | None:
    if parts.query or parts.fragment:
        return "it has a query or a fragment"
    if not parts.path.rstrip("/").endswith("/v1"):
        return f"it must include the API's version, as in {DEFAULT_BASE_URL}"
    return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine without asking anyone (RFC 6761 section 6.3, RFC 5735)."""
    if host.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
