"""Subtasks that a dataset already has: language rows, SARM's columns, an older subtask_index."""

from __future__ import annotations

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError
from igrft.steps.subtasks.segments import Segment

#: SARM's episode columns, dense labels first: they are the finer ones.
_SARM = ("dense", "sparse")

#: How tables spell the success of an episode: booleans, numbers, words.
_WORDS = {
    "true": True,
    "1": True,
    "1.0": True,
    "success": True,
    "false": False,
    "0": False,
    "0.0": False,
    "failure": False,
}


def existing_segments(dataset: DatasetReader, row: int) -> list[Segment] | None:
    """Segments of an episode from the first form of labels that it has, or None.

    Order: ``language_persistent`` rows of style ``subtask``, SARM's ``{dense,sparse}_subtask_*`` of the
    episodes' table, ``subtask_index``. What igrft recorded says more (``done``, subtasks never begun),
    and is taken where the text or index still agrees with it: others may have edited those since.
    """
    ours = _from_igrft(dataset, row)
    for read in (_from_language, _from_sarm, _from_index):
        found = read(dataset, row)
        if found:
            return ours if ours and _places(ours) == _places(found) else found
    return ours


def _places(segments: list[Segment]) -> list[tuple[str, int]]:
    """Names and starts; neighbours of one name are one, as in text and index they look alike."""
    begun = [(s.name, s.start) for s in segments if s.end > s.start]
    return [p for i, p in enumerate(begun) if not i or begun[i - 1][0] != p[0]]


def has_existing(dataset: DatasetReader) -> bool:
    """Whether the dataset declares any form of subtask labels."""
    names = set(dataset.table.column_names)
    return (
        c.LANGUAGE_PERSISTENT in dataset.features
        or (c.SUBTASK_INDEX in dataset.features and bool(dataset.subtask_names))
        or any(f"{kind}_subtask_names" in names for kind in _SARM)
    )


def existing_success(dataset: DatasetReader, row: int) -> tuple[bool, str] | None:
    """Success as igrft recorded it and who said so (``source``, or still ``assumed`` or ``model``), or None."""
    entry = _igrft_entry(dataset, row)
    if not entry or entry.get("success") is None:
        return None
    said_by = entry.get("success_from")
    return bool(entry["success"]), said_by if said_by in ("assumed", "model") else "source"


def episode_table_success(dataset: DatasetReader, row: int) -> bool | None:
    """Success as a column of ``meta/episodes`` says it, or None."""
    for name in c.SUCCESS_SPELLINGS:
        if name in dataset.table.column_names:
            value = dataset.table.column(name)[row].as_py()
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            known = _WORDS.get(str(value).lower())
            if known is not None:
                return known
    return None


def _igrft_entry(dataset: DatasetReader, row: int) -> dict | None:
    record = dataset.igrft or {}
    return record.get("episodes", {}).get(str(int(dataset.episode_indices[row])))


def _from_igrft(dataset: DatasetReader, row: int) -> list[Segment] | None:
    entry = _igrft_entry(dataset, row)
    if not entry or not entry.get("subtasks"):
        return None
    return [Segment(s["name"], s["start"], s["end"], s["done"]) for s in entry["subtasks"]]


def _from_language(dataset: DatasetReader, row: int) -> list[Segment] | None:
    if c.LANGUAGE_PERSISTENT not in dataset.features:
        return None
    table = dataset.rows(row, [c.LANGUAGE_PERSISTENT, c.TIMESTAMP])
    if not table.num_rows:
        return None
    rows = [r for r in table.column(0)[0].as_py() or [] if r["style"] == c.SUBTASK_STYLE and r["content"]]
    if not rows:
        return None
    times = table.column(1).to_numpy().astype(np.float64)
    rows.sort(key=lambda r: r["timestamp"])
    starts = [int(np.argmin(np.abs(times - r["timestamp"]))) for r in rows]
    # A recording may be labelled from its first action on; what comes before belongs to it.
    starts[0] = 0
    return _close([r["content"] for r in rows], starts, int(dataset.lengths[row]))


def _from_sarm(dataset: DatasetReader, row: int) -> list[Segment] | None:
    for kind in _SARM:
        columns = [f"{kind}_subtask_{what}" for what in ("names", "start_frames", "end_frames")]
        if not set(columns) <= set(dataset.table.column_names):
            continue
        names, starts, ends = (dataset.table.column(n)[row].as_py() for n in columns)
        if not names:
            continue
        index = int(dataset.episode_indices[row])
        if not len(names) == len(starts) == len(ends):
            raise EpisodeError(f"episode {index}: {columns[0]} and its frames differ in length; correct meta/episodes")
        # SARM's ends are inclusive; neighbours abut or share a frame, and a lead-in may be unlabelled.
        begin = [0, *(int(s) for s in starts[1:])]
        return _close([str(n) for n in names], begin, int(dataset.lengths[row]))
    return None


def _from_index(dataset: DatasetReader, row: int) -> list[Segment] | None:
    names = dataset.subtask_names
    if c.SUBTASK_INDEX not in dataset.features or not names:
        return None
    values = dataset.column(row, c.SUBTASK_INDEX).astype(np.int64)
    if not len(values) or (values < 0).all():
        return None
    index = int(dataset.episode_indices[row])
    if values.min() < 0 or values.max() >= len(names):
        raise EpisodeError(
            f"episode {index}: subtask_index {values.min()} … {values.max()} leaves meta/subtasks.parquet"
        )
    starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    return _close([names[values[s]] for s in starts], starts.tolist(), len(values))


def _close(names: list[str], starts: list[int], length: int) -> list[Segment]:
    """Segments from starts alone: each ends where the next begins; neighbours of one name are one."""
    segments: list[Segment] = []
    for name, start, end in zip(names, starts, [*starts[1:], length], strict=True):
        if end <= start:
            raise EpisodeError(f"{name!r} starts at frame {start}, where the next subtask starts, so it has no frame")
        if segments and segments[-1].name == name:
            segments[-1] = Segment(name, segments[-1].start, end)
        else:
            segments.append(Segment(name, start, end))
    return segments
