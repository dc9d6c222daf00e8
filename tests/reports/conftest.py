"""A labelled set, made once and copied for each test that damages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from labelled_set import make_labelled_set


@pytest.fixture(scope="session")
def good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set with video. Read-only: tests that change it use ``labelled``."""
    return make_labelled_set(tmp_path_factory.mktemp("sets") / "good")


@pytest.fixture(scope="session")
def unlabelled_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recordings without labels, and without meta/igrft.json. Read-only."""
    return make_labelled_set(tmp_path_factory.mktemp("sets") / "unlabelled", labels=False)


@pytest.fixture
def labelled(good_set: Path, tmp_path: Path) -> Path:
    """A copy of the labelled set that a test may damage."""
    return Path(shutil.copytree(good_set, tmp_path / "set"))
