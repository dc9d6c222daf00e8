"""What a classifier is told about a pixel: its colour, its surroundings on three scales, texture, place."""

from __future__ import annotations

import numpy as np

#: Half-widths of the windows, pixels at 240 lines.
_COLOUR = (2, 6, 16)
_TEXTURE = (2, 6)
_LINES = 240
#: Numbers per pixel: Lab, its mean over three windows, the spread of L over two, x and y.
WIDTH = 3 + 3 * len(_COLOUR) + len(_TEXTURE) + 2


def pixel_features(picture: np.ndarray) -> np.ndarray:
    """float32 [h * w, WIDTH] of a picture, uint8 [h, w, 3] RGB.

    No background model: the difference from the episode's median picture helps where the robot always moves, and
    misleads where it rests (intersection over union of one example fell by up to 0.12).
    """
    import cv2

    height, width = picture.shape[:2]
    scale = height / _LINES
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab).astype(np.float32)
    out = np.empty((height, width, WIDTH), np.float32)
    out[..., :3] = lab
    at = 3
    for radius in _COLOUR:
        out[..., at : at + 3] = cv2.blur(lab, _window(radius, scale))
        at += 3
    light = np.ascontiguousarray(lab[..., 0])
    square = light * light
    for radius in _TEXTURE:
        mean = cv2.blur(light, _window(radius, scale))
        variance = cv2.blur(square, _window(radius, scale)) - mean * mean
        out[..., at] = np.sqrt(np.maximum(variance, 0))
        at += 1
    out[..., at] = np.arange(width, dtype=np.float32) / height
    out[..., at + 1] = np.arange(height, dtype=np.float32)[:, None] / height
    return out.reshape(-1, WIDTH)


def _window(radius: int, scale: float) -> tuple[int, int]:
    side = 2 * max(round(radius * scale), 1) + 1
    return side, side
