"""What ``convert --dry-run`` says of recordings whose features are their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording_sets import data_file, write_aloha, write_legacy
from recording_sets import tree_digest as digest

from igrft.cli.main import run as command
from igrft.errors import IgrftError
from igrft.recordings.convert import dry_run


def test_aloha(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for episode in range(2):
        write_aloha(tmp_path / f"in/episode_{episode}.hdf5", 10, episode=episode)
    (tmp_path / "in/episode_2.hdf5").write_bytes(b"nothing of the kind")
    before = digest(tmp_path)
    assert command(["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--fps", "50", "--dry-run"]) == 1
    out, err = capsys.readouterr()
    assert "episode_1.hdf5: 10 frames, 0.2 s" in out and "action of 14" in out and "camera top 64x48" in out
    assert "2 episodes, 20 frames at 50 a second; nothing was written" in out
    assert "episode_2.hdf5" in err and digest(tmp_path) == before


def test_an_older_lerobot(tmp_path: Path) -> None:
    """A file that is gone is seen; the target is not made."""
    source = write_legacy(tmp_path / "toy")
    data_file(source, 1).unlink()
    before = digest(tmp_path)
    found = dry_run(source, tmp_path / "out")
    assert (found.episodes, found.frames, found.set_aside) == (2, 27, {"1": "it has no parquet file"})
    assert found.lines[0].startswith("columns: observation.state, action, observation.images.top")
    assert found.lines[1].startswith("observation.images.top: h264 64x48") and found.lines[1].endswith("kept as it is")
    assert found.lines[-1] == "2 episodes, 27 frames at 10 a second; nothing was written"
    assert digest(tmp_path) == before


def test_a_mapping_is_refused_as_it_would_be(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(IgrftError, match="takes no mapping"):
        dry_run(toy, tmp_path / "out", mapping="galaxea")


def test_nothing_that_could_be_converted(tmp_path: Path) -> None:
    path = write_aloha(tmp_path / "aloha/episode_0.hdf5", 0)
    with pytest.raises(IgrftError, match=r"none of 1 episodes can be converted; episode_0.hdf5: it has no frame"):
        dry_run(path.parent, tmp_path / "out")
