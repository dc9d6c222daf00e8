"""Builds the ``language_persistent`` column: LeRobot's form of subtask text.

Every frame of an episode holds the same list: one row per subtask at the timestamp of its first
frame. Rows of other styles that the source has (plans, memories) stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c


def subtask_rows(segments: Sequence[Mapping[str, Any]], timestamps: np.ndarray) -> list[dict[str, Any]]:
    """Language rows of an episode's segments; one never begun has no row.

    Args:
        timestamps: of the episode's frames, float [T].
    """
    return [
        {
            "role": c.SUBTASK_ROLE,
            "content": s["name"],
            "style": c.SUBTASK_STYLE,
            "timestamp": float(np.float32(timestamps[s["start"]])),
            "camera": None,
            "tool_calls": None,
        }
        for s in segments
        if s["end"] > s["start"]
    ]


def language_column(
    table: pa.Table, lengths: np.ndarray, segments: Sequence[Sequence[Mapping[str, Any]]]
) -> pa.ListArray:
    """The column for whole episodes.

    Args:
        table: the episodes' rows, with ``timestamp`` and perhaps an older ``language_persistent``.
        lengths: frames of each episode, int [episodes].
        segments: of each episode; none for one set aside.

    Returns:
        Arrow list array, one element a frame.
    """
    kind = c.language_type()
    times = table.column(c.TIMESTAMP).to_numpy()
    older = table.column(c.LANGUAGE_PERSISTENT) if c.LANGUAGE_PERSISTENT in table.column_names else None
    rows: list[dict[str, Any]] = []
    counts: list[int] = []
    start = 0
    for length, listed in zip(lengths.tolist(), segments, strict=True):
        own = subtask_rows(listed, times[start : start + length]) if length else []
        if older is not None and length:
            kept = [r for r in older[start].as_py() or [] if r["style"] != c.SUBTASK_STYLE]
            own = sorted(kept + own, key=lambda r: (r["timestamp"], r["style"] or "", r["role"] or ""))
        rows += own
        counts.append(len(own))
        start += length
    values = _struct(rows, kind.value_type)
    per_frame = np.repeat(np.array(counts, dtype=np.int64), lengths)
    offsets = np.concatenate([[0], np.cumsum(per_frame)])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    # Element j of a frame is row (first of its episode + j).
    within = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], per_frame)
    indices = np.repeat(np.repeat(first, lengths), per_frame) + within
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values.take(pa.array(indices)), type=kind)


def _struct(rows: Sequence[Mapping[str, Any]], kind: pa.StructType) -> pa.StructArray:
    """Rows as Arrow; its JSON type cannot be made from Python objects, only cast from strings."""
    children = []
    for field in kind:
        if field.name == "tool_calls":
            texts = [_json_texts(r.get("tool_calls")) for r in rows]
            children.append(pa.array(texts, pa.list_(pa.string())).cast(field.type))
        else:
            children.append(pa.array([r.get(field.name) for r in rows], field.type))
    return pa.StructArray.from_arrays(children, fields=list(kind))


def _json_texts(calls: Sequence[Any] | None) -> list[str] | None:
    """Tool calls of an older row: JSON strings, or the objects that a writer let Arrow infer."""
    return None if calls is None else [call if isinstance(call, str) else json.dumps(call) for call in calls]
