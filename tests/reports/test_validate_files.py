"""Damage to files and metadata: each kind is found, and nothing else is said."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import (
    IGRFT,
    INFO,
    STATS,
    TABLE,
    Damage,
    edit_rows,
    edit_table,
    in_json,
    in_table,
    messages,
    put,
    remove,
    segments,
    truncate,
)
from labelled_set import DATA_FILES, EPISODES

from igrft import columns as c
from igrft.reports.validate import validate

# Damage to files and metadata.


def drop_a_row(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)


def one_row_group(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path), path)


def drop_column(root: Path) -> None:
    for number in range(len(DATA_FILES)):
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        table = pq.read_table(path).drop_columns([c.INTERACTION])
        lengths = [EPISODES[i][0] for i in DATA_FILES[number]]
        with pq.ParquetWriter(path, table.schema) as writer:
            start = 0
            for length in lengths:
                writer.write_table(table.slice(start, length))
                start += length


def float64_rewards(root: Path) -> None:
    for episode in (0, 2):
        edit_rows(root, episode, lambda columns: None, types={c.REWARD: pa.float64()})


def stray_file(root: Path) -> None:
    (root / "data/chunk-000/file-009.parquet").write_bytes((root / "data/chunk-000/file-001.parquet").read_bytes())


FILES: dict[str, tuple[Damage, str, str]] = {
    "frames in info": (in_json(INFO, lambda i: i.update(total_frames=146)), "counts", "total_frames is 146, but"),
    "episodes in info": (in_json(INFO, lambda i: i.update(total_episodes=5)), "counts", "total_episodes is 5, but"),
    "tasks in info": (in_json(INFO, lambda i: i.update(total_tasks=2)), "counts", "total_tasks is 2, but"),
    "rows": (drop_a_row, "counts", "file-001.parquet holds 74 rows, but the episodes in it (2 to 3) have 75"),
    "a data file gone": (remove("data/chunk-000/file-001.parquet"), "files", "file-001.parquet is missing"),
    "a data file cut": (truncate("data/chunk-000/file-001.parquet"), "files", "file-001.parquet cannot be read"),
    "a stray data file": (stray_file, "files", "file-009.parquet belongs to no episode"),
    "an empty cell": (in_table(TABLE, lambda t: put(t, "length", 1, None)), "episodes", "'length' is empty in row 1"),
    "a column of the table": (
        in_table(TABLE, lambda t: t.pop("dataset_to_index")),
        "episodes",
        "no column 'dataset_to_index'",
    ),
    "a needed column of the table": (in_table(TABLE, lambda t: t.pop("length")), "episodes", "no column 'length'"),
    "to_index": (
        in_table(TABLE, lambda t: put(t, "dataset_to_index", 1, 71)),
        "indices",
        "dataset_to_index is 71, but",
    ),
    "task of the table": (
        in_table(TABLE, lambda t: put(t, "tasks", 1, ["other"])),
        "tasks",
        "episodes' table says 'other'",
    ),
    "undeclared": (in_json(INFO, lambda i: i["features"].pop(c.ACTION)), "columns", "'action' is not declared"),
    "declared and absent": (drop_column, "columns", "'interaction' is declared in meta/info.json and missing"),
    "dtype in info": (
        in_json(INFO, lambda i: i["features"][c.RETURN].update(dtype="int64")),
        "columns",
        "'return_to_go' is float, but",
    ),
    "dtype in parquet": (float64_rewards, "columns", "'reward' is double, but"),
    "shape in info": (
        in_json(INFO, lambda i: i["features"][c.RETURN].update(shape=[2])),
        "columns",
        "declares float32 [2]",
    ),
    "no stats": (remove(STATS), "statistics", "stats.json is missing"),
    "stats of a label": (in_json(STATS, lambda s: s.pop(c.RETURN)), "statistics", "has nothing of 'return_to_go'"),
    "a statistic": (in_json(STATS, lambda s: s[c.RETURN].pop("std")), "statistics", "has no std of 'return_to_go'"),
    "stale stats": (
        in_json(STATS, lambda s: s[c.RETURN].update(max=[0.9])),
        "statistics",
        "max[0] is 0.9 where the frames give 1 of",
    ),
    "count": (
        in_json(STATS, lambda s: s[c.RETURN].update(count=[145])),
        "statistics",
        "count[0] is 145 where the frames give 120",
    ),
    "stats in the table": (
        in_table(TABLE, lambda t: t.pop(f"stats/{c.RETURN}/q50")),
        "statistics",
        "no column 'stats/return_to_go/q50'",
    ),
    "count in the table": (
        in_table(TABLE, lambda t: put(t, f"stats/{c.RETURN}/count", 2, [25])),
        "statistics",
        "count is 25, expected 0",
    ),
    "no subtasks": (remove("meta/subtasks.parquet"), "subtasks", "subtasks.parquet is missing"),
    "subtask indices": (
        in_table("meta/subtasks.parquet", lambda t: put(t, c.SUBTASK_INDEX, 2, 5)),
        "subtasks",
        "should be 0 … 2",
    ),
    "record without an episode": (in_json(IGRFT, lambda r: r["episodes"].pop("1")), "record", "says nothing of it"),
    "record of another": (in_json(IGRFT, lambda r: r["episodes"].update({"9": {}})), "record", "describes episode 9"),
    "record of a column": (in_json(IGRFT, lambda r: r["columns"].append("value")), "columns", "'value' was written"),
    "overlap": (segments(0, 1, start=11), "subtasks", "'grasp' starts at frame 11 and overlaps what ends at 12"),
    "no cover": (segments(0, 0, start=1), "subtasks", "frames 0 to 1 before 'reach' belong to no subtask"),
    "weights": (segments(1, 1, weight=0.5), "subtasks", "sum to 1.16667, not to 1"),
    "done and never begun": (
        segments(1, 2, done=True, weight=0.0),
        "subtasks",
        "has no frame (30 to 30) and yet is done",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str, labelled: Path) -> None:
    damage, check, text = FILES[name]
    damage(labelled)
    found = validate(labelled, videos=False)
    assert {f.check for f in found.errors} - _FOLLOWS.get(name, set()) == {check}, messages(found)
    assert text in messages(found)


#: What cannot but be wrong, too.
_FOLLOWS = {
    "declared and absent": {"statistics"},
    "done and never begun": {"rewards"},
    "no cover": {"language"},
    "overlap": {"language", "rewards"},
}


def test_an_index_that_jumps(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "episode_index", 3, 4))
    assert "row 3 holds episode 4, expected 3" in messages(validate(labelled, videos=False))


def test_a_wrong_start(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "dataset_from_index", 1, 41))
    assert "dataset_from_index is 41, but the episodes before it hold 40 frames" in messages(
        validate(labelled, videos=False)
    )


def test_an_episode_without_frames(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "length", 3, 0))
    assert "episode 3: has 0 frames" in messages(validate(labelled, videos=False))


def test_an_undone_subtask_in_a_success(labelled: Path) -> None:
    segments(0, 1, done=False)(labelled)
    assert "'grasp' is not done in a success" in messages(validate(labelled, videos=False))


WARNINGS: dict[str, tuple[Damage, str, str]] = {
    "row groups": (one_row_group, "row groups", "file-001.parquet has 1 row groups for 2 episodes"),
    "foreign stats": (
        in_json(STATS, lambda s: s.update(x=s[c.RETURN])),
        "statistics",
        "statistics of 'x', which no column holds",
    ),
    "quantiles": (in_json(STATS, lambda s: s[c.ACTION].pop("q01")), "statistics", "no quantiles of action"),
    "stale recorded stats": (in_json(STATS, lambda s: s[c.ACTION].update(max=[9.0] * 3)), "statistics", "max[0] is 9"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name: str, labelled: Path) -> None:
    damage, check, text = WARNINGS[name]
    damage(labelled)
    found = validate(labelled, videos=False)
    assert found.ok, messages(found)
    assert {f.check for f in found.warnings} == {check, "set aside"}
    assert text in messages(found, "warning")


def test_a_subtask_that_earns_nothing_is_a_warning(labelled: Path) -> None:
    segments(0, 1, weight=0.0)(labelled)
    assert "'grasp' is done and earns nothing" in messages(validate(labelled, videos=False), "warning")
