"""A pixel counts only where its picture changes: a robot's flow over what is plain is no interaction."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from interaction_runs import label
from picture_sets import picture_set, square_over_background, texture

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import UsageError
from igrft.pipeline.run import annotate
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.evidence import Evidence, Look

COUNT = 5
KEEP = np.ones((120, 160), np.float32)


def _noise(seed: int, level: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, level, (120, 160))


def _picture(*squares: tuple[int, int, int], level: float = 0.0, seed: int = 0) -> np.ndarray:
    """Gray 100 with a brighter square of 20 pixels at each (row, column, brightness), and noise."""
    picture = np.full((120, 160), 100.0) + _noise(seed, level)
    for row, column, brightness in squares:
        picture[row : row + 20, column : column + 20] += brightness
    return np.clip(picture, 0, 255).astype(np.uint8)


def test_evidence_is_along_the_edges_of_what_moved_and_a_window_around_them() -> None:
    evidence = Evidence(1 / 16, 3.0)  # a quarter of 640x480: the window is 7 pixels
    found = evidence(_picture((40, 40, 80)), _picture((40, 42, 80)), KEEP)
    assert set(np.unique(found)) == {0.0, 1.0}
    assert found[45:55, 40].all() and found[45:55, 60].all()  # where it was left and where it came
    assert not found[:, :34].any() and not found[:, 68:].any() and not found[:30].any()
    assert not found[50, 50]  # in the middle nothing changes
    assert not evidence(_picture((40, 40, 80)), _picture((40, 40, 80)), KEEP).any()


@pytest.mark.parametrize("level", [1.0, 4.0])
def test_noise_everywhere_and_a_lamp_that_flickers_are_no_evidence(level: float) -> None:
    evidence = Evidence(1 / 16, 3.0)
    still, again = (_picture((40, 40, 80), level=level, seed=s) for s in (0, 1))
    assert evidence(still, again, KEEP).mean() < 0.02
    assert evidence(still, again + np.uint8(10), KEEP).mean() < 0.02
    moved = _picture((40, 44, 80), level=level, seed=1)
    assert evidence(still, moved, KEEP)[45:55, 40:44].all()


def test_what_is_left_out_is_no_evidence_for_its_neighbours() -> None:
    keep = KEEP.copy()
    keep[30:70, 30:75] = 0
    assert not Evidence(1 / 16, 3.0)(_picture((40, 40, 80)), _picture((40, 44, 80)), keep).any()
    assert not Evidence(1 / 16, 3.0)(_picture(), _picture(), np.zeros_like(keep)).any()


def test_a_moving_camera_is_no_evidence_once_its_motion_is_taken_out() -> None:
    wide = texture(200, 140)
    before, after = wide[10:130, 10:170], wide[10:130, 14:174]
    shift = np.array([[1, 0, -4], [0, 1, 0], [0, 0, 1]], np.float32)
    evidence = Evidence(1 / 16, 3.0)
    assert evidence(before, after, KEEP).mean() > 0.5
    assert evidence(before, after, KEEP, shift)[:, 8:].mean() < 0.02
    colours = [np.repeat(p[..., None], 3, axis=2) for p in (before, after)]
    assert np.array_equal(evidence(*colours, KEEP), evidence(before, after, KEEP))


def test_where_the_robot_is_in_either_picture_nothing_is_looked_at() -> None:
    here, there = np.zeros((2, 48, 64), np.uint8)
    here[10:20, 10:20], there[10:20, 15:25] = 1, 1
    keep = Look(1.0, 0.0, 3.0).background(here, there)
    assert keep is not None and not keep[10:20, 10:25].any()
    assert not keep[8, 15] and keep[7, 15] and keep[30, 30]  # two pixels of its edge
    plain = Look(1.0, 0.0, 0.0).background(here, there)
    assert plain is not None and np.array_equal(plain, 1 - here)
    grown = Look(1.0, 6.0, 3.0).background(here, None)
    assert grown is not None and not grown[4, 15] and grown[3, 15]
    assert Look(1.0, 0.0, 3.0).background(None, None) is None
    assert Look(1.0, 0.0, 3.0).counted((here, there), None) is None


def arm_before_a_wall(*, thing: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """A textured arm moves over a plain wall above a table on which a thing may move too; and its masks."""
    pictures, masks = [], np.zeros((COUNT, 480, 640), bool)
    arm, table, cup = texture(80, 330, seed=1), texture(640, 160, seed=2), texture(120, 120, seed=3)
    for f in range(COUNT):
        picture = np.full((480, 640), 120, np.uint8)
        picture[320:] = table
        left = 250 + 6 * f
        picture[:330, left : left + 80] = arm
        masks[f, :330, left : left + 80] = True
        if thing:
            picture[340:460, 60 + 6 * f : 180 + 6 * f] = cup
        pictures.append(picture)
    return pictures, masks


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[DatasetReader, Interaction]]:
    made = {}
    for thing in (False, True):
        root = tmp_path_factory.mktemp("arm")
        pictures, masks = arm_before_a_wall(thing=thing)
        (root / "masks").mkdir()
        np.save(root / "masks/episode_000000.npy", masks)
        masked = Interaction(robot_mask="folder", mask_path=str(root / "masks"), camera_motion="static")
        made[thing] = picture_set(root / "set", [pictures]), dataclasses.replace(masked, change_threshold=3.0)
    return made


def test_an_arm_before_a_plain_wall(arms: dict[bool, tuple[DatasetReader, Interaction]]) -> None:
    """Exact masks do not help: DIS takes the wall along with the arm."""
    dataset, step = arms[False]
    as_it_stands = label(dataset, dataclasses.replace(step, change_threshold=0))
    assert as_it_stands.columns[c.INTERACTION_PIXELS].min() > 5000 and as_it_stands.columns[c.INTERACTION].all()
    found = label(dataset, step)
    assert found.columns[c.INTERACTION_PIXELS].max() < 100 and not found.columns[c.INTERACTION].any()


def test_a_thing_that_moves_counts_beside_the_arm(arms: dict[bool, tuple[DatasetReader, Interaction]]) -> None:
    dataset, step = arms[True]
    found = label(dataset, step)
    assert found.columns[c.INTERACTION].all()
    assert found.columns[c.INTERACTION_PIXELS] == pytest.approx(np.full(COUNT, 14400), rel=0.4)  # 120 x 120


def test_without_masks_nothing_changes(tmp_path: Path) -> None:
    dataset = picture_set(tmp_path, [square_over_background(3)], dtype="image")
    counts = [label(dataset, Interaction(change_threshold=t)).columns[c.INTERACTION_PIXELS] for t in (0.0, 3.0)]
    assert np.array_equal(*counts)
    keys = [Interaction(change_threshold=t).expand()[0].settings() for t in (0.0, 3.0)]
    assert keys[0] == keys[1]


def test_it_keys_staged_work_where_there_are_masks() -> None:
    steps = [Interaction(robot_mask="folder", mask_path="m", change_threshold=t) for t in (0.0, 3.0)]
    assert steps[0].expand()[0].settings() != steps[1].expand()[0].settings()
    with pytest.raises(UsageError, match="change_threshold must not be negative"):
        Interaction(change_threshold=-1)


def test_annotate_says_so(arms: dict[bool, tuple[DatasetReader, Interaction]], tmp_path: Path) -> None:
    dataset, step = arms[True]
    (tmp_path / "pipeline.yaml").write_text("steps: [{type: interaction}]")
    masked = ["steps.interaction.robot_mask=folder", f"steps.interaction.mask_path={step.mask_path}"]

    def said(*overrides: str) -> bool:
        pipeline = tmp_path / "pipeline.yaml"
        found = annotate(dataset.root, tmp_path / "out", pipeline=pipeline, overrides=overrides, workers=1)
        return any("--steps.interaction.change_threshold=3" in line for line in found.notices)

    assert said(*masked) and not said(*masked, "steps.interaction.change_threshold=3") and not said()
