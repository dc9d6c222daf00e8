"""Segments from files, from what datasets have, and from proprioception."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import add_column, edit_subtasks
from synthetic import write_dataset

from igrft import annotate
from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.steps.subtasks.existing import existing_segments
from igrft.steps.subtasks.export import export_subtasks
from igrft.steps.subtasks.proprio import ProprioSignals, find_boundaries, gripper_dimensions
from igrft.steps.subtasks.segments import Segment, check_cover, parse_segments, settle
from igrft.steps.task_file import load_task, load_tasks


def entry(name="a", start=0, end=10, **more):
    return {"name": name, "start": start, "end": end, **more}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one"),
        ("reach", "must be a list"),
        ([entry(start=0.5)], "whole frame number"),
        ([entry(end=True)], "whole frame number"),
        ([entry(name="")], "needs a name"),
        ([entry(done="yes")], "true or false"),
        ([entry(stop=3)], "unknown key 'stop'"),
        ([entry(), entry("b", 8, 20)], "starts at frame 8 and overlaps what ends at 10"),
        ([entry(), entry("b", 12, 20)], "frames 10 to 12 before 'b' belong to no subtask"),
        ([entry(), entry("b", 10, 25)], "ends at frame 25, but the episode has 20 frames"),
        ([entry(), entry("b", 10, 10)], "not after its start"),
        ([entry()], "end at frame 10, but the episode has 20"),
        ([entry(start=-1), entry("b", 10, 20)], "overlaps"),
        ([entry(end=20), entry("b", 20, 20, done=True)], "cannot be done"),
    ],
)
def test_a_wrong_entry_names_the_frame(entries, message):
    with pytest.raises(EpisodeError, match=message):
        check_cover(parse_segments(entries, "episode 7"), 20, "episode 7")


def names_done(segments):
    return [(s.name, s.done) for s in segments]


def test_done_defaults():
    segments = [Segment("a", 0, 5), Segment("b", 5, 9), Segment("c", 9, 9)]
    assert names_done(settle(segments[:2], True, "")) == [("a", True), ("b", True)]
    assert names_done(settle(segments, False, "")) == [("a", True), ("b", False), ("c", False)]
    with pytest.raises(EpisodeError, match="'c' is not done in a success"):
        settle(segments, True, "episode 1")


def test_a_retry_in_a_success_is_done_at_its_last_segment():
    segments = [Segment("grasp", 0, 5, True), Segment("grasp", 5, 9, None), Segment("place", 9, 12, None)]
    assert names_done(settle(segments, True, "")) == [("grasp", False), ("grasp", True), ("place", True)]


def test_subtasks_never_begun_have_no_frame_and_no_row(source, subtask_file, pipeline_file, tmp_path):
    length = int(DatasetReader.open(source).lengths[0])

    def cut(episodes):
        episodes["0"] = {
            "success": False,
            "subtasks": [entry("reach the cup", 0, length), entry("place the cup", length, length, done=False)],
        }

    edit_subtasks(subtask_file, cut)
    annotate(source, tmp_path / "out", pipeline=pipeline_file())
    dataset = DatasetReader.open(tmp_path / "out")
    record = dataset.igrft["episodes"]["0"]["subtasks"]
    assert [(s["name"], s["done"], s["weight"]) for s in record] == [
        ("reach the cup", False, 0.5),
        ("place the cup", False, 0.5),
    ]
    assert [r["content"] for r in dataset.rows(0, [c.LANGUAGE_PERSISTENT]).column(0)[0].as_py()] == ["reach the cup"]
    assert dataset.column(0, c.REWARD).sum() == 0
    # The file that igrft writes of it is one that igrft reads.
    export_subtasks(tmp_path / "out", tmp_path / "again.json")
    again = pipeline_file([{"type": "subtasks", "source": "file", "path": "again.json"}, {"type": "rewards"}], "b.yaml")
    annotate(source, tmp_path / "out2", pipeline=again)
    first, second = (DatasetReader.open(tmp_path / n).igrft["episodes"] for n in ("out", "out2"))
    assert {k: v["subtasks"] for k, v in first.items()} == {k: v["subtasks"] for k, v in second.items()}


def test_a_file_that_names_a_stranger_is_refused(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e.update({"60": e["0"]}))
    with pytest.raises(IgrftError, match="names episode 60, but the dataset has episodes 0 to 5"):
        annotate(source, tmp_path / "out", pipeline=pipeline_file())


def test_export_refuses_to_replace(source, pipeline_file, tmp_path):
    with pytest.raises(IgrftError, match="no subtask labels"):
        export_subtasks(source, tmp_path / "x.json")
    (tmp_path / "x.json").write_text("mine")
    with pytest.raises(IgrftError, match="--overwrite"):
        export_subtasks(source, tmp_path / "x.json")


# What datasets have already.


def test_an_older_subtask_index(tmp_path):
    write_dataset(tmp_path / "a", 3, 120, width=2, with_subtasks=True)
    dataset = DatasetReader.open(tmp_path / "a")
    segments = existing_segments(dataset, 1)
    index = dataset.column(1, c.SUBTASK_INDEX)
    assert [s.name for s in segments] == [dataset.subtask_names[i] for i in dict.fromkeys(index.tolist())]
    check_cover(segments, int(dataset.lengths[1]), "")


def test_sarm_columns_are_read_with_inclusive_ends(tmp_path):
    write_dataset(tmp_path / "a", 2, 120, width=2)
    path = tmp_path / "a/meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    n = table.column("length").to_pylist()
    table = table.append_column("dense_subtask_names", pa.array([["reach", "grasp", "lift"], None]))
    table = table.append_column("dense_subtask_start_frames", pa.array([[0, 30, 50], None]))
    table = table.append_column("dense_subtask_end_frames", pa.array([[29, 49, n[0] - 1], None]))
    pq.write_table(table, path)
    dataset = DatasetReader.open(tmp_path / "a")
    assert [(s.name, s.start, s.end) for s in existing_segments(dataset, 0)] == [
        ("reach", 0, 30),
        ("grasp", 30, 50),
        ("lift", 50, n[0]),
    ]
    assert existing_segments(dataset, 1) is None
    result = annotate(tmp_path / "a", tmp_path / "out", pipeline="rewards")
    assert list(result.set_aside) == [1] and "no subtask labels; give them" in result.set_aside[1]


def test_language_rows_as_lerobot_writes_them(tmp_path):
    """Inferred Arrow types, other styles beside, a first row after the first frame."""
    write_dataset(tmp_path / "a", 2, 120, width=2)
    row = {"role": "assistant", "camera": None, "tool_calls": None}
    rows = [
        {**row, "content": "1. reach 2. lift", "style": "plan", "timestamp": 0.0},
        {**row, "content": "reach", "style": "subtask", "timestamp": 0.1},
        {**row, "content": "lift", "style": "subtask", "timestamp": 1.0},
    ]
    path = tmp_path / "a/data/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(table.append_column(c.LANGUAGE_PERSISTENT, pa.array([rows] * table.num_rows)), path)
    info = json.loads((tmp_path / "a/meta/info.json").read_text())
    info["features"][c.LANGUAGE_PERSISTENT] = {"dtype": "language", "shape": [1], "names": None}
    (tmp_path / "a/meta/info.json").write_text(json.dumps(info))
    dataset = DatasetReader.open(tmp_path / "a")
    length = int(dataset.lengths[0])
    assert [(s.name, s.start, s.end) for s in existing_segments(dataset, 0)] == [("reach", 0, 30), ("lift", 30, length)]
    annotate(tmp_path / "a", tmp_path / "out", pipeline="rewards")
    kept = DatasetReader.open(tmp_path / "out").rows(0, [c.LANGUAGE_PERSISTENT]).column(0)[0].as_py()
    assert [(r["style"], r["content"], r["timestamp"]) for r in kept] == [
        ("plan", "1. reach 2. lift", 0.0),
        ("subtask", "reach", 0.0),
        ("subtask", "lift", 1.0),
    ]


def test_auto_takes_labels_that_are_there_else_phases(tmp_path, pipeline_file, source):
    steps = [{"type": "subtasks"}]
    annotate(source, tmp_path / "out", pipeline=pipeline_file(steps), workers=1)
    assert DatasetReader.open(tmp_path / "out").subtask_names[0] == "phase 1"
    write_dataset(tmp_path / "b", 3, 120, width=2, with_subtasks=True)
    annotate(tmp_path / "b", tmp_path / "out2", pipeline=pipeline_file(steps))
    assert DatasetReader.open(tmp_path / "out2").subtask_names[0] == "reach the cup"


def test_success_in_the_episodes_table(source, pipeline_file, tmp_path):
    path = source / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    words = ["success", "failure", "success", "failure", "failure", "success"]
    pq.write_table(table.append_column("episode_success", pa.array(words)), path)
    annotate(source, tmp_path / "out", pipeline=pipeline_file([{"type": "subtasks", "source": "proprio"}]), workers=1)
    records = DatasetReader.open(tmp_path / "out").igrft["episodes"]
    assert [records[str(i)]["success"] for i in range(6)] == [w == "success" for w in words]
    assert records["0"]["success_from"] == "source"


# Proprioception.


def arm(events: list[int], length: int = 300, noise: float = 0.01, seed: int = 0):
    """A joint that rests at a new place after every event, and a gripper that toggles there."""
    rng = np.random.default_rng(seed)
    level = np.searchsorted(events, np.arange(length), side="right")
    motion = np.stack([level * 1.0, -level * 0.5], axis=1) + rng.normal(0, noise, (length, 2))
    gripper = (level % 2).astype(float)[:, None]
    return ProprioSignals((motion - motion.mean(0)) / motion.std(0), gripper, np.array(events))


def test_boundaries_of_known_number_fall_on_the_events():
    found = find_boundaries(arm([80, 150, 220]), 30.0, 3, penalty=4, shortest=0.5, snap=0.7)
    assert found == [80, 150, 220]


def test_the_penalty_finds_the_number_by_itself():
    assert find_boundaries(arm([80, 150, 220]), 30.0, None, penalty=4, shortest=0.5, snap=0.7) == [80, 150, 220]


def test_a_still_robot_has_one_phase_and_no_forced_boundaries():
    still = ProprioSignals(np.zeros((200, 3)), np.zeros((200, 1)), np.array([], dtype=int))
    assert find_boundaries(still, 30.0, None, penalty=4, shortest=0.5, snap=0.7) == []
    with pytest.raises(EpisodeError, match="never change"):
        find_boundaries(still, 30.0, 2, penalty=4, shortest=0.5, snap=0.7)


def test_too_short_for_its_subtasks():
    with pytest.raises(EpisodeError, match="too few for 6 subtasks"):
        find_boundaries(arm([10], length=40), 30.0, 5, penalty=4, shortest=0.5, snap=0.7)


def test_gripper_dimensions_by_name_else_by_two_values():
    values = np.random.default_rng(0).normal(size=(50, 3))
    assert gripper_dimensions(["joint_0", "wrist_hand_roll", "gripper"], values).tolist() == [False, False, True]
    values[:, 2] = values[:, 2] > 0
    assert gripper_dimensions([], values).tolist() == [False, False, True]


def test_nan_in_the_state_sets_the_episode_aside(source, pipeline_file, tmp_path):
    path = source / "data/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    values = np.array(table.column(c.STATE).combine_chunks().flatten())
    values[3 * 5 + 1] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    pq.write_table(table.set_column(table.column_names.index(c.STATE), c.STATE, column), path)
    steps = [{"type": "subtasks", "source": "proprio"}]
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file(steps), workers=1)
    assert list(result.set_aside) == [0]
    assert "observation.state is not finite at frame 5" in result.set_aside[0]


# Task files.

TASK = """
goal: fill the bag
match: [put the fruit into the bag]
subtasks:
  - open the lid
  - for_each: {item: [ginger, banana]}
    subtasks: [pick up the {item}, {name: place the {item}, weight: 2}]
  - close the lid
"""


def test_a_task_file_expands_for_each(tmp_path):
    (tmp_path / "t.yaml").write_text(
        TASK.replace("place the {item}", '"place the {item}"').replace("pick up the {item}", '"pick up the {item}"')
    )
    task = load_task(tmp_path / "t.yaml")
    assert task.subtasks == (
        "open the lid",
        "pick up the ginger",
        "place the ginger",
        "pick up the banana",
        "place the banana",
        "close the lid",
    )
    assert task.weights == (1, 1, 2, 1, 2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subtasks: []", "needs a list"),
        ("subtask: [a]", "needs a list"),
        ("{", "not YAML"),
        ("subtasks: [a, a]", "lists 'a' twice"),
        ("subtasks: [{name: a, weight: -1}]", "not negative"),
        ("subtasks: [3]", "neither a name"),
        ("gaol: x\nsubtasks: [a]", "unknown key 'gaol'; did you mean 'goal'"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path, text, message):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_task(tmp_path / "t.yaml")


def test_a_folder_of_tasks_is_matched_by_the_episodes_task(tmp_path):
    (tmp_path / "one.yaml").write_text("match: [Put the cup on the shelf.]\nsubtasks: [a, b]")
    (tmp_path / "two.yaml").write_text("goal: fold the towel\nsubtasks: [c]")
    tasks = load_tasks(str(tmp_path))
    assert tasks.of(0, ["put the cup on the shelf"]).subtasks == ("a", "b")
    assert tasks.of(0, ["Fold the towel!"]).subtasks == ("c",)
    with pytest.raises(EpisodeError, match="no task file matches 'sweep'"):
        tasks.of(4, ["sweep"])


def test_the_subtasks_of_a_task_file_are_fitted_in_order(source, pipeline_file, tmp_path):
    (tmp_path / "task.yaml").write_text("subtasks: [first, {name: second, weight: 3}]")
    steps = [{"type": "subtasks", "task": "task.yaml", "shortest": 0.1}, {"type": "rewards", "weights": "task"}]
    annotate(source, tmp_path / "out", pipeline=pipeline_file(steps), workers=1)
    record = DatasetReader.open(tmp_path / "out").igrft["episodes"]
    for r in record.values():
        assert [(s["name"], s["weight"]) for s in r["subtasks"]] == [("first", 0.25), ("second", 0.75)]


def test_any_true_over_files_and_episodes(source):
    add_column(source, "is_success", lambda n, e: np.arange(n) == n // 2 if e in (1, 5) else np.zeros(n, bool), "bool")
    assert DatasetReader.open(source).any_true("is_success").tolist() == [False, True, False, False, False, True]


def test_where_a_hand_is_does_not_say_whether_it_is_closed():
    names = ["hand_x", "hand_y", "hand_z", "gripper_opening", "left_hand.qx", "left_hand"]
    values = np.random.default_rng(0).normal(size=(20, 6))
    assert gripper_dimensions(names, values).tolist() == [False, False, False, True, False, True]


def test_short_subtasks_of_quick_motions_are_found():
    # 80 frames a second, four subtasks in 1.5 s: reach, stand, rise, lower.
    height = np.concatenate([np.zeros(40), np.linspace(0, 1, 40), np.linspace(1, 0.2, 40)])
    signals = ProprioSignals(
        np.stack([height, np.r_[np.linspace(0, 1, 40), np.ones(80)]], 1), np.zeros((120, 1)), np.zeros(0, int)
    )
    found = find_boundaries(signals, 80.0, 2, penalty=0.5, shortest=0.15, snap=0.1)
    assert all(b - a >= 12 for a, b in itertools.pairwise([0, *found, 120]))
    with pytest.raises(EpisodeError, match="too few for 4 subtasks of at least 0.5 s"):
        find_boundaries(signals, 80.0, 3, penalty=0.5, shortest=0.5, snap=0.1)
