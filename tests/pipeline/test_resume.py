"""Killed, changed, corrected: what is done again, and what is not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import DiesOn, small_disk, tree_digest
from synthetic import write_dataset

from igrft import annotate
from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.steps.subtasks import proprio

PROPRIO = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}, {"type": "returns"}]


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Frames of every episode whose boundaries were really looked for."""
    seen: list[int] = []
    find = proprio.find_boundaries

    def spy(signals, *args, **kwargs):
        seen.append(len(signals.motion))
        return find(signals, *args, **kwargs)

    monkeypatch.setattr(proprio, "find_boundaries", spy)
    return seen


def test_a_changed_setting_redoes_only_what_depends_on_it(source, pipeline_file, tmp_path, calls):
    path = pipeline_file(PROPRIO)
    annotate(source, tmp_path / "out", pipeline=path, workers=1)
    assert len(calls) == 6
    before = labels_bytes(tmp_path / "out")
    annotate(source, tmp_path / "out", pipeline=path, overrides=["steps.rewards.sharpness=0.1"], workers=1)
    assert len(calls) == 6, "the finished dataset keeps what was expensive"
    after = labels_bytes(tmp_path / "out")
    assert after[c.SUBTASK_INDEX] == before[c.SUBTASK_INDEX]
    assert after[c.REWARD] != before[c.REWARD]
    annotate(source, tmp_path / "out", pipeline=path, overrides=["steps.subtasks.penalty=2"], workers=1)
    assert len(calls) == 12


def test_corrections_redo_only_the_episodes_they_name(source, pipeline_file, tmp_path, calls):
    steps = [{**PROPRIO[0], "overrides": "fixes.json"}, *PROPRIO[1:]]
    fixes = tmp_path / "fixes.json"
    fixes.write_text('{"episodes": {}}')
    path = pipeline_file(steps)
    annotate(source, tmp_path / "out", pipeline=path, workers=1)
    length = int(DatasetReader.open(source).lengths[2])
    fixes.write_text(
        json.dumps(
            {"episodes": {"2": {"success": False, "subtasks": [{"name": "all of it", "start": 0, "end": length}]}}}
        )
    )
    calls.clear()
    annotate(source, tmp_path / "out", pipeline=path, workers=1)
    assert calls == [], "a corrected episode asks no other source, and no other episode is touched"
    records = DatasetReader.open(tmp_path / "out").igrft["episodes"]
    assert records["2"]["success"] is False
    assert [(s["name"], s["done"]) for s in records["2"]["subtasks"]] == [("all of it", False)]
    assert records["1"]["subtasks"][0]["name"] == "phase 1"


def test_an_interrupted_run_goes_on_where_it_was(source, pipeline_file, tmp_path, calls, monkeypatch):
    path = pipeline_file(PROPRIO)
    find = proprio.find_boundaries

    def fails_at_the_fourth(*args, **kwargs):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(*args, **kwargs)

    monkeypatch.setattr(proprio, "find_boundaries", fails_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        annotate(source, tmp_path / "out", pipeline=path, workers=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(proprio, "find_boundaries", find)
    annotate(source, tmp_path / "out", pipeline=path, workers=1)
    assert len(calls) == 6
    assert not (tmp_path / "out.staging").exists()


def test_set_aside_episodes_are_tried_again(source, pipeline_file, tmp_path, monkeypatch):
    path = pipeline_file(PROPRIO)
    find = proprio.find_boundaries

    def refuses(signals, *args, **kwargs):
        raise EpisodeError("the camera was off")

    monkeypatch.setattr(proprio, "find_boundaries", refuses)
    with pytest.raises(IgrftError, match="the camera was off"):
        annotate(source, tmp_path / "out", pipeline=path, workers=1)
    monkeypatch.setattr(proprio, "find_boundaries", find)
    assert annotate(source, tmp_path / "out", pipeline=path, workers=1).episodes == 6


def test_a_staged_file_that_is_damaged_is_made_again(source, pipeline_file, tmp_path, monkeypatch, calls):
    path = pipeline_file(PROPRIO)
    monkeypatch.setattr("igrft.pipeline.run.Run._assemble", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        annotate(source, tmp_path / "out", pipeline=path, workers=1)
    monkeypatch.undo()
    victims = sorted((tmp_path / "out.staging/steps/subtasks").glob("*.arrow"))
    assert len(victims) == 6
    victims[0].write_bytes(victims[0].read_bytes()[:100])
    victims[1].write_bytes(b"")
    annotate(source, tmp_path / "out", pipeline=path, workers=1)
    assert DatasetReader.open(tmp_path / "out").igrft["episodes"]["0"]["subtasks"]


def test_a_defect_in_a_step_sets_the_episode_aside(source, pipeline_file, tmp_path, monkeypatch):
    read = proprio.read_signals
    monkeypatch.setattr(
        proprio, "read_signals", lambda d, row, *a: 1 / 0 if d.episode_indices[row] == 1 else read(d, row, *a)
    )
    result = annotate(source, tmp_path / "out", pipeline=pipeline_file(PROPRIO), workers=1)
    assert list(result.set_aside) == [1]
    assert "ZeroDivisionError" in result.set_aside[1]


def test_a_replacement_killed_between_its_renames_is_undone(source, pipeline_file, tmp_path, monkeypatch):
    path = pipeline_file()
    annotate(source, tmp_path / "out", pipeline=path)
    first = tree_digest(tmp_path / "out")
    replace, renames = os.replace, []

    def dies_at_the_second(a, b):
        if Path(b) == tmp_path / "out" and renames:
            raise KeyboardInterrupt
        if Path(a) == tmp_path / "out":
            renames.append(1)
        replace(a, b)

    monkeypatch.setattr("igrft.pipeline.target.os.replace", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        annotate(source, tmp_path / "out", pipeline=path, overrides=["steps.rewards.sharpness=0.1"])
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    annotate(source, tmp_path / "out", pipeline=path)
    assert labels_of_tree(first) == labels_of_tree(tree_digest(tmp_path / "out"))


def test_a_worker_that_dies_takes_no_other_episode_with_it(source, tmp_path):
    from igrft.pipeline import workers

    job = workers.Job(DiesOn(2), source, None, tmp_path / "stage")
    tasks = [workers.Task(row, f"key{row}", ()) for row in range(6)]
    staged = {s.row: s for s in workers.run_tasks(job, tasks, 2)}
    assert sorted(staged) == list(range(6))
    assert "died twice" in staged[2].reason
    assert [staged[r].reason for r in (0, 1, 3, 4, 5)] == [None] * 5


def labels_bytes(root: Path) -> dict[str, bytes]:
    """Every label column of a dataset as bytes."""
    dataset = DatasetReader.open(root)
    names = [n for n in c.LABELS if n in dataset.features and n != c.LANGUAGE_PERSISTENT]
    found = dict.fromkeys(names, b"")
    for path, _ in dataset.data_files:
        table = pq.ParquetFile(root / path).read()
        for n in names:
            found[n] += table.column(n).to_numpy().tobytes()
        found[c.LANGUAGE_PERSISTENT] = (
            found.get(c.LANGUAGE_PERSISTENT, b"") + str(table.column(c.LANGUAGE_PERSISTENT).to_pylist()).encode()
        )
    return found


def labels_of_tree(digest: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in digest.items() if k.startswith("data/")}


def kill_and_resume(source: Path, target: Path, pipeline: Path, kills: int, seed: int) -> tuple[int, int]:
    """Start annotate, kill it at a random moment, start it again, until it was killed ``kills`` times.

    After every kill TARGET is absent or whole. Returns (kills that struck, runs that finished).
    """
    command = [
        sys.executable,
        "-m",
        "igrft.cli.main",
        "annotate",
        str(source),
        str(target),
        "--pipeline",
        str(pipeline),
        "-q",
    ]
    begun = time.monotonic()
    subprocess.run([*command[:5], str(target) + "-measure", *command[6:]], check=True, capture_output=True)
    duration = time.monotonic() - begun
    reference = labels_bytes(Path(str(target) + "-measure"))
    rng = random.Random(seed)
    struck = finished = 0
    while struck < kills:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(rng.uniform(0.15, 1.05) * duration)
        except subprocess.TimeoutExpired:
            # The main process alone: its workers must notice by themselves.
            process.send_signal(signal.SIGKILL)
            process.wait()
            struck += 1
        else:
            assert process.returncode == 0
            finished += 1
        if target.exists():
            assert labels_bytes(target) == reference
            shutil.rmtree(target)
    subprocess.run(command, check=True, capture_output=True)
    assert labels_bytes(target) == reference
    assert not Path(str(target) + ".staging").exists()
    return struck, finished


def test_killed_at_random_moments_it_resumes_to_the_same_bytes(tmp_path, pipeline_file, source):
    before = tree_digest(source)
    kill_and_resume(source, tmp_path / "out", pipeline_file(PROPRIO), kills=2, seed=1)
    assert tree_digest(source) == before


@pytest.mark.slow
def test_fifty_kills(tmp_path, pipeline_file):
    """Fifty-five kills over sixty episodes, staged episodes counted so that progress is seen to be kept."""
    write_dataset(tmp_path / "source", 60, 12000, width=6, episodes_per_file=25)
    before = tree_digest(tmp_path / "source")
    struck, finished = kill_and_resume(tmp_path / "source", tmp_path / "out", pipeline_file(PROPRIO), kills=55, seed=2)
    assert struck == 55
    assert tree_digest(tmp_path / "source") == before
    print(f"{struck} kills, {finished} runs finished between them")


@pytest.mark.slow
def test_kills_while_video_is_decoded(tmp_path):
    """The default pipeline with two workers: optical flow over the small real recording."""
    from igrft import convert

    convert(Path(__file__).parents[1] / "data/g1_small", tmp_path / "source", progress=False)
    before = tree_digest(tmp_path / "source")
    offline = Path(__file__).parents[2] / "pipelines/offline.yaml"
    struck, finished = kill_and_resume(tmp_path / "source", tmp_path / "out", offline, kills=15, seed=3)
    assert struck == 15
    assert tree_digest(tmp_path / "source") == before
    print(f"{struck} kills, {finished} runs finished between them")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, pipeline_file):
    """On a real small file system, where the machine lets us mount one."""
    source = tmp_path / "source"
    write_dataset(source, 20, 20000, width=3)
    with small_disk(tmp_path / "small", "600k") as small:
        with pytest.raises(IgrftError, match=r"disk is full.*it resumes"):
            annotate(source, small / "out", pipeline=pipeline_file(), workers=1)
        assert not (small / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        assert annotate(source, small / "out", pipeline=pipeline_file(), workers=1).episodes == 20
