"""Checks and mends the rows of one episode of a LeRobot v2.x dataset."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.files import to_numpy
from igrft.errors import EpisodeError
from igrft.recordings.legacy_columns import ColumnPlan, is_list
from igrft.recordings.video_facts import TOLERANCE_S, unreadable


@dataclass
class Rows:
    """The rows of one episode, ready for the converter.

    Attributes:
        table: columns of the plan, in its order.
        changed: whether anything differs from the source's file, which may else be linked.
        deviation: worst distance of a timestamp from ``frame_index / fps``, seconds, as recorded.
        mended: columns whose values made no sense and were rebuilt.
    """

    table: pa.Table
    changed: bool
    deviation: float
    mended: list[str] = field(default_factory=list)


def read_rows(path: Path) -> pa.Table:
    """The table in ``path``. Raises EpisodeError where it cannot be read or holds no row."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None
    if table.num_rows == 0:
        raise EpisodeError("it has no frame")
    return table


def mend_rows(
    source: pa.Table,
    plan: ColumnPlan,
    *,
    episode: int,
    first_index: int,
    fps: float,
    task_index: int | None,
    tasks: int,
    rebuild_timestamps: bool,
) -> Rows:
    """Bring one episode's rows to the plan.

    Args:
        source: as read from the source's file.
        episode: index of the episode in the converted dataset.
        first_index: ``index`` of its first row there.
        task_index: what to write where the source has no such column.
        tasks: how many tasks there are; ``task_index`` must be smaller.
        rebuild_timestamps: write ``frame_index / fps`` whatever was recorded.

    Raises:
        EpisodeError: rows that LeRobot cannot hold (empty values, other widths, NaN in what the robot
            did or sensed).
    """
    length = source.num_rows
    frame = np.arange(length)
    rows = Rows(source, changed=set(source.column_names) != set(plan.types), deviation=0.0)
    right = {
        c.FRAME_INDEX: frame,
        c.EPISODE_INDEX: np.full(length, episode),
        c.INDEX: first_index + frame,
    }
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name, want in plan.types.items():
        if name in right:
            columns[name] = _counted(source, name, right[name], rows)
        elif name == c.TASK_INDEX and name not in source.column_names:
            if task_index is None:
                raise EpisodeError("it has neither a column task_index nor a task in meta/episodes.jsonl; give --task")
            columns[name] = pa.array(np.full(length, task_index))
        elif name == c.TIMESTAMP:
            columns[name] = _timestamps(source, want, frame, fps, rows, rebuild=rebuild_timestamps)
        else:
            columns[name] = _as_type(source.column(name), want, name)
            rows.changed |= _differs(source.schema.field(name).type, want)
        _refuse_gaps(columns[name], name)
    rows.table = pa.table(columns)
    named = to_numpy(rows.table.column(c.TASK_INDEX))
    if named.min() < 0 or named.max() >= tasks:
        wrong = int(named.min() if named.min() < 0 else named.max())
        raise EpisodeError(f"task_index {wrong} is none of the {tasks} tasks of meta/tasks.jsonl")
    return rows


def _counted(source: pa.Table, name: str, right: np.ndarray, rows: Rows) -> pa.Array:
    """A column that counts. Whole shifts are how a renumbered dataset comes about; anything else is mended."""
    if name in source.column_names:
        found = to_numpy(source.column(name)).reshape(len(right), -1)[:, 0]
        if np.array_equal(found, right):
            return pa.array(right)
        shift = found.astype(np.float64) - right
        if name == c.FRAME_INDEX or not (shift == shift[0]).all():
            rows.mended.append(name)
    rows.changed = True
    return pa.array(right)


def _timestamps(
    source: pa.Table, want: pa.DataType | None, frame: np.ndarray, fps: float, rows: Rows, *, rebuild: bool
) -> pa.ChunkedArray | pa.Array:
    right = pa.array(frame / fps).cast(want or pa.float32(), safe=False)
    if c.TIMESTAMP not in source.column_names:
        rows.changed = True
        return right
    recorded = _as_type(source.column(c.TIMESTAMP), want, c.TIMESTAMP)
    # Against the rounded values: float32 alone is off by more than the tolerance after an hour.
    off = np.abs(to_numpy(recorded).astype(np.float64) - right.to_numpy(zero_copy_only=False))
    rows.deviation = float(np.max(off)) if np.isfinite(off).all() else float("inf")
    if rebuild and rows.deviation > 0:
        rows.changed = True
        return right
    if not np.isfinite(rows.deviation):
        raise EpisodeError("its timestamps hold NaN; convert with --rebuild-timestamps to set them to frame / fps")
    rows.changed |= _differs(source.schema.field(c.TIMESTAMP).type, want)
    return recorded


def off_the_frame_rate(deviation: float) -> bool:
    """Whether LeRobot would refuse to read the frame for this deviation in seconds."""
    return deviation > TOLERANCE_S


def _differs(have: pa.DataType, want: pa.DataType | None) -> bool:
    """Whether a file must be written again for the type; lists of fixed and of free width read alike."""
    if want is None or have == want:
        return False
    return not (pa.types.is_fixed_size_list(want) and is_list(have) and have.value_type == want.value_type)


def _as_type(column: pa.ChunkedArray, want: pa.DataType | None, name: str) -> pa.ChunkedArray:
    have = column.type
    _refuse_empty(column, name)
    if want is None or have == want:
        return column
    array = column.combine_chunks()
    try:
        if pa.types.is_fixed_size_list(want):
            if not is_list(have):
                raise EpisodeError(f"{name} has one number a frame where meta/info.json declares {want.list_size}")
            flat = _flat(array, want.list_size, name)
            return pa.chunked_array([pa.FixedSizeListArray.from_arrays(_cast(flat, want.value_type), want.list_size)])
        if is_list(have):
            array = _flat(array, 1, name)
        return pa.chunked_array([_cast(array, want)])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise EpisodeError(f"{name} is {have} where meta/info.json declares {want} ({error})") from None


def _cast(array: pa.Array, want: pa.DataType) -> pa.Array:
    """To a float anything may be rounded; to an integer nothing may be lost."""
    return array.cast(want, safe=not pa.types.is_floating(want))


def _flat(array: pa.Array, width: int, name: str) -> pa.Array:
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~(lengths == width))
    if len(wrong):
        raise EpisodeError(
            f"{name} has {lengths[wrong[0]]} numbers at frame {wrong[0]} where meta/info.json declares {width}"
        )
    return array.flatten()


def _refuse_empty(column: pa.ChunkedArray, name: str) -> None:
    if column.null_count:
        raise EpisodeError(f"{name} is empty at frame {int(np.flatnonzero(column.is_null().to_numpy())[0])}")


def _refuse_gaps(column: pa.ChunkedArray | pa.Array, name: str) -> None:
    """Raise for values that are empty in part, and for NaN or infinity in what the robot did or sensed."""
    values, width = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column, 1
    while is_list(values.type):
        inner = values.flatten()
        width *= len(inner) // max(len(values), 1)
        values = inner
        if values.null_count:
            raise EpisodeError(f"{name} is empty in part at frame {int(np.flatnonzero(values.is_null())[0]) // width}")
    if pa.types.is_floating(values.type) and (name == c.ACTION or name.startswith(("observation.", "action."))):
        bad = np.flatnonzero(~np.isfinite(np.asarray(values)))
        if len(bad):
            frames = np.unique(bad // max(width, 1))
            what = "NaN" if np.isnan(np.asarray(values)[bad]).any() else "infinity"
            more = f" and {len(frames) - 1} more" if len(frames) > 1 else ""
            raise EpisodeError(f"{name} holds {what} at frame {frames[0]}{more}")
