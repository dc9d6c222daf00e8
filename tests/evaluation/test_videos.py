"""Videos: pictures side by side, the value under them, and files that play."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from igrft.dataset.video import open_frames, probe
from igrft.errors import UsageError
from igrft.evaluation.videos import STRIP, VideoWriter, cameras_of, rgb, side_by_side, strip
from igrft.reports import palette

LEFT, RIGHT = "observation.images.left", "observation.images.right"


def flat(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_which_cameras_are_shown():
    names = ["observation.state", RIGHT, "action", LEFT]
    assert cameras_of(names, None) == [LEFT, RIGHT]
    assert cameras_of(names, "right") == cameras_of(names, RIGHT) == [RIGHT]
    with pytest.raises(UsageError, match="no camera 'rihgt'; did you mean 'right'"):
        cameras_of(names, "rihgt")
    with pytest.raises(UsageError, match="gives no pictures"):
        cameras_of(["observation.state"], None)


def test_pictures_in_a_row_have_the_height_of_the_first_and_even_sides():
    joined = side_by_side([flat(48, 64, 10), flat(96, 64, 200)])
    assert joined.shape == (48, 64 + 32, 3)
    assert (joined[:, :64] == 10).all() and (joined[:, 64:] == 200).all()
    assert side_by_side([flat(49, 33, 1)]).shape == (48, 32, 3)
    original = flat(48, 64, 7)
    side_by_side([original])[:] = 0
    assert (original == 7).all()


def test_the_strip_draws_what_is_known():
    red = np.array(rgb(palette.VALUE))
    drawn = strip([0.0] * 120 + [1.0] * 120, 240)
    at = np.argwhere((drawn == red).all(axis=-1))
    left, right = at[at[:, 1] < 100], at[at[:, 1] > 140]
    assert abs(left[:, 0].mean() - (STRIP - 8)) < 2 and abs(right[:, 0].mean() - 8) < 2
    nothing = strip([float("nan")] * 5, 240)
    assert not (nothing == red).all(axis=-1).any() and nothing.shape == (STRIP, 240, 3)
    strip([float("nan"), 5.0, -5.0], 64)


def test_a_file_has_every_picture_in_order_and_a_border_where_a_human_drives(tmp_path: Path):
    path = tmp_path / "deep" / "video.mp4"
    writer = VideoWriter(path, 12.5)
    for i in range(30):
        writer.add([flat(64, 96, 8 * i)], human=i >= 20)
    writer.close()
    facts = probe(path)
    assert (facts.codec, facts.width, facts.height, facts.frames, facts.fps) == ("h264", 96, 64, 30, 12.5)
    frames = list(open_frames(path, start=0.0, fps=12.5, count=30))
    for i, frame in enumerate(frames):
        assert abs(float(frame[20:44, 30:66].mean()) - 8 * i) < 5
    pink = np.array(rgb(palette.INTERVENTION), dtype=float)
    assert np.abs(frames[25][30:34, :3].mean(axis=(0, 1)) - pink).max() < 40
    assert np.abs(frames[10][30:34, :3].mean(axis=(0, 1)) - 80).max() < 8


def test_the_value_stands_under_the_pictures(tmp_path: Path):
    writer = VideoWriter(tmp_path / "video.mp4", 10, value_curve=True)
    for i in range(12):
        writer.add([flat(48, 64, 128), flat(48, 64, 128)], value=1 - i / 12)
    writer.close()
    facts = probe(tmp_path / "video.mp4")
    assert (facts.width, facts.height) == (128, 48 + STRIP)


def test_a_video_without_a_picture_is_closed_all_the_same(tmp_path: Path):
    VideoWriter(tmp_path / "video.mp4", 10).close()
