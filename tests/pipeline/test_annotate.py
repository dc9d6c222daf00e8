"""A dataset in, a labelled dataset out: what is written, and what stays as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import add_column, edit_subtasks, tree_digest

from igrft import annotate
from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.rewards import combine, return_to_go, subtask_rewards, trajectory_rewards


def labels_of(root: Path) -> dict[str, np.ndarray]:
    dataset = DatasetReader.open(root)
    names = [n for n in c.LABELS if n in dataset.features and n != c.LANGUAGE_PERSISTENT]
    tables = [pq.ParquetFile(root / path).read(columns=names) for path, _ in dataset.data_files]
    return {n: np.concatenate([t.column(n).to_numpy() for t in tables]) for n in names}


def test_labels_are_the_maths(source, subtask_file, pipeline_file, tmp_path):
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert (result.episodes, result.frames, result.set_aside) == (6, 300, {})
    labels, dataset = labels_of(tmp_path / "out"), DatasetReader.open(tmp_path / "out")
    entries = json.loads(subtask_file.read_text())["episodes"]
    start = 0
    for row, length in enumerate(dataset.lengths.tolist()):
        entry = entries[str(row)]
        success, ends = entry["success"], [s["end"] for s in entry["subtasks"]]
        done = [success or i < len(ends) - 1 for i in range(len(ends))]
        sub = subtask_rewards(length, ends, [1 / len(ends)] * len(ends), done)
        trajectory = trajectory_rewards(length, success)
        reward = combine(trajectory, sub)
        part = slice(start, start + length)
        for name, expected in {
            c.REWARD_TRAJECTORY: trajectory,
            c.REWARD_SUBTASK: sub,
            c.REWARD: reward,
            c.RETURN_TRAJECTORY: return_to_go(trajectory),
            c.RETURN_SUBTASK: return_to_go(sub),
            c.RETURN: return_to_go(reward),
        }.items():
            assert labels[name].dtype == np.float32
            np.testing.assert_array_equal(labels[name][part], expected.astype(np.float32), err_msg=name)
        index = labels[c.SUBTASK_INDEX][part]
        for i, s in enumerate(entry["subtasks"]):
            assert (index[s["start"] : s["end"]] == i).all()
        assert labels[c.DONE][part].tolist() == [False] * (length - 1) + [True]
        assert labels[c.SUCCESS][part].tolist() == [False] * (length - 1) + [success]
        start += length
    assert {entries[str(r)]["success"] for r in range(6)} == {True, False}, "the fixture must hold both"


def test_layout_is_lerobots(source, pipeline_file, tmp_path):
    annotate(source, tmp_path / "out", pipeline=pipeline_file())
    before, after = DatasetReader.open(source), DatasetReader.open(tmp_path / "out")
    for path, rows in after.data_files:
        parquet = pq.ParquetFile(tmp_path / "out" / path)
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        assert groups == after.lengths[rows].tolist()
        kept = pq.ParquetFile(source / path).read()
        assert parquet.read(columns=kept.column_names).equals(kept)
    for name in (c.SUBTASK_INDEX, c.REWARD, c.DONE):
        assert after.features[name] == {"dtype": c.LABELS[name].dtype, "shape": [1], "names": None}
    assert set(before.features) < set(after.features)
    episodes = pq.ParquetFile(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").read()
    assert episodes.column("stats/reward/count").to_pylist() == [[n] for n in after.lengths.tolist()]
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats[c.DONE]["mean"] == [pytest.approx(6 / 300)]
    assert stats[c.RETURN]["max"][0] <= 1.0 + 1e-6


def test_the_source_keeps_every_byte(source, pipeline_file, tmp_path):
    before = tree_digest(source)
    annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert tree_digest(source) == before
    assert not (tmp_path / "out.staging").exists()


def test_language_rows_are_one_per_subtask(source, pipeline_file, tmp_path):
    annotate(source, tmp_path / "out", pipeline=pipeline_file())
    dataset = DatasetReader.open(tmp_path / "out")
    record = dataset.igrft["episodes"]["2"]
    frames = dataset.rows(2, [c.LANGUAGE_PERSISTENT, c.TIMESTAMP])
    rows = frames.column(0).to_pylist()
    times = frames.column(1).to_numpy()
    assert all(r == rows[0] for r in rows)
    assert [(r["content"], r["timestamp"], r["role"], r["style"]) for r in rows[0]] == [
        (s["name"], times[s["start"]], "assistant", "subtask") for s in record["subtasks"]
    ]


def test_set_aside_stays_with_its_reason(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e["3"]["subtasks"][0].update(end=e["3"]["subtasks"][0]["end"] + 2))
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert list(result.set_aside) == [3]
    assert "episode 3" in result.set_aside[3] and "overlaps" in result.set_aside[3]
    dataset = DatasetReader.open(tmp_path / "out")
    assert dataset.num_episodes == 6
    recorded = dataset.igrft["episodes"]["3"]
    assert list(recorded) == ["set_aside"] and "overlaps" in recorded["set_aside"]
    assert str(tmp_path) not in json.dumps(dataset.igrft), "a published dataset names no folder of its author"
    table = dataset.rows(3, [c.REWARD, c.SUBTASK_INDEX, c.DONE, c.LANGUAGE_PERSISTENT])
    assert np.isnan(table.column(c.REWARD).to_numpy()).all()
    assert set(table.column(c.SUBTASK_INDEX).to_pylist()) == {-1}
    assert not any(table.column(c.DONE).to_pylist())
    assert not any(table.column(c.LANGUAGE_PERSISTENT).to_pylist())
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert stats[c.REWARD]["count"] == [300 - int(dataset.lengths[3])]
    assert stats["action"]["count"] == [300 - int(dataset.lengths[3])]


def test_strict_stops_and_leaves_no_target(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e.pop("4"))
    with pytest.raises(IgrftError, match="episode 4 is not in"):
        annotate(source, tmp_path / "out", pipeline=pipeline_file(), strict=True)
    assert not (tmp_path / "out").exists()


def test_nothing_labelled_is_an_error(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: e.clear())
    with pytest.raises(IgrftError, match="no episode could be labelled"):
        annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert not (tmp_path / "out").exists()


def test_recorded_facts_of_the_source_win(source, pipeline_file, tmp_path):
    add_column(source, c.SUCCESS, lambda n, e: np.arange(n) == n - 1 if e % 2 else np.zeros(n, bool), "bool")
    annotate(
        source,
        tmp_path / "out",
        pipeline=pipeline_file([{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}]),
        workers=1,
    )
    dataset = DatasetReader.open(tmp_path / "out")
    records = dataset.igrft["episodes"]
    assert [records[str(e)]["success"] for e in range(6)] == [False, True] * 3
    assert {records[str(e)]["success_from"] for e in range(6)} == {"source"}
    assert labels_of(tmp_path / "out")[c.SUCCESS].sum() == 3


def test_assumed_success_is_counted(source, subtask_file, pipeline_file, tmp_path):
    edit_subtasks(subtask_file, lambda e: [e[k].pop("success") for k in ("0", "1")])
    assert annotate(source, tmp_path / "out", pipeline=pipeline_file()).assumed_successes == 2


def test_duration_weights_are_mean_shares_of_successes(source, subtask_file, pipeline_file, tmp_path):
    steps = [{"type": "subtasks", "source": "file"}, {"type": "rewards", "weights": "duration"}]
    annotate(source, tmp_path / "out", pipeline=pipeline_file(steps))
    dataset = DatasetReader.open(tmp_path / "out")
    entries = json.loads(subtask_file.read_text())["episodes"]
    shares: dict[str, list[float]] = {}
    for row in range(6):
        if entries[str(row)]["success"]:
            for s in entries[str(row)]["subtasks"]:
                shares.setdefault(s["name"], []).append((s["end"] - s["start"]) / dataset.lengths[row])
    means = {k: np.mean(v) for k, v in shares.items()}
    for s in dataset.igrft["episodes"]["0"]["subtasks"]:
        assert s["weight"] == pytest.approx(means[s["name"]] / sum(means.values()))


def test_one_row_group_files_of_older_converters(tmp_path, pipeline_file):
    from synthetic import write_dataset

    write_dataset(tmp_path / "a", 5, 200, width=3, one_row_group=True, with_subtasks=True)
    annotate(tmp_path / "a", tmp_path / "out", pipeline="rewards")
    parquet = pq.ParquetFile(tmp_path / "out/data/chunk-000/file-000.parquet")
    assert parquet.num_row_groups == 5


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "rewards"}], "needs the episodes' subtasks.*add a step 'subtasks'"),
        ([{"type": "returns"}, {"type": "rewards"}], "'returns' needs 'reward_trajectory'.*move step 'rewards'"),
        ([{"type": "subtasks", "source": "file", "path": "nope.json"}], "nope.json is missing"),
        ([{"type": "subtask"}], "unknown step 'subtask'; did you mean 'subtasks'"),
        ([{"type": "rewards", "sharpnes": 1}], "no key 'sharpnes'; did you mean 'sharpness'"),
        ([{"type": "rewards", "sharpness": "much"}], "sharpness must be a float"),
        ([{"type": "rewards", "weights": "unifrom"}], "did you mean 'uniform'"),
        ([{"type": "rewards", "sharpness": 0}], "sharpness must be positive"),
        ([{"type": "subtasks", "source": "dataset"}], "has no subtask labels"),
        ([{"type": "subtasks", "source": "file"}, {"type": "rewards"}, {"type": "rewards"}], "both make"),
    ],
)
def test_a_wrong_pipeline_is_refused_before_any_work(source, pipeline_file, tmp_path, steps, message):
    with pytest.raises(IgrftError, match=message):
        annotate(source, tmp_path / "out", pipeline=pipeline_file(steps))
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.staging").exists()


def test_target_rules(source, pipeline_file, tmp_path):
    path = pipeline_file()
    for wrong in (source, source / "inside", source.parent):
        with pytest.raises(UsageError, match="SOURCE"):
            annotate(source, wrong, pipeline=path)
    stranger = tmp_path / "mine"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("years of work")
    with pytest.raises(IgrftError, match="not made by igrft annotate.*--overwrite"):
        annotate(source, stranger, pipeline=path)
    assert (stranger / "thesis.txt").read_text() == "years of work"
    annotate(source, stranger, pipeline=path, overwrite=True)
    assert not (stranger / "thesis.txt").exists()
    # The same source may replace; a changed one may not.
    assert annotate(source, stranger, pipeline=path).unchanged
    with (source / "meta/tasks.parquet").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(IgrftError, match=r"another source|has changed"):
        annotate(source, stranger, pipeline=path)


def test_no_video_means_neither_torch_nor_lerobot(source, pipeline_file, tmp_path):
    code = (
        "import sys, igrft; igrft.annotate(sys.argv[1], sys.argv[2], pipeline=sys.argv[3]);"
        "print(sorted({'torch', 'lerobot', 'datasets', 'cv2', 'av'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path / "out"), str(pipeline_file())],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_two_runs_on_one_target_do_not_meet(source, pipeline_file, tmp_path):
    from igrft.pipeline.target import Target

    with Target(tmp_path / "out").locked(), pytest.raises(IgrftError, match="another run is at work"):
        annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert annotate(source, tmp_path / "out", pipeline=pipeline_file()).episodes == 6


def test_a_staging_folder_with_somebodys_files_is_left_alone(source, pipeline_file, tmp_path):
    notes = tmp_path / "out.staging" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    with pytest.raises(IgrftError, match="did not put there"):
        annotate(source, tmp_path / "out", pipeline=pipeline_file())
    assert notes.read_text() == "mine"
