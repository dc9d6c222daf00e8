"""A detector that understands words, Grounding DINO, and Segment Anything 2 on the boxes that it finds.

Both are open: ``IDEA-Research/grounding-dino-base`` and ``facebook/sam2.1-hiera-large``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from igrft.steps.interaction.robot_mask.pretrained import Pretrained
from igrft.steps.interaction.robot_mask.protocol import GROUNDED_SAM2, SegmenterSettings

MODEL = "facebook/sam2.1-hiera-large"
DETECTOR = "IDEA-Research/grounding-dino-base"
#: Confidence that the detector's authors cut at.
_SCORE = 0.35


class GroundedSam2:
    """The union of the segments of all boxes; both models see the pictures in one batch."""

    def __init__(self, settings: SegmenterSettings) -> None:
        common: dict[str, Any] = {"source": GROUNDED_SAM2, "device": settings.device, "threads": settings.threads}
        self._detector = Pretrained(
            setting="mask_detector",
            model="GroundingDinoForObjectDetection",
            processor="GroundingDinoProcessor",
            name=settings.detector or DETECTOR,
            **common,
        )
        self._segmenter = Pretrained(
            setting="mask_model",
            model="Sam2Model",
            processor="Sam2Processor",
            name=settings.model or MODEL,
            **common,
        )
        self._score = _SCORE if settings.score is None else settings.score
        self._logit = math.log(settings.threshold / (1 - settings.threshold))
        # The detector was trained on lower-case phrases that end with a dot.
        self._prompt = settings.prompt.lower().rstrip(". ") + "."

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        size = frames[0].shape[:2]
        masks = np.zeros((len(frames), *size), bool)
        boxes = self._boxes(frames)
        found = [i for i, some in enumerate(boxes) if len(some)]
        if not found:
            return masks
        segmenter = self._segmenter
        with segmenter.computing():
            pictures = segmenter.inputs(images=[frames[i] for i in found])
            embeddings = segmenter.model.get_image_embeddings(pictures["pixel_values"])
            for place, i in enumerate(found):
                prompt = segmenter.inputs(original_sizes=[list(size)], input_boxes=[boxes[i]])
                seen = segmenter.model(
                    image_embeddings=[level[place : place + 1] for level in embeddings],
                    input_boxes=prompt["input_boxes"],
                    multimask_output=False,
                )
                segments = segmenter.processor.post_process_masks(
                    seen.pred_masks.float(), [list(size)], mask_threshold=self._logit
                )[0]
                masks[i] = segments.cpu().numpy().reshape(-1, *size).any(axis=0)
        return masks

    def _boxes(self, frames: Sequence[np.ndarray]) -> list[list[list[float]]]:
        """Corners x0, y0, x1, y1 in pixels, for each picture."""
        detector = self._detector
        given: Any = detector.inputs(images=list(frames), text=[self._prompt] * len(frames))
        with detector.computing():
            seen = detector.model(**given)
            results = detector.processor.post_process_grounded_object_detection(
                seen,
                given["input_ids"],
                threshold=self._score,
                text_threshold=self._score,
                target_sizes=[frames[0].shape[:2]] * len(frames),
            )
        return [result["boxes"].float().cpu().tolist() for result in results]
