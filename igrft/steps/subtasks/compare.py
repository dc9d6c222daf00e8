"""Reads the subtasks of a dataset and of a reference, and scores the one against the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.reports.text import aligned, number, plural
from igrft.steps.subtasks.existing import existing_segments, has_existing
from igrft.steps.subtasks.file import read_subtask_file
from igrft.steps.subtasks.score import Score, Scores, score_episodes
from igrft.steps.subtasks.segments import Segment, check_cover, parse_segments

_HEADER = ("segments", "found", "F1", "precision", "recall", "frames", "median", "p90", "missed", "subtask")


@dataclass
class Comparison:
    """Scores, and the episodes that could not be compared, each with its reason."""

    scores: Scores
    left_out: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The scores' figures, and ``left_out`` by episode."""
        return {**self.scores.to_json(), "left_out": {str(i): reason for i, reason in self.left_out.items()}}

    def to_text(self) -> str:
        """A table: overall and a line a subtask; errors in seconds."""
        found = self.scores.to_json()
        rows = [_cells("overall", self.scores.overall)]
        rows += [_cells(name, score) for name, score in self.scores.subtasks.items()]
        lines = [
            f"{plural(found['episodes'], 'episode')}; segment F1 at IoU 0.5, share of frames with the right name,",
            "error of a segment's start in seconds",
            *aligned(_HEADER, rows, width=120),
            f"segments an episode: off by {number(found['count_error'])} on average ({found['count_bias']:+.2f}),",
            f"exact in {100 * found['count_exact_share']:.0f} % of the episodes",
        ]
        if self.left_out:
            lines.append(
                f"{plural(len(self.left_out), 'episode')} left out; the first: {next(iter(self.left_out.values()))}"
            )
        return "\n".join(lines)


def _cells(name: str, score: Score) -> list[str]:
    f = score.to_json()
    shares = [number(f[key]) for key in ("f1", "precision", "recall", "frame_accuracy")]
    errors = [number(f["boundary_error_median"]), number(f["boundary_error_p90"])]
    return [str(score.reference), str(score.found), *shares, *errors, str(score.missed), name]


def compare(dataset: str | Path, reference: str | Path, *, ignore_names: bool = False) -> Comparison:
    """Score a dataset's subtask labels.

    Args:
        dataset: folder or Hub id of a labelled dataset.
        reference: a subtask file, or a labelled dataset of the same episodes.
        ignore_names: compare places alone.

    Raises:
        IgrftError: no labels in either, or no episode in common.
    """
    ours = DatasetReader.open(locate(dataset, what="DATASET"))
    if not has_existing(ours):
        raise IgrftError(f"{ours.root} has no subtask labels; run: igrft annotate {ours.root} TARGET")
    where = locate(reference, what="REFERENCE")
    theirs = _from_file(where, ours) if where.is_file() else _from_dataset(where)
    pairs, left_out, compared = [], {}, 0
    for row, index in enumerate(ours.episode_indices.tolist()):
        try:
            known = theirs(index, int(ours.lengths[row]))
            if known is None:
                raise EpisodeError(f"episode {index} has no subtasks in {where}")
            found = existing_segments(ours, row)
            if not found:
                raise EpisodeError(f"episode {index} has no subtasks in {ours.root}")
            pairs.append((found, known))
            compared += 1
        except EpisodeError as error:
            left_out[index] = str(error)
    if not compared:
        raise IgrftError(f"{ours.root} and {where} have no episode in common; {next(iter(left_out.values()), '')}")
    return Comparison(score_episodes(pairs, ours.fps, ignore_names=ignore_names), left_out)


_Reference = Callable[[int, int], list[Segment] | None]


def _from_file(path: Path, ours: DatasetReader) -> _Reference:
    entries = read_subtask_file(str(path))

    def segments(index: int, length: int) -> list[Segment] | None:
        entry = entries.get(index)
        if entry is None or not entry.get("subtasks"):
            return None
        where = f"episode {index} in {path}"
        found = parse_segments(entry["subtasks"], where)
        check_cover(found, length, where)
        return found

    return segments


def _from_dataset(root: Path) -> _Reference:
    dataset = DatasetReader.open(root)
    if not has_existing(dataset):
        raise IgrftError(f"{root} has no subtask labels; give a labelled dataset or a subtask file as REFERENCE")
    rows = {int(index): row for row, index in enumerate(dataset.episode_indices.tolist())}

    def segments(index: int, length: int) -> list[Segment] | None:
        row = rows.get(index)
        if row is None:
            return None
        if int(dataset.lengths[row]) != length:
            raise EpisodeError(f"episode {index} has {length} frames, and {int(dataset.lengths[row])} in {root}")
        return existing_segments(dataset, row)

    return segments
