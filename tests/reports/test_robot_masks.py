"""Robot masks on the page and in validate: drawn, plotted, and flagged where they are odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pages import check
from robot_scenes import arm_set, paint, scene

from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.pipeline.config import Pipeline
from igrft.pipeline.run import annotate
from igrft.reports.page import report
from igrft.reports.robot_masks import coverage
from igrft.reports.validate import validate
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.overlay import overlay
from igrft.steps.interaction.robot_mask.suggest import suggest_frames

LENGTH = 12


def labelled_with(tmp_path: Path, change: Callable[[np.ndarray], None]) -> Path:
    """A set that was labelled with the arm's exact masks, bool [T, h, w], but for ``change``."""
    source = arm_set(tmp_path / "set", episodes=1, count=LENGTH)
    masks = np.stack([scene(f)[1] for f in range(LENGTH)])
    change(masks)
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/episode_000000.npy", masks)
    step = Interaction(robot_mask="folder", mask_path=str(tmp_path / "masks"))
    annotate(source.root, tmp_path / "out", pipeline=Pipeline("masks", (step,)), workers=1)
    return tmp_path / "out"


def vanish(masks: np.ndarray) -> None:
    masks[4:8] = False


def nothing(masks: np.ndarray) -> None:
    masks[:] = False


def fill(masks: np.ndarray) -> None:
    masks[3:5] = True


def flicker(masks: np.ndarray) -> None:
    masks[1::2] = np.roll(masks[1::2], 120, axis=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (vanish, "episode 0: the robot mask (folder) vanishes on 33% of the frames"),
        (nothing, "finds no robot on any frame"),
        (fill, "covers more than 80% of the picture on 17% of the frames"),
        (flicker, "flickers: 100% of its masks hardly overlap the next one"),
    ],
)
def test_masks_that_are_odd_are_flagged(tmp_path: Path, change: Callable[[np.ndarray], None], said: str) -> None:
    root = labelled_with(tmp_path, change)
    found = validate(root, videos=False)
    assert sum(said in f.message for f in found.warnings) == 1
    assert not [f for f in found.errors if f.check == "robot mask"]
    text, _ = check(report(root, tmp_path / "page.html"))
    assert "In 1 episode the robot mask is odd, e.g. in episode 0: it " in text


def test_good_masks_are_clean_and_plotted(tmp_path: Path) -> None:
    root = labelled_with(tmp_path, lambda masks: None)
    assert not [f for f in validate(root, videos=False).findings if f.check == "robot mask"]
    shares = coverage(DatasetReader.open(root), 0)
    assert shares is not None and np.allclose(shares, [scene(f)[1].mean() for f in range(LENGTH)])
    text, _ = check(report(root, tmp_path / "page.html"))
    assert "robot mask, share of the picture" in text and "robot on " in text
    assert "the robot, which does not count" in text and "the robot mask is odd" not in text
    assert 'id="paint"' not in text


def test_masks_found_on_some_frames_are_drawn_on_all(tmp_path: Path) -> None:
    source = arm_set(tmp_path / "set", episodes=2, count=LENGTH)
    folder = paint(tmp_path / "painted", (0, 0), (0, LENGTH - 1))
    step = Interaction(robot_mask="exemplar", mask_path=str(folder), mask_every=4)
    annotate(source.root, tmp_path / "out", pipeline=Pipeline("masks", (step,)), workers=1)
    made = DatasetReader.open(tmp_path / "out")
    assert made.igrft is not None
    facts = made.igrft["episodes"]["1"]["interaction"]
    counted = load_labels(made).episode(1)["interaction_pixels"]
    # Frames of their own and frames between them, looked at alone, show what was counted.
    for drawn in overlay(made, 1, range(LENGTH), made.igrft["pipeline"]["steps"][0], facts):
        assert drawn["pixels"] == pytest.approx(counted[drawn["frame"]])
        union = np.count_nonzero(drawn["mask"] | scene(min(drawn["frame"], LENGTH - 2), 1)[1])
        assert np.count_nonzero(drawn["mask"] & scene(min(drawn["frame"], LENGTH - 2), 1)[1]) > 0.85 * union
    text, _ = check(report(made, tmp_path / "page.html"))
    assert "Counted again here" not in text and "No flow over the sample frames" not in text
    assert "robot mask, share of the picture" in text and 'id="paint"' in text


def test_masks_that_are_no_longer_kept(tmp_path: Path) -> None:
    source = arm_set(tmp_path / "set", episodes=1)
    step = Interaction(robot_mask="exemplar", mask_path=str(paint(tmp_path / "painted", (0, 0))))
    annotate(source.root, tmp_path / "out", pipeline=Pipeline("masks", (step,)), workers=1)
    for name in ("robot_mask", "interaction_counts"):
        (tmp_path / f"out/meta/igrft/{name}.arrow").unlink()
    text, _ = check(report(tmp_path / "out", tmp_path / "page.html"))
    assert "keeps no robot masks of it; label it again" in text
    assert "robot mask, share of the picture" not in text


def test_frames_to_paint(tmp_path: Path) -> None:
    dataset = arm_set(tmp_path / "set", episodes=2, count=LENGTH)
    chosen = suggest_frames(dataset, dataset.cameras[0], 4)
    assert len(set(chosen)) == 4 and {row for row, _ in chosen} == {0, 1}
    assert suggest_frames(dataset, dataset.cameras[0], 2) == chosen[:2]
    assert all(row == 1 for row, _ in suggest_frames(dataset, dataset.cameras[0], 3, rows=[1]))
    assert len(suggest_frames(dataset, dataset.cameras[0], 1000)) <= 2 * 10
    text, _ = check(report(dataset, tmp_path / "page.html"))
    for row, frame in suggest_frames(dataset, dataset.cameras[0], 6):
        assert f"episode_{row:06d}/{frame:06d}.png" in text
