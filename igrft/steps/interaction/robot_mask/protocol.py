"""One protocol for everything that finds a robot in pictures, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.extras import require
from igrft.steps.interaction.robot_mask.weights import refuse_no_weights

EXEMPLAR = "exemplar"
ROBOENGINE = "roboengine"
SAM3 = "sam3"
GROUNDED_SAM2 = "grounded_sam2"
#: Values of ``robot_mask`` that find masks; others (``none``, ``feature``, ``folder``) are given them.
SEGMENTERS = (EXEMPLAR, ROBOENGINE, SAM3, GROUNDED_SAM2)
#: Those that load a large model: one process has it, and the device is its own.
MODELS = (ROBOENGINE, SAM3, GROUNDED_SAM2)


class Segmenter(Protocol):
    """Finds the robot in pictures. Made in the worker, where it loads what it needs."""

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Masks of a batch of pictures.

        Args:
            frames: uint8 [h, w, 3] RGB each, all of one size.

        Returns:
            bool [n, h, w], true on the robot.
        """
        ...


@dataclass(frozen=True)
class SegmenterSettings:
    """What a segmenter is made from.

    Attributes:
        source: one of SEGMENTERS.
        camera: key of the camera.
        folder: of the masks that a person painted, for ``exemplar``.
        model: folder or Hub id of the model's weights; None is the source's own.
        detector: the same of the detector, for ``grounded_sam2``.
        prompt: what to look for, in words.
        score: least confidence of a detection; None is the source's own.
        threshold: probability above which a pixel is robot.
        device: ``auto``, ``cpu``, ``cuda`` …
        threads: CPU threads.
    """

    source: str
    camera: str
    folder: str | None
    model: str | None
    detector: str | None
    prompt: str
    score: float | None
    threshold: float
    device: str
    threads: int


def refuse_missing_package(source: str) -> None:
    """Raise UsageError where a package that ``source`` needs is not installed. Imports none of them."""
    if source == ROBOENGINE:
        from igrft.steps.interaction.robot_mask.roboengine import refuse_missing

        refuse_missing()
    elif source in MODELS:
        require(f"robot_mask: {source}", "train")


def refuse_missing_weights(source: str, model: str | None, detector: str | None) -> None:
    """Raise IgrftError where weights of a model of ``transformers`` are not to be had. Loads none of them.

    Args:
        model, detector: folder or Hub id; None is the source's own.
    """
    wanted: dict[str, str] = {}
    if source == SAM3:
        from igrft.steps.interaction.robot_mask import sam3

        wanted = {"mask_model": model or sam3.MODEL}
    elif source == GROUNDED_SAM2:
        from igrft.steps.interaction.robot_mask import grounded_sam2

        wanted = {"mask_detector": detector or grounded_sam2.DETECTOR, "mask_model": model or grounded_sam2.MODEL}
    for setting, name in wanted.items():
        refuse_no_weights(source, setting, name)


def make_segmenter(settings: SegmenterSettings, dataset: DatasetReader, height: int) -> Segmenter:
    """Load a segmenter.

    Args:
        height: of the pictures it will be given.

    Raises:
        IgrftError: a package or weights that are not to be had, or masks that cannot be learned from.
    """
    if settings.source == EXEMPLAR:
        from igrft.steps.interaction.robot_mask.exemplar import learn

        return learn(dataset, settings.camera, Path(str(settings.folder)), height, settings.threshold)
    if settings.source == ROBOENGINE:
        from igrft.steps.interaction.robot_mask.roboengine import RoboEngine

        return RoboEngine(settings)
    if settings.source == SAM3:
        from igrft.steps.interaction.robot_mask.sam3 import Sam3

        return Sam3(settings)
    from igrft.steps.interaction.robot_mask.grounded_sam2 import GroundedSam2

    return GroundedSam2(settings)
