"""Recorded rollouts go through annotate, validate, inspect and the trainer's view of labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rollout_sets import CAMERAS, facts, frame, open_recorder, picture, success
from training_sets import edit_column, make_recipe

from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.pipeline.run import annotate
from igrft.reports.inspect import inspect
from igrft.reports.validate import validate
from igrft.rollouts.facts import read_rollout
from igrft.training.labelling import frame_labels

FRAMES = 40
SEEDS = (0, 1, 2, 3)


def _scene(seed: int, t: int, camera: str) -> np.ndarray:
    """A block that moves over a background that does not."""
    scene = picture(seed, 0, camera)
    at = 2 + t
    scene[16:32, at : at + 16] = np.random.default_rng(seed).integers(0, 256, (16, 16, 3))
    return scene


@pytest.fixture(params=[False, True], ids=["state", "pictures"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root = tmp_path / "rollout_shelf_1"
    rng = np.random.default_rng(1)
    with open_recorder(root, pictures=request.param) as recorder:
        for seed in SEEDS:
            state = np.zeros(5)
            for t in range(FRAMES):
                state = state + 0.1 * rng.normal(size=5) * (1 + np.sin(t / 6))
                cameras = {camera: _scene(seed, t, camera) for camera in CAMERAS} if request.param else {}
                values = frame(seed, t) | {"value": 1 - t / FRAMES, "observation.state": state} | cameras
                recorder.add(values)
            recorder.save(success=success(seed), facts=facts(seed))
    return root


def test_labelled_they_keep_what_was_recorded(recorded: Path, tmp_path: Path) -> None:
    target = tmp_path / "labelled"
    result = annotate(recorded, target, pipeline="offline", workers=1)
    assert (result.episodes, result.set_aside, result.assumed_successes) == (4, {}, 0)
    assert [f.message for f in validate(target).findings] == []

    record = json.loads((target / "meta/igrft.json").read_text())
    assert not {"value", "interaction_probability", "next.success", "intervention"} & set(record["columns"])
    told = [(record["episodes"][str(i)]["success"], record["episodes"][str(i)]["success_from"]) for i in range(4)]
    # Nobody said how the third ended: it reads as a failure.
    assert told == [(True, "source"), (False, "source"), (False, "source"), (True, "source")]
    assert [e["success"] for e in read_rollout(target).episodes] == [True, False, None, True]

    names = ["value", "interaction_probability", "intervention", "noise_scale", "takeover_reason", "next.success"]
    before, after = load_labels(recorded, names), load_labels(target, names)
    for name in names:
        np.testing.assert_array_equal(before[name], after[name])
    paid = load_labels(target, ["reward_trajectory"])
    sums = np.add.reduceat(paid["reward_trajectory"], paid.starts)
    np.testing.assert_allclose(sums, [1, 0, 0, 1], atol=1e-6)
    if DatasetReader.open(recorded).cameras:
        assert "interaction" in record["columns"]


def test_inspected_they_say_how_they_went(recorded: Path) -> None:
    found = inspect(recorded)
    assert [bool(row.success) for row in found.rows] == [True, False, False, True]
    assert found.to_table()
    assert validate(recorded).findings == []


def test_the_trainer_sees_corrections_and_failures(recorded: Path, tmp_path: Path) -> None:
    target = tmp_path / "labelled"
    annotate(recorded, target, pipeline="offline", workers=1)
    labels = frame_labels(DatasetReader.open(target), make_recipe(target), steps=8)
    frames = np.arange(FRAMES)
    np.testing.assert_array_equal(labels.intervention, np.tile((frames >= 3) & (frames < 5), 4))
    np.testing.assert_array_equal(labels.success, np.repeat([True, False, False, True], FRAMES))
    np.testing.assert_allclose(labels.return_trajectory[::FRAMES], [1, 0, 0, 1], atol=1e-5)


def test_labelled_again_with_an_episode_set_aside(recorded: Path, tmp_path: Path) -> None:
    """Recorded values of an episode that cannot be labelled stay; statistics leave it out."""
    edit_column(recorded, "action", lambda values, row: np.full_like(values, np.nan) if row == 1 else values)
    target = tmp_path / "labelled"
    result = annotate(recorded, target, pipeline="offline", workers=1)
    assert list(result.set_aside) == [1]
    found = validate(target).findings
    assert [f.message for f in found if f.level == "error"] == []
    np.testing.assert_array_equal(load_labels(target, ["value"])["value"], load_labels(recorded, ["value"])["value"])
