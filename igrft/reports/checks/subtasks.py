"""Subtasks in their three places: the record's segments, subtask_index, language_persistent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import IGRFT, SUBTASKS
from igrft.errors import IgrftError
from igrft.reports.checks.findings import Context
from igrft.reports.checks.part import Part

_AGAIN = "label the episode again"
Segments = Sequence[Mapping[str, Any]]


def check_subtasks(context: Context, part: Part) -> None:
    """All checks of this module on some episodes."""
    for row, length in zip(part.rows.tolist(), part.lengths.tolist(), strict=True):
        episode = int(context.dataset.episode_indices[row])
        segments = context.entry(episode).get("subtasks")
        if segments and episode not in context.aside:
            _segments(context, episode, segments, length)
    if c.SUBTASK_INDEX in part:
        _index(context, part)
    if c.LANGUAGE_PERSISTENT in part:
        _language(context, part)


def _segments(context: Context, episode: int, segments: Segments, length: int) -> None:
    """They stand in order and cover the episode; weights sum to 1; what is done earns, and a success has all done."""

    def error(text: str) -> None:
        context.error("subtasks", f"{text} in {IGRFT}; {_AGAIN}", episode)

    at = 0
    for s in segments:
        name, start, end = s["name"], s["start"], s["end"]
        if start == end == length:
            if s["done"]:
                error(f"{name!r} has no frame ({start} to {end}) and yet is done")
            continue
        if start < at:
            error(f"{name!r} starts at frame {start} and overlaps what ends at {at}")
        elif start > at:
            error(f"frames {at} to {start} before {name!r} belong to no subtask")
        if end <= start or end > length:
            error(f"{name!r} runs from frame {start} to {end} in an episode of {length} frames")
        at = max(at, end)
    if at < length:
        error(f"the subtasks end at frame {at} of {length}")
    if any("weight" not in s for s in segments):
        return
    weights = [float(s["weight"]) for s in segments]
    if min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        error(f"the weights of its subtasks sum to {sum(weights):.6g}, not to 1 (or one is negative)")
    done = {s["name"] for s in segments if s["done"]}
    for s in segments:
        if s["done"] and not s["weight"] > 0:
            context.warn(
                "subtasks", f"{s['name']!r} is done and earns nothing: its weight is 0; give it a weight", episode
            )
        if context.entry(episode).get("success") and s["name"] not in done:
            error(f"{s['name']!r} is not done in a success")


def _index(context: Context, part: Part) -> None:
    """subtask_index points into subtasks.parquet and agrees with the segments."""
    try:
        names = context.dataset.subtask_names
    except IgrftError:
        return  # already said
    number = {name: i for i, name in enumerate(names)}
    values = part.values(c.SUBTASK_INDEX)
    aside = part.spread(np.array([int(e) in context.aside for e in part.episodes], dtype=bool))
    outside = ((values < 0) | (values >= len(names))) & ~aside
    beyond = set()
    for e, at, frame, count in part.bad(outside):
        beyond.add(e)
        context.error(
            "subtasks",
            f"subtask_index is {values[at]} at frame {frame}, but {SUBTASKS} has {len(names)} rows "
            f"({count} such frames); {_AGAIN}",
            int(part.episodes[e]),
        )
    expected = values.copy()
    for e, (start, length) in enumerate(zip(part.starts.tolist(), part.lengths.tolist(), strict=True)):
        episode = int(part.episodes[e])
        segments = context.entry(episode).get("subtasks")
        if not segments or episode in context.aside or e in beyond:
            continue
        unknown = next((s["name"] for s in segments if s["name"] not in number), None)
        if unknown is not None:
            context.error("subtasks", f"{unknown!r} of {IGRFT} is not in {SUBTASKS}; {_AGAIN}", episode)
            continue
        for s in segments:
            expected[start + max(0, s["start"]) : start + min(s["end"], length)] = number[s["name"]]
    for e, at, frame, count in part.bad(values != expected):
        context.error(
            "subtasks",
            f"subtask_index is {values[at]} at frame {frame}, but {IGRFT} has {names[expected[at]]!r} "
            f"({expected[at]}) there ({count} such frames); {_AGAIN}",
            int(part.episodes[e]),
        )


def _language(context: Context, part: Part) -> None:
    """language_persistent holds the same rows on every frame of an episode: those of the segments."""
    column = part.table.column(c.LANGUAGE_PERSISTENT).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    differs = _differing_frames(column, part)
    for e, _, frame, count in part.bad(differs):
        context.error(
            "language",
            f"language_persistent at frame {frame} differs from frame 0 ({count} such frames); {_AGAIN}",
            int(part.episodes[e]),
        )
    if not context.made(c.LANGUAGE_PERSISTENT):
        return
    times = part.values(c.TIMESTAMP) if c.TIMESTAMP in part else None
    for e, start in enumerate(part.starts.tolist()):
        episode = int(part.episodes[e])
        rows = [r for r in column[start].as_py() or [] if r["style"] == c.SUBTASK_STYLE]
        if episode in context.aside:
            if rows:
                context.error(
                    "set aside", f"was set aside, but has {len(rows)} rows of subtask text; {_AGAIN}", episode
                )
            continue
        segments = context.entry(episode).get("subtasks")
        if segments and times is not None:
            _compare_rows(context, part, e, rows, [s for s in segments if s["end"] > s["start"]], times)


def _compare_rows(
    context: Context, part: Part, e: int, rows: list[dict[str, Any]], segments: Segments, times: np.ndarray
) -> None:
    start, length = int(part.starts[e]), int(part.lengths[e])
    wanted = [(s["name"], float(times[start + min(s["start"], length - 1)])) for s in segments]
    found = [(r["content"], float(r["timestamp"])) for r in rows]
    same = len(wanted) == len(found) and all(
        a == b and abs(x - y) <= 1e-4 for (a, x), (b, y) in zip(wanted, found, strict=True)
    )
    if not same:
        context.error(
            "language",
            f"language_persistent has {_spell(found)}, but {IGRFT} has {_spell(wanted)}; {_AGAIN}",
            int(part.episodes[e]),
        )
    elif any(r["role"] != c.SUBTASK_ROLE for r in rows):
        context.error(
            "language", f"a row of subtask text is not of role {c.SUBTASK_ROLE!r}; {_AGAIN}", int(part.episodes[e])
        )


def _spell(rows: list[tuple[str, float]]) -> str:
    return (
        ", ".join(f"{name!r} at {time:.2f} s" for name, time in rows[:4]) + (" …" if len(rows) > 4 else "") or "no row"
    )


def _differing_frames(column: pa.ListArray, part: Part) -> np.ndarray:
    """Whether a frame's rows differ from those of its episode's first frame, bool [N]."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    counts = np.diff(offsets)
    first = part.spread(part.starts)
    differs = counts != counts[first]
    leaves = column.values
    frame_of = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(frame_of)) + offsets[0]
    reference = offsets[first[frame_of]] + position - offsets[frame_of]
    comparable = ~differs[frame_of]
    unequal = np.zeros(len(frame_of), dtype=bool)
    for name in ("role", "content", "style", "timestamp"):
        leaf = leaves.field(name)
        if pa.types.is_string(leaf.type):
            codes = leaf.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
        else:
            codes = leaf.to_numpy(zero_copy_only=False)
        unequal[comparable] |= codes[position[comparable]] != codes[reference[comparable]]
    differs[frame_of[unequal]] = True
    return differs
