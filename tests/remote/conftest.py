"""A store on loopback, and a cache of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server

from igrft.remote import mirror


@pytest.fixture(scope="session")
def _server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An empty bucket, which the environment leads to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-to-be-seen")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # Faults are answered at once.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("IGRFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IGRFT_CACHE_SIZE", raising=False)
    monkeypatch.delenv("IGRFT_STAGING", raising=False)
    monkeypatch.setattr(mirror, "_ALLOWANCE", [0])
    _server.new_bucket()
    return _server
