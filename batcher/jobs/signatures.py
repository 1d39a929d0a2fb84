"""Signed URLs: which query parameters only sign a URL, and which of them are secrets.

Only a complete set of a scheme's own parameters is a signature. A parameter that may choose what is
fetched (``x-oss-process``, ``versionId``, ``response-content-type``, a lone ``token``) never is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_plus, urlsplit

MASK = "***"
_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class _Scheme:
    """A signature: it requires all of ``needs``, not empty; those in ``may`` belong to it if present."""

    needs: frozenset[str]
    may: frozenset[str] = frozenset()


def _scheme(needs: str, may: str = "") -> _Scheme:
    return _Scheme(frozenset(needs.split()), frozenset(may.split()))


_SCHEMES = (
    _scheme(  # AWS Signature Version 4, query form
        "x-amz-credential x-amz-date x-amz-expires x-amz-signature",
        "x-amz-algorithm x-amz-signedheaders x-amz-security-token x-amz-content-sha256",
    ),
    _scheme("awsaccesskeyid expires signature", "x-amz-security-token"),  # AWS Signature Version 2
    _scheme(  # Google Cloud Storage, V4
        "x-goog-credential x-goog-date x-goog-expires x-goog-signature",
        "x-goog-algorithm x-goog-signedheaders",
    ),
    _scheme("googleaccessid expires signature"),  # Google Cloud Storage, V2
    _scheme(  # Azure shared access signature, with its own expiry
        "sig sv se", "sp st sr spr sip ss srt skoid sktid skt ske sks skv saoid suoid scid ses"
    ),
    _scheme("sig sv si", "sr spr sip"),  # the same, with the expiry in a stored policy
    _scheme("expires signature key-pair-id", "hash-algorithm"),  # CloudFront, canned policy
    _scheme("policy signature key-pair-id", "hash-algorithm"),  # CloudFront, custom policy
    _scheme("ossaccesskeyid expires signature", "security-token"),  # Alibaba OSS, V1
    _scheme(  # Alibaba OSS, V4
        "x-oss-credential x-oss-date x-oss-expires x-oss-signature",
        "x-oss-signature-version x-oss-security-token x-oss-additional-headers",
    ),
)
_SECRETS = frozenset({
    "signature", "sig", "token", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid",
    "ossaccesskeyid", "security-token", "access_token", "api_key", "apikey", "hdnea", "hdnts", "q-ak",
    "q-signature", "x-amz-credential", "x-amz-signature", "x-amz-security-token", "x-goog-credential",
    "x-goog-signature", "x-oss-credential", "x-oss-signature", "x-oss-security-token",
    "x-cos-security-token",
})  # fmt: skip
"""Parameters whose values are masked even if they belong to no complete signature."""


def without_signature(url: str) -> str:
    """``url`` without the parameters that only sign it; unchanged if there is no complete signature."""
    if "?" not in url:
        return url
    return _changed(url, _signing_in, lambda pair: None)


def mask_url(url: str) -> str:
    """``url`` with the values of signatures and secrets replaced by ``***``."""
    if "?" not in url:
        return url
    return _changed(url, _secret_in, lambda pair: f"{pair.partition('=')[0]}={MASK}")


def public_address(url: str) -> str:
    """The part of a URL with a secret path (a webhook) that may be shown: scheme and host."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        return f"{parts.scheme}://{parts.hostname}/..."
    return f"{parts.scheme}://..." if parts.scheme else "..."


def mask_text(text: str) -> str:
    """An option's value (``NAME=URL`` too) with passwords and signatures of URLs replaced by ``***``."""
    name, equals, value = text.partition("=")
    masked = mask_url(text) if "?" in name else f"{name}{equals}{mask_url(value)}"
    return _PASSWORD.sub(rf"\1{MASK}@", masked)


def _names(pairs: list[str]) -> list[str]:
    return [unquote_plus(pair.partition("=")[0]).lower() for pair in pairs]


def _signing_in(pairs: list[str]) -> set[str]:
    """The names that only sign. A repeated name is ambiguous, so it signs nothing."""
    names = _names(pairs)
    full = {
        name
        for name, pair in zip(names, pairs, strict=True)
        if names.count(name) == 1 and pair.partition("=")[2]
    }
    signing: set[str] = set()
    for scheme in _SCHEMES:
        if scheme.needs <= full:
            signing |= scheme.needs | scheme.may
    return signing


def _secret_in(pairs: list[str]) -> set[str]:
    return _signing_in(pairs) | _SECRETS


def _changed(
    url: str, chosen: Callable[[list[str]], set[str]], change: Callable[[str], str | None]
) -> str:
    """``url`` with ``change`` made to each parameter whose name is ``chosen`` (None drops it)."""
    head, hash_mark, fragment = url.partition("#")
    base, _, query = head.partition("?")
    pairs = query.split("&")
    names = chosen(pairs)
    changed = [
        change(pair) if name in names else pair for name, pair in zip(_names(pairs), pairs, strict=True)
    ]
    if changed == pairs:
        return url
    kept = "&".join(pair for pair in changed if pair is not None)
    return f"{base}{'?' if kept else ''}{kept}{hash_mark}{fragment}"
