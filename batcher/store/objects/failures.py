"""Translates a store's errors into ours.

Most of the library's errors differ only in their text, which quotes the store's answer and the URL. Both
may hold an access key, a signature or a shared-access token, so a message contains only the words of
that text that this module looks for.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from batcher.errors import CredentialsError, RetryKind, RunDirError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batcher.errors import BatcherError
    from batcher.store.objects.place import BucketLocation

CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{3,60})</Code>|\"reason\":\s*\"([A-Za-z]{3,60})\"")
STATUS: Final = re.compile(r"status code: (\d{3})")
NO_BUCKET: Final = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
NO_GCS_BUCKET: Final = "specified bucket does not exist"
STALE: Final = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
SKEWED: Final = {"RequestTimeTooSkewed"}
RESTARTED: Final = {"NoSuchUpload", "BadDigest", "XAmzContentSHA256Mismatch", "InvalidPart"}
"""Failures of one upload: its parts were deleted, or bytes changed in transit."""
TRANSIENT_STATUSES: Final = {408, 409, 425, 429}
SIGN_IN_SERVICES: Final = re.compile(
    r"Error performing [A-Z]+ https?://"
    r"(169\.254\.|metadata\.google\.internal/|oauth2\.googleapis\.com/|login\.microsoftonline\.com/"
    r"|[^/\s]+/latest/(api/token|meta-data))"
)
"""Where the library looks for credentials if it has none: the machine's role."""
UNREACHABLE: Final = {
    "Connection refused": "refuses connections",
    "dns error": "can't be found: is the endpoint or region right?",
    "imed out": "does not answer in time",
    "TimedOut": "does not answer in time",
    "certificate": "shows a certificate that is not trusted",
    "error sending request": "does not answer",
    "error decoding response body": "broke off in the middle of an answer",
    "Connection reset": "broke the connection off",
}
HOW_TO_SIGN_IN: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or 'gcloud auth application-default login'",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}


class StoreUnavailable(RunDirError):
    """The store failed until our retries ended; the same call may succeed later."""

    kind: ClassVar[RetryKind] = RetryKind.TRANSIENT


class NoSuchObject(RunDirError):
    """There is no object under that key, or it was deleted meanwhile."""


@contextmanager
def talking(place: BucketLocation, key: str, verb: str) -> Iterator[None]:
    """Translates the library's errors in code that does ``verb`` to ``key``."""
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        # The text of the cause may hold credentials: it is not chained.
        raise translated(place, key, verb, error) from None


def translated(place: BucketLocation, key: str, verb: str, error: Exception) -> BatcherError:
    """The library's ``error``, reworded for the user."""
    text = str(error)
    what = f"{place.named(key)}: can't {verb}"
    code, status = _code(text), _status(text)
    told = code or (f"HTTP {status}" if status else "")
    if SIGN_IN_SERVICES.search(text):
        return CredentialsError(f"{what}: no credentials were found; set {HOW_TO_SIGN_IN[place.scheme]}")
    if _no_bucket(text):
        return RunDirError(f"{what}: there is no bucket {place.bucket!r}; create it, or check --output")
    if isinstance(error, FileNotFoundError) and code not in RESTARTED:
        return NoSuchObject(f"{what}: there is no such object")
    if code in SKEWED:
        return CredentialsError(f"{what}: this machine's clock is wrong ({code}); set it and run again")
    if status in (401, 403) or code in STALE or _lacks_permission(error):
        return CredentialsError(
            f"{what}: refused ({told or 'not allowed'}). The credentials are wrong or expired, or "
            f"not allowed to: check {HOW_TO_SIGN_IN[place.scheme]}, and the bucket's policy"
        )
    return _about_the_store(place, what, error)


def _about_the_store(place: BucketLocation, what: str, error: Exception) -> RunDirError:
    text = str(error)
    code, status = _code(text), _status(text)
    told = code or f"HTTP {status}"
    if status is None:
        seen = next((words for sign, words in UNREACHABLE.items() if sign in text), "failed")
        return StoreUnavailable(
            f"{what}: the store {seen}. It was tried again for as long as allowed; what is stored "
            "stays: check the network and the endpoint, then run again"
        )
    if code in RESTARTED:
        return StoreUnavailable(f"{what}: the upload went wrong on the way ({told}); run again")
    if status >= 500 or status in TRANSIENT_STATUSES:
        return StoreUnavailable(
            f"{what}: the store was busy or failing all the time ({told}); run again later"
        )
    if 300 <= status < 400:
        remedy = (
            "it is in another region: set AWS_REGION" if place.scheme == "s3" else "check the endpoint"
        )
        return RunDirError(f"{what}: the store sent us elsewhere ({told}); {remedy}")
    return RunDirError(
        f"{what}: the store refused it ({told}); check the bucket's settings and --output"
    )


def misconfigured(place: BucketLocation) -> UsageError:
    """The error for environment settings that the library rejects."""
    return UsageError(
        f"{place.url}: the settings in the environment don't fit together; check the endpoint, the "
        f"region and {HOW_TO_SIGN_IN[place.scheme]}"
    )


def _is_foreign(error: Exception) -> bool:
    from obstore.exceptions import BaseError

    return isinstance(error, (BaseError, FileNotFoundError, PermissionError, ValueError))


def _lacks_permission(error: Exception) -> bool:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    return isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError))


def _code(text: str) -> str:
    found = CODE.search(text)
    return (found[1] or found[2]) if found else ""


def _status(text: str) -> int | None:
    found = STATUS.search(text)
    return int(found[1]) if found else None


def _no_bucket(text: str) -> bool:
    return _code(text) in NO_BUCKET or NO_GCS_BUCKET in text
