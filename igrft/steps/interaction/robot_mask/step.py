"""The step that finds the robot at every n-th frame, and stages what it found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import picture_size, stream_at
from igrft.errors import IgrftError
from igrft.steps.base import Episode, EpisodeLabels, Labeller, Resources
from igrft.steps.interaction.camera import LooksThroughCamera
from igrft.steps.interaction.overlap import ahead, on_gpu
from igrft.steps.interaction.robot_mask.given import exemplars_digest
from igrft.steps.interaction.robot_mask.packed import anchors, pack
from igrft.steps.interaction.robot_mask.protocol import (
    EXEMPLAR,
    GROUNDED_SAM2,
    MODELS,
    ROBOENGINE,
    SAM3,
    Segmenter,
    SegmenterSettings,
    make_segmenter,
    refuse_missing_package,
    refuse_missing_weights,
)
from igrft.steps.interaction.robot_mask.weights import weights_identity
from igrft.steps.interaction.scale import flow_size

#: Staged: packed masks.
ROBOT_MASK = "robot_mask"
#: Lines of the pictures that segmenters are given, unless ``mask_height`` says otherwise.
_HEIGHTS = {EXEMPLAR: 240}
_MODEL_HEIGHT = 480


@dataclass(frozen=True)
class RobotMask(LooksThroughCamera):
    """Stages the robot's mask of every ``mask_every``-th frame and of the last.

    Staged, T frames:
        robot_mask: object [T], bytes of :func:`~igrft.steps.interaction.robot_mask.packed.pack`, None on frames
            between. Of size ``size`` (width, height) in the record, under ``robot_mask``; it does not depend on the
            flow's.

    The settings are those of :class:`~igrft.steps.interaction.Interaction`.
    """

    type: ClassVar[str] = "robot_mask"
    #: 2: of a painted picture that is transparent somewhere, robot is what is opaque.
    version: ClassVar[int] = 2

    camera: str | None = None
    robot_mask: str = EXEMPLAR
    mask_path: str | None = None
    mask_every: int = 5
    mask_model: str | None = None
    mask_detector: str | None = None
    mask_prompt: str = "robot"
    mask_score: float | None = None
    mask_threshold: float | None = None
    mask_height: int | None = None
    mask_batch: int = 8
    device: str = "auto"
    threads: int = 1

    @property
    def max_workers(self) -> int | None:
        """One process holds a large model; a classifier fits into each."""
        return 1 if self.robot_mask in MODELS else None

    @property
    def resources(self) -> Resources:
        """A large model wants a GPU."""
        if self.robot_mask in MODELS:
            return Resources(cpus=2, memory_gb=16, gpus=0 if self.device == "cpu" else 1)
        return Resources(cpus=self.threads, memory_gb=4)

    @property
    def makes(self) -> tuple[str, ...]:
        return (ROBOT_MASK,)

    @property
    def height(self) -> int:
        """Lines of the pictures that the segmenter is given; smaller ones are left as they are."""
        return self.mask_height or _HEIGHTS.get(self.robot_mask, _MODEL_HEIGHT)

    def settings(self) -> dict[str, Any]:
        """Only what changes masks: not the device, batch or threads, nor settings that the source does not read.

        A folder of weights stands with its content: moved it is the same, with other weights it is not.
        """
        found: dict[str, Any] = {
            "camera": self.camera,
            "robot_mask": self.robot_mask,
            "every": self.mask_every,
            "height": self.height,
        }
        if self.robot_mask != ROBOENGINE:
            found["threshold"] = self.mask_threshold
        if self.robot_mask == EXEMPLAR:
            found["exemplars"] = exemplars_digest(Path(str(self.mask_path)))
        else:
            found |= {"model": weights_identity(self.mask_model), "prompt": self.mask_prompt}
        if self.robot_mask in (SAM3, GROUNDED_SAM2):
            found["score"] = self.mask_score
        if self.robot_mask == GROUNDED_SAM2:
            found["detector"] = weights_identity(self.mask_detector)
        return found

    def ready(self) -> None:
        """Refuse a model whose package or weights are not to be had, before other steps have spent hours.

        Whether painted frames can be learned from is known even before, in ``Interaction.resolve``.
        """
        refuse_missing_package(self.robot_mask)
        refuse_missing_weights(self.robot_mask, self.mask_model, self.mask_detector)

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        self.limit_threads()
        segment = self.segmenter(dataset)
        return lambda episode: self.find(episode, segment)

    def segmenter(self, dataset: DatasetReader) -> Segmenter:
        """Load what the settings name."""
        settings = SegmenterSettings(
            source=self.robot_mask,
            camera=self.known_camera(),
            folder=self.mask_path,
            model=self.mask_model,
            detector=self.mask_detector,
            prompt=self.mask_prompt,
            score=self.mask_score,
            threshold=0.5 if self.mask_threshold is None else self.mask_threshold,
            device=self.device,
            threads=self.threads,
        )
        return make_segmenter(settings, dataset, self.height)

    def find(self, episode: Episode, segment: Segmenter) -> EpisodeLabels:
        """Label one episode with a segmenter that is loaded already.

        Raises:
            EpisodeError: pictures that are missing or damaged.
            IgrftError: the segmenter gave masks of another shape.
        """
        camera = self.known_camera()
        size = flow_size(*picture_size(episode.dataset, episode.row, camera), self.height)
        staged = np.full(episode.length, None, object)
        wanted = anchors(episode.length, self.mask_every)
        frames: list[int] = []
        pictures: list[np.ndarray] = []

        def segment_batch() -> None:
            masks = segment(pictures)
            if masks.shape != (len(pictures), *pictures[0].shape[:2]):
                raise IgrftError(
                    f"robot_mask: {self.robot_mask} gave masks of shape {list(masks.shape)} for {len(pictures)} "
                    f"pictures of {size[0]}x{size[1]}; this version of it does not fit"
                )
            for frame, mask in zip(frames, masks, strict=True):
                staged[frame] = pack(mask)

        # A GPU need not wait for the decoder; a classifier needs the core itself.
        depth = 2 * self.mask_batch if self.robot_mask in MODELS and on_gpu(self.device) else 0
        for frame, picture in ahead(stream_at(episode.dataset, episode.row, camera, wanted, size=size), depth):
            frames.append(frame)
            pictures.append(picture)
            if len(frames) == self.mask_batch:
                segment_batch()
                frames, pictures = [], []
        if frames:
            segment_batch()
        facts = {"source": self.robot_mask, "size": list(size), "every": self.mask_every, "frames": len(wanted)}
        return EpisodeLabels(staged={ROBOT_MASK: staged}, record={ROBOT_MASK: facts})
