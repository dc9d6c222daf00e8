"""The Slurm of the tests is a real one: it runs jobs, notices nodes that die, and is gone afterwards.

With it, what is relied on of datatrove's executor for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import six_tasks
import slurm_cluster as module
from processes import find, has_environment, wait_until
from six_tasks import TASKS, attempts, completions
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def submit(cluster: SlurmCluster, folder: Path, script: str, *options: str) -> str:
    """The id of a job that runs these lines of bash."""
    log = folder / "%A_%a.out"
    return cluster.run("sbatch", "--parsable", "-o", str(log), *options, "--wrap", script).strip()


def test_steps_of_an_array_run_on_two_nodes_at_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = f"srun -l -n 1 --mem-per-cpu=2G sh -c 'echo $SLURMD_NODENAME; sleep 5' >> {tmp_path}/$SLURM_ARRAY_TASK_ID"
    job = submit(slurm, tmp_path, script, "--array=0-7", "--mem-per-cpu=2G", "--qos=normal")
    slurm.wait_until(lambda: sum(j.state == "RUNNING" for j in slurm.jobs()) == 8, 60, "eight run at once")
    slurm.wait_idle(60)
    said = sorted((tmp_path / str(rank)).read_text() for rank in range(8))
    assert said == ["0: node1\n"] * 4 + ["0: node2\n"] * 4
    assert [j.state for j in slurm.jobs() if j.array_job == job] == ["COMPLETED"] * 8


def test_gpu_is_given_to_one_job_at_a_time(slurm: SlurmCluster, tmp_path: Path) -> None:
    log = tmp_path / "seen"
    script = f"echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES $(date +%s%N) >> {log}; sleep 1; date +%s%N >> {log}"
    submit(slurm, tmp_path, script, "--array=0-1", "--gpus=1")
    slurm.wait_idle(60)
    first, first_end, second, _ = log.read_text().splitlines()
    assert first.split()[:2] == second.split()[:2] == ["node1", "0"]
    assert int(second.split()[2]) > int(first_end)


def test_jobs_of_a_node_that_dies_run_again_under_their_own_ids(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = f"echo $SLURM_JOB_ID ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/$SLURM_ARRAY_TASK_ID; srun -n 1 sleep 15"
    job = submit(slurm, tmp_path, script, "--array=0-1", "--requeue", "--nodelist=node1")
    slurm.wait_until(lambda: all((tmp_path / str(r)).exists() for r in range(2)), 60, "both run")
    slurm.kill_node("node1")
    marks = {"SLURM_CONF": slurm.env["SLURM_CONF"], "SLURMD_NODENAME": "node1"}
    assert not find(lambda process: has_environment(process, **marks))
    slurm.wait_until(lambda: slurm.node_states()["node1"].startswith("down"), 120, "the controller notices")

    def requeued() -> bool:
        return [(j.state, j.restarts) for j in slurm.jobs() if j.array_job == job] == [("PENDING", 1)] * 2

    slurm.wait_until(requeued, 30, "both wait to run again")
    slurm.revive_node("node1")
    slurm.wait_idle(120)
    for rank in range(2):
        (first, zero), (second, one) = (line.split() for line in (tmp_path / str(rank)).read_text().splitlines())
        assert first == second and (zero, one) == ("0", "1")


def six(cluster: SlurmCluster, folder: Path, *more: str) -> None:
    """Submit the six tasks through datatrove."""
    cluster.run(sys.executable, six_tasks.__file__, "slurm", str(folder), *more)


def test_tasks_of_a_node_that_dies_are_requeued(slurm: SlurmCluster, tmp_path: Path) -> None:
    six(slurm, tmp_path)
    slurm.wait_until(lambda: len(attempts(tmp_path)) == TASKS, 120, "all six begin")
    first = attempts(tmp_path)
    assert six_tasks.nodes(tmp_path) == {"node1": 4, "node2": 2}
    slurm.kill_node("node1")
    (tmp_path / "go").touch()
    slurm.wait_idle(180)
    again = {rank: ["node2 1"] if lines == ["node1 0"] else [] for rank, lines in first.items()}
    assert attempts(tmp_path) == {rank: lines + again[rank] for rank, lines in first.items()}
    assert completions(tmp_path) == list(range(TASKS))
    assert [(tmp_path / str(rank)).read_text() for rank in range(TASKS)] == ["node2"] * TASKS
    assert (tmp_path / "logs" / "stats.json").exists()


def test_task_that_raises_is_run_by_the_next_run_alone(slurm: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    six(slurm, tmp_path, "3")

    def stuck() -> bool:
        return [job.reason for job in slurm.jobs() if not job.over] == ["DependencyNeverSatisfied"]

    slurm.wait_until(stuck, 120, "only the job that merges statistics is left, in vain")
    assert sorted(job.state for job in slurm.jobs() if job.exit_code == "1:0") == ["FAILED"]
    assert completions(tmp_path) == [0, 1, 2, 4, 5]
    slurm.run("scancel", "--name", "six")
    six(slurm, tmp_path)
    slurm.wait_idle(120)
    assert completions(tmp_path) == list(range(TASKS))
    assert {rank: len(lines) for rank, lines in attempts(tmp_path).items()} == {r: 1 + (r == 3) for r in range(TASKS)}


def test_controller_that_dies_finds_its_jobs_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    submit(slurm, tmp_path, f"sleep 20; touch {tmp_path}/done")
    slurm.wait_until(lambda: any(j.state == "RUNNING" for j in slurm.jobs()), 30, "it runs")
    runs_since = time.time()
    saved = slurm.folder / "state" / "job_state"
    slurm.wait_until(lambda: saved.exists() and saved.stat().st_mtime > runs_since, 30, "its state is saved")
    slurm.kill_controller()
    assert slurm.try_run("scontrol", "ping").returncode != 0
    slurm.start_controller()
    slurm.wait_idle(60)
    assert (tmp_path / "done").exists() and slurm.jobs()[-1].state == "COMPLETED"


def test_nothing_is_left_of_a_cluster_whose_tests_are_killed(tmp_path: Path) -> None:
    if problem := module.missing():
        pytest.skip(problem)
    run = subprocess.Popen([sys.executable, module.__file__], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    conf = run.stdout.readline().strip().removeprefix("export SLURM_CONF=")
    env = {**os.environ, "SLURM_CONF": conf}
    wrap = ["sbatch", "-o", "/dev/null", "--wrap", f"touch {tmp_path}/runs; srun -n 1 sleep 600"]
    subprocess.run(wrap, env=env, check=True, stdout=subprocess.PIPE)
    wait_until((tmp_path / "runs").exists, 60, "the job runs")
    assert find(lambda process: has_environment(process, SLURM_CONF=conf))
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not Path(conf).parent.exists(), 60, "its folder goes")
    assert not find(lambda process: has_environment(process, SLURM_CONF=conf))
