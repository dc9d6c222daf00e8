"""A Hub on loopback that this process talks to, and sets to send there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub_server
from labelled_set import make_labelled_set

from igrft.cli.main import run


@pytest.fixture(scope="session")
def good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set with video. Read-only."""
    return make_labelled_set(tmp_path_factory.mktemp("sets") / "good")


@pytest.fixture(scope="session")
def plain_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without videos, for tests of what happens on the way. Read-only."""
    return make_labelled_set(tmp_path_factory.mktemp("sets") / "plain", videos=False)


@pytest.fixture
def labelled(good_set: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(good_set, tmp_path / "home" / "set"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub, to which huggingface_hub in this process is pointed as its environment variables would at its import."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        close_session()
        yield server
        close_session()


@dataclass
class Said:
    """What a command ended with and said."""

    status: int
    out: str
    err: str


@pytest.fixture
def igrft(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The command line, in this process."""

    def call(*arguments: object) -> Said:
        capfd.readouterr()
        status = run([str(a) for a in arguments])
        captured = capfd.readouterr()
        assert TOKEN not in captured.out + captured.err
        return Said(status, captured.out, captured.err)

    return call


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between tries are noted and not waited for."""
    waits: list[float] = []
    monkeypatch.setattr("igrft.publishing.retries.time.sleep", waits.append)
    return waits
