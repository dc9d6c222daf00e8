"""An arm that moves in front of a background: pictures and the exact masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from picture_sets import picture_set, texture

from igrft.dataset.reader import DatasetReader

COUNT = 8


def scene(frame: int, episode: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A red textured arm comes in from the left over a gray background: the picture and the exact mask."""
    picture = np.repeat(texture(320, 240, seed=episode)[..., None] // 2 + 60, 3, axis=2)
    mask = np.zeros((240, 320), np.uint8)
    tip = (60 + 6 * frame, 100 + 10 * episode)
    cv2.line(mask, (tip[0] - 200, 60), tip, 1, 31)
    cv2.circle(mask, tip, 24, 1, -1)
    grain = np.roll(texture(320, 240, seed=99)[..., None].astype(np.int32), 6 * frame, axis=1)
    arm = np.clip(np.array([170, 40, 30]) + grain // 5 - 25, 0, 255).astype(np.uint8)
    picture[mask > 0] = arm[mask > 0]
    return picture, mask > 0


def arm_set(root: Path, episodes: int = 2, count: int = COUNT) -> DatasetReader:
    return picture_set(root, [[scene(f, e)[0] for f in range(count)] for e in range(episodes)], dtype="image")


def paint(folder: Path, *frames: tuple[int, int], value: int = 255) -> Path:
    """Exact masks of (episode, frame) as a person would paint them."""
    for episode, frame in frames:
        path = folder / f"episode_{episode:06d}/{frame:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scene(frame, episode)[1].astype(np.uint8) * value)
    return folder
