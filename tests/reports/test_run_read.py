"""The folder of a run as it is found: in progress, killed, resumed, damaged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from training_runs import FLOATS, HELDOUT_FLOATS, INTEGERS, write_rows

from igrft.errors import IgrftError, UsageError
from igrft.reports.run import read
from igrft.reports.run.read import is_run, read_metrics, read_run, refuse_neither


def write(path: Path, *lines: object, end: str = "\n") -> Path:
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + end)
    return path


def rows(steps: list[int], value: float, floats: tuple[str, ...] = FLOATS) -> dict[str, np.ndarray]:
    """Samples of these steps whose every figure is ``value``."""
    count = len(steps)
    out = {n: np.zeros(count) for n in INTEGERS} | {n: np.full(count, value) for n in floats}
    return {**out, "step": np.array(steps), "intervention": np.zeros(count, bool)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that has logged one step and recorded nothing."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("objective: {type: ig_awr, beta: 0.05}\nsteps: 100\n")
    write(tmp_path / "run/metrics.jsonl", {"step": 10, "loss": 1.0})
    return tmp_path / "run"


def test_metrics(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m",
        {"step": 10, "loss": 1.0, "name": "x", "flag": True},
        {"step": 20, "loss": None, "ess": 0.5},
        {"step": 20, "heldout": {"r2_trajectory": 0.25, "r2_subtask": None}},
        '{"step": 30, "loss": NaN}',
    )
    found = read_metrics(path)
    steps, loss = found.series("loss")
    assert steps.tolist() == [10, 20, 30]
    assert loss[0] == 1.0 and np.isnan(loss[1:]).all()
    assert found.lines[10] == {"loss": 1.0}
    assert found.series("ess")[0].tolist() == [20]
    assert found.heldout[20]["r2_trajectory"] == 0.25 and math.isnan(found.heldout[20]["r2_subtask"])
    assert found.series("r2_trajectory", heldout=True)[1].tolist() == [0.25]
    assert (found.last_step, found.broken, found.resumed) == (30, 0, 0)


def test_half_a_last_line_is_left_out_silently(tmp_path: Path) -> None:
    found = read_metrics(write(tmp_path / "m", {"step": 10, "loss": 1.0}, '{"step": 20, "lo', end=""))
    assert (list(found.lines), found.broken) == ([10], 0)


def test_a_broken_line_within_is_counted(tmp_path: Path) -> None:
    found = read_metrics(write(tmp_path / "m", '{"step": 1', [1], {"loss": 2}, {"step": True}, "", {"step": 20}))
    assert (list(found.lines), found.broken) == ([20], 4)


def test_nothing_logged(tmp_path: Path) -> None:
    found = read_metrics(write(tmp_path / "m", end=""))
    assert (found.lines, found.last_step) == ({}, 0)


def test_of_a_step_that_appears_twice_the_later_line_counts(tmp_path: Path) -> None:
    lines = [{"step": s, "loss": 1.0} for s in (10, 20, 30, 40)]
    fits = [{"step": s, "heldout": {"frames": 1}} for s in (20, 40)]
    again = [{"step": 20, "loss": 2.0}, {"step": 25, "loss": 2.0}]
    found = read_metrics(write(tmp_path / "m", *lines[:2], fits[0], *lines[2:], fits[1], *again))
    # What lay beyond the step where the run was resumed is no longer part of it.
    assert {s: v["loss"] for s, v in found.lines.items()} == {10: 1.0, 20: 2.0, 25: 2.0}
    assert list(found.heldout) == [20]
    assert (found.resumed, found.last_step) == (1, 25)


def test_the_line_that_says_the_critic_stopped_replaces_none(tmp_path: Path) -> None:
    stopped = {"step": 20, "critic_stopped": {"best_step": 10, "fit": 0.5}}
    found = read_metrics(write(tmp_path / "m", {"step": 20, "loss": 1.0}, stopped))
    assert found.lines == {20: {"loss": 1.0}}
    assert found.critic_stopped == (20, 10)


def test_rows_come_in_order_of_steps_each_from_the_file_written_last(folder: Path) -> None:
    write(folder / "metrics.jsonl", {"step": 40, "loss": 1.0})
    samples = folder / "diagnosis/samples"
    write_rows(samples / "000000030.parquet", rows([10, 20, 20, 30], 1.0))
    write_rows(samples / "000000020.parquet", rows([20, 10], 2.0))
    os.utime(samples / "000000020.parquet", (2e9, 2e9))
    found = read_run(folder).samples
    assert found["step"].tolist() == [10, 20, 30]
    assert found["advantage"].tolist() == [2.0, 2.0, 1.0]


def test_rows_of_an_earlier_life_beyond_the_resumed_step_do_not_count(folder: Path) -> None:
    write(folder / "metrics.jsonl", *({"step": s, "loss": 1.0} for s in (10, 20, 30, 15)))
    write_rows(folder / "diagnosis/samples/000000030.parquet", rows([10, 15, 30], 1.0))
    assert read_run(folder).samples["step"].tolist() == [10, 15]


def test_a_file_that_cannot_be_read_is_noted(folder: Path) -> None:
    write_rows(folder / "diagnosis/samples/000000010.parquet", rows([10], 1.0))
    (folder / "diagnosis/samples/000000020.parquet").write_bytes(b"PAR1 and no more")
    found = read_run(folder)
    assert found.samples["step"].tolist() == [10]
    assert found.notes == ["1 file of samples could not be read and were left out: 000000020.parquet"]


def test_columns_that_a_file_lacks_are_unset(folder: Path) -> None:
    few = {n: v for n, v in rows([10], 1.0).items() if n not in ("motion", "intervention")}
    write_rows(folder / "diagnosis/samples/000000010.parquet", few)
    found = read_run(folder).samples
    assert np.isnan(found["motion"]).all() and not found["intervention"].any()
    assert found["weight"].tolist() == [1.0]


def test_of_very_many_rows_every_nth_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_MOST_ROWS", 100)
    write_rows(folder / "diagnosis/samples/000000010.parquet", rows([10] * 300, 1.0))
    found = read_run(folder)
    assert len(found.samples["step"]) == 100
    assert found.notes == ["Of 300 rows of samples one in 3 is used."]


def test_a_run_without_diagnosis(folder: Path) -> None:
    found = read_run(folder)
    assert all(len(v) == 0 for v in (*found.samples.values(), *found.heldout.values()))
    assert set(HELDOUT_FLOATS) < set(found.heldout)


def test_settings(folder: Path) -> None:
    found = read_run(folder)
    assert found.setting("objective.type") == "ig_awr"
    assert found.setting("objective.missing.deeper", 3) == 3
    assert found.number("objective.beta", 1.0) == 0.05
    assert found.number("objective.type", 1.0) == 1.0
    assert found.episode_name(0, 4) == "episode 4"


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        ("empty", UsageError, "neither a dataset"),
        ("file", UsageError, "is a file"),
        ("recipe", IgrftError, "has not logged a step yet"),
        ("metrics", IgrftError, "no recipe.yaml"),
        ("inside", UsageError, "is a part of a training run"),
        ("above", UsageError, "holds 1 training run; give the folder of one: run"),
    ],
)
def test_what_is_neither_a_run_nor_a_dataset_is_refused(
    folder: Path, tmp_path: Path, make: str, kind: type[IgrftError], message: str
) -> None:
    other = tmp_path / "elsewhere/other"
    other.mkdir(parents=True)
    if make == "file":
        other = folder / "recipe.yaml"
    elif make == "recipe":
        (other / "recipe.yaml").write_text("steps: 1")
    elif make == "metrics":
        write(other / "metrics.jsonl", {"step": 1})
    elif make == "inside":
        other = folder / "checkpoints/000010"
        other.mkdir(parents=True)
    elif make == "above":
        other = tmp_path
    with pytest.raises(kind, match=message):
        refuse_neither(other)
    assert not is_run(other)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n"])
def test_a_recipe_that_cannot_be_read_is_refused(folder: Path, text: str) -> None:
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(IgrftError, match="recipe.yaml"):
        read_run(folder)


def test_runs_and_datasets_pass(folder: Path, good_set: Path) -> None:
    refuse_neither(folder)
    refuse_neither(good_set)
    assert is_run(folder) and not is_run(good_set)
