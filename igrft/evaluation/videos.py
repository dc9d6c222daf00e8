"""Videos of episodes: the cameras side by side, and the value under them as it goes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from igrft.errors import UsageError, did_you_mean
from igrft.reports import palette

PICTURES = "observation.images."
#: Pixels of the strip that the value is drawn on, and of the border that says that a human drives.
STRIP, _BORDER = 64, 4
#: Values that the strip shows at a time.
_WINDOW = 240


def cameras_of(names: Sequence[str], wanted: str | None) -> list[str]:
    """Keys of the pictures that a video shows.

    Args:
        names: of an embodiment's features. wanted: a camera with or without LeRobot's prefix; None is all.

    Raises:
        UsageError: there are none, or not that one.
    """
    held = sorted(name for name in names if name.startswith(PICTURES))
    if not held:
        raise UsageError("a video was asked for, and the environment gives no pictures; give --videos=none")
    if wanted is None:
        return held
    key = wanted if wanted.startswith(PICTURES) else PICTURES + wanted
    if key not in held:
        near = did_you_mean(wanted, [name.removeprefix(PICTURES) for name in held])
        raise UsageError(f"video_camera: there is no camera {wanted!r}{near}")
    return [key]


class VideoWriter:
    """An mp4 (H.264, which every browser plays) that is written picture by picture.

    Args:
        path: where to; the folder is made.
        fps: pictures a second.
        value_curve: leave room for the value under the pictures.
    """

    def __init__(self, path: Path, fps: float, *, value_curve: bool = False) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._curve = path, value_curve
        self._values: deque[float] = deque(maxlen=_WINDOW)
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = None

    def add(self, pictures: Sequence[np.ndarray], *, value: float = float("nan"), human: bool = False) -> None:
        """One moment.

        Args:
            pictures: RGB uint8 [h, w, 3] each.
            value: of the critic; NaN draws none.
            human: whether a human drives.
        """
        import av

        self._values.append(value)
        picture = side_by_side(pictures)
        if human:
            _frame(picture, rgb(palette.INTERVENTION))
        if self._curve:
            picture = np.concatenate([picture, strip(list(self._values), picture.shape[1])])
        if self._stream is None:
            height, width = picture.shape[:2]
            self._stream = self._container.add_stream(
                "libx264", self._rate, options={"crf": "22", "preset": "veryfast"}
            )
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._container.close()


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in a row, scaled to the height of the first: uint8 [h, w, 3], both even, a copy."""
    import cv2

    height = pictures[0].shape[0] // 2 * 2
    row = []
    for picture in pictures:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        same = picture.shape[:2] == (height, width)
        row.append(picture if same else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
    joined = np.concatenate(row, axis=1)
    return np.ascontiguousarray(joined[:, : joined.shape[1] // 2 * 2])


def strip(values: Sequence[float], width: int) -> np.ndarray:
    """The last values as a red line from 0 (bottom) to 1 (top): uint8 [STRIP, width, 3]."""
    import cv2

    out = np.full((STRIP, width, 3), rgb(palette.PAPER), np.uint8)
    low, high = STRIP - 8, 8
    for level in (low, high):
        cv2.line(out, (0, level), (width, level), rgb(palette.RULE), 1)
    y = np.clip(np.asarray(values, dtype=np.float64), -0.1, 1.1)
    x = np.linspace(0, width - 1, _WINDOW)[: len(y)]
    known = np.isfinite(y)
    if known.any():
        points = np.stack([x[known], low + (high - low) * y[known]], axis=1).round().astype(np.int32)
        cv2.polylines(out, [points], False, rgb(palette.VALUE), 2, cv2.LINE_AA)
        cv2.circle(out, tuple(int(v) for v in points[-1]), 3, rgb(palette.VALUE), -1, cv2.LINE_AA)
    return out


def rgb(colour: str) -> tuple[int, int, int]:
    """ "#rrggbb" as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _frame(picture: np.ndarray, colour: tuple[int, int, int]) -> None:
    for side in (np.s_[:_BORDER], np.s_[-_BORDER:], np.s_[:, :_BORDER], np.s_[:, -_BORDER:]):
        picture[side] = colour
