"""The camera's own motion: is the background moving, and how much of it does one plane explain?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from igrft.steps.interaction.scale import Scale

#: Reference pixels a frame below which no fit is made: such a background is still. About a third of
#: what makes a background pixel count as moving at the smallest threshold of the default ladder.
STILL = 0.25
#: The background moves if three quarters of it do: a robot and its object may cover the rest. (The
#: median would take an arm close to a fixed camera for a moving camera.)
_QUANTILE = 0.25
#: A grid point fits if its flow differs from the model by less than this, in squared reference
#: pixels: after compensation it would not count as moving at the default threshold.
_FITS = 2.0
_GRID_ROWS = 10
_FEWEST_POINTS = 12


@dataclass(frozen=True)
class GlobalMotion:
    """What was found on one frame.

    Attributes:
        magnitude: reference pixels a frame by which at least three quarters of the background
            move; NaN where the robot's mask leaves too little of it.
        inliers: share of the background that the fitted plane explains; NaN where none was fitted.
        homography: [3, 3] from this frame's pixels to the next one's; None where none was fitted.
    """

    magnitude: float
    inliers: float
    homography: np.ndarray | None


class MotionEstimator:
    """Global motion from a grid of about 130 flow samples. One object per picture size.

    The model is a homography: exact for a rotating camera, and for a table top seen by a moving one.
    """

    def __init__(self, width: int, height: int, scale: Scale) -> None:
        step = max(height // _GRID_ROWS, 1)
        self._rows = slice(step // 2, None, step)
        self._columns = slice(step // 2, None, step)
        x = np.arange(width, dtype=np.float32)
        y = np.arange(height, dtype=np.float32)[:, None]
        self._x, self._y = x, y
        grid = np.broadcast_to(x, (height, width)), np.broadcast_to(y, (height, width))
        self._points = np.stack([g[self._rows, self._columns].reshape(-1) for g in grid], axis=1)
        self._scale = scale
        self._inverse = np.empty((height, width), np.float32)
        self._residual = np.empty((2, height, width), np.float32)

    def measure(self, x: np.ndarray, y: np.ndarray, keep: np.ndarray | None) -> GlobalMotion:
        """Global motion of one frame.

        Args:
            x, y: the flow's two components, float32 [h, w].
            keep: float32 [h, w], 0 on the robot; None where there is no mask.
        """
        points: np.ndarray = self._points
        sample = np.stack([a[self._rows, self._columns].reshape(-1) for a in (x, y)], axis=1)
        if keep is not None:
            background = keep[self._rows, self._columns].reshape(-1) > 0
            points, sample = points[background], sample[background]
        if len(sample) < _FEWEST_POINTS:
            return GlobalMotion(float("nan"), float("nan"), None)
        squares = sample[:, 0] ** 2 + sample[:, 1] ** 2
        place = int(len(squares) * _QUANTILE)
        magnitude = float(np.partition(squares, place)[place]) ** 0.5 / self._scale.length
        if magnitude < STILL:
            return GlobalMotion(magnitude, float("nan"), None)
        homography = self._fit(points, points + sample)
        if homography is None:
            return GlobalMotion(magnitude, 0.0, None)
        u, v, w = homography @ np.column_stack([points, np.ones(len(points), np.float32)]).T
        error = (u / w - points[:, 0] - sample[:, 0]) ** 2 + (v / w - points[:, 1] - sample[:, 1]) ** 2
        inliers = float(np.mean(error < _FITS * self._scale.squared))
        return GlobalMotion(magnitude, inliers, homography)

    def _fit(self, points: np.ndarray, moved: np.ndarray) -> np.ndarray | None:
        import cv2

        # USAC_FAST found more inliers than RANSAC in two thirds of its time on a wrist camera, and
        # like it draws the same samples every time: labels come out the same to the byte.
        threshold = (_FITS * self._scale.squared) ** 0.5
        try:
            homography, _ = cv2.findHomography(
                points, moved, cv2.USAC_FAST, ransacReprojThreshold=threshold, maxIters=200, confidence=0.95
            )
        except cv2.error:
            return None
        if homography is None or not np.isfinite(homography).all():
            return None
        return np.asarray(homography, np.float32)

    def residual(self, x: np.ndarray, y: np.ndarray, homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The flow without the global motion: its components, in buffers that the next call overwrites.

        With p the pixel and H the homography, ``F(p) - (H p - p)``. Written for few passes over the
        picture, since it runs on every frame of a moving camera.
        """
        h, inverse = homography, self._inverse
        np.add(h[2, 0] * self._x, h[2, 1] * self._y + h[2, 2], out=inverse)
        np.reciprocal(inverse, out=inverse)
        for out, row, flow, place in zip(self._residual, h[:2], (x, y), (self._x, self._y), strict=True):
            np.add(row[0] * self._x, row[1] * self._y + row[2], out=out)
            np.multiply(out, inverse, out=out)
            np.subtract(flow, out, out=out)
            np.add(out, place, out=out)
        return self._residual[0], self._residual[1]
