"""A moving camera: found, taken out, refused, recorded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from interaction_runs import label
from picture_sets import picture_set, square_over_background, texture

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, UsageError
from igrft.steps.interaction import Interaction
from igrft.steps.interaction import counts as staged
from igrft.steps.interaction.motion import MotionEstimator
from igrft.steps.interaction.scale import Counter, Scale


@pytest.fixture(scope="module")
def panning(tmp_path_factory: pytest.TempPathFactory) -> DatasetReader:
    """The background moves by (3, 1), a square of 14,400 pixels by (-4, 2)."""
    pictures = square_over_background(8, step=(-4, 2), pan=(3, 1), start=(300, 180))
    return picture_set(tmp_path_factory.mktemp("panning"), [pictures], dtype="image")


@pytest.mark.parametrize("height", [240, 480])
def test_auto_takes_the_motion_out(panning: DatasetReader, height: int) -> None:
    found = label(panning, Interaction(flow_height=height))
    assert found.staged[staged.COUNTS_RAW][:, 2].min() > 250_000
    assert found.columns[c.INTERACTION_PIXELS] == pytest.approx(np.full(8, 14400), rel=0.35)
    record = found.record[c.INTERACTION]
    assert record["camera_motion"] == "compensate" and record["moves"] is True
    assert record["moving_share"] == 1.0 and record["inlier_share"] > 0.85
    assert found.staged[staged.MOTION] == pytest.approx(np.full(8, 10**0.5), rel=0.1)


def test_the_other_modes(panning: DatasetReader) -> None:
    static = label(panning, Interaction(camera_motion="static"))
    assert static.columns[c.INTERACTION_PIXELS].min() > 250_000
    assert static.record[c.INTERACTION]["camera_motion"] == "static"
    assert static.record[c.INTERACTION]["moves"] is True  # the user insisted, and the record says it
    compensate = label(panning, Interaction(camera_motion="compensate"))
    assert compensate.columns[c.INTERACTION_PIXELS] == pytest.approx(np.full(8, 14400), rel=0.35)
    with pytest.raises(EpisodeError, match=r"episode 0: camera 'observation.images.front' moves on 100% of the frames"):
        label(panning, Interaction(camera_motion="refuse"))


def test_a_still_camera_passes_all_modes(tmp_path: Path) -> None:
    dataset = picture_set(tmp_path, [square_over_background(6)], dtype="image")
    raw = label(dataset, Interaction(camera_motion="static")).columns[c.INTERACTION_PIXELS]
    for mode in ("auto", "compensate", "refuse"):
        found = label(dataset, Interaction(camera_motion=mode))  # type: ignore[arg-type]
        assert found.columns[c.INTERACTION_PIXELS].tolist() == raw.tolist()
        assert found.record[c.INTERACTION]["moves"] is False


def test_a_robot_over_two_thirds_of_the_picture_is_no_moving_camera() -> None:
    scale = Scale.of(320, 240, 30, 30)
    x, y = np.zeros((2, 240, 320), np.float32)
    x[:160] = 3
    assert MotionEstimator(320, 240, scale).measure(x, y, None).magnitude == 0
    x[:200] = 3
    assert MotionEstimator(320, 240, scale).measure(x, y, None).magnitude == pytest.approx(6)  # reference pixels
    keep = np.ones((240, 320), np.float32)
    keep[:200] = 0  # the mask says that it is the robot
    assert MotionEstimator(320, 240, scale).measure(x, y, keep).magnitude == 0


def test_a_homography_is_taken_out_exactly() -> None:
    scale = Scale.of(320, 240, 30, 30)
    h = np.array([[1.01, 0.02, 3.0], [-0.015, 0.99, -2.0], [2e-5, -1e-5, 1.0]])
    points = np.stack(np.meshgrid(np.arange(320.0), np.arange(240.0)), axis=-1)
    flow = (cv2.perspectiveTransform(points, h) - points).astype(np.float32)
    flow[100:140, 100:160] += (4, 4)  # 2,400 pixels move otherwise
    estimator, counter = MotionEstimator(320, 240, scale), Counter(320, 240, (2.0,), scale)
    x, y = np.ascontiguousarray(flow[..., 0]), np.ascontiguousarray(flow[..., 1])
    motion = estimator.measure(x, y, None)
    assert motion.homography is not None and motion.inliers > 0.9
    rest = estimator.residual(x, y, motion.homography)
    assert np.abs(rest[0][:90]).max() < 0.05 and np.abs(rest[1][:90]).max() < 0.05
    assert counter.count(counter.energy(*rest, None)).tolist() == [2400 * 4]


def test_a_background_of_many_motions_is_set_aside(tmp_path: Path) -> None:
    """Twelve tiles, each moving its own way: no motion explains half of them."""
    rng = np.random.default_rng(5)
    tiles = [(texture(400, 400, seed=s, grain=5), rng.uniform(-4, 4, 2) * 1.5) for s in range(12)]
    pictures = []
    for f in range(5):
        rows = []
        for r in range(3):
            row = []
            for t, (dx, dy) in tiles[4 * r : 4 * r + 4]:
                left, top = round(100 + dx * f), round(100 + dy * f)
                row.append(t[top : top + 160, left : left + 160])
            rows.append(np.hstack(row))
        pictures.append(np.vstack(rows))
    dataset = picture_set(tmp_path, [pictures], dtype="image")
    with pytest.raises(EpisodeError, match=r"episode 0: .* moves, and its motion explains \d+% of the background"):
        label(dataset, Interaction())
    assert label(dataset, Interaction(camera_motion="static")).columns[c.INTERACTION].all()


def test_a_mask_over_everything_leaves_no_background() -> None:
    x, y = np.full((2, 240, 320), 3, np.float32)
    motion = MotionEstimator(320, 240, Scale.of(320, 240, 30, 30)).measure(x, y, np.zeros((240, 320), np.float32))
    assert np.isnan(motion.magnitude) and motion.homography is None


def test_fits_are_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(3, 1, (2, 240, 320)).astype(np.float32)
    estimator = MotionEstimator(320, 240, Scale.of(320, 240, 30, 30))
    first, second = (estimator.measure(x, y, None).homography for _ in range(2))
    assert first is not None and second is not None and np.array_equal(first, second)


def test_a_threshold_below_what_is_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="motion_threshold must be at least 0.25"):
        Interaction(motion_threshold=0.1)
