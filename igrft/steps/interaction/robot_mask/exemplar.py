"""Robot masks without weights: a pixel classifier that learns from the few frames that a person painted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.steps.interaction.robot_mask.features import pixel_features
from igrft.steps.interaction.robot_mask.given import find_exemplars, read_exemplar, refuse_one_sided, row_of
from igrft.steps.interaction.robot_mask.network import Network, train
from igrft.steps.interaction.scale import flow_size

#: Pixels of each painted frame that are learned from, and half as many again along the robot's outline, which is
#: what decides: within this many pixels of it at 240 lines.
_SAMPLES = 10_000
_OUTLINE = 6
#: Patches under this share of the picture are specks.
_SPECK = 0.0005


class PixelClassifier:
    """A trained network applied to every pixel, without the specks."""

    def __init__(self, network: Network, threshold: float) -> None:
        self._network, self._threshold = network, threshold

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([self._mask(frame) for frame in frames])

    def _mask(self, frame: np.ndarray) -> np.ndarray:
        import cv2

        probability = self._network(pixel_features(frame)).reshape(frame.shape[:2])
        mask = cv2.medianBlur((probability > self._threshold).astype(np.uint8), 3)
        _, patches, facts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        large = facts[:, cv2.CC_STAT_AREA] >= _SPECK * mask.size
        large[0] = False
        return np.asarray(large[patches])


def learn(dataset: DatasetReader, camera: str, folder: Path, height: int, threshold: float = 0.5) -> PixelClassifier:
    """Train on the painted frames of ``folder``. The same frames give the same classifier.

    Args:
        camera: key of the camera that they show.
        height: of the pictures that the classifier will be given, see :func:`flow_size`.
        threshold: probability above which a pixel is robot.

    Raises:
        IgrftError: painted frames that are missing, damaged, of another size, of no frame of the dataset, or without
            any robot (or nothing but robot) in all of them.
        EpisodeError: pictures that are missing or damaged.
    """
    rng = np.random.default_rng(0)
    features, labels = [], []
    for exemplar in find_exemplars(folder):
        row = row_of(dataset, exemplar)
        full = picture_size(dataset, row, camera)
        size = flow_size(*full, height)
        mask = _shrunk(read_exemplar(exemplar, camera, full), size)
        picture = frames_at(dataset, row, camera, [exemplar.frame], size=size)[0]
        take = _draw(mask, rng)
        features.append(pixel_features(picture)[take])
        labels.append(mask.reshape(-1)[take])
    known = np.concatenate(labels)
    refuse_one_sided(set(np.unique(known).tolist()), folder)
    return PixelClassifier(train(np.concatenate(features), known), threshold)


def _shrunk(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool at ``size`` (width, height): robot where half of a pixel is."""
    import cv2

    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128)


def _draw(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat indices of the pixels to learn from."""
    import cv2

    reach = 2 * max(round(_OUTLINE * mask.shape[0] / 240), 1) + 1
    kernel = np.ones((reach, reach), np.uint8)
    flat = mask.astype(np.uint8)
    outline = np.flatnonzero(cv2.dilate(flat, kernel) != cv2.erode(flat, kernel))
    anywhere = rng.integers(0, mask.size, _SAMPLES)
    if not len(outline):
        return anywhere
    return np.concatenate([anywhere, outline[rng.integers(0, len(outline), _SAMPLES // 2)]])
