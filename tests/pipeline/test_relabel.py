"""Labelling what is labelled already, and datasets that contradict themselves."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import add_column, edit_subtasks
from synthetic import write_dataset

from igrft import annotate, validate
from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError

FROM_FILE = [{"type": "subtasks", "source": "file"}, {"type": "rewards"}, {"type": "returns"}]


def records(root):
    return DatasetReader.open(root).igrft["episodes"]


def test_a_table_that_disagrees_with_the_rows_is_refused(source, pipeline_file, tmp_path):
    path = source / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    lengths = table.column("length").to_pylist()
    lengths[0], lengths[1] = lengths[1], lengths[0]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for name, values in {"length": lengths, "dataset_from_index": starts[:-1], "dataset_to_index": starts[1:]}.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(np.asarray(values)))
    pq.write_table(table, path)
    with pytest.raises(IgrftError, match="holds a row of episode . where the episodes' table says episode ."):
        annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert not (tmp_path / "out").exists()


def test_nan_in_the_state_is_set_aside_whatever_the_pipeline(source, pipeline_file, tmp_path):
    path = source / "data/chunk-000/file-001.parquet"
    table = pq.ParquetFile(path).read()
    values = np.array(table.column(c.ACTION).combine_chunks().flatten())
    values[-1] = np.inf
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    pq.write_table(table.set_column(table.column_names.index(c.ACTION), c.ACTION, column), path)
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert list(result.set_aside) == [5] and "action is not finite at frame" in result.set_aside[5]


def test_a_correction_of_the_segments_keeps_what_the_file_says_of_success(
    source, subtask_file, pipeline_file, tmp_path
):
    edit_subtasks(subtask_file, lambda e: e["1"].update(success=False))
    entries = json.loads(subtask_file.read_text())["episodes"]
    fixes = {"1": {"subtasks": entries["1"]["subtasks"]}, "2": {"success": False}}
    (tmp_path / "fixes.json").write_text(json.dumps({"episodes": fixes}))
    steps = [{**FROM_FILE[0], "overrides": "fixes.json"}, *FROM_FILE[1:]]
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file(steps))
    assert not result.set_aside and not result.assumed_successes
    found = records(tmp_path / "out")
    assert (found["1"]["success"], found["2"]["success"]) == (False, False)
    assert [s["name"] for s in found["2"]["subtasks"]] == [s["name"] for s in entries["2"]["subtasks"]]


def test_what_igrft_wrote_is_not_a_fact_of_the_recording(source, subtask_file, pipeline_file, tmp_path):
    """A corrected success reaches next.success too, and an episode once set aside is no failure."""
    edit_subtasks(subtask_file, lambda e: [x.update(success=True) for x in e.values()])
    whole = json.loads(subtask_file.read_text())
    edit_subtasks(subtask_file, lambda e: e.pop("3"))
    annotate(source, tmp_path / "first", pipeline=pipeline_file())
    assert not any(DatasetReader.open(tmp_path / "first").column(3, c.SUCCESS))
    whole["episodes"]["3"].pop("success")
    whole["episodes"]["0"]["success"] = False
    subtask_file.write_text(json.dumps(whole))
    result = annotate(tmp_path / "first", tmp_path / "second", pipeline=pipeline_file())
    assert not result.set_aside and result.assumed_successes == 1
    second = DatasetReader.open(tmp_path / "second")
    assert [second.column(r, c.SUCCESS).any() for r in range(6)] == [False, True, True, True, True, True]
    stats = json.loads((tmp_path / "second/meta/stats.json").read_text())
    assert stats["action"]["count"] == stats[c.REWARD]["count"] == [300]
    assert validate(tmp_path / "second").ok


def test_set_aside_twice_over(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e.pop("3"))
    annotate(source, tmp_path / "first", pipeline=pipeline_file())
    edit_subtasks(subtask_file, lambda e: e.pop("4"))
    annotate(tmp_path / "first", tmp_path / "second", pipeline=pipeline_file())
    lengths = DatasetReader.open(source).lengths
    stats = json.loads((tmp_path / "second/meta/stats.json").read_text())
    assert stats[c.DONE]["count"] == stats["action"]["count"] == [300 - int(lengths[3] + lengths[4])]


def test_steps_that_are_not_run_again_leave_their_labels(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e.pop("3"))
    annotate(source, tmp_path / "first", pipeline=pipeline_file())
    again = [{"type": "subtasks", "source": "dataset"}]
    result = annotate(tmp_path / "first", tmp_path / "second", pipeline=pipeline_file(again, "again.yaml"))
    first, second = (DatasetReader.open(tmp_path / n) for n in ("first", "second"))
    # Its rewards are still NaN, so the episode stays set aside for its first reason.
    assert list(result.set_aside) == [3] and "is not in" in result.set_aside[3]
    assert set(second.igrft["columns"]) == set(first.igrft["columns"])
    assert [s["type"] for s in second.igrft["pipeline"]["steps"]] == ["rewards", "returns", "subtasks"]
    np.testing.assert_array_equal(first.column(2, c.REWARD), second.column(2, c.REWARD))
    assert second.subtask_names == first.subtask_names


def test_edited_text_wins_over_an_older_record(source, pipeline_file, tmp_path):
    annotate(source, tmp_path / "first", pipeline=pipeline_file())
    path = tmp_path / "first/data/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    plain = [
        [{**row, "content": row["content"].upper(), "tool_calls": None} for row in cell]
        for cell in table.column(c.LANGUAGE_PERSISTENT).to_pylist()
    ]
    place = table.column_names.index(c.LANGUAGE_PERSISTENT)
    pq.write_table(table.set_column(place, c.LANGUAGE_PERSISTENT, pa.array(plain)), path)
    annotate(tmp_path / "first", tmp_path / "second", pipeline="rewards")
    found = records(tmp_path / "second")
    assert found["0"]["subtasks"][0]["name"] == "REACH THE CUP"
    assert found["5"]["subtasks"][0]["name"] == "reach the cup"


def test_auto_decides_every_episode_by_itself(tmp_path, pipeline_file, source):
    """Labels for some episodes only: the others get phases; none at all: all do."""
    path = source / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    half = int(table.column("length")[2].as_py()) // 2
    for name, value in {"names": ["a", "b"], "start_frames": [0, half], "end_frames": [half - 1, half * 2]}.items():
        cells = [value if i == 2 else None for i in range(6)]
        table = table.append_column(f"sparse_subtask_{name}", pa.array(cells))
    pq.write_table(table, path)
    annotate(source, tmp_path / "out", pipeline=pipeline_file([{"type": "subtasks"}, {"type": "rewards"}]))
    found = records(tmp_path / "out")
    assert [s["name"] for s in found["2"]["subtasks"]] == ["a", "b"]
    assert found["0"]["subtasks"][0]["name"] == "phase 1"


def test_the_default_pipeline_needs_no_camera(source, tmp_path, capsys):
    result = annotate(source, tmp_path / "out", workers=1)
    assert result.episodes == 6
    assert result.notices == ("source has no camera with files, so step 'interaction' is left out",)
    with pytest.raises(IgrftError, match="no camera"):
        annotate(source, tmp_path / "out", overrides=["steps.interaction.camera=observation.images.top"])


def test_a_task_file_that_changes_is_read_again(source, pipeline_file, tmp_path):
    task = tmp_path / "task.yaml"
    path = pipeline_file([{"type": "subtasks", "task": "task.yaml", "shortest": 0.1}])
    for names in (["one", "two"], ["three", "four", "five"]):
        task.write_text(f"subtasks: [{', '.join(names)}]")
        annotate(source, tmp_path / "out", pipeline=path, workers=1)
        assert DatasetReader.open(tmp_path / "out").subtask_names == names


def test_a_target_that_lost_a_file_is_made_again(source, pipeline_file, tmp_path):
    annotate(source, tmp_path / "out", pipeline=pipeline_file())
    victim = tmp_path / "out/data/chunk-000/file-001.parquet"
    victim.unlink()
    assert not annotate(source, tmp_path / "out", pipeline=pipeline_file()).unchanged
    assert victim.is_file()


def test_an_episode_without_frames_is_set_aside_and_validates(tmp_path, pipeline_file):
    write_dataset(tmp_path / "a", 3, 90, width=2)
    path = tmp_path / "a/meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    length = table.column("length").to_pylist()
    rows = pq.ParquetFile(tmp_path / "a/data/chunk-000/file-000.parquet").read().slice(0, length[0] + length[1])
    pq.write_table(rows, tmp_path / "a/data/chunk-000/file-000.parquet")
    ends = np.cumsum([length[0], length[1], 0])
    for name, values in {"length": [*length[:2], 0], "dataset_to_index": ends}.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(np.asarray(values)))
    pq.write_table(table, path)
    info = json.loads((tmp_path / "a/meta/info.json").read_text())
    info["total_frames"] = int(ends[-1])
    (tmp_path / "a/meta/info.json").write_text(json.dumps(info))
    steps = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}]
    result = annotate(tmp_path / "a", tmp_path / "out", pipeline=pipeline_file_at(tmp_path, steps), workers=1)
    assert list(result.set_aside) == [2] and "no frames" in result.set_aside[2]
    found = validate(tmp_path / "out")
    assert found.ok, found.to_text()


def pipeline_file_at(folder, steps):
    (folder / "zero.yaml").write_text(json.dumps({"steps": steps}))
    return folder / "zero.yaml"


def test_two_subtasks_on_one_frame_are_no_segments(tmp_path):
    write_dataset(tmp_path / "a", 2, 90, width=2)
    path = tmp_path / "a/meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    for name, value in {"names": ["a", "b", "c"], "start_frames": [0, 10, 10], "end_frames": [9, 9, 20]}.items():
        table = table.append_column(f"sparse_subtask_{name}", pa.array([value, [value[0]]]))
    pq.write_table(table, path)
    result = annotate(tmp_path / "a", tmp_path / "out", pipeline="rewards")
    assert list(result.set_aside) == [0] and "'b' starts at frame 10" in result.set_aside[0]


def test_numbers_as_yaml_spells_them(source, pipeline_file, tmp_path):
    path = pipeline_file()
    annotate(source, tmp_path / "out", pipeline=path, overrides=["steps.rewards.sharpness=5e-2"])
    with pytest.raises(IgrftError, match="finite"):
        annotate(source, tmp_path / "out", pipeline=path, overrides=["steps.rewards.trajectory_weight=.nan"])


def test_a_failure_known_from_a_column_of_the_recording_still_counts(source, pipeline_file, tmp_path):
    add_column(source, "is_success", lambda n, e: np.full(n, e != 1), "bool")
    steps = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}]
    annotate(source, tmp_path / "first", pipeline=pipeline_file(steps), workers=1)
    annotate(tmp_path / "first", tmp_path / "second", pipeline="rewards")
    assert [records(tmp_path / "second")[str(i)]["success"] for i in range(6)] == [True, False, *[True] * 4]
