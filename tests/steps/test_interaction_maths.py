"""Eq. 1 on fields and pictures whose answer is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from interaction_runs import blank_set, label
from picture_sets import picture_set, square_over_background

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.steps.base import Episode
from igrft.steps.interaction import Interaction, InteractionThreshold
from igrft.steps.interaction import counts as staged
from igrft.steps.interaction.scale import Counter, Scale, flow_size
from igrft.steps.interaction.smoothing import runs, smooth

LADDER = (0.5, 1.0, 2.0, 4.0, 8.0)


def test_scale_by_area_and_rate() -> None:
    assert Scale.of(640, 480, 30, 30) == Scale(1.0, 1.0)
    half = Scale.of(320, 240, 30, 30)
    assert (half.area, half.squared) == (0.25, 0.25)
    assert half.length == 0.5  # a reference pixel is half a pixel there
    assert Scale.of(640, 480, 10, 30).squared == pytest.approx(9.0)
    assert Scale.of(320, 240, 60, 30).squared == pytest.approx(0.25 / 4)
    assert Scale.of(320, 240, 10, None).squared == 0.25  # the rate left out


def test_flow_size_keeps_the_aspect_and_never_enlarges() -> None:
    assert flow_size(640, 480, 240) == (320, 240)
    assert flow_size(1280, 720, 240) == (427, 240)
    assert flow_size(256, 200, 240) == (256, 200)


def field(width: int, height: int, moving: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """A field in which ``moving`` pixels move by ``length``, 3-4-5 in x and y."""
    x, y = np.zeros((2, height, width), np.float32)
    x.flat[:moving], y.flat[:moving] = 0.6 * length, 0.8 * length
    return x, y


def test_counts_are_exact_and_strict() -> None:
    counter = Counter(640, 480, LADDER, Scale.of(640, 480, 30, 30))
    assert counter.count(counter.energy(*field(640, 480, 401, 1.5), None)).tolist() == [401, 401, 401, 0, 0]
    # |F|^2 of exactly 4 is not above 4
    x, y = field(640, 480, 100, 0.0)
    x.flat[:100] = 2.0
    assert counter.count(counter.energy(x, y, None)).tolist() == [100, 100, 100, 0, 0]


@pytest.mark.parametrize(("width", "height"), [(320, 240), (640, 480), (1280, 960), (480, 360)])
@pytest.mark.parametrize("fps", [10, 30, 60])
def test_counts_do_not_depend_on_resolution_or_rate(width: int, height: int, fps: float) -> None:
    """A third of the picture moves by 1.5 pixels a frame at 640x480 and 30 frames/s."""
    scale = Scale.of(width, height, fps, 30)
    length = 1.5 * (width / 640) * (30 / fps)
    counter = Counter(width, height, LADDER, scale)
    counts = counter.count(counter.energy(*field(width, height, width * height // 3, length), None))
    assert counts.tolist() == pytest.approx([102400, 102400, 102400, 0, 0], rel=1e-4)


def test_the_mask_excludes() -> None:
    counter = Counter(64, 48, (2.0,), Scale(1.0, 1.0))
    x, y = np.full((2, 48, 64), 5, np.float32)
    keep = np.ones((48, 64), np.float32)
    keep[:, :16] = 0
    assert counter.count(counter.energy(x, y, keep)).tolist() == [48 * 48]


def test_runs_and_smoothing() -> None:
    flags = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 0], bool)
    assert runs(flags).tolist() == [[1, 3], [4, 5], [8, 9]]
    assert smooth(flags).tolist() == flags.tolist()
    assert smooth(flags, close_gaps=1).astype(int).tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 1, 0]
    assert smooth(flags, shortest_phase=2).astype(int).tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    # gaps are closed first: the phases they join are long enough
    assert smooth(flags, close_gaps=3, shortest_phase=8).astype(int).tolist() == [0] + [1] * 8 + [0]
    assert smooth(np.ones(4, bool), close_gaps=2, shortest_phase=5).tolist() == [False] * 4
    assert smooth(np.zeros(0, bool), close_gaps=2, shortest_phase=2).tolist() == []


def test_the_last_frame_repeats_the_one_before(tmp_path: Path) -> None:
    flows = []
    for moving in (0, 400, 401, 900):
        flow = np.zeros((480, 640, 2), np.float32)
        flow.reshape(-1, 2)[:moving] = (2, 0)
        flows.append(flow)
    found = label(blank_set(tmp_path, (5,)), Interaction(flow_height=480), flows=flows)
    assert found.columns[c.INTERACTION_PIXELS].tolist() == [0, 400, 401, 900, 900]
    assert found.columns[c.INTERACTION_PIXELS].dtype == np.float32
    assert found.columns[c.INTERACTION].tolist() == [False, False, True, True, True]
    assert found.columns[c.INTERACTION].dtype == bool
    record = found.record[c.INTERACTION]
    assert (record["share"], record["phases"], record["camera_motion"]) == (0.6, 1, "static")


def test_one_frame_has_no_motion(tmp_path: Path) -> None:
    found = label(blank_set(tmp_path, (1, 2)), Interaction())
    assert found.columns[c.INTERACTION_PIXELS].tolist() == [0.0]
    assert found.columns[c.INTERACTION].tolist() == [False]
    assert all(len(v) == 1 for v in found.staged.values())
    assert (
        label(blank_set(tmp_path / "two", (1, 2)), Interaction(), row=1).columns[c.INTERACTION].tolist() == [False] * 2
    )


@pytest.mark.parametrize(("size", "step", "side"), [((640, 480), 4, 120), ((320, 240), 2, 60)])
def test_a_square_over_a_still_background(tmp_path: Path, size: tuple[int, int], step: int, side: int) -> None:
    """The square covers 14,400 reference pixels, whichever size the pictures and the flow have."""
    scale = size[0] / 640
    start = (round(200 * scale), round(180 * scale))
    pictures = square_over_background(6, size=size, side=side, step=(step, 0), start=start)
    dataset = picture_set(tmp_path, [pictures], dtype="image")
    for height in (240, 480):
        found = label(dataset, Interaction(flow_height=height))
        assert found.columns[c.INTERACTION_PIXELS] == pytest.approx(np.full(6, 14400), rel=0.2)
        assert found.columns[c.INTERACTION].all()
        assert found.record[c.INTERACTION]["camera_motion"] == "static"
        counts = found.staged[staged.COUNTS_RAW]
        assert counts.shape == (6, 5) and (np.diff(counts, axis=1) <= 0).all()


def test_the_rate_scales_the_threshold(tmp_path: Path) -> None:
    """1 pixel a frame is below sqrt(2) at 30 frames/s, above it at 60, where it is 2 per 1/30 s."""
    pictures = square_over_background(5, step=(1, 0))
    at_30 = label(picture_set(tmp_path / "30", [pictures], dtype="image", fps=30), Interaction())
    at_60 = label(picture_set(tmp_path / "60", [pictures], dtype="image", fps=60), Interaction())
    off = label(picture_set(tmp_path / "off", [pictures], dtype="image", fps=60), Interaction(reference_fps=None))
    assert not at_30.columns[c.INTERACTION].any()
    assert at_60.columns[c.INTERACTION].all()
    assert not off.columns[c.INTERACTION].any()


def test_pictures_that_repeat_are_recorded(tmp_path: Path) -> None:
    moving = square_over_background(5)
    doubled = [p for picture in moving for p in (picture, picture)]
    dataset = picture_set(tmp_path, [doubled], dtype="image")
    found = label(dataset, Interaction())
    assert found.columns[c.INTERACTION].tolist() == [False, True] * 4 + [False, False]
    assert found.record[c.INTERACTION]["repeated_share"] == 0.6
    assert found.record[c.INTERACTION]["phases"] == 4
    closed = label(dataset, Interaction(close_gaps=1))
    assert closed.record[c.INTERACTION]["phases"] == 1


def test_new_thresholds_use_the_stored_counts(tmp_path: Path) -> None:
    """The cheap half gets what was staged and a dataset without a single picture."""
    dataset = blank_set(tmp_path, (3,))
    counts = np.array([[900, 700, 500, 300, 100]] * 3, np.float32)
    labels = {
        staged.COUNTS_RAW: counts,
        staged.COUNTS_COMPENSATED: counts / 2,
        staged.MOTION: np.zeros(3, np.float32),
        staged.INLIERS: np.full(3, np.nan, np.float32),
        staged.REPEATED: np.zeros(3, bool),
    }
    for path in dataset.root.glob("data/*/*"):
        path.unlink()
    for delta, theta, expected in ((2.0, 400, True), (4.0, 400, False), (4.0, 299, True), (0.5, 900, False)):
        step = InteractionThreshold(flow_threshold=delta, pixel_threshold=theta)
        found = step.open(dataset, None)(Episode(dataset, 0, labels, {}))
        assert found.columns[c.INTERACTION].tolist() == [expected] * 3
        assert found.columns[c.INTERACTION_PIXELS][0] == counts[0][LADDER.index(delta)]
    compensated = InteractionThreshold(camera_motion="compensate").open(dataset, None)(Episode(dataset, 0, labels, {}))
    assert compensated.columns[c.INTERACTION_PIXELS].tolist() == [250] * 3


def test_opencv_is_held_to_one_thread(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    try:
        Interaction().resolve(blank_set(tmp_path, (2,))).open(DatasetReader.open(tmp_path), None)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
