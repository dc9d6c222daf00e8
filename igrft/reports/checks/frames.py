"""What was recorded: indices, timestamps, tasks, numbers that are none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igrft import columns as c
from igrft.dataset.files import TASKS
from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.video_facts import TOLERANCE_S
from igrft.reports.checks.findings import Context
from igrft.reports.checks.part import Part


def check_frames(context: Context, part: Part) -> None:
    """All checks of this module on some episodes."""
    _widths(context, part)
    _indices(context, part)
    _timestamps(context, part)
    _tasks(context, part)
    _finite(context, part)


def _widths(context: Context, part: Part) -> None:
    """List columns are as wide as declared; those that are not are left out of the later checks."""
    for name in part.table.column_names:
        shape = list(context.dataset.features[name].get("shape") or [])
        kind = part.table.column(name).type
        if (
            not (pa.types.is_list(kind) or pa.types.is_large_list(kind))
            or len(shape) != 1
            or pa.types.is_struct(kind.value_type)
        ):
            continue
        widths = pc.list_value_length(part.table.column(name)).to_numpy()
        for e, at, frame, count in part.bad(~(widths == shape[0])):
            context.error(
                "columns",
                f"{name!r} has {widths[at]} numbers at frame {frame}, {shape[0]} are declared ({count} such frames); "
                "restore the file from the source",
                int(part.episodes[e]),
            )


def _indices(context: Context, part: Part) -> None:
    for name, expected in (
        (c.EPISODE_INDEX, part.spread(part.episodes)),
        (c.FRAME_INDEX, part.frame),
        (c.INDEX, part.spread(part.dataset.from_index[part.rows]) + part.frame),
    ):
        if name not in part:
            continue
        values = part.values(name)
        for e, at, frame, count in part.bad(values != expected):
            context.error(
                "indices",
                f"{name} is {values[at]} at frame {frame}, expected {expected[at]} ({count} such frames); "
                "convert again from the source",
                int(part.episodes[e]),
            )


def _timestamps(context: Context, part: Part) -> None:
    if c.TIMESTAMP not in part:
        return
    fps = context.dataset.fps
    times = part.values(c.TIMESTAMP)
    ideal = part.frame / fps
    # A float32 cannot hold a time past half an hour to 0.1 ms; its own rounding is no fault.
    rounding = np.spacing(ideal.astype(times.dtype)).astype(np.float64)
    off = np.abs(times.astype(np.float64) - ideal)
    wrong = ~(off <= np.maximum(TOLERANCE_S, rounding))
    for e, at, frame, count in part.bad(wrong, np.nan_to_num(off, nan=np.inf)):
        context.error(
            "timestamps",
            f"the timestamp of frame {frame} is {times[at]:.4f} s where {fps:g} frames/s give {ideal[at]:.4f} s, "
            f"{1000 * off[at]:.1f} ms off (the worst of {count} frames more than {1000 * TOLERANCE_S:g} ms off); "
            "correct fps, or convert with --rebuild-timestamps",
            int(part.episodes[e]),
        )


def _tasks(context: Context, part: Part) -> None:
    """task_index points into tasks.parquet and agrees with the episode's task strings."""
    if c.TASK_INDEX not in part:
        return
    try:
        names = context.dataset.tasks
    except IgrftError:
        return  # already said
    values = part.values(c.TASK_INDEX)
    outside = (values < 0) | (values >= len(names))
    beyond = set()
    for e, at, frame, _ in part.bad(outside):
        beyond.add(e)
        context.error(
            "tasks",
            f"task_index is {values[at]} at frame {frame}, but {TASKS} has {len(names)} rows; add the task or correct "
            "the index",
            int(part.episodes[e]),
        )
    for e, (start, length) in enumerate(zip(part.starts, part.lengths, strict=True)):
        if e in beyond:
            continue
        listed = context.dataset.episode_tasks(int(part.rows[e]))
        used = {names[i] for i in np.unique(values[start : start + length])}
        foreign = sorted(used - set(listed))
        if listed and foreign:
            context.error(
                "tasks",
                f"its rows are of task {foreign[0]!r}, but the episodes' table says {listed[0]!r}; correct either",
                int(part.episodes[e]),
            )


def _finite(context: Context, part: Part) -> None:
    """No NaN and no infinity in a recorded number, or in a label of an episode that has labels."""
    for name in part.table.column_names:
        if not str(context.dataset.features[name].get("dtype")).startswith("float"):
            continue
        try:
            values = part.values(name)
        except EpisodeError:
            continue  # widths differ: already said
        if values.dtype.kind != "f":
            continue
        finite = np.isfinite(values)
        if finite.all():
            continue
        bad = ~finite if finite.ndim == 1 else ~finite.reshape(len(finite), -1).all(axis=1)
        label = name in c.LABELS
        for e, _, frame, count in part.bad(bad):
            episode = int(part.episodes[e])
            message = f"{name!r} is not finite (NaN or infinite) at frame {frame} ({count} such frames)"
            if episode not in context.aside:
                todo = "label the episode again" if label else "repair the recording or leave the episode out"
                context.error("nan", f"{message}; {todo}", episode)
            elif not label:
                context.warn("nan", f"{message}; the episode is set aside", episode)
