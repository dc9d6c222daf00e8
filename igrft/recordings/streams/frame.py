"""A decoded picture on its way to the encoder, which takes other colours than RGB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_PIXELS = "yuv420p"
# As FFmpeg numbers them: values of 16 to 235 or not said; colours as in ITU-R BT.601 (5 and 6) or not said (2).
_RANGES, _COLOURS = (0, 1), (2, 5, 6)


@dataclass(frozen=True)
class Frame:
    """A picture as PyAV has it: yuv420p, 16 to 235, BT.601, which is what RGB is made to for the encoder."""

    frame: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.frame.height, self.frame.width, 3)

    @property
    def rgb(self) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""
        return self.frame.to_ndarray(format="rgb24")


def shown(frame: Any) -> np.ndarray | Frame:
    """A frame of a video that was decoded: as it is where it may stay so, else RGB uint8 [H, W, 3]."""
    same = frame.format.name == _PIXELS and frame.color_range in _RANGES and frame.colorspace in _COLOURS
    if not same:
        return frame.to_ndarray(format="rgb24")
    # Else the encoder would make a key picture of what was one.
    frame.pict_type = 0
    return Frame(frame)
