"""Subtask boundaries from proprioception alone: gripper events and change points.

No model, no pictures. Two things mark the joints of a manipulation episode: the gripper opens or
closes, and the arm's motion changes its character. Both go into one signal whose change points the
`ruptures` library finds; boundaries near a gripper event are moved onto it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError

_GRIPPER_WORDS = ("gripper", "grip", "finger", "thumb", "pinky", "hand", "jaw", "claw")
#: Joints that only sound like a gripper.
_NOT_GRIPPER = ("wrist", "shoulder", "elbow")
#: Where a hand is or how it is turned says nothing of whether it is closed.
_POSE = re.compile(r"[._ ](x|y|z|rx|ry|rz|qx|qy|qz|qw|roll|pitch|yaw)$")
#: Samples at which change points are looked for: the search is quadratic in them.
_MOST_SAMPLES = 1200
_SAMPLES_A_SECOND = 10.0
#: Samples that the shortest subtask takes at least.
_LEAST_SAMPLES = 3


@dataclass(frozen=True)
class ProprioSignals:
    """What the boundaries are read from.

    Attributes:
        motion: float64 [T, joints], z-scored positions of everything but grippers.
        gripper: float64 [T, grippers], scaled to [0, 1].
        events: frames at which a gripper crosses the middle of its range, int [n].
    """

    motion: np.ndarray
    gripper: np.ndarray
    events: np.ndarray


def feature_names(feature: dict) -> list[str]:
    """Names of a feature's dimensions, flat; LeRobot sets hold lists, lists of lists or dicts."""
    names = feature.get("names")
    if isinstance(names, dict):
        names = [n for group in names.values() for n in (group if isinstance(group, list) else [group])]
    flat: list[str] = []
    for n in names or []:
        flat += [str(x) for x in n] if isinstance(n, list) else [str(n)]
    return flat


def gripper_dimensions(names: list[str], values: np.ndarray) -> np.ndarray:
    """Which dimensions of ``values`` [T, width] drive a gripper: by name, else those with two values only."""
    width = values.shape[1]
    found = np.zeros(width, dtype=bool)
    if len(names) == width:
        for i, name in enumerate(names):
            low = name.lower()
            named = any(w in low for w in _GRIPPER_WORDS) and not any(w in low for w in _NOT_GRIPPER)
            found[i] = named and not _POSE.search(low)
    if not found.any():
        found = np.array([0 < len(np.unique(values[:, i])) - 1 <= 1 for i in range(width)])
    return found


def read_signals(dataset: DatasetReader, row: int) -> ProprioSignals:
    """Read state and action of an episode and split them into motion and gripper.

    Raises:
        IgrftError: the dataset has neither state nor action.
        EpisodeError: NaN or infinity in them.
    """
    index = int(dataset.episode_indices[row])
    motion, gripper = [], []
    for key in (c.STATE, c.ACTION):
        if key not in dataset.features:
            continue
        values = dataset.column(row, key).astype(np.float64)
        values = values.reshape(len(values), -1)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise EpisodeError(f"episode {index}: {key} is not finite at frame {int(bad[0])}; mend or drop the episode")
        grips = gripper_dimensions(feature_names(dataset.features[key]), values)
        gripper.append(_unit_range(values[:, grips]))
        # Motion is read from the state; commands lead it, and would draw boundaries early.
        if key == c.STATE or c.STATE not in dataset.features:
            motion.append(values[:, ~grips])
    if not gripper:
        raise IgrftError(f"{dataset.root} has neither {c.STATE} nor {c.ACTION}; use another source of subtasks")
    g = np.concatenate(gripper, axis=1)
    return ProprioSignals(_z_score(np.concatenate(motion, axis=1)), g, _crossings(g, int(dataset.fps / 5)))


def find_boundaries(
    signals: ProprioSignals,
    fps: float,
    count: int | None,
    *,
    penalty: float,
    shortest: float,
    snap: float,
) -> list[int]:
    """Frames at which a new subtask begins, frame 0 left out.

    Args:
        count: how many boundaries there must be; None lets the penalty decide.
        penalty: price of a boundary, in units of log(samples) x dimensions, where ``count`` is None.
        shortest: least duration of a subtask, in seconds.
        snap: a boundary this near to a gripper event, in seconds, moves onto it.

    Raises:
        EpisodeError: the episode is too short for so many subtasks.
    """
    import ruptures

    length = len(signals.motion)
    rate = max(_SAMPLES_A_SECOND, _LEAST_SAMPLES / shortest)
    stride = max(1, round(fps / rate), -(-length // _MOST_SAMPLES))
    least = max(1, round(shortest * fps / stride))
    signal = _decimate(np.concatenate([signals.motion, 2.0 * _z_score(signals.gripper)], axis=1), stride)
    # A constant dimension says nothing and must not count in the penalty.
    signal = signal[:, signal.std(axis=0) > 1e-9]
    samples, width = signal.shape
    if count is not None and samples < (count + 1) * least:
        raise EpisodeError(f"{length} frames are too few for {count + 1} subtasks of at least {shortest} s")
    if count == 0 or width == 0 or samples < 2 * least:
        if count and width == 0:
            raise EpisodeError("state and action never change, so no boundary can be found")
        return []
    search = ruptures.KernelCPD(kernel="linear", min_size=least).fit(signal)
    if count is not None:
        found = search.predict(n_bkps=count)
    else:
        found = search.predict(pen=penalty * np.log(samples) * width)
    frames = [int(b * stride) for b in found[:-1]]
    return _snap(frames, signals.events, round(snap * fps), max(1, round(shortest * fps)), length)


def _snap(frames: list[int], events: np.ndarray, window: int, least: int, length: int) -> list[int]:
    """Move boundaries onto gripper events in reach, keeping order, the shortest length and their number."""
    out: list[int] = []
    for i, frame in enumerate(frames):
        low = (out[-1] if out else 0) + least
        high = (frames[i + 1] if i + 1 < len(frames) else length) - least
        near = events[(np.abs(events - frame) <= window) & (events >= low) & (events <= high)]
        best = int(near[np.argmin(np.abs(near - frame))]) if len(near) else frame
        out.append(max(best, (out[-1] + 1) if out else 1))
    return out


def _crossings(gripper: np.ndarray, quiet: int) -> np.ndarray:
    """Frames where a gripper signal settles on the other side of its range, int [n].

    It must pass 40 % and 60 % of the range, so that noise around the middle is no event, and ``quiet``
    frames must pass before the next event counts, so that chatter is one.
    """
    events: list[int] = []
    for i in range(gripper.shape[1]):
        signal = gripper[:, i]
        sides = np.where(signal > 0.6, 1, np.where(signal < 0.4, 0, -1))
        decided = np.flatnonzero(sides >= 0)
        changes = decided[1:][sides[decided[1:]] != sides[decided[:-1]]]
        last = -quiet - 1
        for frame in changes.tolist():
            if frame - last > quiet:
                events.append(frame)
                last = frame
    return np.unique(np.array(events, dtype=np.int64))


def _decimate(values: np.ndarray, stride: int) -> np.ndarray:
    """Mean over blocks of ``stride`` frames; a rest shorter than a block joins as it is."""
    whole = len(values) // stride * stride
    blocks = values[:whole].reshape(-1, stride, values.shape[1]).mean(axis=1)
    return np.concatenate([blocks, values[whole:].mean(axis=0, keepdims=True)]) if whole < len(values) else blocks


def _z_score(values: np.ndarray) -> np.ndarray:
    spread = values.std(axis=0) if len(values) else np.ones(values.shape[1])
    # Sensor noise on a joint that is held still must not be blown up to the size of a motion.
    floor = 0.05 * spread.max(initial=0.0)
    usable = spread > max(floor, 1e-9)
    out = np.zeros_like(values)
    out[:, usable] = (values[:, usable] - values[:, usable].mean(axis=0)) / spread[usable]
    return out


def _unit_range(values: np.ndarray) -> np.ndarray:
    """Scale to [0, 1]; a finger that barely moves beside the others stays at 0."""
    low, high = values.min(axis=0), values.max(axis=0)
    span = high - low
    moves = span > max(0.2 * span.max(initial=0.0), 1e-6)
    out = np.zeros_like(values)
    out[:, moves] = (values[:, moves] - low[moves]) / span[moves]
    return out
