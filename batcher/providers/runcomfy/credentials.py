"""Finds the token and the API's address, in the same order as the vendor's own tool."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from batcher.errors import CredentialsError, UsageError
from batcher.http.endpoint import Token, safe_base_url

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
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class FoundToken:
    """A token, a description of its source, and warnings about it."""

    token: Token
    origin: str
    warnings: tuple[str, ...] = ()


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
    """``text`` without a trailing slash, or UsageError if it is no base URL of the Model API."""
    url = safe_base_url(text)
    if not url.endswith("/v1"):
        raise UsageError(
            "not a base URL for the API: it must include the API's version, as in " + DEFAULT_BASE_URL
        )
    return url
