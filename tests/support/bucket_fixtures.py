"""What the tests of buckets share: one S3 server for all of them, and the environment of its users.

A module that wants them says ``pytest_plugins = ["tests.support.bucket_fixtures"]``.
"""

from __future__ import annotations

import os

import pytest

from tests.support.object_store import SECRET, moto_server

BUCKETS = iter(range(1_000))


@pytest.fixture(scope="session")
def moto():
    pytest.importorskip("obstore", reason="needs pip install obstore boto3")
    pytest.importorskip("moto", reason="needs moto's server")
    with moto_server() as url:
        yield url


@pytest.fixture
def signed_in(monkeypatch, tmp_path):
    """The environment of a user of S3, and nothing of this machine's own."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def client(moto, signed_in):
    """AWS's own client, to look behind our back with."""
    import boto3

    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1")
    yield client
    client.close()


@pytest.fixture
def s3_name(client):
    name = f"clips-{next(BUCKETS)}"
    client.create_bucket(Bucket=name)
    return name
