"""Whether the picture itself shows that something moves, where the flow says so.

A flow estimator has to say something everywhere. Where nothing can be seen (a bare wall, a table top) it goes on with
what moves nearby, and beside a robot that is the robot: in Meta-World, with exact masks, the arm's flow covers 31,000
reference pixels of what is behind it (docs/interaction.md). Such a wall does not change from one picture to the next,
and a thing that moves does, at least along its edges. So a pixel counts only where the picture changes around it. This
is ours, not the paper's: ``change_threshold: 0`` is Eq. 1 as it stands.
"""

from __future__ import annotations

import numpy as np

#: Side of the square over which change is averaged, reference pixels: noise goes down by it, and the inside of a plain
#: thing is as near to its edge as this.
_WINDOW = 24.0
#: The share of a picture that changes least changes by noise alone. (Not the half: a camera may move.)
_STILL_SHARE = 0.1
#: Pixels so near to the robot are left out, reference pixels: they show some of it, and change as it moves.
MARGIN = 2.0


class Evidence:
    """Finds where pictures change. One object per picture size; buffers are made once.

    Args:
        area: of the picture over the reference's.
        threshold: gray levels, mean over the window, above what the picture's stillest parts change by. (So sensor
            noise and a lamp that flickers, which are everywhere, are no evidence.)
    """

    def __init__(self, area: float, threshold: float) -> None:
        self._side = 2 * round(_WINDOW * area**0.5 / 2) + 1
        self._threshold = threshold

    def __call__(
        self, before: np.ndarray, after: np.ndarray, keep: np.ndarray, homography: np.ndarray | None = None
    ) -> np.ndarray:
        """``keep`` where there is evidence, 0 elsewhere: float32 [h, w].

        Args:
            before, after: this picture and the next, uint8 [h, w] or [h, w, 3].
            keep: float32 [h, w], 0 on the robot in either picture, and near it; else 1.
            homography: [3, 3], the camera's motion from this picture's pixels to the next one's; None is a still one.
        """
        import cv2

        pair = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) if p.ndim == 3 else p for p in (before, after)]
        if homography is not None:
            size = (keep.shape[1], keep.shape[0])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            pair[1] = cv2.warpPerspective(pair[1], homography, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        # In integers as far as it goes: OpenCV's products of mixed types cost more than the flow.
        looked = keep.astype(np.uint8)
        change = cv2.multiply(cv2.absdiff(*pair), looked)
        window = (self._side, self._side)
        total, count = (cv2.boxFilter(v, cv2.CV_32F, window, normalize=False) for v in (change, looked))
        some = keep[::4, ::4] > 0
        sample: np.ndarray = np.divide(total[::4, ::4][some], count[::4, ::4][some])
        noise = float(np.quantile(sample, _STILL_SHARE)) if len(sample) else 0.0
        return np.multiply(keep, total > count * np.float32(noise + self._threshold), dtype=np.float32)


class Look:
    """Where Eq. 1 looks: not on the robot, nor where only the robot's flow bleeds over its edge.

    Args:
        area: of the flow's picture over the reference's.
        grow: reference pixels around the robot that are taken for robot too.
        change: gray levels, see :class:`Evidence`; 0 asks for no evidence, and then
            the robot of the next picture does not matter.
    """

    def __init__(self, area: float, grow: float, change: float) -> None:
        self._evidence = Evidence(area, change) if change > 0 else None
        self._radius = round((max(grow, MARGIN) if self._evidence else grow) * area**0.5)

    def background(self, robot: np.ndarray | None, following: np.ndarray | None) -> np.ndarray | None:
        """float32 [h, w] with 0 on and near the robot; None where there are no masks.

        Args:
            robot, following: uint8 [h, w] with 1 on the robot, of this picture and of the next.
        """
        import cv2

        if robot is None:
            return None
        if self._evidence is not None and following is not None:
            robot = cv2.bitwise_or(robot, following)
        if self._radius:
            side = 2 * self._radius + 1
            robot = cv2.dilate(robot, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
        return np.subtract(1.0, robot, dtype=np.float32)

    def counted(
        self, pair: tuple[np.ndarray, np.ndarray], keep: np.ndarray | None, homography: np.ndarray | None = None
    ) -> np.ndarray | None:
        """float32 [h, w] with 0 where nothing counts; None where everything does.

        Args:
            pair: this picture and the next.
            keep: from :meth:`background`.
            homography: the camera's motion; None where it is not taken out.
        """
        if keep is None or self._evidence is None:
            return keep
        return self._evidence(*pair, keep, homography)
