"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test may reach a model hub; clients would retry for minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings beside the project; absent on a user's machine."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real recordings (../shared/data) is absent")
    return SHARED_DATA
