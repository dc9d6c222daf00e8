"""How good subtask labels are, against a reference: arrays in, numbers out.

Only segments that have frames are looked at: a subtask that was listed and never begun has no place in time. What
counts as the same segment:

- **segment F1 at IoU 0.5**: a found segment is right where it has the name of a reference segment and their frames'
  intersection is at least half of their union. One found segment answers for one of the reference, no more.
- **frame accuracy**: share of frames that carry the reference's name.
- **boundary error**: for the starts of segments, frame 0 left out, |found - reference| in seconds. Starts of the same
  name are paired one to one, so that the sum of the errors is least; what has no partner is missed, and counted.
- **count error**: segments found less those of the reference, an episode.

``ignore_names`` compares places alone, for labels whose names are not the reference's ("phase 1").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igrft.steps.subtasks.segments import Segment

#: Least intersection over union of a segment that counts as found.
IOU = 0.5
_ANY = "any subtask"


@dataclass
class Score:
    """Figures of one subtask, or of all.

    Attributes:
        reference, found, matched: segments; matched are those of a right name and IoU.
        frames, frames_right: frames of the reference, and those of them with the right name.
        errors: seconds, one for each pair of starts.
        missed: starts of the reference without a partner.
        count_errors: segments found less those of the reference, one for each episode.
    """

    reference: int = 0
    found: int = 0
    matched: int = 0
    frames: int = 0
    frames_right: int = 0
    errors: list[float] = field(default_factory=list)
    missed: int = 0
    count_errors: list[int] = field(default_factory=list)

    @property
    def precision(self) -> float:
        """Matched over found, 0 … 1; NaN where nothing was found."""
        return self.matched / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """Matched over the reference's, 0 … 1; NaN where the reference has none."""
        return self.matched / self.reference if self.reference else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two, 0 … 1."""
        both = self.reference + self.found
        return 2 * self.matched / both if both else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of the reference's frames with the right name, 0 … 1."""
        return self.frames_right / self.frames if self.frames else float("nan")

    def error(self, quantile: float) -> float:
        """A quantile of the boundary error, seconds; NaN where no two starts could be paired."""
        return float(np.quantile(self.errors, quantile)) if self.errors else float("nan")

    def add(self, other: Score) -> None:
        """Count another's segments, frames and errors as one's own."""
        for name in ("reference", "found", "matched", "frames", "frames_right", "missed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors += other.errors
        self.count_errors += other.count_errors

    def to_json(self) -> dict[str, Any]:
        """Figures by name; what is not defined is null."""
        return {
            "segments": self.reference,
            "segments_found": self.found,
            "f1": _number(self.f1),
            "precision": _number(self.precision),
            "recall": _number(self.recall),
            "frame_accuracy": _number(self.accuracy),
            "boundary_error_median": _number(self.error(0.5)),
            "boundary_error_p90": _number(self.error(0.9)),
            "boundaries": len(self.errors),
            "boundaries_missed": self.missed,
            **_counts(self.count_errors),
        }


@dataclass
class Scores:
    """Figures of a dataset: overall and for each subtask."""

    episodes: int = 0
    overall: Score = field(default_factory=Score)
    subtasks: dict[str, Score] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Figures by name."""
        subtasks = {name: score.to_json() for name, score in self.subtasks.items()}
        return {"episodes": self.episodes, "overall": self.overall.to_json(), "subtasks": subtasks}


def _counts(errors: Sequence[int]) -> dict[str, Any]:
    """Mean absolute difference in the number of segments an episode, mean difference, share without one."""
    counts = np.asarray(errors, np.float64)
    some = len(counts) > 0
    return {
        "count_error": _number(np.abs(counts).mean() if some else float("nan")),
        "count_bias": _number(counts.mean() if some else float("nan")),
        "count_exact_share": _number((counts == 0).mean() if some else float("nan")),
    }


def score_episodes(
    episodes: Sequence[tuple[Sequence[Segment], Sequence[Segment]]], fps: float, *, ignore_names: bool = False
) -> Scores:
    """Compare segments of episodes.

    Args:
        episodes: (found, reference) of each; both cover the same frames.
        fps: frames a second.
        ignore_names: compare places alone.

    Raises:
        ValueError: found and reference cover different numbers of frames.
    """
    scores = Scores(len(episodes))
    pairs = [(_plain(found, ignore_names), _plain(reference, ignore_names)) for found, reference in episodes]
    scored = [score_episode(found, reference, fps) for found, reference in pairs]
    for name in dict.fromkeys(name for by_name in scored for name in by_name):
        scores.subtasks[name] = Score()
        for by_name in scored:
            # An episode that neither has is one in which their numbers agree.
            scores.subtasks[name].add(by_name.get(name, Score(count_errors=[0])))
        scores.overall.add(scores.subtasks[name])
    scores.overall.count_errors = [len(found) - len(reference) for found, reference in pairs]
    if ignore_names:
        # Every frame is in some segment: the share would always be 1.
        scores.subtasks, scores.overall.frames = {}, 0
    return scores


def score_episode(found: Sequence[Segment], reference: Sequence[Segment], fps: float) -> dict[str, Score]:
    """Figures of one episode by the subtask's name, the reference's names first. Arguments as above."""
    length = max((s.end for s in reference), default=0)
    if max((s.end for s in found), default=0) != length:
        raise ValueError(f"found segments end at {max((s.end for s in found), default=0)}, the reference at {length}")
    scores: dict[str, Score] = {}
    names = dict.fromkeys([s.name for s in reference] + [s.name for s in found])
    labels = _frames(found, length)
    for name in names:
        theirs, ours = ([s for s in segments if s.name == name] for segments in (reference, found))
        pairs, missed = _pair_starts([s.start for s in theirs if s.start], [s.start for s in ours if s.start])
        scores[name] = Score(
            reference=len(theirs),
            found=len(ours),
            matched=_matched(theirs, ours),
            frames=sum(s.end - s.start for s in theirs),
            frames_right=sum(sum(labels[f] == name for f in range(s.start, s.end)) for s in theirs),
            errors=[abs(a - b) / fps for a, b in pairs],
            missed=missed,
            count_errors=[len(ours) - len(theirs)],
        )
    return scores


def iou(a: Segment, b: Segment) -> float:
    """Frames that two segments share over those that either has, 0 … 1."""
    both = min(a.end, b.end) - max(a.start, b.start)
    return max(both, 0) / (max(a.end, b.end) - min(a.start, b.start)) if both > 0 else 0.0


def _matched(reference: Sequence[Segment], found: Sequence[Segment]) -> int:
    """Most pairs of IoU 0.5 and more; segments do not overlap within a list, so greedy by IoU is the most."""
    pairs = sorted(((iou(r, f), i, j) for i, r in enumerate(reference) for j, f in enumerate(found)), reverse=True)
    used: tuple[set[int], set[int]] = set(), set()
    for value, i, j in pairs:
        if value >= IOU and i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
    return len(used[0])


def _pair_starts(reference: Sequence[int], found: Sequence[int]) -> tuple[list[tuple[int, int]], int]:
    """One to one with the least sum of distances; and how many of the reference are left over."""
    if not reference or not found:
        return [], len(reference)
    from scipy.optimize import linear_sum_assignment

    distance = np.abs(np.subtract.outer(reference, found))
    rows, columns = linear_sum_assignment(distance)
    return [(reference[i], found[j]) for i, j in zip(rows, columns, strict=True)], len(reference) - len(rows)


def _plain(segments: Sequence[Segment], ignore_names: bool) -> list[Segment]:
    """Those that have frames; neighbours of one name are one, as in text and index they look alike."""
    plain: list[Segment] = []
    for s in segments:
        if s.end <= s.start:
            continue
        if not ignore_names and plain and plain[-1].name == s.name:
            plain[-1] = Segment(s.name, plain[-1].start, s.end)
        else:
            plain.append(Segment(_ANY if ignore_names else s.name, s.start, s.end))
    return plain


def _frames(segments: Sequence[Segment], length: int) -> list[str]:
    labels = [""] * length
    for s in segments:
        labels[s.start : s.end] = [s.name] * (s.end - s.start)
    return labels


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
