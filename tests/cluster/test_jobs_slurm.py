"""What Slurm is handed: options, scripts and ids; here its commands only write down what they are asked.

That Slurm takes them is tested on a real one (test_slurm_annotate.py).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from igrft.cluster.jobs import Jobs
from igrft.cluster.settings import read_executor
from igrft.cluster.slurm import SlurmSettleTask, launch, run_again, submit
from igrft.cluster.stages import Stage
from igrft.cluster.submit import prepare
from igrft.errors import IgrftError
from igrft.pipeline.config import Pipeline, load_pipeline
from igrft.steps.base import Resources

STEPS = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}, {"type": "returns"}]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Slurm's commands. Each adds what it was called with to ``calls``; sbatch keeps scripts, gives ids."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("squeue", "scancel", "scontrol", "sinfo", "srun"):
        write(folder / name, "")
    write(
        folder / "sbatch",
        f'n=$(ls {folder}/script-* 2> /dev/null | wc -l); for last; do :; done; cp "$last" {folder}/script-$n\n'
        "echo Submitted batch job $((100 + n))",
    )
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    return folder


def write(path: Path, more: str) -> None:
    name = f'echo {path.name} "$@" >> {path.parent}/calls\n'
    path.write_text(f"#!/bin/bash\n{name}{more}\n")
    path.chmod(0o755)


def calls(commands: Path, name: str) -> list[list[str]]:
    lines = (commands / "calls").read_text().splitlines() if (commands / "calls").exists() else []
    return [line.split()[1:] for line in lines if line.split()[0] == name]


def options(script: Path) -> dict[str, str]:
    """``#SBATCH`` lines as Slurm reads them."""
    found = {}
    for line in script.read_text().splitlines():
        if line.startswith("#SBATCH --"):
            [option] = shlex.split(line.removeprefix("#SBATCH "))
            name, _, value = option.removeprefix("--").partition("=")
            found[name] = value
    return found


def made(folder: Path, executor: str, resources: Resources = Resources(2, 1.5, 0)) -> tuple[Jobs, Stage]:  # noqa: B008
    jobs = Jobs(folder / "a set.jobs")
    stage = Stage("counts", "label", (0,), (), resources, "interaction")
    jobs.begin(
        {
            "submission": "abc",
            "source": "",
            "target": str(folder / "a set"),
            "pipeline": {"name": "p", "steps": []},
            "executor": read_executor(yaml.safe_load(executor), (), "p").to_json(),
            "stages": [stage.to_json()],
        }
    )
    jobs.put_rows("counts", 0, [0, 1, 2], 3)
    return jobs, stage


def task(data, rank, world_size) -> None:
    """Never run here."""


@pytest.mark.parametrize(
    ("executor", "has", "lacks"),
    [
        (
            "{}",
            {"mem": "1536M", "cpus-per-task": "2", "time": "24:00:00", "open-mode": "append"},
            "mem-per-cpu gpus qos",
        ),
        ("{qos: high, account: a, partition: p}", {"qos": "high", "account": "a", "partition": "p"}, ""),
        ("{workers: 2}", {"array": "0-2%2"}, ""),
        ("{steps: {interaction: {time: '10', workers: 1}}}", {"time": "10", "array": "0-2%1"}, ""),
        ("{sbatch: {mem-per-cpu: 2G}}", {"mem-per-cpu": "2G"}, "mem"),
        ("{sbatch: {mem: 0}}", {"mem": "0"}, "mem-per-cpu"),
        ("{sbatch: {exclusive: true, requeue: false}}", {"exclusive": ""}, "requeue"),
        ("{sbatch: {comment: two words}}", {"comment": "two words"}, ""),
        ("{sbatch: {nice: 5}, steps: {counts: {sbatch: {nice: 7}}}}", {"nice": "7"}, ""),
        ("{sbatch: {exclude: bad}}", {"exclude": "node1,node2,bad"}, ""),
    ],
)
def test_options(commands, tmp_path, executor, has, lacks):
    jobs, stage = made(tmp_path, executor)
    launch(jobs, stage, task, 0, 3, exclude=["node1", "node2"] if "exclude" in has else [])
    found = options(commands / "script-0")
    assert {name: found.get(name) for name in has} == has
    assert not found.keys() & set(lacks.split())
    assert found["output"] == str(jobs.attempt("counts", 0) / "slurm_logs" / "%A_%a.out")
    assert found["job-name"] == "igrft-counts" and "mail-user" not in found


def test_the_users_own_word_for_gpus(commands, tmp_path):
    gpus = Resources(1, 4.0, 2)
    jobs, stage = made(tmp_path, "{}", gpus)
    launch(jobs, stage, task, 0, 3)
    assert options(commands / "script-0")["gpus"] == "2"
    jobs, stage = made(tmp_path, "{sbatch: {gres: 'gpu:a100:2'}}", gpus)
    launch(jobs, stage, task, 0, 3)
    found = options(commands / "script-1")
    assert found["gres"] == "gpu:a100:2" and "gpus" not in found


def test_a_job_of_slurm_hands_nothing_of_its_own_on(commands, tmp_path, monkeypatch):
    write(commands / "sbatch", f"env > {commands}/environment; echo Submitted batch job 1")
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "7")
    jobs, stage = made(tmp_path, "{}")
    launch(jobs, stage, task, 0, 3)
    names = {line.partition("=")[0] for line in (commands / "environment").read_text().splitlines()}
    assert "SLURM_CONF" in names and not names & {"SLURM_ARRAY_TASK_ID", "SLURM_MEM_PER_CPU", "SBATCH_PARTITION"}
    assert os.environ["SLURM_ARRAY_TASK_ID"] == "7"


@pytest.fixture
def submitted(source, pipeline_file, tmp_path, commands) -> Jobs:
    pipeline: Pipeline = load_pipeline(str(pipeline_file(STEPS)), ["executor.type=slurm", "executor.tasks=3"])
    jobs, tasks, _ = prepare(source, tmp_path / "labelled", pipeline, False, False, print)
    submit(jobs, tasks)
    return jobs


def test_a_submission_is_a_chain(submitted, commands):
    """The step; then the end, three times over, each after the one before."""
    assert submitted.ids() == {"subtasks/0": "100", "finish/0": "101:102:103"}
    depends = [[a for a in call if a.startswith("--dependency")] for call in calls(commands, "sbatch")]
    assert depends == [
        [],
        ["--dependency=afterany:100"],
        ["--dependency=afterany:100,afterany:101"],
        ["--dependency=afterany:100,afterany:102"],
    ]
    assert [options(commands / f"script-{n}")["array"] for n in range(4)] == ["0-2", "0-0", "0-0", "0-0"]


def run_script(commands: Path, number: int, node: str) -> int:
    """As Slurm does."""
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURMD_NODENAME": node}
    return subprocess.run(["bash", commands / f"script-{number}"], env=environment, capture_output=True).returncode


def test_a_node_where_the_end_failed_is_shunned_by_those_that_try_again(submitted, commands):
    assert run_script(commands, 1, "node1") == 0 and calls(commands, "scontrol") == []
    [[*_, pickled]] = calls(commands, "srun")
    assert pickled == str(submitted.attempt("finish", 0) / "executor.pik") and Path(pickled).is_file()
    # scontrol fails for those that run or are over, which is no matter.
    write(commands / "scontrol", "exit 1")
    write(commands / "srun", "exit 137")
    for number, node in ((1, "node1"), (2, "node7"), (3, "node1")):
        (commands / "calls").write_text("")
        assert run_script(commands, number, node) == 137
        nodes = {1: "node1", 2: "node1,node7", 3: "node1,node7"}[number]
        assert calls(commands, "scontrol") == [
            ["update", f"JobId={n}", f"ExcNodeList={nodes}"] for n in (101, 102, 103)
        ]
        assert submitted.begun_on("finish", 0) == {0: node}
    # A task of a step is seen to by others.
    (commands / "calls").write_text("")
    assert run_script(commands, 0, "node1") == 137 and calls(commands, "scontrol") == []
    assert submitted.begun_on("subtasks", 0) == {0: "node1"}


def test_what_is_superfluous_leaves_the_queue(submitted, commands, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "102")
    end = SlurmSettleTask(str(submitted.folder), submitted.job()["submission"], "finish", run_again)
    write(commands / "squeue", "")
    monkeypatch.setattr("igrft.cluster.slurm._LOOK", 0.0)
    # Nothing was labelled and nothing can be: attempts end at once, and it fails.
    with pytest.raises(IgrftError, match="no episode could be labelled"):
        end(None, 0, 1)
    retried = [i for name, joined in submitted.ids().items() if name.startswith("subtasks/") for i in joined.split(":")]
    assert retried == ["100", "104", "105"]
    assert calls(commands, "scancel") == [["100", "101", "103", "104", "105"]]
    # One of an older submission ends nothing.
    (commands / "calls").write_text("")
    with pytest.raises(IgrftError, match="another submission"):
        SlurmSettleTask(str(submitted.folder), "older", "finish", run_again)(None, 0, 1)
    assert calls(commands, "scancel") == []


def test_jobs_launched_before_a_refusal_are_known(commands, tmp_path):
    """The second of three arrays is refused: the first can be cancelled all the same."""
    write(
        commands / "sbatch",
        f"[ -e {commands}/once ] && exit 1; touch {commands}/once; echo Submitted batch job 55",
    )
    jobs, stage = made(tmp_path, "{max_array: 1}")
    with pytest.raises(IgrftError, match="sbatch refused step 'counts'"):
        launch(jobs, stage, task, 0, 3)
    assert jobs.ids() == {"counts/0": "55"}


def test_where_no_other_node_will_do_the_same_are_taken(commands, tmp_path, monkeypatch):
    monkeypatch.setattr("igrft.cluster.slurm._LOOK", 0.0)
    write(commands / "sinfo", "echo node1; echo node2")
    write(
        commands / "sbatch",
        'for last; do :; done; grep -q exclude "$last" && exit 1; echo Submitted batch job 56',
    )
    jobs, stage = made(tmp_path, "{}")
    run_again(jobs, stage, 1, 3, ["node1", "gone"])
    assert jobs.ids() == {"counts/1": "56"} and len(calls(commands, "sbatch")) == 2
