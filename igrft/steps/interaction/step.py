"""The ``interaction`` entry of a pipeline file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from igrft import columns as c
from igrft.dataset.decoders import BACKENDS
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import Backend, refuse_decord
from igrft.errors import EpisodeError, IgrftError, UsageError, did_you_mean
from igrft.steps.base import Episode, EpisodeLabels, Labeller, StepDefaults
from igrft.steps.interaction.camera import choose_camera
from igrft.steps.interaction.counts import InteractionCounts
from igrft.steps.interaction.flow import PRECISIONS, RAFT_NAMES, Precision, refuse_unknown_flow
from igrft.steps.interaction.masks import refuse_no_folder
from igrft.steps.interaction.motion import STILL
from igrft.steps.interaction.robot_mask.given import refuse_bad_exemplars
from igrft.steps.interaction.robot_mask.protocol import EXEMPLAR, SEGMENTERS
from igrft.steps.interaction.robot_mask.step import RobotMask
from igrft.steps.interaction.robot_mask.weights import public_name
from igrft.steps.interaction.threshold import CameraMotion, InteractionThreshold

RobotMaskSource = Literal["none", "feature", "folder", "exemplar", "roboengine", "sam3", "grounded_sam2"]

#: Frames from one mask that is found to the next.
_MOST_EVERY = 100


@dataclass(frozen=True)
class Interaction(StepDefaults):
    """Eq. 1: ``I(f) = [ sum_uv (1 - M(f)) [|F(f)|^2 > delta] > Theta ]``.

    Attributes:
        camera: key of the camera; unset, the first with files that does not ride on the robot.
        flow: ``dis`` (OpenCV, FAST preset), ``dis_ultrafast``, ``dis_medium``, ``raft_small`` or
            ``raft_large`` (torchvision).
        flow_height: height at which flow is computed, the aspect kept; smaller pictures are taken as
            they are. The label does not depend on it but for detail lost.
        raft_weights: file of RAFT's weights; unset, torchvision's own download.
        raft_updates: RAFT's refinement iterations.
        raft_precision: of RAFT's layers: ``float32``, ``float16``, or ``auto``, which is float16 on a GPU and float32
            on a CPU.
        raft_compile: compile RAFT first (``torch.compile``): a minute or more that long recordings on a GPU win back.
        device: for RAFT and models of masks: ``auto``, ``cpu``, ``cuda`` …
        batch: pairs of pictures that RAFT computes at a time.
        robot_mask: ``none``; given: ``feature`` (of the dataset, see ``mask_key``) or ``folder``
            (``mask_path``, laid out as :mod:`igrft.steps.interaction.masks` says); found: ``exemplar`` (learned from
            a few frames that a person painted, ``mask_path``, see
            :mod:`igrft.steps.interaction.robot_mask.given`), ``roboengine``, ``sam3`` or ``grounded_sam2``.
        mask_resize: accept given masks of another size than the camera's pictures.
        mask_threshold: above it a mask is robot, in the mask's units; unset, half of "robot". Of masks that are found
            it is a probability, between 0 and 1; ``roboengine`` has its own.
        mask_grow: reference pixels around the robot that are taken for robot too: its flow bleeds over its edge.
        change_threshold: where there is a robot mask, a pixel counts only where the picture changes around it, by so
            many gray levels more than it does elsewhere: the robot's flow also bleeds far over what is plain, see
            :mod:`igrft.steps.interaction.evidence`. 0, the default, counts as Eq. 1 stands; 3 is recommended where
            there are masks and the background is plain (docs/interaction.md). It is ours, not the paper's.
        mask_every: masks are found on every n-th frame, and carried to those between by the flow. At most 100: the
            flow of so many frames is held in memory, 60 MB at 320x240.
        mask_model: folder or Hub id of the weights that find masks; unset, the source's own.
        mask_detector: the same of the detector of ``grounded_sam2``.
        mask_prompt: what the models look for.
        mask_score: least confidence of what ``sam3`` and ``grounded_sam2`` find, 0 to 1; unset, the model's own.
        mask_height: lines of the pictures that masks are found on, never enlarged; unset, 240 for ``exemplar``, 480
            for models.
        mask_batch: pictures that masks are found on at a time.
        flow_threshold: delta, squared pixels at 640x480 and ``reference_fps`` (the paper's number
            of pixels, ours in size and rate).
        pixel_threshold: Theta, pixels at 640x480.
        reference_fps: the rate that ``flow_threshold`` is for; null leaves the rate out.
        ladder: flow thresholds whose counts are staged, so that they can be chosen later without
            decoding again.
        camera_motion: ``auto`` takes the camera's motion out where the background moves, ``static``
            never, ``compensate`` on every frame that moves, ``refuse`` sets moving episodes aside.
        motion_threshold: a background that moves by more reference pixels a frame is moving. 0.5 is
            a third of what delta = 2 lets pass: less cannot make a still pixel count.
        moving_share: an episode whose background moves on more of its frames has a moving camera;
            a quarter lets an arm pass close by a fixed one.
        clear_share: the same for frames on which one motion explains 90 % of the background, which
            no arm looks like: a camera that rides along for a short way is found, one that is
            bumped once is let be. (Fixed cameras of the real sets: up to 0.014. Moving: from 0.06.)
        min_inlier_share: set a moving episode aside where the fitted motion explains less of the
            background (median over moving frames): below half there is no background to speak of.
        shortest_phase: drop phases of fewer frames; 0 is off.
        close_gaps: close gaps of at most so many frames; 0 is off.
        video_backend: ``auto``, ``pyav``, ``torchcodec`` or ``decord``.
        threads: CPU threads of a worker.
    """

    type: ClassVar[str] = "interaction"
    paths: ClassVar[tuple[str, ...]] = ("mask_path", "raft_weights")

    camera: str | None = None
    flow: str = "dis"
    flow_height: int = 240
    raft_weights: str | None = None
    raft_updates: int = 12
    raft_precision: Precision = "auto"
    raft_compile: bool = False
    device: str = "auto"
    batch: int = 8
    robot_mask: RobotMaskSource = "none"
    mask_key: str | None = None
    mask_path: str | None = None
    mask_resize: bool = False
    mask_threshold: float | None = None
    mask_grow: float = 0.0
    change_threshold: float = 0.0
    mask_every: int = 5
    mask_model: str | None = None
    mask_detector: str | None = None
    mask_prompt: str = "robot"
    mask_score: float | None = None
    mask_height: int | None = None
    mask_batch: int = 8
    flow_threshold: float = 2.0
    pixel_threshold: float = 400.0
    reference_fps: float | None = 30.0
    ladder: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    camera_motion: CameraMotion = "auto"
    motion_threshold: float = 0.5
    moving_share: float = 0.25
    clear_share: float = 0.05
    min_inlier_share: float = 0.5
    shortest_phase: int = 0
    close_gaps: int = 0
    video_backend: Backend = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        refuse_unknown_flow(self.flow)
        for name, value, known in (
            ("robot_mask", self.robot_mask, get_args(RobotMaskSource)),
            ("camera_motion", self.camera_motion, ("auto", "static", "compensate", "refuse")),
            ("video_backend", self.video_backend, BACKENDS),
            ("raft_precision", self.raft_precision, PRECISIONS),
        ):
            if value not in known:
                raise UsageError(f"step 'interaction': unknown {name} {value!r}{did_you_mean(str(value), known)}")
        if self.robot_mask == "feature" and not self.mask_key:
            raise UsageError("step 'interaction': robot_mask: feature needs mask_key, the feature that holds the masks")
        if self.robot_mask == "folder" and not self.mask_path:
            raise UsageError("step 'interaction': robot_mask: folder needs mask_path, the folder of the masks")
        if self.robot_mask == EXEMPLAR and not self.mask_path:
            raise UsageError(
                "step 'interaction': robot_mask: exemplar needs mask_path, the folder of the frames that you painted "
                "(igrft report suggests some)"
            )
        if self.mask_height is not None and self.mask_height < 32:
            raise UsageError(f"step 'interaction': mask_height must be at least 32, got {self.mask_height}")
        for name, least in (
            ("flow_height", 32),
            ("raft_updates", 1),
            ("batch", 1),
            ("threads", 1),
            ("mask_every", 1),
            ("mask_batch", 1),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"step 'interaction': {name} must be at least {least}, got {getattr(self, name)}")
        if self.mask_every > _MOST_EVERY:
            raise UsageError(
                f"step 'interaction': mask_every must be at most {_MOST_EVERY}, got {self.mask_every}: no mask can be "
                "carried that far, and the flow on the way is held in memory"
            )
        if self.robot_mask in SEGMENTERS:
            self._refuse_no_probability()
        for name in ("pixel_threshold", "shortest_phase", "close_gaps", "mask_grow", "change_threshold"):
            if getattr(self, name) < 0:
                raise UsageError(f"step 'interaction': {name} must not be negative, got {getattr(self, name)}")
        for name in ("moving_share", "clear_share", "min_inlier_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"step 'interaction': {name} is a share from 0 to 1, got {getattr(self, name)}")
        if not self.flow_threshold > 0 or not all(delta > 0 for delta in self.ladder):
            raise UsageError("step 'interaction': flow_threshold and the ladder must be positive")
        if self.reference_fps is not None and not self.reference_fps > 0:
            raise UsageError(f"step 'interaction': reference_fps must be positive or null, got {self.reference_fps}")
        if self.motion_threshold < STILL:
            raise UsageError(
                f"step 'interaction': motion_threshold must be at least {STILL}, got {self.motion_threshold}: less is "
                "not measured"
            )

    def _refuse_no_probability(self) -> None:
        """The thresholds of masks that are found; of given masks they are in the masks' own units."""
        if self.mask_threshold is not None and not 0 < self.mask_threshold < 1:
            raise UsageError(
                f"step 'interaction': mask_threshold is a probability where robot_mask: {self.robot_mask} finds the "
                f"masks: above 0 and below 1, got {self.mask_threshold}"
            )
        if self.mask_score is not None and not 0 <= self.mask_score <= 1:
            raise UsageError(f"step 'interaction': mask_score is a confidence from 0 to 1, got {self.mask_score}")

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.INTERACTION, c.INTERACTION_PIXELS)

    def expand(self) -> tuple[Any, ...]:
        """The heavy step that counts and the cheap one that labels, each with its own settings.

        Before them the heavy step that finds masks, where they are to be found.
        """
        ladder = tuple(sorted({*self.ladder, self.flow_threshold}))
        settings = {**vars(self), "ladder": ladder}
        kinds: tuple[type[Any], ...] = (InteractionCounts, InteractionThreshold)
        if self.robot_mask in SEGMENTERS:
            kinds = (RobotMask, *kinds)
        return tuple(kind(**{f.name: settings[f.name] for f in dataclasses.fields(kind)}) for kind in kinds)

    def recorded(self) -> dict[str, Any]:
        """As the pipeline file has them; of a folder of weights only the last part, ids of the Hub whole."""
        own = super().recorded()
        return own | {name: public_name(own[name]) for name in ("mask_model", "mask_detector")}

    def resolve(self, dataset: DatasetReader) -> Interaction:
        """Choose the camera, and refuse what cannot work on this dataset.

        Raises:
            IgrftError: unknown camera, camera or mask feature without files, no folder of masks, painted frames that
                cannot be learned from, no file of weights, decord on AV1.
        """
        camera = choose_camera(dataset, self.camera)
        if self.robot_mask == "feature":
            key = str(self.mask_key)
            if key not in dataset.cameras:
                raise IgrftError(
                    f"step 'interaction': mask_key {key!r} is not an image or video feature of {dataset.root}"
                    f"{did_you_mean(key, dataset.cameras)}"
                )
            if not dataset.camera_has_files(key):
                raise IgrftError(f"step 'interaction': mask_key {key!r} has no file in any episode")
        if self.robot_mask == "folder":
            refuse_no_folder(self.mask_path)
        if self.robot_mask == EXEMPLAR:
            refuse_bad_exemplars(dataset, camera, Path(str(self.mask_path)))
        if self.flow in RAFT_NAMES and self.raft_weights is not None:
            from igrft.steps.interaction.raft import refuse_missing_weights

            refuse_missing_weights(self.raft_weights)
        if self.video_backend == "decord" and dataset.num_episodes and dataset.features[camera]["dtype"] == "video":
            self._refuse_decord(dataset, camera)
        return dataclasses.replace(self, camera=camera)

    @staticmethod
    def _refuse_decord(dataset: DatasetReader, camera: str) -> None:
        """One look at the first video: what decord refuses there it refuses everywhere."""
        try:
            path = dataset.video(0, camera).path
            if path.is_file():
                refuse_decord(path)
        except EpisodeError as error:
            raise IgrftError(f"step 'interaction': {error}") from None

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        """Its parts in a row, for use outside a pipeline."""
        resolved = self if self.camera is not None else self.resolve(dataset)
        *heavy, threshold = (step.open(dataset, None) for step in resolved.expand())

        def label(episode: Episode) -> EpisodeLabels:
            after = Episode(dataset, episode.row, dict(episode.labels), dict(episode.record))
            for part in heavy:
                found = part(after)
                after.labels.update(found.staged)
                after.record.update(found.record)
            return threshold(after)

        return label
