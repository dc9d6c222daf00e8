"""`igrft annotate` on a real Ray of two nodes: the same labels as here, whatever dies; and tasks that are given up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest
from cluster_runs import EPISODES, STEP, Labelled, Sets, igrft, sets
from processes import find
from ray_cluster import CLUSTER, RayCluster

from igrft.cluster.schedulers import cancel

pytestmark = [pytest.mark.slow, pytest.mark.ray]
HEAD, WORKER = "127.0.0.2", "127.0.0.3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return sets(tmp_path_factory.mktemp("ray"))


@pytest.fixture
def labelled(tmp_path: Path) -> Labelled:
    # Folders may have blanks in their names.
    (tmp_path / "a set").mkdir()
    return Labelled(tmp_path / "a set" / "labelled")


def command(cluster: RayCluster, made: Sets, labelled: Labelled, *options: str) -> list[object]:
    ray = ["--executor.type=ray", f"--executor.address={cluster.dashboard}", "--executor.tasks=6"]
    small = ["--executor.steps.interaction.memory_gb=1"]
    return ["annotate", made.source, labelled.path, "--pipeline", made.pipeline, *ray, *small, *options]


def annotate(cluster: RayCluster, made: Sets, labelled: Labelled, *options: str) -> dict:
    """Submit it; what was submitted."""
    return json.loads(igrft(*command(cluster, made, labelled, *options), "--json").stdout)


def tasks(cluster: RayCluster) -> list[psutil.Process]:
    """Ray's processes that run tasks of a step."""

    def ours(process: psutil.Process) -> bool:
        return "ray::_run_rank" in " ".join(process.cmdline()) and inherits(process, cluster)

    return find(ours)


def inherits(process: psutil.Process, cluster: RayCluster) -> bool:
    """Ray's programs write their title over their environment; those that started them have it."""
    return any(p.environ().get(CLUSTER) == str(cluster.folder) for p in process.parents() if p.name() == "raylet")


def wait_end(cluster: RayCluster, labelled: Labelled) -> None:
    cluster.wait_until(lambda: labelled.jobs.ended, 300, "it has ended")
    cluster.wait_idle(60)


def wait_staged(cluster: RayCluster, labelled: Labelled, episodes: int) -> None:
    cluster.wait_until(lambda: len(labelled.staged()) >= episodes, 240, f"{episodes} episodes are staged")


def test_labels_are_those_of_a_local_run_though_a_node_dies(ray_nodes, made, labelled):
    # Whoever submitted it has ended when this returns; its driver is the cluster's.
    submitted = annotate(ray_nodes, made, labelled)
    assert submitted["tasks"] == {STEP: 6, "finish": 1} and submitted["episodes"] == {STEP: EPISODES}
    wait_staged(ray_nodes, labelled, 2)
    refused = igrft("annotate", made.source, labelled.path, "--pipeline", made.pipeline, check=False)
    assert refused.returncode == 1 and "jobs are at work on" in refused.stderr
    before = labelled.jobs.progress(STEP, 0)
    assert {p["node"] for p in before.values()} == {HEAD, WORKER}
    ray_nodes.kill_node("worker")
    wait_end(ray_nodes, labelled)
    labelled.check(made)
    after = labelled.jobs.progress(STEP, 0)
    assert all(p["state"] == "done" for p in after.values())
    assert any(p["restarts"] for r, p in after.items() if before.get(r, {}).get("node") == WORKER)
    stage = labelled.stage()
    assert stage["attempts"] == 1 and stage["done"] == EPISODES and labelled.status()["exit_status"] == 0


def test_a_task_that_is_killed_is_run_again(ray_nodes, made, labelled):
    """For memory, say: it ends without a word, and nobody waits for it."""
    annotate(ray_nodes, made, labelled, "--executor.tasks=2")
    wait_staged(ray_nodes, labelled, 1)
    killed = tasks(ray_nodes)
    assert killed
    killed[0].kill()
    wait_end(ray_nodes, labelled)
    labelled.check(made)
    assert labelled.stage()["restarts"] == 1 and labelled.stage()["attempts"] == 1


def test_cancelled_it_goes_on_where_it_was(ray_nodes, made, labelled):
    submitted = annotate(ray_nodes, made, labelled, "--executor.workers=1")
    wait_staged(ray_nodes, labelled, 3)
    # From here: starting the command may take as long as labelling.
    cancel(labelled.jobs)
    ray_nodes.wait_until(lambda: not tasks(ray_nodes), 60, "no task is left")
    ray_nodes.wait_idle(60)
    [job] = submitted["ids"].values()
    assert ray_nodes.client().get_job_status(job) == "STOPPED"
    before = labelled.staged()
    assert labelled.status()["state"] == "cancelled" and not labelled.path.exists()
    again = annotate(ray_nodes, made, labelled)
    assert again["episodes"] == {STEP: EPISODES - len(before)}
    wait_end(ray_nodes, labelled)
    labelled.check(made)


def test_a_step_that_asks_for_a_gpu_goes_where_there_is_one(ray_nodes, made, labelled):
    done = igrft(
        *command(ray_nodes, made, labelled, "--executor.tasks=3", "--executor.steps.interaction.gpus=1", "--wait")
    )
    assert done.returncode == 0
    labelled.check(made)
    assert {p["node"] for p in labelled.jobs.progress(STEP, 0).values()} == {WORKER}


def test_what_no_node_has_is_waited_for_and_said(ray_nodes, made, labelled):
    annotate(ray_nodes, made, labelled, "--executor.steps.interaction.gpus=7")
    ray_nodes.wait_until(lambda: labelled.jobs.state().get("message") is not None, 120, "it is said")
    status = labelled.status()
    assert (status["state"], status["exit_status"]) == ("submitted", 0)
    assert status["message"] == f"{STEP} waits for a node with 1 CPUs, 1 GiB and 7 GPUs"
    igrft("cancel", labelled.path)
    ray_nodes.wait_idle(60)
    # Of what the step has not got, the next submission asks less.
    annotate(ray_nodes, made, labelled)
    wait_end(ray_nodes, labelled)
    labelled.check(made)


def test_tasks_that_always_fail(ray_nodes, made, labelled):
    """On both nodes; so the second attempt avoids both, and is made all the same."""
    file = labelled.staging / "steps" / STEP
    file.parent.mkdir(parents=True)
    file.write_text("a file where results should go")
    done = igrft(*command(ray_nodes, made, labelled, "--executor.retries=1", "--wait"), check=False)
    assert done.returncode == 1 and done.stdout.startswith(
        f"{labelled.path}: failed (finish: no episode could be labelled"
    )
    message = labelled.jobs.state()["message"]
    assert "has no result after 2 attempts" in message and "cannot be written" in message
    assert Path(message.partition("log: ")[2]).is_file()
    assert [p["node"] for p in labelled.jobs.progress(STEP, 1).values()]
    file.unlink()
    annotate(ray_nodes, made, labelled)
    wait_end(ray_nodes, labelled)
    labelled.check(made)


#: Runs four tasks; each says on which node it is, and what is asked for happens to the second.
_SCRIPT = """
import os, sys, time
from igrft.cluster.ray import connect
from igrft.cluster.ray_executor import RayExecutor

def task(data, rank, world_size):
    here = os.path.join(sys.argv[1], "ran")
    os.makedirs(here, exist_ok=True)
    with open(os.path.join(here, str(rank)), "a") as file:
        file.write(os.environ["IGRFT_NODE"] + " " + os.environ["IGRFT_RESTARTS"] + "\\n")
    if rank == 1 and sys.argv[2] == "hangs":
        time.sleep(600)
    if rank == 1 and sys.argv[2] == "raises":
        raise RuntimeError("no")

connect()
import ray
ids = {n["NodeManagerAddress"]: n["NodeID"] for n in ray.nodes() if n["Alive"]}
RayExecutor(
    pipeline=[task], tasks=4, logging_dir=sys.argv[1], mem_per_cpu_gb=0.1,
    avoid=[ids[a] for a in sys.argv[3].split(",") if a], seconds=float(sys.argv[4]),
).run()
"""


def run(cluster: RayCluster, folder: Path, what: str, avoid: str = "", seconds: float = 600) -> dict[int, list[str]]:
    """Nodes and restarts by rank."""
    script = folder / "script.py"
    # Its function is sent by value, and so is what it knows of the command line.
    script.write_text(_SCRIPT.replace("sys.argv[1]", repr(str(folder))).replace("sys.argv[2]", repr(what)))
    cluster.run(sys.executable, str(script), "", "", avoid, str(seconds), timeout=300)
    return {int(p.name): p.read_text().splitlines() for p in (folder / "ran").iterdir()}


def completions(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "completions").iterdir())


def test_nodes_to_avoid(ray_nodes, tmp_path):
    for avoid in (HEAD, WORKER, f"{HEAD},{WORKER}"):
        folder = tmp_path / avoid
        folder.mkdir()
        nodes = {line.split()[0] for lines in run(ray_nodes, folder, "ends", avoid).values() for line in lines}
        assert nodes == {HEAD: {WORKER}, WORKER: {HEAD}}.get(avoid, nodes)
        assert completions(folder) == [0, 1, 2, 3]


def test_one_that_raises_is_not_run_again_and_one_that_hangs_is_given_up(ray_nodes, tmp_path):
    for what, lines in (("raises", 1), ("hangs", 4)):
        folder = tmp_path / what
        folder.mkdir()
        ran = run(ray_nodes, folder, what, seconds=8)
        assert [len(ran[rank]) for rank in range(4)] == [1, lines, 1, 1]
        assert [line.split()[1] for line in ran[1]] == [str(n) for n in range(lines)]
        assert completions(folder) == [0, 2, 3]
        log = (folder / "logs" / "task_00001.log").read_text()
        assert "RuntimeError: no" in log if what == "raises" else "PIPELINE" in log
