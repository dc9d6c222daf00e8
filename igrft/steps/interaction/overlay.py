"""Pictures of what Eq. 1 saw on a few frames: the paper's Figure 6."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import EpisodeError
from igrft.steps.interaction.counts import ROBOT, InteractionCounts
from igrft.steps.interaction.evidence import Look
from igrft.steps.interaction.flow import FlowEstimator
from igrft.steps.interaction.masks import Keep, folder_mask_at, refuse_no_folder
from igrft.steps.interaction.motion import MotionEstimator
from igrft.steps.interaction.robot_mask.carry import Warp, planes
from igrft.steps.interaction.robot_mask.kept import kept, kept_masks
from igrft.steps.interaction.robot_mask.packed import unpack
from igrft.steps.interaction.robot_mask.protocol import SEGMENTERS
from igrft.steps.interaction.scale import Counter, Scale, flow_size
from igrft.steps.interaction.step import Interaction

#: Flow of this many times the threshold's length is drawn at full brightness.
_BRIGHTEST = 4.0


def overlay(
    dataset: DatasetReader,
    row: int,
    frames: Sequence[int],
    settings: Interaction | Mapping[str, Any],
    facts: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Compute the flow of a few frames again and draw it. Seeks: fit for a report, not for labelling.

    Args:
        dataset: the source, or the labelled dataset (its videos are the same).
        row: row of the episodes' table.
        frames: frame indices in the episode.
        settings: the step, or its entry as ``meta/igrft.json`` records it.
        facts: what the step recorded for the episode under ``interaction``: whether the camera's
            motion was taken out. Without it, it is where the background of the frame moves.

    Returns:
        For each frame, all pictures at the size of the flow:
        ``frame``; ``rgb`` uint8 [h, w, 3]; ``flow`` uint8 [h, w, 3], hue the direction, brightness
        the length, black on the robot; ``mask`` bool [h, w], the robot; ``moving`` bool [h, w], the
        pixels counted; ``pixels`` float, their number in reference pixels; ``interaction`` bool,
        before smoothing; ``compensated`` bool.

    Raises:
        EpisodeError: pictures or masks that are missing or damaged.
        IgrftError: RAFT's weights are not to be had.
    """
    step = _resolved(_step(settings, facts), dataset)
    *_, heavy, _ = step.expand()
    camera = heavy.known_camera()
    frame_size = picture_size(dataset, row, camera)
    size = flow_size(*frame_size, heavy.flow_height)
    scale = Scale.of(*size, dataset.fps, heavy.reference_fps)
    counter = Counter(*size, (step.flow_threshold,), scale)
    motions = MotionEstimator(*size, scale)
    estimator = heavy.estimator()
    robots = _Robots(heavy, dataset, row, heavy.fit(frame_size, size), size, estimator)
    look = Look(scale.area, heavy.mask_grow, heavy.change_threshold)
    found = []
    for frame in frames:
        x, y, base, pair = _flow(dataset, row, camera, frame, size, estimator)
        robot = robots.at(base)
        keep = look.background(robot, robots.at(min(base + 1, int(dataset.lengths[row]) - 1)))
        motion = motions.measure(x, y, keep)
        if facts is not None:
            compensated = facts.get("camera_motion") == "compensate" and motion.homography is not None
        else:
            wanted = step.camera_motion in ("auto", "compensate") and motion.magnitude > step.motion_threshold
            compensated = wanted and motion.homography is not None
        if compensated:
            assert motion.homography is not None
            x, y = motions.residual(x, y, motion.homography)
        counted = look.counted(pair, keep, motion.homography if compensated else None)
        energy = counter.energy(x, y, counted)
        pixels = float(counter.count(energy)[0])
        found.append(
            {
                "frame": int(frame),
                "rgb": frames_at(dataset, row, camera, [frame], size=size)[0],
                "flow": flow_picture(x, y, keep, _BRIGHTEST * (step.flow_threshold * scale.squared) ** 0.5),
                "mask": np.zeros(energy.shape, bool) if robot is None else robot > 0,
                "moving": energy > np.float32(step.flow_threshold * scale.squared),
                "pixels": pixels,
                "interaction": pixels > step.pixel_threshold,
                "compensated": compensated,
            }
        )
    return found


def _step(settings: Interaction | Mapping[str, Any], facts: Mapping[str, Any] | None) -> Interaction:
    if isinstance(settings, Interaction):
        step = settings
    else:
        known = {f.name for f in dataclasses.fields(Interaction)}
        values = {k: v for k, v in settings.items() if k in known}
        if "ladder" in values:
            values["ladder"] = tuple(values["ladder"])
        step = Interaction(**values)
    if step.camera is None and facts and facts.get("camera"):
        step = dataclasses.replace(step, camera=facts["camera"])
    return step


def _resolved(step: Interaction, dataset: DatasetReader) -> Interaction:
    """Masks are kept in the dataset: where they came from need not be at hand any more."""
    if step.robot_mask not in (*SEGMENTERS, "folder"):
        return step.resolve(dataset)
    camera = dataclasses.replace(step, robot_mask="none").resolve(dataset).camera
    return dataclasses.replace(step, camera=camera)


def _flow(
    dataset: DatasetReader, row: int, camera: str, frame: int, size: tuple[int, int], estimator: FlowEstimator
) -> tuple[np.ndarray, np.ndarray, int, tuple[np.ndarray, np.ndarray]]:
    """The flow's components at ``frame``, the frame it starts from (the last repeats the one before), and the pictures
    that it lies between.
    """
    length = int(dataset.lengths[row])
    if not 0 <= frame < length:
        raise EpisodeError(f"episode {int(dataset.episode_indices[row])} has no frame {frame}: it has {length}")
    base = max(min(frame, length - 2), 0)
    if length < 2:
        still, black = np.zeros(size[::-1], np.float32), np.zeros(size[::-1], np.uint8)
        return still, still, base, (black, black)
    previous, following = frames_at(dataset, row, camera, [base, base + 1], size=size, color=estimator.color)
    flow = estimator(previous, following)
    return np.ascontiguousarray(flow[..., 0]), np.ascontiguousarray(flow[..., 1]), base, (previous, following)


class _Robots:
    """The robot on single frames of an episode, as the counting saw it."""

    def __init__(
        self,
        heavy: InteractionCounts,
        dataset: DatasetReader,
        row: int,
        fit: Keep,
        size: tuple[int, int],
        estimator: FlowEstimator,
    ) -> None:
        self._heavy, self._dataset, self._row, self._fit = heavy, dataset, row, fit
        self._size, self._estimator = size, estimator
        self._kept: tuple[np.ndarray, tuple[int, int]] | None = None
        if heavy.segmented:
            self._kept = kept_masks(dataset, row)
        elif heavy.robot_mask == "folder":
            found = kept(dataset, row, InteractionCounts.type)
            if found is not None and ROBOT in found[0]:
                self._kept = found[0][ROBOT], size

    def at(self, frame: int) -> np.ndarray | None:
        """uint8 [h, w] at the flow's size, 1 on the robot; None where no masks are used."""
        heavy, episode = self._heavy, int(self._dataset.episode_indices[self._row])
        if heavy.robot_mask == "none":
            return None
        if self._kept is not None:
            return self._carried(frame, *self._kept)
        if heavy.robot_mask == "feature":
            mask = frames_at(self._dataset, self._row, str(heavy.mask_key), [frame], color="gray")[0]
        else:
            count = int(self._dataset.lengths[self._row])
            refuse_no_folder(heavy.mask_path)
            mask = folder_mask_at(Path(str(heavy.mask_path)), episode, count, frame)
        return self._fit.robot(mask, episode, frame)

    def _carried(self, frame: int, masks: np.ndarray, held: tuple[int, int]) -> np.ndarray:
        """From the known masks around a frame, by the flow between them, computed again."""
        episode = int(self._dataset.episode_indices[self._row])
        known = np.array([f for f, mask in enumerate(masks) if mask is not None])
        before, after = int(known[known <= frame].max()), int(known[known >= frame].min())
        fit = Keep(self._heavy.known_camera(), held, self._size, allow_resize=True, threshold=None)
        first, last = (fit.robot(unpack(masks[f], held), episode, f) for f in (before, after))
        if frame == before:
            return first
        camera, color = self._heavy.known_camera(), self._estimator.color
        pictures = frames_at(self._dataset, self._row, camera, range(before, after + 1), size=self._size, color=color)
        flows = [planes(flow) for flow in self._estimator.stream(pictures)]
        return Warp(*self._size).between(first, last, flows)[0][frame - before]


def flow_picture(x: np.ndarray, y: np.ndarray, keep: np.ndarray | None, brightest: float) -> np.ndarray:
    """Flow as a picture, uint8 [h, w, 3] RGB: hue is the direction, brightness the length.

    Args:
        x, y: the flow's components, float32 [h, w].
        keep: float32 [h, w], 0 on the robot, which is drawn black; or None.
        brightest: flow of this length in pixels, and more, is drawn at full brightness.
    """
    import cv2

    length, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    value = np.clip(length * (255 / brightest), 0, 255)
    if keep is not None:
        value = value * keep
    hsv = np.stack([angle / 2, np.full_like(value, 255), value], axis=2).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
