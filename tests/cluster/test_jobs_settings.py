"""The ``executor`` entry: read exactly, and refused where it would do nothing or something else."""

from __future__ import annotations

import json

import pytest
import yaml

from igrft.cluster.settings import Executor, StepJobs, read_executor, seconds_of
from igrft.errors import UsageError
from igrft.pipeline.config import load_pipeline
from igrft.steps.base import Resources


def read(text: str = "", *overrides: str) -> Executor:
    return read_executor(yaml.safe_load(text) or {}, overrides, "p.yaml")


def test_nothing_said_is_this_machine_in_one_process():
    assert read() == Executor() and not read().in_jobs
    assert read("tasks: 3").in_jobs and read("type: slurm").in_jobs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("typ: slurm", "p.yaml: executor has no key 'typ'; did you mean 'type'?"),
        ("type: slurms", "unknown type 'slurms'; did you mean 'slurm'?"),
        ("type: null", "unknown type None"),
        ("steps: {interaction: {gpu: 1}}", "executor.steps.interaction has no key 'gpu'; did you mean 'gpus'?"),
        ("steps: [interaction]", "executor.steps must be a mapping by step"),
        ("steps: {interaction: 3}", "executor.steps.interaction must be a mapping"),
        ("steps: {interaction: {retries: 1}}", "executor.steps.interaction has no key 'retries'"),
        ("tasks: 0", "tasks must be a number of at least 1, got 0"),
        ("tasks: yes", "tasks must be a number of at least 1, got True"),
        ("tasks: 1.5", "tasks must be a number of at least 1, got 1.5"),
        ("tasks: '3'", "tasks must be a number of at least 1, got '3'"),
        ("workers: -1", "workers must be"),
        ("retries: null", "retries must be a number of at least 0, got None"),
        ("retries: -1", "retries must be"),
        ("max_array: null", "max_array must be"),
        ("time: 24:00:00", 'time must be written as Slurm does and quoted ("24:00:00"), got 86400'),
        ("time: '1 day'", "time must be written as Slurm does"),
        ("time: null", "time must be written as Slurm does"),
        ("account: 123", "account must be text (quoted, where it looks like a number), got 123"),
        ("address: null", "address must be text"),
        ("sbatch: [constraint]", "sbatch must be a mapping of options"),
        ("steps: {interaction: {memory_gb: .nan}}", "memory_gb must be"),
        ("steps: {interaction: {memory_gb: .inf}}", "memory_gb must be"),
        ("steps: {interaction: {gpus: -1}}", "gpus must be"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_meant(text, message):
    with pytest.raises(UsageError) as error:
        read(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_not_a_mapping():
    with pytest.raises(UsageError, match="executor must be a mapping"):
        read_executor("slurm", (), "p.yaml")


@pytest.mark.parametrize("time", ["90", "10:00", "24:00:00", "1-12", "2-00:30:00"])
def test_slurms_times(time):
    assert read(f"time: '{time}'").time == time
    # After the command nothing is quoted, and none is a number in base 60.
    assert read("", f"executor.time={time}").time == time
    assert read("", f"executor.steps.values.time={time}").of_step("values").time == time


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("10:30", 630), ("24:00:00", 86400), ("1-12", 129600), ("2-00:30", 174600), ("0-0:0:5", 5)],
)
def test_slurms_times_in_seconds(time, seconds):
    assert seconds_of(time) == seconds


def test_overrides_come_last_and_reach_into_steps():
    file = "{type: slurm, tasks: 8, sbatch: {constraint: a100}, steps: {values: {gpus: 1, tasks: 2}}}"
    found = read(
        file,
        "executor.tasks=16",
        "executor.steps.values.gpus=2",
        "executor.steps.interaction.memory_gb=1.5",
        "executor.sbatch.exclusive=true",
        "executor.account=1234",
        "executor.qos=null",
        "executor.setup=source env.sh: x",
    )
    assert (found.type, found.tasks, found.account, found.qos) == ("slurm", 16, "1234", None)
    assert found.setup == "source env.sh: x"
    assert found.sbatch == {"constraint": "a100", "exclusive": True}
    assert found.steps == {"values": StepJobs(gpus=2, tasks=2), "interaction": StepJobs(memory_gb=1.5)}


@pytest.mark.parametrize("override", ["executor.tasks", "executor=3", "executor..tasks=3", "executor.tasks.x=3"])
def test_an_override_that_says_nothing(override):
    with pytest.raises(UsageError):
        read("tasks: 2", override)


def test_resources_by_the_nearest_name():
    found = read("{steps: {interaction: {cpus: 4, gpus: 1}, interaction_counts: {cpus: 2}}}")
    step = Resources(cpus=1, memory_gb=6.0, gpus=0)
    assert found.resources(step, "interaction_counts", "interaction") == Resources(2, 6.0, 0)
    assert found.resources(step, "robot_mask", "interaction") == Resources(4, 6.0, 1)
    assert found.resources(step, "values") == step


def test_it_comes_back_from_the_jobs_file_as_it_was():
    found = read("{type: slurm, tasks: 8, time: '1-00', steps: {values: {gpus: 1, sbatch: {nice: 5}}}}")
    assert read_executor(json.loads(json.dumps(found.to_json())), (), "job.json") == found


def test_a_pipeline_file_says_where_it_runs(pipeline_file):
    path = pipeline_file()
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"executor": {"type": "slurm", "tasks": 3}}))
    found = load_pipeline(str(path), ["executor.tasks=5", "steps.rewards.sharpness=0.5"])
    assert (found.executor.type, found.executor.tasks) == ("slurm", 5)
    assert found.steps[1].sharpness == 0.5
    path.write_text(json.dumps(value | {"executer": {}}))
    with pytest.raises(UsageError, match="unknown key 'executer'; did you mean 'executor'"):
        load_pipeline(str(path))
