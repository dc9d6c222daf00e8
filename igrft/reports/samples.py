"""Which frames and which episodes the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igrft.reports.summary import EpisodeSummary


@dataclass(frozen=True)
class Sample:
    """A frame shown large, and why it was chosen."""

    frame: int
    reason: str


def strip_frames(length: int, count: int = 10) -> list[int]:
    """Frames in the middle of ``count`` equal slots of the episode (fewer where it has fewer frames)."""
    count = max(1, min(count, length))
    return [min(int((i + 0.5) * length / count), length - 1) for i in range(count)]


def sample_frames(pixels: np.ndarray, flags: np.ndarray) -> list[Sample]:
    """Up to six frames that show whether the interaction label is right.

    The peaks of the first, middle and last third of the interaction frames, the frames nearest to
    the threshold on either side, and the quietest.

    Args:
        pixels: ``interaction_pixels`` [T]; NaN is never chosen.
        flags: ``interaction`` [T].
    """
    finite = np.isfinite(pixels)
    if not finite.any():
        return []
    chosen: dict[int, str] = {}
    on, off = flags & finite, ~flags & finite
    if off.any():
        chosen[int(np.argmax(np.where(off, pixels, -np.inf)))] = "the most motion without interaction"
        chosen[int(np.argmin(np.where(off, pixels, np.inf)))] = "the quietest frame"
    if on.any():
        chosen[int(np.argmin(np.where(on, pixels, np.inf)))] = "the least motion with interaction"
        # Thirds of the interaction frames, not its phases: a label that flickers has hundreds of phases.
        for third in np.array_split(np.flatnonzero(on), 3):
            if len(third):
                chosen[int(third[np.argmax(pixels[third])])] = "the most motion around here"
    for frame in strip_frames(len(pixels), 12)[1::2]:
        if len(chosen) < 6 and finite[frame]:
            chosen.setdefault(frame, "for comparison")
    return [Sample(f, chosen[f]) for f in sorted(chosen)]


def choose_episodes(summaries: Sequence[EpisodeSummary], most: int) -> dict[int, str]:
    """Rows of the episodes to show, with what they stand for, in order.

    All that have labels where they are few enough; else up to a third failures, the longest and the
    shortest, those with the most and the least interaction, and the rest evenly spread.
    """
    usable = [i for i, s in enumerate(summaries) if s.set_aside is None and s.frames]
    if len(usable) <= most:
        return dict.fromkeys(usable, "")
    chosen: dict[int, str] = {}
    failures = [i for i in usable if summaries[i].success is False]
    for i in _spread(failures, max(1, most // 3)):
        chosen.setdefault(i, "a failure")
    extremes = [
        (max(usable, key=lambda i: summaries[i].frames), "the longest"),
        (min(usable, key=lambda i: summaries[i].frames), "the shortest"),
    ]
    shares = [i for i in usable if summaries[i].interaction_share is not None]
    if shares:
        extremes.append((max(shares, key=lambda i: summaries[i].interaction_share or 0.0), "the most interaction"))
        extremes.append((min(shares, key=lambda i: summaries[i].interaction_share or 0.0), "the least interaction"))
    for i, reason in extremes:
        if len(chosen) < most:
            chosen.setdefault(i, reason)
    rest = [i for i in usable if i not in chosen]
    for i in _spread(rest, most - len(chosen)):
        chosen[i] = ""
    return dict(sorted(chosen.items()))


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """``count`` of ``rows``, evenly spread."""
    if count <= 0 or not rows:
        return []
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
