"""`igrft annotate` on a real Slurm of two nodes: the same labels as here, whatever dies, fails or comes back."""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import fails_on_row
import psutil
import pytest
from cluster_runs import EPISODES, STEP, Labelled, Sets, igrft, igrft_meanwhile, sets
from helpers import tree_digest
from processes import find, has_environment
from slurm_cluster import Job, SlurmCluster

from igrft.cluster.schedulers import cancel

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
PATH = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return sets(tmp_path_factory.mktemp("slurm"))


@pytest.fixture
def labelled(tmp_path: Path) -> Labelled:
    # Folders may have blanks in their names.
    (tmp_path / "a set").mkdir()
    return Labelled(tmp_path / "a set" / "labelled")


def command(made: Sets, labelled: Labelled, *options: str) -> list[object]:
    return ["annotate", made.source, labelled.path, "--pipeline", made.pipeline, *made.slurm, *options]


def annotate(made: Sets, labelled: Labelled, *options: str) -> dict:
    """Submit it; what was submitted."""
    return json.loads(igrft(*command(made, labelled, *options), "--json").stdout)


def elements(slurm: SlurmCluster, labelled: Labelled, stage: str = STEP) -> list[Job]:
    """Jobs of all arrays of a step."""
    ids = [i for name, joined in labelled.jobs.ids().items() if name.startswith(f"{stage}/") for i in joined.split(":")]
    return [job for job in slurm.jobs() if job.array_job in ids]


@contextlib.contextmanager
def hanging(*, of: Callable[[psutil.Process], bool]) -> Iterator[list[psutil.Process]]:
    """Processes that do nothing for the block, down to those that were started meanwhile."""
    held: dict[int, psutil.Process] = {}
    while fresh := [p for p in find(of) if p.pid not in held]:
        for process in fresh:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                held[process.pid] = process
    try:
        yield list(held.values())
    finally:
        for process in held.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def programs_on(slurm: SlurmCluster, node: str) -> Callable[[psutil.Process], bool]:
    """What jobs run on a node."""
    conf = slurm.env["SLURM_CONF"]
    return lambda p: not p.name().startswith("slurm") and has_environment(p, SLURM_CONF=conf, SLURMD_NODENAME=node)


def lose_node(slurm: SlurmCluster, name: str) -> None:
    """As where its network fails: Slurm's own programs there are gone, those of jobs are not touched."""
    log = str(slurm.folder / "log" / f"{name}.log")
    ours = find(lambda p: p.name().startswith("slurm") and any(file.path == log for file in p.open_files()))
    for process in ours:
        process.suspend()
    for process in ours:
        process.kill()
    slurm._daemons.pop(name).wait()


def test_labels_are_those_of_a_local_run_though_a_node_dies(slurm, made, labelled):
    submitted = annotate(made, labelled)
    assert submitted["tasks"] == {STEP: 6, "finish": 1} and submitted["episodes"] == {STEP: EPISODES}
    slurm.wait_until(lambda: len(labelled.staged()) >= 2, 120, "two episodes are staged")
    slurm.kill_node("node1")
    before = labelled.staged()
    found = {s["name"]: s for s in labelled.status()["stages"]}
    assert found[STEP]["state"] == "running" and found["finish"]["state"] == "waiting"
    refused = igrft("annotate", made.source, labelled.path, "--pipeline", made.pipeline, check=False)
    assert refused.returncode == 1 and "jobs are at work on" in refused.stderr
    slurm.wait_nodes(120, "node2")
    slurm.revive_node("node1")
    # Nothing that was there is done again; staging is gone when all is.
    slurm.wait_until(lambda: {n: labelled.staged().get(n) for n in before} != before, 300, "all is published")
    slurm.wait_idle(300)
    labelled.check(made)
    assert set(labelled.jobs.begun_on(STEP, 0).values()) == {"node1", "node2"}
    stage = labelled.stage()
    assert stage["restarts"] >= 1 and stage["attempts"] == 1 and stage["done"] == EPISODES
    assert labelled.status()["exit_status"] == 0


@pytest.mark.parametrize("back", ["while others do its work", "when all is over"])
def test_a_node_that_was_thought_dead_comes_back(slurm, made, labelled, back):
    """Slurm cannot reach it any more, its programs stand still; then they go on where they were."""

    def told() -> dict[int, dict]:
        return labelled.jobs.progress(STEP, 0)

    annotate(made, labelled)
    slurm.wait_until(lambda: len(labelled.staged()) >= 2, 120, "two episodes are staged")
    with hanging(of=programs_on(slurm, "node1")) as held:
        ours = {p.pid for p in held}
        assert ours
        lose_node(slurm, "node1")
        if back == "while others do its work":
            slurm.wait_until(lambda: any(p["restarts"] for p in told().values()), 180, "a job is run again")
        else:
            slurm.wait_until(lambda: labelled.jobs.ended, 300, "all is published")
            slurm.wait_until(lambda: not slurm.run("squeue", "-h").strip(), 60, "no job is left")
            ended = {rank: p["now"] for rank, p in told().items()}
            assert all(p["state"] == "done" for p in told().values())
    node1 = programs_on(slurm, "node1")
    slurm.wait_until(lambda: not [p for p in find(node1) if p.pid in ours], 120, "what came back has ended")
    slurm.wait_idle(300)
    labelled.check(made)
    if back == "when all is over":
        assert {rank: p["now"] for rank, p in told().items()} == ended, "it says nothing over the others"


def test_a_node_on_which_every_job_fails_at_once(slurm, made, labelled):
    """It is always free, and so takes all jobs; also those that should see to it."""
    setup = f'{PATH}; [ "$SLURMD_NODENAME" != node1 ] || exit 3'
    annotate(made, labelled, f"--executor.setup={setup}", "--executor.tasks=4")
    slurm.wait_idle(400)
    labelled.check(made)
    assert set(labelled.jobs.begun_on(STEP, 0).values()) == {"node1"}
    assert set(labelled.jobs.begun_on(STEP, 1).values()) == {"node2"}
    ends = [(job.state, job.nodes) for job in elements(slurm, labelled, "finish")]
    assert ends.count(("COMPLETED", "node2")) == 1 and ("FAILED", "node1") in ends
    assert all(end in [("COMPLETED", "node2"), ("FAILED", "node1"), ("CANCELLED", "")] for end in ends)
    assert labelled.stage()["attempts"] == 2 and labelled.status()["exit_status"] == 0


def test_a_task_that_always_fails(slurm, made, labelled):
    check = [sys.executable, fails_on_row.__file__, str(labelled.jobs.folder), "5"]
    setup = f"{PATH}; {shlex.join(check)} || exit 4"
    options = ["--executor.tasks=4", "--executor.retries=1", f"--executor.setup={setup}", "--wait"]
    done = igrft(*command(made, labelled, *options), check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    # With two others at first, which the second attempt labels; then alone.
    assert [len(labelled.jobs.rows(STEP, n)[0]) for n in labelled.jobs.attempts(STEP)] == [12, 3, 1]
    result = json.loads((labelled.jobs.folder / "result.json").read_text())
    assert result["episodes"] == EPISODES - 1 and list(result["set_aside"]) == ["5"]
    reason = result["set_aside"]["5"]
    assert reason.startswith(f"episode 5: step '{STEP}' has no result after 3 attempts: its job on node")
    assert f"set aside: {reason}" in done.stderr.splitlines()
    assert "the scratch disk of this job is gone" in Path(reason.partition("log: ")[2]).read_text()
    # Mended, that episode alone is done.
    again = annotate(made, labelled)
    assert again["episodes"] == {STEP: 1} and again["tasks"] == {STEP: 1, "finish": 1}
    slurm.wait_idle(300)
    labelled.check(made)


def test_cancelled_it_goes_on_where_it_was(slurm, made, labelled):
    # One task after the other, and cancelled from here: starting the command may take as long as labelling.
    annotate(made, labelled, "--executor.workers=1")
    slurm.wait_until(lambda: len(labelled.staged()) >= 3, 180, "three episodes are staged")
    cancel(labelled.jobs)
    slurm.wait_idle(30)
    before = labelled.staged()
    status = labelled.status()
    assert (status["state"], status["exit_status"]) == ("cancelled", 1) and not labelled.path.exists()
    assert igrft("cancel", labelled.path).stdout.strip().endswith("cancelled already")
    again = annotate(made, labelled, "--executor.steps.finish.sbatch.hold=true")
    assert again["episodes"] == {STEP: EPISODES - len(before)}
    slurm.wait_until(lambda: len(labelled.staged()) == EPISODES, 180, "all episodes are staged")
    assert {name: labelled.staged()[name] for name in before} == before, "nothing is done again"
    slurm.run("scontrol", "release", again["ids"]["finish/0"].partition(":")[0])
    slurm.wait_until(lambda: labelled.jobs.ended, 180, "it has ended")
    slurm.wait_idle(60)
    labelled.check(made)


def test_ctrl_c_leaves_the_jobs_alone(slurm, made, labelled):
    waiting = igrft_meanwhile(*command(made, labelled, "--wait"))
    slurm.wait_until(lambda: len(labelled.staged()) >= 1, 120, "an episode is staged")
    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130, out + err
    assert err.splitlines()[-1] == f"igrft: the jobs go on; see: igrft status {labelled.path}"
    watched = igrft("status", labelled.path, "--watch", "--quiet")
    assert watched.stdout.splitlines()[0] == f"{labelled.path}: done"
    slurm.wait_idle(60)
    labelled.check(made)


def test_the_controller_is_gone_for_a_while(slurm, made, labelled):
    annotate(made, labelled)
    slurm.wait_until(lambda: len(labelled.staged()) >= 1, 120, "an episode is staged")
    slurm.kill_controller()
    before = len(labelled.staged())
    deadline = time.monotonic() + 120
    while len(labelled.staged()) == before and time.monotonic() < deadline:
        time.sleep(0.5)
    # Whether jobs are there cannot be told now, and so nothing may begin beside them.
    refused = igrft("annotate", made.source, labelled.path, "--pipeline", made.pipeline, check=False)
    assert refused.returncode == 1 and "whether they are still there cannot be told from here" in refused.stderr
    slurm.start_controller()
    slurm.wait_idle(400)
    labelled.check(made)


def test_a_step_that_asks_for_a_gpu_goes_where_there_is_one(slurm, made, labelled):
    """And is tried again there, since no other node has one, though the first attempt failed on it."""
    mark = shlex.quote(str(labelled.path.with_name("mark")))
    setup = f'{PATH}; [ "$SLURM_JOB_NAME" != igrft-{STEP} ] || mkdir {mark}-$SLURM_ARRAY_TASK_ID 2> /dev/null'
    options = ["--executor.tasks=2", "--executor.steps.interaction.gpus=1", f"--executor.setup={setup} || exit 5"]
    # The mark is there already for one of the two, which fails; at the second attempt it is another.
    labelled.path.with_name("mark-1").mkdir()
    annotate(made, labelled, *options)
    slurm.wait_until(lambda: 1 in labelled.jobs.attempts(STEP), 300, "a second attempt is made")
    for path in labelled.path.parent.glob("mark-*"):
        path.rmdir()
    slurm.wait_idle(400)
    labelled.check(made)
    jobs = [job for job in elements(slurm, labelled) if job.nodes]
    assert {job.nodes for job in jobs} == {"node1"} and len(jobs) == 4
    times = sorted(tuple(datetime.fromisoformat(j.fields[f]) for f in ("StartTime", "EndTime")) for j in jobs)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(times)), "there is one GPU"


def test_a_job_that_runs_out_of_time_is_gone_on_with(slurm, made, labelled):
    annotate(made, labelled, "--executor.tasks=2", "--executor.steps.interaction.time=00:01:00")
    slurm.wait_until(lambda: len(labelled.staged()) >= 2, 120, "two episodes are staged")
    with hanging(of=lambda p: programs_on(slurm, "node1")(p) and "loky" in " ".join(p.cmdline())) as held:
        assert held, "a step that hangs"
        before = labelled.staged()
        slurm.wait_until(
            lambda: any(j.state == "TIMEOUT" for j in elements(slurm, labelled)), 240, "a job is out of time"
        )
        slurm.wait_until(lambda: 1 in labelled.jobs.attempts(STEP), 120, "a second attempt is made")
    rows, _ = labelled.jobs.rows(STEP, 1)
    assert 0 < len(rows) <= EPISODES - len(before)
    slurm.wait_idle(300)
    labelled.check(made)


def test_what_slurm_refuses_leaves_nothing_behind(slurm, made, labelled):
    """The second stage asks for more than there is: the first is not left running."""
    done = igrft(*command(made, labelled, "--executor.steps.finish.memory_gb=9999"), check=False)
    assert done.returncode == 1 and "sbatch refused step 'finish'" in done.stderr.splitlines()[-1]
    slurm.wait_idle(60)
    status = labelled.status()
    assert (status["state"], status["exit_status"]) == ("failed", 1) and "was not submitted" in status["message"]
    assert igrft("annotate", made.source, labelled.path, "--pipeline", made.pipeline).returncode == 0
    assert tree_digest(labelled.path) == tree_digest(made.labelled)


def test_more_tasks_than_an_array_may_have(slurm, made, labelled):
    annotate(made, labelled, "--executor.tasks=5", "--executor.max_array=2")
    ids = labelled.jobs.ids()[f"{STEP}/0"].split(":")
    assert len(ids) == 3
    slurm.wait_idle(400)
    labelled.check(made)
    assert sorted(r for r, p in labelled.jobs.progress(STEP, 0).items() if p["state"] == "done") == list(range(5))
    assert labelled.stage()["attempts"] == 1
