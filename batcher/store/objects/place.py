"""Bucket URLs and keys, checked before use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from batcher.errors import UsageError

SCHEMES: Final = ("s3", "gs", "az", "file")
EXAMPLES: Final = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder"
KEY_MAX_BYTES: Final = 1024
"""The longest key of S3 and Google Cloud Storage, with its prefix, in UTF-8. Azure counts characters."""


@dataclass(frozen=True, slots=True)
class BucketLocation:
    """A place in a store: for ``file`` the ``bucket`` is empty and the ``prefix`` an absolute path."""

    scheme: str
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.bucket}{'/' if self.bucket and self.prefix else ''}{self.prefix}"

    def named(self, key: str) -> str:
        """``key`` as a message names it."""
        return f"{self.url.rstrip('/')}/{key}"

    def checked(self, key: str) -> str:
        """``key``; raises UsageError if it could be read as another key, or as a path outside."""
        complaint = _complaint(key) or self._too_long(key)
        if complaint:
            raise UsageError(f"{self.url}: {key!r} {complaint}")
        return key

    def _too_long(self, key: str) -> str:
        size_bytes = len(f"{self.prefix}/{key}".encode())
        long = self.scheme != "file" and size_bytes > KEY_MAX_BYTES
        return f"is too long: {size_bytes} bytes with its prefix, of {KEY_MAX_BYTES}" if long else ""


def is_bucket_url(text: str) -> bool:
    """Whether ``text`` is the URL of a bucket rather than a path."""
    return "://" in text


def parse_place(url: str) -> BucketLocation:
    """The place that ``url`` names. Raises UsageError, which never quotes what may be a credential."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        known = scheme if separator and scheme.isalnum() else "this"
        raise UsageError(f"--output: {known} is no kind of storage known here; write {EXAMPLES}")
    return _parse_folder(rest) if scheme == "file" else _parse_bucket(scheme, rest)


def _parse_folder(rest: str) -> BucketLocation:
    folder = unquote(rest.removeprefix("localhost"))
    if not folder.startswith("/") or "\0" in folder:
        raise UsageError(
            "--output: a file:// URL has three slashes and an absolute path, file:///folder"
        )
    return BucketLocation("file", "", Path(folder).as_posix())


def _parse_bucket(scheme: str, rest: str) -> BucketLocation:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket or ":" in bucket:
        raise UsageError(
            f"--output: {scheme}:// takes no credentials, accounts or ports; set them in the environment"
        )
    if not bucket or not all(sign.isalnum() or sign in "._-" for sign in bucket):
        raise UsageError(f"--output: {scheme}:// is followed by a bucket's name; write {EXAMPLES}")
    prefix = prefix.strip("/")
    if prefix and (complaint := _complaint(prefix)):
        raise UsageError(f"--output: the prefix after {scheme}://{bucket}/ {complaint}")
    return BucketLocation(scheme, bucket, prefix)


def _complaint(key: str) -> str:
    """What is wrong with ``key``; empty if it is valid."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "has an empty, '.' or '..' part"
    if not key.isprintable() or "\\" in key:
        return "has a control character or a backslash"
    if "?" in key or "#" in key:
        return "has a '?' or '#': a URL with parameters is no name"
    return ""
