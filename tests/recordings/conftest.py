"""What the tests of converting share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from recording_sets import write_legacy

G1_SMALL = Path(__file__).resolve().parents[1] / "data" / "g1_small"


@pytest.fixture(scope="session")
def g1_small() -> Path:
    """The real recording that the repository carries: v2.1, two episodes, 220 frames. Never written to."""
    return G1_SMALL


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A v2.1 dataset of three episodes (12, 9 and 15 frames) and two cameras."""
    return write_legacy(tmp_path / "toy")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converting must not reach for the network; a test that does fails at once."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
