"""What a classifier is told about a pixel: its colour, its surroundings on three scales, texture, edges, place."""

from __future__ import annotations

import numpy as np

#: Half-widths of the windows, pixels at 240 lines.
_COLOUR = (2, 6, 16)
_TEXTURE = (2, 6)
_EDGES = (4, 10)
_LINES = 240
#: Numbers per pixel: Lab, its mean over three windows, the spread of L over two, the structure of its edges over two,
#: x and y.
WIDTH = 3 + 3 * len(_COLOUR) + len(_TEXTURE) + 3 * len(_EDGES) + 2


def pixel_features(picture: np.ndarray) -> np.ndarray:
    """float32 [h * w, WIDTH] of a picture, uint8 [h, w, 3] RGB.

    Edges are the entries of the structure tensor, their roots: how strong they are across and down, and how they lean.

    No background model: the difference from the episode's median picture gains 0.02 of intersection over union with
    ten painted frames on a real clip, and costs up to 0.12 with one.
    """
    import cv2

    height, width = picture.shape[:2]
    scale = height / _LINES
    lab: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_RGB2Lab).astype(np.float32)
    planes: list[np.ndarray] = list(cv2.split(lab))
    light = planes[0]
    for radius in _COLOUR:
        planes += cv2.split(cv2.blur(lab, _window(radius, scale)))
    square: np.ndarray = light * light
    for radius in _TEXTURE:
        mean = cv2.blur(light, _window(radius, scale))
        planes.append(np.sqrt(np.maximum(cv2.blur(square, _window(radius, scale)) - mean * mean, 0)))
    across, down = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    products: list[np.ndarray] = [across * across, down * down, across * down]
    for radius in _EDGES:
        for product in products:
            entry = cv2.blur(product, _window(radius, scale))
            planes.append(np.copysign(np.sqrt(np.abs(entry)), entry))
    out = np.empty((WIDTH, height, width), np.float32)
    for place, plane in zip(out, planes, strict=False):
        place[:] = plane
    out[-2] = np.arange(width, dtype=np.float32) / height
    out[-1] = np.arange(height, dtype=np.float32)[:, None] / height
    return out.reshape(WIDTH, -1).T


def _window(radius: int, scale: float) -> tuple[int, int]:
    side = 2 * max(round(radius * scale), 1) + 1
    return side, side
