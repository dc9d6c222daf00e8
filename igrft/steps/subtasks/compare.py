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

_HEADER = ("segments", "found", "off", "F1", "precision", "recall", "frames", "median", "p90", "missed", "subtask")


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
        counts = found["overall"]
        rows = [_cells("overall", self.scores.overall)]
        rows += [_cells(name, score) for name, score in self.scores.subtasks.items()]
        lines = [
            f"{plural(found['episodes'], 'episode')}; segment F1 at IoU 0.5, share of frames with the right name,",
            "error of a segment's start in seconds; off: by how many segments an episode",
            *aligned(_HEADER, rows, width=120),
            f"segments an episode: off by {number(counts['count_error'])} on average ({counts['count_bias']:+.2f}),",
            f"exact in {100 * counts['count_exact_share']:.0f} % of the episodes",
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
    counts = [str(score.reference), str(score.found), number(f["count_error"])]
    return [*counts, *shares, *errors, str(score.missed), name]


def compare(dataset: str | Path, reference: str | Path, *, ignore_names: bool = False) -> Comparison:
    """Score a dataset's subtask labels.

    Args:
        dataset: folder or Hub id of a labelled dataset.
        reference: a subtask file, or a labelled dataset of the same episodes.
        ignore_names: compare places alone.

    Raises:
        IgrftError: no labels in either, or no episode in common.
    """
    ours = DatasetReader.open(locate(dataset, what="DATASET", pictures=False))
    if not has_existing(ours):
        raise IgrftError(f"{ours.root} has no subtask labels; run: igrft annotate {ours.root} TARGET")
    where = locate(reference, what="REFERENCE", pictures=False)
    listed, theirs = _from_file(where) if where.is_file() else _from_dataset(where)
    rows = {int(index): row for row, index in enumerate(ours.episode_indices.tolist())}
    pairs, left_out = [], {}
    # A reference of the few episodes that somebody looked at says nothing of the others.
    for index in sorted(listed):
        try:
            row = rows.get(index)
            if row is None:
                raise EpisodeError(f"episode {index} of {where} is not in {ours.root}")
            known = theirs(index, int(ours.lengths[row]))
            found = existing_segments(ours, row)
            if not found:
                raise EpisodeError(f"episode {index} has no subtasks in {ours.root}")
            pairs.append((found, known))
        except EpisodeError as error:
            left_out[index] = str(error)
    if not pairs:
        raise IgrftError(
            f"{ours.root} and {where} have no episode in common; {next(iter(left_out.values()), '')}".rstrip("; ")
        )
    return Comparison(score_episodes(pairs, ours.fps, ignore_names=ignore_names), left_out)


#: Segments of an episode of so many frames. Raises EpisodeError where they do not fit it.
_Segments = Callable[[int, int], list[Segment]]


def _from_file(path: Path) -> tuple[set[int], _Segments]:
    entries = {i: e["subtasks"] for i, e in read_subtask_file(str(path)).items() if e.get("subtasks")}

    def segments(index: int, length: int) -> list[Segment]:
        where = f"episode {index} in {path}"
        found = parse_segments(entries[index], where)
        check_cover(found, length, where)
        return found

    return set(entries), segments


def _from_dataset(root: Path) -> tuple[set[int], _Segments]:
    dataset = DatasetReader.open(root)
    if not has_existing(dataset):
        raise IgrftError(f"{root} has no subtask labels; give a labelled dataset or a subtask file as REFERENCE")
    rows = {int(index): row for row, index in enumerate(dataset.episode_indices.tolist())}

    def segments(index: int, length: int) -> list[Segment]:
        row = rows[index]
        if int(dataset.lengths[row]) != length:
            raise EpisodeError(f"episode {index} has {length} frames, and {int(dataset.lengths[row])} in {root}")
        found = existing_segments(dataset, row)
        if not found:
            raise EpisodeError(f"episode {index} has no subtasks in {root}")
        return found

    return set(rows), segments
