"""What makes the label independent of resolution and frame rate, and the counting itself.

Thresholds are defined at 640x480 and ``reference_fps``. At another size both are scaled by the
area ratio ``a = w h / (640 * 480)``; at another rate the flow threshold by ``(reference_fps / fps)^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

REFERENCE_WIDTH = 640
REFERENCE_HEIGHT = 480


@dataclass(frozen=True)
class Scale:
    """How a picture of the flow relates to the reference.

    Attributes:
        area: its area over the reference's. A count in reference pixels is the count over this.
        squared: squared flow in it, per squared reference pixel of motion at the reference rate.
    """

    area: float
    squared: float

    @classmethod
    def of(cls, width: int, height: int, fps: float, reference_fps: float | None) -> Scale:
        """The scale of flow at ``width`` x ``height``; ``reference_fps=None`` leaves the rate out."""
        area = width * height / (REFERENCE_WIDTH * REFERENCE_HEIGHT)
        rate = 1.0 if reference_fps is None else (reference_fps / fps) ** 2
        return cls(area, area * rate)

    @property
    def length(self) -> float:
        """Flow in the picture per reference pixel of motion."""
        return math.sqrt(self.squared)


def flow_size(width: int, height: int, flow_height: int) -> tuple[int, int]:
    """(width, height) at which flow is computed: ``flow_height`` with the aspect kept, never enlarged."""
    if height <= flow_height:
        return width, height
    return max(round(width * flow_height / height), 1), flow_height


class Counter:
    """Counts moving pixels for a ladder of thresholds; buffers are made once per picture size.

    Args:
        width, height: of the flow.
        ladder: flow thresholds delta in squared reference pixels, ascending.
        scale: of the flow's picture.
    """

    def __init__(self, width: int, height: int, ladder: Sequence[float], scale: Scale) -> None:
        self._squares = np.empty((2, height, width), np.float32)
        self._limits = [np.float32(delta * scale.squared) for delta in ladder]
        self._area = scale.area

    def energy(self, x: np.ndarray, y: np.ndarray, keep: np.ndarray | None) -> np.ndarray:
        """``(1 - M) |F|^2``, float32 [h, w], in a buffer that the next call overwrites.

        Args:
            x, y: the flow's two components, float32 [h, w].
            keep: float32 [h, w], 0 on the robot and 1 elsewhere; None where there is no mask.
        """
        energy, rest = self._squares
        np.multiply(x, x, out=energy)
        np.multiply(y, y, out=rest)
        np.add(energy, rest, out=energy)
        if keep is not None:
            np.multiply(energy, keep, out=energy)
        return energy

    def count(self, energy: np.ndarray) -> np.ndarray:
        """Pixels above each threshold of the ladder, in reference pixels: float32 [ladder]."""
        counts = np.zeros(len(self._limits), np.float32)
        for i, limit in enumerate(self._limits):
            moving = int(np.count_nonzero(energy > limit))
            if moving == 0:
                break
            counts[i] = moving / self._area
        return counts
