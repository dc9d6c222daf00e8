"""Segment Anything 3: one model that finds all that a few words name (``facebook/sam3``; its weights are gated)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from igrft.steps.interaction.robot_mask.pretrained import Pretrained
from igrft.steps.interaction.robot_mask.protocol import SAM3, SegmenterSettings

MODEL = "facebook/sam3"
#: Confidence that its authors cut at.
_SCORE = 0.5
#: CLIP's pooled text and the last level of the pyramid are thrown away, and SAM 3.1 comes without them.
_UNUSED = ("text_encoder.text_projection.", "vision_encoder.neck.fpn_layers.3.")


class Sam3:
    """The union of everything that fits the prompt; pictures go through in one batch, the words once."""

    def __init__(self, settings: SegmenterSettings) -> None:
        self._loaded = Pretrained(
            source=SAM3,
            setting="mask_model",
            model="Sam3Model",
            processor="Sam3Processor",
            name=settings.model or MODEL,
            device=settings.device,
            threads=settings.threads,
            unused=_UNUSED,
        )
        self._score = _SCORE if settings.score is None else settings.score
        self._threshold = settings.threshold
        words = self._loaded.inputs(text=settings.prompt)
        with self._loaded.computing():
            self._words = self._loaded.model.get_text_features(**words).pooler_output
        self._attention = words["attention_mask"]

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        count, size = len(frames), frames[0].shape[:2]
        pictures = self._loaded.inputs(images=list(frames))
        with self._loaded.computing():
            found = self._loaded.model(
                pixel_values=pictures["pixel_values"],
                text_embeds=self._words.expand(count, -1, -1),
                attention_mask=self._attention.expand(count, -1),
            )
            results = self._loaded.processor.post_process_instance_segmentation(
                found, threshold=self._score, mask_threshold=self._threshold, target_sizes=[size] * count
            )
        return np.stack([_union(result["masks"].cpu().numpy(), size) for result in results])


def _union(masks: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """bool [h, w] of masks [n, h, w], none of them for n = 0."""
    return np.asarray((masks > 0).any(axis=0)) if len(masks) else np.zeros(size, bool)
