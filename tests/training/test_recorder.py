"""What a run leaves for its report, and what a resumed run takes back."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from igrft.training.recipe import WandbSettings
from igrft.training.recorder import (
    COLUMNS,
    FIGURES,
    HELDOUT,
    HELDOUT_COLUMNS,
    LABELS,
    METRICS,
    SAMPLES,
    Metrics,
    SampleRecorder,
    table_of,
)

INTEGERS = ("step", "dataset", "episode", "frame", "length")
OFF = WandbSettings()


def metrics(run: Path, resumed_at: int = 0) -> Metrics:
    return Metrics(run, OFF, {}, resumed_at)


def lines(run: Path) -> list[dict]:
    return [json.loads(t) for t in (run / METRICS).read_text().splitlines()]


def labels(size: int = 2, **given) -> dict[str, torch.Tensor]:
    made = {
        "episode": torch.arange(size, dtype=torch.int32),
        "frame": torch.arange(size, dtype=torch.int32) + 7,
        "length": torch.full((size,), 40, dtype=torch.int32),
        "intervention": torch.arange(size) % 2 == 1,
    }
    return {**made, **{k: torch.as_tensor(v) for k, v in given.items()}}


# Metrics.


def test_one_line_a_step(tmp_path):
    out = metrics(tmp_path)
    out.write({"step": 1, "loss": 0.5, "memory_gb": 2})
    out.write({"step": 2, "heldout": {"r2_trajectory": 0.25, "frames": 12}})
    out.close()
    assert lines(tmp_path) == [
        {"step": 1, "loss": 0.5, "memory_gb": 2},
        {"step": 2, "heldout": {"r2_trajectory": 0.25, "frames": 12}},
    ]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    out = metrics(tmp_path)
    out.write(
        {"step": 1, "loss": math.nan, "grad_norm": math.inf, "heldout": {"r2": -math.inf, "n": np.float64("nan")}}
    )
    text = (tmp_path / METRICS).read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert lines(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "heldout": {"r2": None, "n": None}}]


def test_each_line_is_on_the_disk_at_once(tmp_path):
    out = metrics(tmp_path)
    for step in (1, 2):
        out.write({"step": step})
        assert len(lines(tmp_path)) == step


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path):
    out = metrics(tmp_path)
    for step in (50, 100, 150):
        out.write({"step": step, "loss": 1.0})
    out.write({"step": 100, "heldout": {"r2": 0.0}})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 75, "loss": 0.1')  # the machine went down here
    out = metrics(tmp_path, resumed_at=100)
    assert [(x["step"], "heldout" in x) for x in lines(tmp_path)] == [(50, False), (100, False), (100, True)]
    out.write({"step": 150, "loss": 2.0})
    assert lines(tmp_path)[-1] == {"step": 150, "loss": 2.0}
    metrics(tmp_path, resumed_at=0)
    assert lines(tmp_path) == []


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}')
    metrics(tmp_path, resumed_at=2).write({"step": 3})
    assert [x["step"] for x in lines(tmp_path)] == [1, 2, 3]


def test_weights_and_biases_stay_off_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    metrics(tmp_path).write({"step": 1})


def test_weights_and_biases_get_the_same_numbers(tmp_path, monkeypatch):
    calls: list = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finished")
    )
    started: dict = {}
    fake = SimpleNamespace(init=lambda **given: started.update(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    settings = WandbSettings(enable=True, project="p", entity="e", mode="offline")
    out = Metrics(tmp_path, settings, {"seed": 3}, 0)
    out.write({"step": 5, "loss": 0.5, "heldout": {"r2_trajectory": 0.25}})
    out.close()
    assert calls == [(5, {"loss": 0.5, "heldout/r2_trajectory": 0.25}), "finished"]
    assert (started["project"], started["entity"], started["mode"]) == ("p", "e", "offline")
    assert started["name"] == tmp_path.name and started["config"] == {"seed": 3} and started["dir"] == str(tmp_path)


# Samples.


def test_a_row_a_sample_with_types_that_a_report_reads(tmp_path):
    recorder = SampleRecorder(tmp_path, 0)
    out = {f"sample/{n}": torch.tensor([i, i + 0.5]) for i, n in enumerate(FIGURES)}
    given = {n: [10.0 + i, 20.0 + i] for i, n in enumerate(LABELS)}
    recorder.add(SampleRecorder.row(3, {**out, "loss": torch.tensor(1.0)}, labels(**given), torch.tensor([0, 1])))
    recorder.flush(3)
    table = pq.read_table(tmp_path / SAMPLES / "000000003.parquet")
    assert table.column_names == [*INTEGERS, *FIGURES, *LABELS, "intervention"] == list(COLUMNS)
    kinds = {n: pa.int32() for n in INTEGERS} | {"intervention": pa.bool_()}
    assert all(table.schema.field(n).type == kinds.get(n, pa.float32()) for n in table.column_names)
    assert table.to_pylist()[1] == {
        "step": 3, "dataset": 1, "episode": 1, "frame": 8, "length": 40, "advantage": 0.5, "weight": 1.5, "loss": 2.5,
        "value_trajectory": 3.5, "value_subtask": 4.5, "interaction_probability": 5.5, "return_trajectory": 20.0,
        "return_subtask": 21.0, "interaction": 22.0, "motion": 23.0, "intervention": True,
    }  # fmt: skip


def test_figures_that_a_step_does_not_give_are_nan(tmp_path):
    recorder = SampleRecorder(tmp_path, 0)
    recorder.add(SampleRecorder.row(1, {"sample/loss": torch.ones(2)}, labels(), torch.zeros(2, dtype=torch.int64)))
    recorder.flush(1)
    table = pq.read_table(tmp_path / SAMPLES / "000000001.parquet")
    assert table["loss"].to_pylist() == [1, 1] and table["advantage"].null_count == 0
    assert all(np.isnan(table[n].to_numpy()).all() for n in (*FIGURES, *LABELS) if n != "loss")


def test_integers_survive_as_they_are():
    """Indices beyond 2^24 would be lost in float32."""
    large = 2**24 + 1
    row = SampleRecorder.row(1000, {}, labels(frame=[large, large + 2]), torch.tensor([3, 4]))
    assert row.dtype == torch.float64
    table = table_of(row.numpy(), COLUMNS)
    assert table["frame"].to_pylist() == [large, large + 2] and table["step"].to_pylist() == [1000, 1000]


def test_rows_since_the_last_file(tmp_path):
    recorder = SampleRecorder(tmp_path, 0)
    recorder.flush(0)
    assert not (tmp_path / SAMPLES).exists()
    for step in range(1, 6):
        recorder.add(SampleRecorder.row(step, {}, labels(), torch.zeros(2, dtype=torch.int64)))
        if step in (2, 5):
            recorder.flush(step)
    found = {p.name: pq.read_table(p)["step"].to_pylist() for p in sorted((tmp_path / SAMPLES).iterdir())}
    assert found == {"000000002.parquet": [1, 1, 2, 2], "000000005.parquet": [3, 3, 4, 4, 5, 5]}


def test_a_resumed_run_drops_rows_of_later_steps(tmp_path):
    for folder in (SAMPLES, HELDOUT):
        (tmp_path / folder).mkdir(parents=True)
        for step in (1000, 2000, 3000):
            (tmp_path / folder / f"{step:09d}.parquet").touch()
    SampleRecorder(tmp_path, 2000)
    for folder in (SAMPLES, HELDOUT):
        assert sorted(p.stem for p in (tmp_path / folder).iterdir()) == ["000001000", "000002000"]
    SampleRecorder(tmp_path, 0)
    assert not list((tmp_path / SAMPLES).iterdir())


def test_a_table_of_held_out_frames():
    values = np.arange(22.0).reshape(2, 11)
    table = table_of(values, HELDOUT_COLUMNS)
    assert table.column_names == [
        *INTEGERS, "value_trajectory", "value_subtask", "interaction_probability", "return_trajectory",
        "return_subtask", "interaction",
    ]  # fmt: skip
    assert table["length"].type == pa.int32() and table["interaction"].type == pa.float32()
    assert table["interaction"].to_pylist() == pytest.approx([10, 21])
