"""meta/info.json, the episodes' table, the tables of tasks and subtasks, and the record, against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.files import EPISODES, IGRFT, INFO, SUBTASKS, TASKS
from igrft.reports.checks.findings import Context

#: Columns of the episodes' table without which no row can be found.
_NEEDED = ("episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index")
_RECORDED = (c.TIMESTAMP, c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX)


def check_metadata(context: Context) -> bool:
    """All checks of this module; False where the table is too damaged to look at the rows."""
    if not _usable_table(context):
        return False
    _episode_indices(context)
    _totals(context)
    for name in _RECORDED:
        if name not in context.dataset.features:
            context.error(
                "columns", f"{INFO} declares no column {name!r}, which every LeRobot dataset has; convert it again"
            )
    _string_table(context, TASKS, "task_index", "task", needed=True)
    _string_table(context, SUBTASKS, c.SUBTASK_INDEX, "subtask", needed=c.SUBTASK_INDEX in context.dataset.features)
    _record(context)
    return True


def _usable_table(context: Context) -> bool:
    table = context.dataset.table
    good = True
    for name in _NEEDED:
        if name not in table.column_names:
            context.error("episodes", f"{EPISODES} has no column {name!r}; restore it from the source")
            good = False
        elif table.column(name).null_count:
            row = int(pc.index(pc.is_null(table.column(name)), True).as_py())
            context.error("episodes", f"{EPISODES}: {name!r} is empty in row {row}; restore it from the source")
            good = False
    return good


def _episode_indices(context: Context) -> None:
    """Indices without gaps, and where each episode's rows begin and end."""
    dataset = context.dataset
    indices, lengths, starts = dataset.episode_indices, dataset.lengths, dataset.from_index
    wrong = np.flatnonzero(indices != np.arange(len(indices)))
    if len(wrong):
        row = int(wrong[0])
        context.error(
            "indices",
            f"{EPISODES}: row {row} holds episode {indices[row]}, expected {row}: the indices have a gap or repeat; "
            "number the episodes 0, 1, 2 …",
        )
    for row in np.flatnonzero(lengths < 1):
        index = int(indices[row])
        tell = context.warn if index in context.aside else context.error
        tell("counts", f"has {lengths[row]} frames in {EPISODES}; remove it from the source", index)
    expected = np.cumsum(lengths) - lengths
    wrong = np.flatnonzero(starts != expected)
    if len(wrong):
        row = int(wrong[0])
        context.error(
            "indices",
            f"{EPISODES}: dataset_from_index is {starts[row]}, but the episodes before it hold {expected[row]} frames; "
            "write it again from the lengths",
            int(indices[row]),
        )
    if "dataset_to_index" not in dataset.table.column_names:
        context.error("episodes", f"{EPISODES} has no column 'dataset_to_index'; restore it from the source")
        return
    ends = dataset.table.column("dataset_to_index").to_numpy()
    for row in np.flatnonzero(ends != starts + lengths)[:20]:
        context.error(
            "indices",
            f"{EPISODES}: dataset_to_index is {ends[row]}, but dataset_from_index + length is "
            f"{starts[row] + lengths[row]}; write it again from the lengths",
            int(indices[row]),
        )


def _totals(context: Context) -> None:
    dataset = context.dataset
    for key, counted, where in (
        ("total_episodes", dataset.num_episodes, f"{EPISODES} lists"),
        ("total_frames", dataset.num_frames, f"the lengths in {EPISODES} add up to"),
    ):
        said = dataset.info.get(key)
        if said != counted:
            context.error("counts", f"{INFO}: {key} is {said}, but {where} {counted}; correct whichever is wrong")


def _string_table(context: Context, name: str, index: str, column: str, *, needed: bool) -> None:
    """tasks.parquet and subtasks.parquet: present, indices 0 … n-1, no name twice or empty."""
    path: Path = context.dataset.root / name
    check = "tasks" if name == TASKS else "subtasks"
    if not path.is_file():
        if needed:
            context.error(check, f"{name} is missing, but {index!r} is declared; restore it or label again")
        return
    table = pq.read_table(path)
    held = next((n for n in (column, "__index_level_0__") if n in table.column_names), None)
    if held is None or index not in table.column_names:
        context.error(check, f"{name} has no columns {index!r} and {column!r}; restore it or label again")
        return
    numbers, names = table.column(index).to_pylist(), table.column(held).to_pylist()
    if sorted(numbers) != list(range(len(numbers))):
        context.error(
            check,
            f"{name}: {index!r} should be 0 … {len(numbers) - 1}, each once, and is {numbers[:8]}; "
            "number its rows again",
        )
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        context.error(check, f"{name} lists {twice!r} twice; keep one row of it and renumber {index!r}")
    if check == "tasks" and context.dataset.info.get("total_tasks") not in (None, len(numbers)):
        said = context.dataset.info["total_tasks"]
        context.error(
            "counts", f"{INFO}: total_tasks is {said}, but {TASKS} has {len(numbers)} rows; correct whichever is wrong"
        )


def _record(context: Context) -> None:
    """meta/igrft.json speaks of this dataset."""
    known = {str(int(i)) for i in context.dataset.episode_indices}
    for key in context.entries:
        if key not in known:
            context.error(
                "record", f"{IGRFT} describes episode {key}, which {EPISODES} does not list; label the dataset again"
            )
    for name in context.record.get("columns") or ():
        if name not in context.dataset.features:
            context.error(
                "columns",
                f"{IGRFT} says that column {name!r} was written, but {INFO} does not declare it; "
                "label the dataset again",
            )
    if context.record.get("pipeline"):
        for missing in sorted(int(k) for k in known - set(context.entries)):
            context.error(
                "record",
                f"{IGRFT} says nothing of it, neither labels nor a reason; label the dataset again",
                missing,
            )
    for index, reason in sorted(context.aside.items()):
        text = reason.partition(": ")[2] or reason if reason.startswith("episode ") else reason
        context.warn("set aside", f"has no labels: {text}", index)
