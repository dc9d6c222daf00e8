"""`igrft plan`: its arithmetic on costs that are given, and what it finds on a set that it measures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
from helpers import tree_digest
from hypothesis import given
from hypothesis import strategies as st
from sleeps import Sleeps

from igrft.cli.main import run
from igrft.cluster.forecast import Forecast, Nodes, forecast, foresee
from igrft.cluster.measure import Measured, StepCost, fit_line, makespan, measure, sample
from igrft.cluster.overheads import Writing, staging_seconds
from igrft.errors import IgrftError
from igrft.pipeline.config import Pipeline, load_pipeline
from igrft.pipeline.run import Run
from igrft.steps.base import Resources

#: A heavy step and cheap ones.
STEPS = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}, {"type": "returns"}]


def quiet(line: str) -> None:
    """Nobody listens."""


# Arithmetic.


def test_a_worker_takes_the_longest_that_is_left():
    assert makespan([2, 3, 2, 3, 2], 1) == 12
    assert makespan([2, 3, 2, 3, 2], 2) == 7
    assert makespan([2, 3, 2, 3, 2], 5) == makespan([2, 3, 2, 3, 2], 50) == 3
    assert makespan([], 4) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(1, 8))
def test_no_worker_is_idle_while_work_is_left(seconds, workers):
    least = max(max(seconds), sum(seconds) / workers)
    assert least - 1e-6 <= makespan(seconds, workers) <= sum(seconds) / workers + max(seconds) + 1e-6


def test_a_line_is_found_exactly():
    lengths = np.array([10.0, 40.0, 20.0, 100.0])
    assert fit_line(lengths, 3.0 + 0.25 * lengths) == pytest.approx((3.0, 0.25))
    # Time that falls with the length, or below zero without any, is noise: it is never foretold.
    assert fit_line(lengths, 10 - 0.05 * lengths) == pytest.approx((7.875, 0.0))
    assert fit_line(lengths, 0.5 * lengths - 1) == pytest.approx((0.0, 81 / 170))
    # Nothing to tell the two from: all of it goes by frames.
    assert fit_line(np.array([50.0, 50.0, 50.0]), np.array([5.0, 6.0, 7.0])) == pytest.approx((0.0, 0.12))
    assert fit_line(np.array([50.0, 100.0]), np.array([5.0, 10.0])) == pytest.approx((0.0, 0.1))


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 100)), min_size=1, max_size=20))
def test_a_line_keeps_the_total(episodes):
    lengths, seconds = (np.array(v, float) for v in zip(*episodes, strict=True))
    per_episode, per_frame = fit_line(lengths, seconds)
    assert per_episode >= -1e-9 and per_frame >= 0
    assert per_episode * len(lengths) + per_frame * lengths.sum() == pytest.approx(seconds.sum(), abs=1e-6)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(1, 80))
def test_a_sample_spans_all_lengths(lengths, count):
    rows = list(range(len(lengths)))
    taken = sample(rows, np.array(lengths), count)
    assert taken == sorted(set(taken)) and set(taken) <= set(rows) and len(taken) == min(count, len(rows))
    if len(taken) > 1:
        ends = [lengths[r] for r in taken]
        assert (min(ends), max(ends)) == (min(lengths), max(lengths))


def test_a_sample_is_of_the_episodes_that_can_be_labelled():
    assert sample([1, 3, 5], np.array([9, 1, 9, 2, 9, 3]), 2) == [1, 5]


# From costs to a forecast. Six episodes of 50 frames.


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Pipeline]:
    monkeypatch.setattr(synthetic, "episode_lengths", lambda episodes, frames, seed: np.full(6, 50))
    synthetic.write_dataset(tmp_path / "even", 6, 300, width=3)
    path = tmp_path / "pipeline.yaml"
    path.write_text(json.dumps({"steps": STEPS}))
    pipeline = load_pipeline(str(path))
    return Run.prepare(tmp_path / "even", tmp_path / "plan", pipeline), pipeline


def cost(step: str = "subtasks", *, per_frame: float = 0.1, **more) -> StepCost:
    """Measured on two episodes of fifty frames."""
    given = {"heavy": True, "resources": Resources(1, 4, 0), "in_flight": None, "per_episode": 1.0, "start_up": 8.0}
    return StepCost(**{"step": step, "episodes": 2, "frames": 100, "per_frame": per_frame, **given, **more})


CHEAP = cost("rewards+returns", heavy=False, per_episode=0.0, per_frame=0.01, start_up=0.5)


def foreseen(prepared, costs: list[StepCost], nodes: Nodes, *overrides: str, here: bool = False) -> Forecast:
    found, pipeline = prepared
    assert found.dataset.lengths.tolist() == [50] * 6
    if overrides:
        path = found.dataset.root.with_name("pipeline.yaml")
        pipeline = load_pipeline(str(path), list(overrides))
    measured = Measured(found, costs, reading=2.0, writing=Writing(0.02, 7.0), workers=2)
    return foresee(measured, pipeline, nodes, here=here)


def test_on_this_machine(prepared):
    # Six episodes of 6 s by two workers, who begin once; cheap steps; reading; writing.
    found = foreseen(prepared, [cost(keeping=0.5), CHEAP], Nodes(1, 2), here=True)
    assert [3600 * s.hours for s in found.steps] == pytest.approx([18 + 8, 3 + 0.5])
    assert 3600 * found.hours == pytest.approx(26 + 3.5 + 2 + 6 + 3)
    assert (found.bottleneck, found.steps[0].at_once, found.steps[0].waits) == ("subtasks", 2, "cpu")
    assert 3600 * found.steps[0].core_hours == pytest.approx(36 + 8)
    assert found.steps[0].frames_per_second == pytest.approx(300 / 36)
    assert (found.episodes, found.frames, found.measured_episodes, found.notices) == (6, 300, 2, [])


def test_writing_may_be_what_takes_longest(prepared):
    found = foreseen(prepared, [cost(per_frame=0.0, per_episode=0.1, start_up=0.0), CHEAP], Nodes(1, 2), here=True)
    assert found.bottleneck == "reading and writing tables"


def test_jobs_that_do_not_all_fit_begin_in_turns(prepared):
    # Six tasks; two nodes of two cores take four at a time.
    found = foreseen(prepared, [cost(), CHEAP], Nodes(2, 2)).steps[0]
    assert found.at_once == 4
    assert 3600 * found.hours == pytest.approx(12 + 2 * 8)
    assert 3600 * found.core_hours == pytest.approx(36 + 6 * 8)


@pytest.mark.parametrize(
    ("overrides", "at_once"),
    [
        ((), 6),  # never more jobs than episodes
        (("executor.workers=3",), 3),
        (("executor.tasks=2",), 2),
        (("executor.steps.subtasks.workers=1",), 1),
        (("executor.steps.subtasks.cpus=2",), 6),
        (("executor.steps.subtasks.cpus=2", "executor.tasks=2"), 4),  # two jobs, each with two workers
        (("executor.steps.subtasks.cpus=4", "executor.tasks=1"), 4),
    ],
)
def test_what_the_executor_says_bounds_the_jobs(prepared, overrides, at_once):
    assert foreseen(prepared, [cost()], Nodes(10, 8), *overrides).steps[0].at_once == at_once


def test_gpus_bound_the_jobs_and_are_counted(prepared):
    on_gpu = cost(resources=Resources(4, 16, 1))
    found = foreseen(prepared, [on_gpu], Nodes(2, 64, 1))
    step = found.steps[0]
    assert (step.waits, step.at_once) == ("gpu", 2)
    assert 3600 * step.hours == pytest.approx(18 + 3 * 8)
    assert 3600 * step.gpu_hours == pytest.approx(36 + 6 * 8)
    assert 3600 * step.core_hours == pytest.approx(4 * (36 + 6 * 8))
    assert any("measured without a GPU" in n for n in found.notices)
    assert any("give --gpus" in n for n in foreseen(prepared, [on_gpu], Nodes(2, 64, 0)).notices)


def test_a_server_is_waited_for_by_many_episodes_together_and_tokens_are_counted(prepared):
    asks = cost(in_flight=3, spent={"prompt_tokens": 500.0, "requests": 9.0})
    found = foreseen(prepared, [asks], Nodes(1, 2), here=True)
    step = found.steps[0]
    assert (step.waits, step.at_once) == ("server", 3)
    assert 3600 * step.hours == pytest.approx(12 + 8)
    # Two episodes of 50 frames took 500.
    assert step.tokens == {"prompt_tokens": 1500.0}
    assert "1,500 prompt_tokens" in found.to_text() and any("as fast as the server" in n for n in found.notices)


def test_steps_that_wait_for_different_things_overlap_in_jobs(prepared):
    """The two do not build on each other; the longer of them decides."""
    from igrft.cluster import forecast as module

    found, pipeline = prepared
    asks, flows = cost("subtasks", in_flight=2), cost("interaction")
    measured = Measured(found, [asks, flows], 0.0, Writing(0.0, 0.0), 2)
    steps = [module._step(c, found.dataset.lengths.astype(float), Nodes(6, 1), pipeline, False) for c in (asks, flows)]
    # Six jobs that each wait for two episodes: 8 s to begin and 6 s; the flow has six workers, the same.
    assert [3600 * s.hours for s in steps] == pytest.approx([14, 14])
    assert 3600 * module._whole(measured, steps, pipeline, True) == pytest.approx(28)
    assert 3600 * module._whole(measured, steps, pipeline, False) == pytest.approx(14)


def test_storage(prepared):
    found = foreseen(prepared, [cost(bytes_per_frame=3.0), CHEAP], Nodes(1, 2), here=True)
    root = prepared[0].dataset.root
    recorded = sum(p.stat().st_size for p in (root / "data").rglob("*.parquet"))
    assert found.table_bytes == recorded + 7 * 300 and found.steps[0].bytes == 900 and found.video_bytes == 0


# Measured.


def test_every_second_that_a_step_takes_is_found(source, pipeline_file, tmp_path, monkeypatch):
    staging: list[float] = []

    def staged(*arguments) -> float:
        staging.append(7 + staging_seconds(*arguments))
        return staging[-1]

    monkeypatch.setattr("igrft.cluster.measure.staging_seconds", staged)
    pipeline = load_pipeline(str(pipeline_file(STEPS)))
    slow = dataclasses.replace(pipeline, steps=(*pipeline.steps[:1], Sleeps(), *pipeline.steps[1:]))
    before = tree_digest(tmp_path)
    found = measure(source, slow, episodes=6, workers=1, say=quiet)
    assert tree_digest(tmp_path) == before, "something is left beside the source, or of it changed"
    assert [s.step for s in found.steps] == ["subtasks", "subtask_index", "sleeps", "rewards+returns"]
    sleeps = found.steps[2]
    assert (sleeps.heavy, sleeps.episodes, sleeps.frames, sleeps.set_aside) == (True, 6, 300, 0)
    # All but the first, which is no pace: what its worker sets up once is not counted for every episode.
    labelling = sleeps.seconds(found.dataset.lengths).sum() - 6 * staging[-1]
    assert labelling >= 0.999 * (6 * 0.04 + 300 * 0.002) * 5 / 6
    assert min(staging) > 7 and sleeps.keeping > 0
    assert all(s.per_episode >= 0 and s.per_frame >= 0 and s.start_up >= 0 for s in found.steps)
    assert found.writing.per_frame > 0 and found.writing.label_bytes_per_frame > 0


def test_episodes_that_cannot_be_labelled_are_counted_and_told(source, pipeline_file):
    """Two of six have no subtasks in the file."""
    path = pipeline_file()
    subtasks = source.with_name("source.subtasks.json")
    content = json.loads(subtasks.read_text())
    for episode in ("1", "4"):
        content["episodes"][episode] = {"subtasks": [{"name": "reach", "start": 0, "end": 999}]}
    subtasks.write_text(json.dumps(content))
    found = forecast(source, load_pipeline(str(path)), episodes=6, workers=1, say=quiet)
    assert "2 of the measured episodes were set aside" in found.notices[0]
    for episode in content["episodes"].values():
        episode["subtasks"] = [{"name": "reach", "start": 0, "end": 999}]
    subtasks.write_text(json.dumps(content))
    with pytest.raises(IgrftError, match="none of 6 episodes could be labelled: .*999"):
        forecast(source, load_pipeline(str(path)), episodes=6, workers=1, say=quiet)


# The command.


def test_the_command(source, pipeline_file, tmp_path, capsys):
    path = pipeline_file(STEPS)
    before = tree_digest(tmp_path)
    assert run(["plan", str(source), "--pipeline", str(path), "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("6 episodes, 300 frames on 1 node of ") and "measured on 6 episodes here" in text
    assert "the bottleneck is" in text and "storage: tables" in text and "queue" not in text
    cheap = str(pipeline_file(name="cheap.yaml"))
    before = tree_digest(tmp_path)
    call = ["plan", str(source), "--pipeline", cheap, "--nodes", "4", "--cores", "2", "--workers", "1", "--json"]
    assert run(call) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["frames"], found["nodes"]) == (6, 300, {"nodes": 4, "cores": 2, "gpus": 0})
    assert [s["step"] for s in found["steps"]] == ["subtasks", "subtask_index+rewards+returns"]
    assert found["hours"] > 0 and any("the scheduler's queue" in n for n in found["notices"])
    assert tree_digest(tmp_path) == before


def test_what_annotate_refuses_is_refused_in_the_same_line(tmp_path, pipeline_file, source, capsys):
    assert run(["plan", str(tmp_path / "nothing")]) == 2
    refused = capsys.readouterr().err
    assert run(["annotate", str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == refused and refused.count("\n") == 1
    assert run(["plan", str(source), "--pipeline", str(pipeline_file()), "--executor.typ=slurm"]) == 2
    assert "executor has no key 'typ'" in capsys.readouterr().err


def test_a_real_recording(shared_data, tmp_path):
    """Its episodes are of several lengths, so that the sample's subtasks end beyond some of them."""
    assert run(["convert", str(shared_data / "cr5_banana_3ep"), str(tmp_path / "source"), "--quiet"]) == 0
    found = forecast(tmp_path / "source", load_pipeline("offline"), episodes=2, workers=1, say=quiet)
    assert found.bottleneck.startswith("interaction") and found.video_bytes > 0
    assert {s.step for s in found.steps} >= {"subtasks"} and all(s.hours > 0 for s in found.steps)
