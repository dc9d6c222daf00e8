"""Moves boundaries onto what the robot did: gripper events first, else where its motion changes.

Whoever sets boundaries from pictures (a model that sees two frames a second, a person) is right about what happens and
a little off in time. A subtask seldom ends in the middle of a sweep: it ends where the gripper closes or opens, or
where the arm comes to rest or turns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from igrft.steps.subtasks.proprio import ProprioSignals

#: Motion is smoothed over so many seconds before its slowest moments are looked for.
_SMOOTHING = 0.2
#: A slow moment counts where the motion is below this share of its median over the frames on which the robot moves.
_SLOW = 0.5


def snap_boundaries(
    starts: Sequence[int], signals: ProprioSignals, fps: float, *, window: float, shortest: float, length: int
) -> list[int]:
    """Move each boundary onto the nearest event in reach.

    Args:
        starts: first frames of all subtasks but the first, ascending.
        signals: motion and gripper events of the episode.
        fps: frames a second.
        window: seconds by which a boundary may move; 0 leaves all where they are.
        shortest: seconds that a subtask keeps at least where it has them now.
        length: T, frames of the episode.

    Returns:
        As many boundaries, ascending, each in 1 … T - 1. One that finds no event stays where it is.
    """
    reach, least = round(window * fps), max(1, round(shortest * fps))
    changes = motion_changes(signals.motion, fps) if reach else np.zeros(0, np.int64)
    snapped = list(starts)
    for i, frame in enumerate(starts):
        before = snapped[i - 1] if i else 0
        after = starts[i + 1] if i + 1 < len(starts) else length
        # Where a subtask is shorter than asked for already, it may not get shorter still.
        low = min(before + least, frame)
        high = max(after - least, frame)
        low, high = max(low, before + 1, frame - reach), min(high, after - 1, frame + reach)
        for events in (signals.events, changes):
            near = events[(events >= low) & (events <= high)]
            if len(near):
                snapped[i] = int(near[np.argmin(np.abs(near - frame))])
                break
    return snapped


def motion_changes(motion: np.ndarray, fps: float) -> np.ndarray:
    """Frames at which the robot is slowest for a while: it comes to rest, or turns. int [n], ascending.

    Args:
        motion: float64 [T, joints], z-scored positions.
        fps: frames a second.
    """
    length = len(motion)
    if length < 3 or not motion.shape[1]:
        return np.zeros(0, np.int64)
    speed = np.linalg.norm(np.gradient(motion, axis=0), axis=1) * fps
    width = max(1, round(_SMOOTHING * fps))
    padded = np.pad(speed, (width // 2, width - 1 - width // 2), mode="edge")
    smooth = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    moving = smooth[smooth > 1e-6]
    if not len(moving):
        return np.zeros(0, np.int64)
    slow = _SLOW * float(np.median(moving))
    # Rounded, so that a rest is one plateau and not as many moments as its last digit has.
    level = np.round(smooth / max(slow, 1e-9), 2)
    found: list[int] = []
    i = 1
    while i < length - 1:
        end = i
        while end + 1 < length and level[end + 1] == level[i]:
            end += 1
        if level[i - 1] > level[i] and end + 1 < length and level[end + 1] > level[i] and smooth[i] < slow:
            # Of a rest both ends are moments: one motion stops, and the next begins. Smoothing has eaten half its
            # width at either end.
            found += [i - width // 2, end + width // 2] if end - i > width else [(i + end) // 2]
        i = end + 1
    return np.asarray(found, np.int64)
