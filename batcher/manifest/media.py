"""Media in an input: a public HTTPS URL, a ``data:`` URI, or a local file that is read once."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from batcher.jobs.job import LocalMedia
from batcher.jobs.nodes import workflow_problem
from batcher.manifest.rows import LocalPath
from batcher.media.file_types import sniff
from batcher.media.wholeness import is_torn
from batcher.schema.dialect import WORKFLOW_KIND, json_value
from batcher.schema.problems import shown
from batcher.terminal import legible

BODY_MAX_BYTES = 64 * 1024 * 1024
"""The API's limit for a request body, inline media included."""
JSON_TYPE = "application/json"
FILE_MAX_BYTES = BODY_MAX_BYTES // 4 * 3
KNOWN_FILES_MAX = 16_384
CHUNK_BYTES = 1024 * 1024
SNIFFED_BYTES = 64
NO_URL_NOR = "neither a public HTTPS URL nor"
URL_FORM = "https://host/path, without login or spaces"
HOST_MAX_CHARS = 253

_URL = re.compile(
    r"https://([^/?#\s\\@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(?:[/?#]\S*)?", re.IGNORECASE
)
_URL_INSIDE = re.compile(r"https?://[^\s()<>\[\]\"']+", re.IGNORECASE)
_NEXT_URL = re.compile(r"[,;|\s]\s*[\"']?https?://", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?://|(?=\S*@))")
_NAME_MARKS = str.maketrans("", "", ".-")
_LABEL = re.compile(r"(?!-)[^\W_](?:[\w-]*[^\W_])?|_[\w-]+")
_DATA_URI = re.compile(r"data:(image|video|audio)/[\w.+-]+(?:;[^,;\s]+)*?;base64,([A-Za-z0-9+/]*={0,2})")
_PRIVATE_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".lan", ".home.arpa")

_SENT_AS: Final = {
    ".png": "image/png", ".jpg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".bmp": "image/bmp", ".tif": "image/tiff", ".jxl": "image/jxl", ".avif": "image/avif",
    ".heic": "image/heic", ".heif": "image/heic",
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".3gp": "video/mp4", ".mov": "video/quicktime",
    ".webm": "video/webm", ".mkv": "video/webm", ".avi": "video/x-msvideo", ".mpg": "video/mpeg",
    ".m4a": "audio/mp4", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac",
    ".ogg": "audio/ogg", ".aac": "audio/aac",
}  # fmt: skip
"""Formats that are sent as media, by their usual extensions."""
_MEDIA_SUFFIX = re.compile(
    r"[^\0\r\n]{0,1024}\.(?:png|jpe?g|gif|webp|bmp|tiff?|avif|heic|jxl|mp4|m4v|mov|webm|mkv|avi|mpe?g|"
    r"mp3|m4a|wav|flac|ogg|opus|aac)",
    re.IGNORECASE,
)


class MediaError(ValueError):
    """Media that can't be sent; ``str(error)`` says why."""


class LocalFiles:
    """Local media files, hashed once for each (path, size, modification time)."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._nodes: dict[str, frozenset[str]] = {}
        self._torn: dict[str, None] = {}

    def warnings(self) -> Iterator[str]:
        """About files that would be sent, but perhaps not as intended."""
        if self._torn:
            more = f" (and {len(self._torn) - 1} more)" if len(self._torn) > 1 else ""
            yield f"{legible(next(iter(self._torn)))}{more}: the end of the file is missing"

    def resolved(self, value: Any, kind: str | None, directory: Path) -> Any:
        """``value`` of a media field as it is sent: URLs unchanged, local files as LocalMedia.

        ``kind`` is image, video, audio, workflow, or None for any media. Raises MediaError.
        """
        if kind == WORKFLOW_KIND:
            return self._workflow(value, directory)
        if isinstance(value, list):
            return [self.resolved(item, kind, directory) for item in value]
        if not isinstance(value, str):
            return value
        if not isinstance(value, LocalPath):
            value = _trimmed(value, directory)
            if (what := several_urls(value)) is not None:
                raise MediaError(what)
            if is_public_url(value):
                return value
            if (match := _URL.fullmatch(value)) is not None:
                raise MediaError(f"{match[1]:.80} {_host_problem(match[1])}")
            if value[:5].lower() == "data:":
                check_data_uri(value, kind)
                return value
            if _SCHEME.match(value):
                raise MediaError(f"{_without_user(value)} is not a public HTTPS URL ({URL_FORM})")
        return self._local(value, kind, directory)

    def perhaps(self, value: Any, directory: Path, *, strict: bool) -> Any:
        """``value`` of a field that may take media: as LocalMedia if it is the path of a media file.

        Raises MediaError for the path of a missing media file, if the field is ``strict``.
        """
        if isinstance(value, list):
            return [self.perhaps(item, directory, strict=strict) for item in value]
        if not isinstance(value, str) or not may_be_file(value):
            return value
        is_sent = strict or _is_file(directory / value)
        return self._local(value, None, directory) if is_sent else value

    def _workflow(self, value: Any, directory: Path) -> Any:
        """A workflow: a map as it is, the path of a JSON file as LocalMedia. Raises MediaError."""
        if isinstance(value, str) and not value.lstrip().startswith("{"):
            return self._local(value, WORKFLOW_KIND, directory)
        try:
            graph = json_value(value) if isinstance(value, str) else value
        except ValueError as error:
            raise MediaError(f"not JSON: {error}") from None
        if (what := workflow_problem(graph)) is not None:
            raise MediaError(what)
        return graph

    def nodes_in(self, workflow: Any) -> frozenset[str]:
        """The nodes of a workflow that :meth:`resolved` gave. Raises MediaError if its file is gone."""
        if not isinstance(workflow, LocalMedia):
            return frozenset(map(str, workflow))
        if workflow.sha256 not in self._nodes:
            self._nodes[workflow.sha256] = frozenset(_graph_in(Path(workflow.path)))
        return self._nodes[workflow.sha256]

    def _local(self, text: str, kind: str | None, directory: Path) -> LocalMedia:
        path = directory / text
        try:
            status = path.stat()
        except (OSError, ValueError):
            raise MediaError(
                f"{shown(text)} is {'not' if kind == WORKFLOW_KIND else NO_URL_NOR} a file that exists"
                f"{_url_inside(text) or _other_spelling(text, directory)}"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{shown(text)} is not a file")
        if status.st_size > FILE_MAX_BYTES:
            raise MediaError(f"{shown(text)} has {status.st_size} bytes; {_limit()}")
        sha256, media_type = self._identity(path, status, kind)
        found = media_type.partition("/")[0]
        if kind not in (None, WORKFLOW_KIND, found):
            raise MediaError(f"{shown(text)} is {media_type}, not {kind}")
        return LocalMedia(str(path), legible(text), sha256, status.st_size, media_type)

    def _identity(self, path: Path, status: os.stat_result, kind: str | None) -> tuple[str, str]:
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._known:
            if len(self._known) >= KNOWN_FILES_MAX:
                self._known.pop(next(iter(self._known)))
            read = _workflow_identity if kind == WORKFLOW_KIND else _read_identity
            self._known[key] = read(path)
            if _is_torn(path, self._known[key][1]):
                self._torn[str(path)] = None
        return self._known[key]


def _url_inside(text: str) -> str:
    """The remedy for a cell with more than a URL, such as ``cat.png (https://...)`` of Airtable."""
    urls = _URL_INSIDE.findall(text)
    if not urls:
        return ""
    return (
        f"; write only the URL in it: {shown(urls[0])}"
        if len(urls) == 1
        else f"; it has {len(urls)} URLs"
    )


def _other_spelling(text: str, directory: Path) -> str:
    """The name of a file that ``text`` may mean: with Windows' separators, in quotes, or from a URL."""
    plain = text.strip(" \"'")
    for other in (plain, plain.replace("\\", "/"), unquote(plain)):
        if other not in (text, "") and "\0" not in other and os.path.isfile(directory / other):  # noqa: PTH113 (false for what can be no path)
            return f"; did you mean {shown(other)}?"
    return ""


def _is_torn(path: Path, media_type: str) -> bool:
    try:
        return is_torn(path, media_type)
    except OSError:
        return False


def _graph_in(path: Path) -> dict[str, Any]:
    """The workflow in a JSON file. Raises MediaError."""
    try:
        graph = json_value(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise MediaError(f"{shown(str(path))} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise MediaError(f"{shown(str(path))} is not JSON: {error}") from None
    if (what := workflow_problem(graph)) is not None:
        raise MediaError(f"{shown(str(path))} is {what}")
    return dict(graph)


def _workflow_identity(path: Path) -> tuple[str, str]:
    """SHA-256 in hex and media type of a workflow's file. Raises MediaError."""
    _graph_in(path)
    return hashlib.sha256(path.read_bytes()).hexdigest(), JSON_TYPE


def _read_identity(path: Path) -> tuple[str, str]:
    """SHA-256 in hex and media type of a file. Raises MediaError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            head = file.read(SNIFFED_BYTES)
            media_type = media_type_of(head)
            digest.update(head)
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise MediaError(f"{shown(str(path))} can't be read: {error.strerror}") from None
    if media_type is None:
        raise MediaError(
            f"{shown(str(path))} is no image, video or audio that is known by its first bytes"
        )
    return digest.hexdigest(), media_type


def media_type_of(head: bytes) -> str | None:
    """The media type by a file's first bytes, None if it can't be sent as media.

    A text may begin like a bitmap ("BM"), or like a QuickTime file without a brand ("Get free ...").
    """
    signature = sniff(head)
    if signature is None:
        return None
    if signature.extension == ".bmp" and head[6:10] != bytes(4):
        return None
    if signature.extension == ".mov" and head[4:8] != b"ftyp":
        return None
    return _SENT_AS.get(signature.extension)


@lru_cache(maxsize=1024)
def _host_problem(host: str) -> str | None:
    name = host.lower().rstrip(".")
    if name.startswith("["):
        return _address_problem(name[1:-1])
    labels = name.split(".")
    if len(labels) < 2 or name.endswith(_PRIVATE_SUFFIXES):
        return "is not a public host"
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        return _address_problem(name)
    if len(name) > HOST_MAX_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a host name"
    return None


def _trimmed(text: str, directory: Path) -> str:
    """``text`` without the spaces around it (``a, https://...``), unless a file has just that name."""
    trimmed = text.strip()
    return text if trimmed == text or _is_file(directory / text) else trimmed


def _is_file(path: Path) -> bool:
    """Whether ``path`` is one; a text that can't be a path is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _address_problem(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "is not an address"
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    public = inner.is_global and address.is_global and not inner.is_multicast
    return None if public else "is not a public address"


def is_public_url(text: str) -> bool:
    """Whether ``text`` is an HTTPS URL of a host that is not known to be private."""
    if text[:8] == "https://" and " " not in text and text.isprintable():
        host, _, _ = text[8:].partition("/")
        if _is_public_name(host):
            return True
    match = _URL.fullmatch(text)
    return match is not None and _host_problem(match[1]) is None


def are_public_urls(texts: Sequence[str]) -> bool:
    """Whether each text is surely what :func:`is_public_url` says, and contains no other URL."""
    joined = " ".join(texts)
    count = len(texts)
    if joined.count(" ") >= count or joined.count("://") != count or not joined.isprintable():
        return False
    addresses = f" {joined}".split(" https://")[1:]
    hosts = {address.partition("/")[0] for address in addresses}
    return len(addresses) == count and all(map(_is_public_name, hosts))


def may_be_file(text: str) -> bool:
    """Whether ``text`` reads like the path of a media file."""
    return _MEDIA_SUFFIX.fullmatch(text) is not None and _SCHEME.match(text) is None


def several_urls(text: str) -> str | None:
    """The problem with text that contains several URLs, separated by commas and the like."""
    count = 1 + len(_NEXT_URL.findall(text))
    return f"{count} URLs in one cell, and the input takes one" if count > 1 else None


@lru_cache(maxsize=1024)
def _is_public_name(host: str) -> bool:
    """Whether ``host`` is letters, digits, dots and dashes, and public. Cached, because hosts repeat."""
    plain = host.isascii() and host.translate(_NAME_MARKS).isalnum()
    return plain and _host_problem(host) is None


def check_data_uri(uri: str, kind: str | None) -> None:
    """Raises MediaError for a ``data:`` URI that is not base64 of media of that kind, or too large."""
    if len(uri) > BODY_MAX_BYTES:
        raise MediaError(f"a data: URI of {len(uri)} bytes; {_limit()}")
    match = _DATA_URI.fullmatch(uri)
    if match is None or len(match[2]) % 4 or not match[2]:
        raise MediaError("not a data: URI of media in base64 (data:image/png;base64,...)")
    if kind is not None and match[1] != kind:
        raise MediaError(f"a data: URI of {match[1]}, not {kind}")


def check_body_size(inputs: dict[str, Any]) -> None:
    """Raises MediaError if the request with its inline media is above the API's limit."""
    size_bytes = sum(_sent_bytes(name) + _sent_bytes(value) for name, value in inputs.items())
    if size_bytes > BODY_MAX_BYTES:
        raise MediaError(f"the request has {size_bytes} bytes with its media inline; {_limit()}")


def _sent_bytes(value: Any) -> int:
    """The size in bytes of ``value`` as JSON when it is sent."""
    if isinstance(value, LocalMedia):
        return len(f'"data:{value.media_type};base64,"') + 4 * -(-value.bytes // 3)
    if isinstance(value, list):
        return sum(_sent_bytes(item) + 1 for item in value) + 1
    return len(msgspec.json.encode(value))


def _limit() -> str:
    return f"a request may have {BODY_MAX_BYTES // 2**20} MiB, media in base64 included"


def _without_user(url: str) -> str:
    return shown(re.sub(r"//[^/?#]*@", "//***@", url))
