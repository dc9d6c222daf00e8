"""The heavy half of Eq. 1: decode, compute flow, count moving pixels for a ladder of thresholds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from igrft.dataset.decoders import FASTEST
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import Backend, episode_frames, picture_size
from igrft.steps.base import Episode, EpisodeLabels, Labeller, Resources
from igrft.steps.interaction.camera import LooksThroughCamera
from igrft.steps.interaction.evidence import Look
from igrft.steps.interaction.flow import RAFT_NAMES, FlowEstimator, Precision, make_flow
from igrft.steps.interaction.masks import Keep, feature_masks, folder_facts, folder_masks
from igrft.steps.interaction.motion import MotionEstimator
from igrft.steps.interaction.overlap import ahead, on_gpu
from igrft.steps.interaction.robot_mask.carry import Carried, Planes, carried, planes
from igrft.steps.interaction.robot_mask.facts import mask_facts
from igrft.steps.interaction.robot_mask.packed import pack, unpack
from igrft.steps.interaction.robot_mask.protocol import SEGMENTERS
from igrft.steps.interaction.robot_mask.step import ROBOT_MASK
from igrft.steps.interaction.scale import Counter, Scale, flow_size

# Staged arrays.
COUNTS_RAW = "interaction_counts_raw"
COUNTS_COMPENSATED = "interaction_counts_compensated"
MOTION = "interaction_motion"
INLIERS = "interaction_inliers"
REPEATED = "interaction_repeated"
STAGED = (COUNTS_RAW, COUNTS_COMPENSATED, MOTION, INLIERS, REPEATED)
#: Staged where there are masks; for reports alone.
COVERAGE = "interaction_mask_coverage"
#: Staged where masks came from a folder, which a report may not find again.
ROBOT = "interaction_robot"
#: Facts that this step records for the next.
FACTS = "interaction_counts"

#: Mean difference of gray levels under which two pictures are one picture shown twice. Encoders
#: skip repeated pictures, so that the difference is 0; sensor noise makes it 0.5 and more.
_SAME = 0.05


@dataclass(frozen=True)
class InteractionCounts(LooksThroughCamera):
    """Stages, for each frame f, ``sum_uv (1 - M(f)) [|F(f)|^2 > delta]`` for a ladder of delta.

    F(f) is the flow from frame f to f + 1, M(f) the robot's mask; the last frame repeats the one
    before it. One pass over the pictures makes both raw counts and counts of the flow without the
    camera's motion, so that ``camera_motion`` can be changed without decoding again.

    Staged, T frames and L thresholds:
        interaction_counts_raw: float32 [T, L], in reference pixels.
        interaction_counts_compensated: float32 [T, L], the same where the background is still.
        interaction_motion: float32 [T], reference pixels by which the background moves; may be NaN.
        interaction_inliers: float32 [T], share of the background that the fit explains, NaN where
            nothing was fitted.
        interaction_repeated: bool [T], the next picture is this one shown again.
        interaction_mask_coverage: float32 [T], share of the picture that is robot; only where there are masks.
        interaction_robot: object [T], packed masks at the flow's size; only where they came from a folder.

    Masks that :class:`~igrft.steps.interaction.robot_mask.RobotMask` found on some frames are carried to the others
    by the flow.

    The settings are those of :class:`~igrft.steps.interaction.Interaction`.
    """

    type: ClassVar[str] = "interaction_counts"

    camera: str | None = None
    flow: str = "dis"
    flow_height: int = 240
    raft_weights: str | None = None
    raft_updates: int = 12
    raft_precision: Precision = "auto"
    raft_compile: bool = False
    device: str = "auto"
    batch: int = 8
    robot_mask: str = "none"
    mask_key: str | None = None
    mask_path: str | None = None
    mask_resize: bool = False
    mask_threshold: float | None = None
    mask_grow: float = 0.0
    change_threshold: float = 0.0
    reference_fps: float | None = 30.0
    ladder: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    video_backend: Backend = "auto"
    threads: int = 1

    @property
    def max_workers(self) -> int | None:
        """Two where RAFT runs on a GPU: one is computed for while the other counts. Each loads the model."""
        return 2 if self.flow in RAFT_NAMES and on_gpu(self.device) else None

    @property
    def resources(self) -> Resources:
        """RAFT wants a GPU, and cores that decode for it; OpenCV's flow runs on the worker's own threads."""
        if self.flow in RAFT_NAMES:
            return Resources(cpus=2, memory_gb=12, gpus=0 if self.device == "cpu" else 1)
        return Resources(cpus=self.threads, memory_gb=4)

    @property
    def segmented(self) -> bool:
        """Whether the masks are those that an earlier step found."""
        return self.robot_mask in SEGMENTERS

    @property
    def needs(self) -> tuple[str, ...]:
        return (ROBOT_MASK,) if self.segmented else ()

    @property
    def makes(self) -> tuple[str, ...]:
        if self.robot_mask == "none":
            return STAGED
        return (*STAGED, COVERAGE, ROBOT) if self.robot_mask == "folder" else (*STAGED, COVERAGE)

    def settings(self) -> dict[str, Any]:
        """Only what changes counts: not the device, batch or threads, nor settings of what is off."""
        found: dict[str, Any] = {
            "camera": self.camera,
            "flow": self.flow,
            "flow_height": self.flow_height,
            "reference_fps": self.reference_fps,
            "ladder": list(self.ladder),
            "video_backend": FASTEST if self.video_backend == "auto" else self.video_backend,
            "robot_mask": self.robot_mask,
        }
        if self.flow in RAFT_NAMES:
            found |= {"raft_updates": self.raft_updates, "raft_precision": self.raft_precision}
            if self.raft_weights is not None:
                from igrft.steps.interaction.raft import weights_digest

                found["raft_weights"] = weights_digest(self.raft_weights)
        # What made the masks that are carried is in the key of the step that found them.
        if self.robot_mask in ("feature", "folder"):
            found |= {"mask_resize": self.mask_resize, "mask_threshold": self.mask_threshold}
            found["mask"] = self.mask_key if self.robot_mask == "feature" else self.mask_path
        if self.robot_mask != "none":
            found |= {"mask_grow": self.mask_grow, "change_threshold": self.change_threshold}
        return found

    def episode_input(self, dataset: DatasetReader, row: int) -> Any:
        """The masks' files, so that an episode is redone when its masks change."""
        if self.robot_mask != "folder" or self.mask_path is None:
            return None
        return folder_facts(Path(self.mask_path), int(dataset.episode_indices[row]))

    def ready(self) -> None:
        """Fetch RAFT's weights, or refuse, before other steps have spent hours."""
        if self.flow in RAFT_NAMES and self.raft_weights is None:
            from igrft.steps.interaction.raft import published_weights

            published_weights(self.flow)

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        self.limit_threads()
        estimator = self.estimator()
        return lambda episode: self.count(episode, estimator)

    def estimator(self) -> FlowEstimator:
        """Load the flow that the settings name."""
        return make_flow(
            self.flow,
            weights=self.raft_weights,
            updates=self.raft_updates,
            device=self.device,
            batch=self.batch,
            threads=self.threads,
            precision=self.raft_precision,
            compiled=self.raft_compile,
        )

    def count(self, episode: Episode, estimator: FlowEstimator) -> EpisodeLabels:
        """Label one episode with an estimator that is loaded already.

        Raises:
            EpisodeError: pictures or masks that are missing, damaged or of another size.
        """
        camera = self.known_camera()
        frame_size = picture_size(episode.dataset, episode.row, camera)
        size = flow_size(*frame_size, self.flow_height)
        scale = Scale.of(*size, episode.fps, self.reference_fps)
        counter = Counter(*size, self.ladder, scale)
        global_motion = MotionEstimator(*size, scale)

        length, ladder = episode.length, len(self.ladder)
        raw, compensated = (np.zeros((length, ladder), np.float32) for _ in range(2))
        motion, inliers = np.zeros(length, np.float32), np.full(length, np.nan, np.float32)
        repeated = np.zeros(length, bool)

        shown: deque[np.ndarray] = deque()
        pictures = _note_repeats(self.pictures(episode, size, estimator), repeated, shown)
        flows = map(planes, estimator.stream(pictures))
        coverage, agreement = np.zeros(length, np.float32), np.full(length, np.nan, np.float32)
        robots = np.full(length, None, object) if self.robot_mask == "folder" else None
        frames = self.frames(episode, flows, frame_size, size, estimator.ahead)
        frames = _note_masks(frames, coverage, agreement, robots)
        look = Look(scale.area, self.mask_grow, self.change_threshold)
        for f, (frame, following) in enumerate(pairwise(frames)):
            assert frame.flow is not None
            x, y = frame.flow
            pair = shown.popleft(), shown[0]
            keep = look.background(frame.robot, following.robot)
            raw[f] = compensated[f] = counter.count(counter.energy(x, y, look.counted(pair, keep)))
            found = global_motion.measure(x, y, keep)
            motion[f], inliers[f] = found.magnitude, found.inliers
            if found.homography is not None:
                rest = global_motion.residual(x, y, found.homography)
                compensated[f] = counter.count(counter.energy(*rest, look.counted(pair, keep, found.homography)))
        if length > 1:
            for values in (raw, compensated, motion, inliers, repeated):
                values[-1] = values[-2]
        staged = dict(zip(STAGED, (raw, compensated, motion, inliers, repeated), strict=True))
        facts: dict[str, Any] = {
            "camera": camera,
            "flow": self.flow,
            "flow_size": list(size),
            "robot_mask": self.robot_mask,
        }
        if self.robot_mask != "none":
            staged[COVERAGE] = coverage
            if robots is not None:
                staged[ROBOT] = robots
            facts["mask"] = mask_facts(coverage, agreement)
        return EpisodeLabels(staged=staged, record={FACTS: facts})

    def pictures(self, episode: Episode, size: tuple[int, int], estimator: FlowEstimator) -> Iterator[np.ndarray]:
        """The camera's pictures as the estimator wants them."""
        pictures = episode_frames(
            episode.dataset,
            episode.row,
            self.known_camera(),
            size=size,
            color=estimator.color,
            backend=self.video_backend,
            threads=self.threads,
        )
        return ahead(pictures, estimator.ahead)

    def frames(
        self, episode: Episode, flows: Iterator[Planes], frame_size: tuple[int, int], size: tuple[int, int], depth: int
    ) -> Iterator[Carried]:
        """Flow and mask of every frame; the last has no flow. Masks are read up to ``depth`` of them ahead."""
        if self.robot_mask != "none":
            yield from carried(flows, ahead(self.robots(episode, frame_size, size), depth), size)
            return
        for flow in flows:
            yield Carried(flow, None, float("nan"))
        yield Carried(None, None, float("nan"))

    def robots(
        self, episode: Episode, frame_size: tuple[int, int], size: tuple[int, int]
    ) -> Iterator[np.ndarray | None]:
        """For every frame, uint8 [h, w] at the flow's size with 1 on the robot, or None where it is to be carried."""
        masks: Iterator[np.ndarray | None]
        if self.segmented:
            held: tuple[int, int] = tuple(episode.record[ROBOT_MASK]["size"])
            masks = (None if m is None else unpack(m, held) for m in episode.labels[ROBOT_MASK])
        elif self.robot_mask == "feature":
            assert self.mask_key is not None
            masks = feature_masks(
                episode.dataset, episode.row, self.mask_key, backend=self.video_backend, threads=self.threads
            )
        else:
            assert self.mask_path is not None
            masks = folder_masks(Path(self.mask_path), episode.index, episode.length)
        fit = self.fit(frame_size, size)
        for frame, mask in enumerate(masks):
            yield None if mask is None else fit.robot(mask, episode.index, frame)

    def fit(self, frame_size: tuple[int, int], size: tuple[int, int]) -> Keep:
        """What brings masks to the flow's size."""
        # Masks that were found are bool, of the size that the segmenter was given.
        resize, threshold = (True, None) if self.segmented else (self.mask_resize, self.mask_threshold)
        return Keep(self.known_camera(), frame_size, size, allow_resize=resize, threshold=threshold)


def _note_repeats(
    pictures: Iterable[np.ndarray], repeated: np.ndarray, shown: deque[np.ndarray]
) -> Iterator[np.ndarray]:
    """``pictures`` as they come; sets ``repeated[f]`` where picture f + 1 shows picture f again, and keeps what was
    ``shown`` until it is taken from there.
    """
    import cv2

    previous: np.ndarray | None = None
    for f, picture in enumerate(pictures):
        if previous is not None:
            repeated[f - 1] = cv2.norm(previous, picture, cv2.NORM_L1) < _SAME * picture.size
        shown.append(picture)
        yield picture
        previous = picture


def _note_masks(
    frames: Iterable[Carried], coverage: np.ndarray, agreement: np.ndarray, robots: np.ndarray | None
) -> Iterator[Carried]:
    """``frames`` as they come; notes what their masks cover, where they agree with the next known one, and where
    ``robots`` is given the masks themselves, packed.
    """
    for f, frame in enumerate(frames):
        if frame.robot is not None:
            coverage[f], agreement[f] = np.count_nonzero(frame.robot) / frame.robot.size, frame.agreement
            if robots is not None:
                robots[f] = pack(frame.robot)
        yield frame
