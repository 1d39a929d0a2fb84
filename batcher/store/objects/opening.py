"""Opens a bucket from a URL and the environment.

Settings and credentials come from the same places as in each vendor's own tools. This module signs
nothing and keeps no secret: the library reads the environment itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from batcher.errors import CredentialsError, InputError, UsageError
from batcher.store.objects.failures import HOW_TO_SIGN_IN, misconfigured
from batcher.store.objects.folder import FolderBucket
from batcher.store.objects.interface import StoreRetries
from batcher.store.objects.place import BucketLocation, parse_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ObjectStore

    from batcher.store.objects.interface import Bucket

ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
OWN_CREDENTIALS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
"""If one of these is set, the library signs by itself; else the files in ``~/.aws`` are read."""
PROFILE_REFRESH_S: Final = 300.0
"""How long a credential from a profile is used before it is asked for again, in seconds."""


def open_bucket(url: str, patience: StoreRetries | None = None) -> Bucket:
    """The bucket at ``url``. Sends no request yet.

    Raises UsageError for an invalid URL or invalid settings, InputError if the library is not
    installed, CredentialsError if a profile was asked for that isn't there.
    """
    place = parse_place(url)
    if place.scheme == "file":
        return FolderBucket(place)
    try:
        import obstore  # noqa: F401
    except ImportError:
        raise InputError(f"{place.url}: object storage needs pip install obstore boto3") from None
    from batcher.store.objects.remote import RemoteBucket

    return RemoteBucket(place, _store(place, patience or StoreRetries()), patience or StoreRetries())


def _store(place: BucketLocation, patience: StoreRetries) -> ObjectStore:
    from obstore.exceptions import BaseError

    settings: dict[str, Any] = {
        "prefix": place.prefix or None,
        "client_options": _client_options(place.scheme, os.environ, patience),
        "retry_config": patience.retry_config(),
    }
    try:
        return _make(place, settings)
    except (BaseError, ValueError, FileNotFoundError):
        raise misconfigured(place) from None


def _make(place: BucketLocation, settings: dict[str, Any]) -> ObjectStore:
    from obstore.store import AzureStore, GCSStore, S3Store

    if place.scheme == "s3":
        return S3Store(place.bucket, **settings, **_s3_settings(place, os.environ))
    if place.scheme == "gs":
        return GCSStore(place.bucket, **settings)
    return AzureStore(place.bucket, **settings)


def _client_options(
    scheme: str, environment: Mapping[str, str], patience: StoreRetries
) -> dict[str, Any]:
    """Allows plain http only for an endpoint that the user wrote with http://.

    Raises UsageError for an endpoint that is not a URL: the library would panic.
    """
    named = {name: environment[name] for name in ENDPOINTS[scheme] if name in environment}
    for name, endpoint in named.items():
        if not _is_web_url(endpoint):
            raise UsageError(f"{name}: is set, but is no URL that begins with http:// or https://")
    plain = next(iter(named.values()), "").startswith("http://")
    options: dict[str, Any] = {
        "timeout": f"{patience.request_s}s",
        "connect_timeout": f"{patience.connect_s}s",
    }
    return options | ({"allow_http": True} if plain else {})


def _is_web_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _s3_settings(place: BucketLocation, environment: Mapping[str, str]) -> dict[str, Any]:
    # We delete one object at a time, and not every S3 supports the bulk call.
    settings: dict[str, Any] = {"disable_bulk_delete": True}
    if "AWS_CHECKSUM_ALGORITHM" not in environment:
        settings["checksum_algorithm"] = "SHA256"
    if any(environment.get(name) for name in OWN_CREDENTIALS):
        return settings
    if environment.get("AWS_PROFILE") or _has_profiles(environment):
        settings["credential_provider"] = _profile(place)
    elif environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise CredentialsError(f"{place.url}: no credentials were found; set {HOW_TO_SIGN_IN['s3']}")
    return settings


def _has_profiles(environment: Mapping[str, str]) -> bool:
    home = Path.home() / ".aws"
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": home / "credentials",
        "AWS_CONFIG_FILE": home / "config",
    }
    return any(Path(environment.get(name) or path).is_file() for name, path in files.items())


def _profile(place: BucketLocation) -> Any:
    """Credentials that AWS's own library finds: files, SSO, assumed roles, a process."""
    from datetime import timedelta

    try:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise InputError(f"{place.url}: profiles in ~/.aws need pip install obstore boto3") from None
    try:
        return Boto3CredentialProvider(ttl=timedelta(seconds=PROFILE_REFRESH_S))
    except (BotoCoreError, ValueError):
        raise CredentialsError(
            f"{place.url}: the profile in ~/.aws has no credentials; set {HOW_TO_SIGN_IN['s3']}"
        ) from None
