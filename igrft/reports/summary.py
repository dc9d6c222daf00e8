"""One line of facts per episode: what inspect lists and the page plots over the dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.reports.rollouts.record import Rollouts, intervention_column, read_rollouts, takeovers_of


@dataclass
class EpisodeSummary:
    """Facts about one episode; None where the dataset does not say.

    Attributes:
        episode: ``episode_index``.
        frames: T.
        seconds: T over the frame rate.
        tasks: task strings.
        success: as recorded by igrft, else by a success column.
        success_from: ``file``, ``source`` or ``assumed``, where igrft recorded it.
        subtasks: {name, start, end, done[, weight]}, in order; ``done`` is None where unknown.
        interaction_share: share of frames with interaction.
        return_at_start: return-to-go of the first frame.
        set_aside: the reason why the episode has no labels.
        takeovers: {start, end, by, why}, in order; ``end`` is exclusive, ``by`` and ``why`` are None where unknown.
            None altogether where the dataset says nothing of interventions.
        human_share: share of frames that a human drove.
        ended: why a rollout ended, as it was recorded.
    """

    episode: int
    frames: int
    seconds: float
    tasks: list[str] = field(default_factory=list)
    success: bool | None = None
    success_from: str | None = None
    subtasks: list[dict[str, Any]] = field(default_factory=list)
    interaction_share: float | None = None
    return_at_start: float | None = None
    set_aside: str | None = None
    takeovers: list[dict[str, Any]] | None = None
    human_share: float | None = None
    ended: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def listed(self) -> list[dict[str, Any]]:
        """The subtasks that count: of a name that repeats (a retry) only the one that stands for it."""
        by_name: dict[str, dict[str, Any]] = {}
        for s in self.subtasks:
            if s["name"] not in by_name or s["done"] or not by_name[s["name"]]["done"]:
                by_name[s["name"]] = s
        return list(by_name.values())


def summarise(dataset: DatasetReader) -> list[EpisodeSummary]:
    """Summaries of all episodes, in the order of the episodes' table.

    Walks the data files once where a label column is there; memory does not grow with the frames.
    """
    aside = set_aside_reasons(dataset)
    rollouts = read_rollouts(dataset)
    entries = (dataset.igrft or {}).get("episodes") or {}
    out = []
    for row, (index, length) in enumerate(zip(dataset.episode_indices, dataset.lengths, strict=True)):
        entry = entries.get(str(int(index))) or {}
        out.append(
            EpisodeSummary(
                episode=int(index),
                frames=int(length),
                seconds=float(length) / dataset.fps,
                tasks=dataset.episode_tasks(row),
                success=entry.get("success"),
                success_from=entry.get("success_from"),
                subtasks=list(entry.get("subtasks") or []),
                set_aside=aside.get(int(index)),
            )
        )
        _add_rollout(out[-1], rollouts)
    _add_columns(dataset, out)
    return out


def _add_rollout(one: EpisodeSummary, rollouts: Rollouts) -> None:
    """What was recorded when the episode was rolled out."""
    ended = rollouts.episodes.get(one.episode, {}).get("ended")
    one.ended = str(ended) if ended else None
    found = rollouts.takeovers(one.episode)
    if found is not None:
        one.takeovers = [t.to_json() for t in found]
        one.human_share = sum(t.end - t.start for t in found) / max(one.frames, 1)


def set_aside_reasons(dataset: DatasetReader) -> dict[int, str]:
    """Why annotate set episodes aside, by ``episode_index``."""
    entries = (dataset.igrft or {}).get("episodes") or {}
    return {int(k): str(e["set_aside"]) for k, e in entries.items() if e and e.get("set_aside")}


def left_out_reasons(dataset: DatasetReader) -> dict[str, str]:
    """Why convert left recordings out, by their name in the source; they are not in the dataset."""
    found = ((dataset.igrft or {}).get("convert") or {}).get("set_aside") or {}
    if isinstance(found, Mapping):
        return {str(k): str(v) for k, v in found.items()}
    return {str(i): str(reason) for i, reason in enumerate(found)}


def _add_columns(dataset: DatasetReader, summaries: list[EpisodeSummary]) -> None:
    """Fill in what only the label columns say."""
    success = next((n for n in c.SUCCESS_SPELLINGS if n in dataset.features), None)
    human = intervention_column(dataset)
    reason = c.TAKEOVER_REASON if human else None
    names = [n for n in (c.RETURN, c.INTERACTION, success, human, reason) if n and n in dataset.features]
    recorded = any(s.subtasks for s in summaries)
    if not recorded and c.SUBTASK_INDEX in dataset.features and dataset.subtask_names:
        names.append(c.SUBTASK_INDEX)
    if not names:
        return
    for relative, rows in dataset.data_files:
        for part, table in dataset.iter_file(relative, rows, names=names):
            _add_part(dataset, summaries, part, table, success, human)


def _add_part(
    dataset: DatasetReader,
    summaries: list[EpisodeSummary],
    rows: np.ndarray,
    table: pa.Table,
    success: str | None,
    human: str | None,
) -> None:
    lengths = dataset.lengths[rows]
    starts = np.cumsum(lengths) - lengths
    held = {n: table.column(n).to_numpy() for n in table.column_names}
    for row, start, length in zip(rows, starts, lengths, strict=True):
        one = summaries[row]
        if not length:
            continue
        span = slice(int(start), int(start + length))
        if success and one.success is None and one.set_aside is None:
            one.success = bool(held[success][span].any())
        if human:
            flags = held[human][span].astype(bool)
            one.human_share = float(flags.mean())
            if one.takeovers is None:
                reasons = held[c.TAKEOVER_REASON][span] if c.TAKEOVER_REASON in held else None
                one.takeovers = [t.to_json() for t in takeovers_of(flags, reasons)]
        if one.set_aside is not None:
            continue
        if c.RETURN in held and np.isfinite(held[c.RETURN][start]):
            one.return_at_start = float(held[c.RETURN][start])
        if c.INTERACTION in held:
            one.interaction_share = float(held[c.INTERACTION][span].mean())
        if c.SUBTASK_INDEX in held:
            one.subtasks = runs(held[c.SUBTASK_INDEX][span], dataset.subtask_names)


def runs(indices: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Segments of equal ``subtask_index`` [T]; frames of an index without a name belong to none."""
    starts = np.flatnonzero(np.diff(indices, prepend=indices[0] - 1))
    ends = [*starts[1:].tolist(), len(indices)]
    return [
        {"name": names[int(indices[s])], "start": int(s), "end": int(e), "done": None}
        for s, e in zip(starts, ends, strict=True)
        if 0 <= indices[s] < len(names)
    ]


def pipeline_step(record: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Settings of the last step of a type in the pipeline of ``meta/igrft.json``, or None."""
    steps = (record.get("pipeline") or {}).get("steps") or []
    return next((dict(s) for s in reversed(steps) if s.get("type") == kind), None)
