"""The Ray of the tests is a real one: jobs run on two nodes, one of which may die, and it is gone afterwards.

With it, what is relied on of datatrove's executor for it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray_cluster as module
import six_tasks
from processes import find, has_environment, wait_until
from ray_cluster import RayCluster
from six_tasks import TASKS, attempts, completions

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def submit(cluster: RayCluster, folder: Path, *more: str) -> str:
    """Start the six tasks; the id of their job."""
    command = " ".join([sys.executable, six_tasks.__file__, "ray", str(folder), *more])
    return cluster.client().submit_job(entrypoint=command)


def wait_begun(cluster: RayCluster, folder: Path) -> None:
    cluster.wait_until(lambda: len(attempts(folder)) == TASKS, 180, "all six begin")


def wait_status(cluster: RayCluster, job: str, status: str) -> None:
    client = cluster.client()
    cluster.wait_until(lambda: client.get_job_status(job).is_terminal(), 180, "the job is over")
    assert client.get_job_status(job) == status, client.get_job_logs(job)


def test_tasks_of_a_node_that_dies_run_again_on_the_other(ray_nodes: RayCluster, tmp_path: Path) -> None:
    job = submit(ray_nodes, tmp_path)
    wait_begun(ray_nodes, tmp_path)
    first = attempts(tmp_path)
    assert set(six_tasks.nodes(tmp_path)) == {"head", "worker"}
    ray_nodes.kill_node("worker")
    (tmp_path / "go").touch()
    ray_nodes.wait_until(lambda: ray_nodes.node_states()["worker"] == "DEAD", 120, "it is noticed")
    wait_status(ray_nodes, job, "SUCCEEDED")
    again = {rank: ["head 0"] if lines == ["worker 0"] else [] for rank, lines in first.items()}
    assert attempts(tmp_path) == {rank: lines + again[rank] for rank, lines in first.items()}
    assert completions(tmp_path) == list(range(TASKS))
    assert all((tmp_path / str(rank)).read_text() == "head" for rank in range(TASKS) if again[rank])
    ray_nodes.revive_node("worker")
    assert ray_nodes.node_states() == {"head": "ALIVE", "worker": "ALIVE"}


def test_task_that_raises_is_run_by_the_next_run_alone(ray_nodes: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    # The executor says so in its log and ends well: only the completions tell.
    wait_status(ray_nodes, submit(ray_nodes, tmp_path, "3"), "SUCCEEDED")
    assert completions(tmp_path) == [0, 1, 2, 4, 5] and not (tmp_path / "logs" / "stats.json").exists()
    wait_status(ray_nodes, submit(ray_nodes, tmp_path), "SUCCEEDED")
    assert completions(tmp_path) == list(range(TASKS))
    assert {rank: len(lines) for rank, lines in attempts(tmp_path).items()} == {r: 1 + (r == 3) for r in range(TASKS)}


def test_job_that_is_stopped_leaves_no_task(ray_nodes: RayCluster, tmp_path: Path) -> None:
    job = submit(ray_nodes, tmp_path)
    wait_begun(ray_nodes, tmp_path)
    assert ray_nodes.client().stop_job(job)
    wait_status(ray_nodes, job, "STOPPED")
    ray_nodes.wait_idle(60)
    (tmp_path / "go").touch()
    assert not [path for path in tmp_path.iterdir() if path.name.isdigit()] and completions(tmp_path) == []


def test_gpu_stands_on_one_node(ray_nodes: RayCluster) -> None:
    ask = (
        "import json, os, ray; ray.init(log_to_driver=False)\n"
        "@ray.remote(num_gpus=1)\n"
        "def where(): return os.environ['IGRFT_TESTS_RAY_NODE'], os.environ['CUDA_VISIBLE_DEVICES']\n"
        "print(json.dumps(ray.get([where.remote() for _ in range(2)])))"
    )
    # As the product's jobs have it: under `uv run` Ray would start its workers by uv, in a copy of this folder.
    found = ray_nodes.run(sys.executable, "-c", ask, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")
    assert json.loads(found.splitlines()[-1]) == [["worker", "0"]] * 2


def test_strangers_are_sent_away(ray_nodes: RayCluster) -> None:
    """Ray listens beyond loopback; without the cluster's token nobody gets in."""
    client = ray_nodes.env | {"RAY_AUTH_TOKEN": "0" * 64}
    ask = [sys.executable, "-c", "import ray; ray.init(address='auto')"]
    done = subprocess.run(ask, env=client, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "token" in done.stderr


def test_nothing_is_left_of_a_cluster_whose_tests_are_killed() -> None:
    if problem := module.missing():
        pytest.skip(problem)
    run = subprocess.Popen([sys.executable, module.__file__], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    said = "".join(run.stdout.readline() for _ in range(6))
    folder = said.split(" in ")[1].split(";")[0]
    marks = {module.CLUSTER: folder}
    assert os.path.isdir(folder) and find(lambda process: has_environment(process, **marks))  # noqa: PTH112
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not Path(folder).exists(), 60, "its folder goes")
    assert not find(lambda process: has_environment(process, **marks))
