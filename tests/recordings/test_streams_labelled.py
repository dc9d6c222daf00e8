"""From a file made by its own writer to a labelled, validated dataset: every kind of recording, with no override."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recording_sets
import stream_sets as s
from recording_sets import open_in_lerobot, rows, write_aloha

from igrft import annotate, convert
from igrft import columns as c
from igrft.reports.validate import validate

LENGTHS = (30, 24)
#: What ``pipelines/offline.yaml`` adds to every frame.
LABELS = (
    c.SUBTASK_INDEX,
    c.INTERACTION,
    c.INTERACTION_PIXELS,
    c.REWARD_TRAJECTORY,
    c.REWARD_SUBTASK,
    c.REWARD,
    c.RETURN_TRAJECTORY,
    c.RETURN_SUBTASK,
    c.RETURN,
    c.DONE,
    c.SUCCESS,
)


@pytest.fixture(autouse=True)
def scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writers draw scenes: what they draw else tells frames apart and looks like no camera's picture."""
    for module in (s, recording_sets):
        monkeypatch.setattr(module, "picture", s.scene)


def bags(kind: str) -> Callable[[Path], dict[str, Any]]:
    def write(folder: Path) -> dict[str, Any]:
        for episode, length in enumerate(LENGTHS):
            s.BAGS[kind](folder, f"take_{episode}", s.messages(episode, length / 10))
        (folder.parent / "mapping.yaml").write_text(s.MAPPING)
        return {"mapping": folder.parent / "mapping.yaml"}

    return write


def replay_buffer(folder: Path) -> dict[str, Any]:
    s.write_replay_buffer(folder / "pusht.zarr", LENGTHS)
    return {"fps": 10}


def umi(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    s.write_umi(folder / "cup.zarr.zip", LENGTHS)
    return {"mapping": "umi"}


def robomimic(folder: Path) -> dict[str, Any]:
    s.write_robomimic(folder / "image.hdf5", LENGTHS)
    return {}


def aloha(folder: Path) -> dict[str, Any]:
    for episode, length in enumerate(LENGTHS):
        write_aloha(folder / f"episode_{episode}.hdf5", length, episode=episode, compress=True)
    return {"fps": 50}


def videos(folder: Path) -> dict[str, Any]:
    s.write_video_folder(folder, LENGTHS)
    return {}


SOURCES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "mcap": (bags("mcap"), "mcap"),
    "ros1": (bags("ros1"), "rosbag"),
    "ros2": (bags("ros2"), "rosbag"),
    "zarr": (replay_buffer, "zarr"),
    "umi": (umi, "zarr"),
    "robomimic": (robomimic, "robomimic-hdf5"),
    "aloha": (aloha, "aloha-hdf5"),
    "videos": (videos, "videos"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_recording_becomes_a_labelled_dataset(tmp_path: Path, name: str) -> None:
    write, form = SOURCES[name]
    options = write(tmp_path / "in")
    found = convert(tmp_path / "in", tmp_path / "converted", task=s.TASK, progress=False, **options)
    assert (found.format, found.episodes, found.frames, found.set_aside) == (form, 2, sum(LENGTHS), {})
    result = annotate(tmp_path / "converted", tmp_path / "labelled", workers=1)
    assert (result.episodes, result.set_aside) == (2, {})
    checked = validate(tmp_path / "labelled")
    assert [f for f in checked.findings if f.level == "error"] == []

    table = rows(tmp_path / "labelled")
    told = json.loads((tmp_path / "labelled/meta/igrft.json").read_text())["episodes"]
    for label in LABELS:
        values = np.asarray(table[label].to_pylist(), float)
        assert len(values) == sum(LENGTHS) and np.isfinite(values).all(), label
    assert np.flatnonzero(table[c.DONE].to_pylist()).tolist() == [29, 53]
    # The block moves all the time, which is seen in most frames of so small pictures.
    assert np.count_nonzero(np.asarray(table[c.INTERACTION_PIXELS].to_pylist()) > 0) > sum(LENGTHS) / 2
    first = 0
    for episode, length in enumerate(LENGTHS):
        segments = told[str(episode)]["subtasks"]
        assert segments[0]["start"] == 0 and segments[-1]["end"] == length
        assert [one["end"] for one in segments[:-1]] == [one["start"] for one in segments[1:]]
        # robomimic's first demonstration failed; whatever says nothing of success is taken for one.
        won = not (name == "robomimic" and episode == 0)
        assert told[str(episode)]["success"] is won
        assert bool(table[c.SUCCESS][first + length - 1].as_py()) is won
        start = table[c.RETURN_TRAJECTORY][first].as_py()
        assert start == pytest.approx(1.0, abs=1e-5) if won else start < 1
        first += length
    item = open_in_lerobot(tmp_path / "labelled")[sum(LENGTHS) - 1]
    assert item[c.LANGUAGE_PERSISTENT][0]["style"] == "subtask" and item["task"] == s.TASK
