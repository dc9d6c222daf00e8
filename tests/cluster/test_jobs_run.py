"""Jobs run here as a cluster would run them: the same labels, whatever is killed, comes back, or fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cluster_runs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import edit_subtasks, tree_digest

from igrft import annotate
from igrft.cluster import local, settle, task
from igrft.cluster.drive import drive
from igrft.cluster.jobs import Jobs
from igrft.cluster.submit import prepare
from igrft.cluster.task import LabelTask, SignOfLife, label_share
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.config import load_pipeline
from igrft.pipeline.labelling import Labelling
from igrft.pipeline.staging import Result, read_entries, write_staged
from igrft.pipeline.target import open_target
from igrft.steps.base import EpisodeLabels

#: A heavy step that needs no pictures, and cheap ones after it.
STEPS = [{"type": "subtasks", "source": "proprio"}, {"type": "rewards"}, {"type": "returns"}]


def quiet(line: str) -> None:
    """Nobody listens."""


class Here(Labelling):
    """Without a process of its own for every task, which takes a second to start."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options | {"workers": 1, "isolated": False})


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_workers" not in request.fixturenames:
        monkeypatch.setattr(task, "Labelling", Here)


@pytest.fixture
def real_workers() -> None:
    """Tasks label in worker processes, as they do on a cluster."""


@pytest.fixture
def path(pipeline_file) -> Path:
    return pipeline_file(STEPS)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "labelled"


@pytest.fixture
def plain(source: Path, path: Path, tmp_path: Path) -> dict[str, str]:
    """What a run in one process makes."""
    annotate(source, tmp_path / "plain", pipeline=path, workers=1, say=quiet)
    return tree_digest(tmp_path / "plain")


@pytest.fixture
def submitted(source: Path, path: Path, target: Path) -> Jobs:
    """Three tasks of two episodes each, and nothing run yet."""
    jobs, tasks, episodes = prepare(source, target, load_pipeline(str(path), ["executor.tasks=3"]), False, False, quiet)
    assert (tasks, episodes) == ({"subtasks": 3}, {"subtasks": 6})
    return jobs


def label(jobs: Jobs, rank: int, attempt: int = 0) -> None:
    label_share(jobs, jobs.stage("subtasks"), attempt, rank)


def staged(target: Path) -> dict[str, int]:
    """Staged results with the moments at which they appeared."""
    folder = target.with_name(target.name + ".staging") / "steps/subtasks"
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.arrow")}


def forked(work: Callable[[], None]) -> int:
    """Run it in a process of its own; return that."""
    if pid := os.fork():
        return pid
    try:
        work()
    finally:
        os._exit(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_labels_are_those_of_a_plain_run(source, path, target, plain, workers):
    # The two are processes of their own, in which nothing is as these tests have it.
    overrides = ["executor.tasks=2", f"executor.workers={workers}"]
    found = annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    assert (found.episodes, found.set_aside) == (6, {})
    assert tree_digest(target) == plain
    assert not target.with_name("labelled.staging").exists()
    assert Jobs.of(open_target(target)).state()["state"] == "done"
    again = annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    assert again.unchanged and tree_digest(target) == plain


def test_a_task_that_was_killed_goes_on_where_it_was(submitted, target, plain):
    def killed_after_one() -> None:
        write = SignOfLife.write

        def dies(sign: SignOfLife, **options: bool) -> None:
            write(sign, **options)
            if sign.done == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        SignOfLife.write = dies
        label(submitted, 0)

    _, status = os.waitpid(forked(killed_after_one), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    before = staged(target)
    # The second may have been staged and not told of any more.
    assert 1 <= len(before) <= 2 and not target.exists()
    assert submitted.progress("subtasks", 0)[0]["state"] == "running"
    label(submitted, 0)
    told = submitted.progress("subtasks", 0)[0]
    assert (told["state"], told["episodes"], told["already"] + told["done"]) == ("done", 2, 2)
    assert told["already"] == len(before) and told["set_aside"] == 0
    assert {name: staged(target)[name] for name in before} == before, "what is there is not done again"
    # And once more: all is there, and is told so.
    label(submitted, 0)
    told = submitted.progress("subtasks", 0)[0]
    assert (told["state"], told["already"], told["done"]) == ("done", 2, 0)
    drive(submitted, local.run_tasks, say=quiet)
    assert tree_digest(target) == plain


def test_two_processes_at_the_same_task_make_one_result(submitted, target, plain, real_workers, monkeypatch):
    children = [forked(lambda: (label(submitted, 0), os._exit(0))) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert len(staged(target)) == 2
    monkeypatch.setattr(task, "Labelling", Here)
    drive(submitted, local.run_tasks, say=quiet)
    assert tree_digest(target) == plain


def test_of_several_results_the_first_stands_for_all(tmp_path):
    """Models answer differently: whoever asks what is staged must be told the same, however close they come."""
    folder, rounds, processes = tmp_path / "steps", 40, 3
    ready = [tmp_path / f"ready-{n}" for n in range(processes)]

    def stage(number: int) -> None:
        ready[number].touch()
        while not all(p.exists() for p in ready):
            time.sleep(0.001)
        seen = []
        for row in range(rounds):
            labels = EpisodeLabels(columns={"x": np.full(3, number)}, record={"by": number})
            [found] = write_staged(folder, [Result(row, f"key {row}", 3, labels)])
            seen.append([found.record["by"], int(found.arrays().columns["x"][0])])
        (tmp_path / f"seen-{number}").write_text(json.dumps(seen))
        os._exit(0)

    for child in [forked(lambda n=n: stage(n)) for n in range(processes)]:
        assert os.waitpid(child, 0)[1] == 0
    seen = [json.loads((tmp_path / f"seen-{n}").read_text()) for n in range(processes)]
    assert seen[0] == seen[1] == seen[2]
    assert all(by == x for by, x in seen[0])
    assert len(list(folder.glob("*"))) == rounds, "nothing else is left there"


def test_a_result_replaces_what_is_none(tmp_path):
    def stage(value: int, reason: str | None = None) -> dict:
        labels = EpisodeLabels() if reason else EpisodeLabels(record={"by": value})
        return write_staged(tmp_path, [Result(0, "key", 3, labels, reason)])[0].record

    stage(0, "the camera was off")
    assert stage(1) == {"by": 1} == stage(2)
    # One that fails later takes nothing back.
    assert stage(3, "the camera was off") == {"by": 1}
    [file] = tmp_path.glob("*.arrow")
    file.write_bytes(b"cut off")
    assert stage(4) == {"by": 4}
    assert [s.record for s in read_entries(file)] == [{"by": 4}]


def test_a_job_of_an_older_submission_does_nothing(submitted, source, path, target):
    older = LabelTask(str(submitted.folder), submitted.job()["submission"], "subtasks", 0)
    submitted.put_state("cancelled")
    prepare(source, target, load_pipeline(str(path), ["executor.tasks=3"]), False, False, quiet)
    with pytest.raises(IgrftError, match="another submission"):
        older(None, 0, 3)
    assert submitted.progress("subtasks", 0) == {} and staged(target) == {}
    shutil.rmtree(submitted.folder)
    with pytest.raises(IgrftError, match="another submission, or none"):
        older(None, 0, 3)
    assert not submitted.folder.exists()


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_job_after_the_end_does_nothing(submitted, target, state):
    submitted.put_state(state)
    with pytest.raises(IgrftError, match=f"the submission is {state}"):
        LabelTask(str(submitted.folder), submitted.job()["submission"], "subtasks", 0)(None, 0, 3)
    assert submitted.progress("subtasks", 0) == {} and staged(target) == {}


@pytest.mark.parametrize("meanwhile", ["done", "cancelled", "resubmitted"])
def test_a_job_that_was_thought_dead_says_nothing_over_the_others(
    submitted, source, path, target, meanwhile, monkeypatch
):
    """It has labelled its first episode when all is over; it stops, and its progress is not what others see."""
    monkeypatch.setattr(task, "BEAT", 0.0)
    write = SignOfLife.write
    seen = {}

    def late(sign: SignOfLife, **options: bool) -> None:
        if sign.done == 1 and not seen:
            if meanwhile == "resubmitted":
                submitted.put_state("cancelled")
                prepare(source, target, load_pipeline(str(path), ["executor.tasks=3"]), False, False, quiet)
            else:
                submitted.put_state(meanwhile)
            submitted.put_progress("subtasks", 0, 0, {"state": "done", "done": 77})
            seen.update(submitted.progress("subtasks", 0)[0])
        write(sign, **options)

    monkeypatch.setattr(SignOfLife, "write", late)
    with pytest.raises(IgrftError, match=r"the submission is|another submission"):
        label(submitted, 0)
    told = submitted.progress("subtasks", 0)[0]
    if meanwhile == "cancelled":
        # Nobody goes on with it: that it has stopped is news.
        assert told["state"] == "failed" and "cancelled" in told["error"]
    else:
        assert told["done"] == 77


def test_a_job_that_was_thought_dead_does_not_bring_staging_back(submitted, target, real_workers, monkeypatch):
    open_labelling = Labelling.run_group

    def gone(labelling: Labelling, group: list[int]) -> None:
        # TARGET is published in the moment in which it begins with its first episode.
        shutil.rmtree(labelling.target.staging)
        open_labelling(labelling, group)

    monkeypatch.setattr(Labelling, "run_group", gone)
    with pytest.raises(IgrftError, match="is gone: the run that this belongs to has ended"):
        label(submitted, 0)
    assert not target.with_name("labelled.staging").exists()


@pytest.mark.parametrize("it", ["dies", "finishes", "stays"])
def test_the_end_waits_for_one_that_was_thought_dead(submitted, target, plain, monkeypatch, it):
    """That one holds TARGET for as long as it does not know."""
    for rank in range(3):
        label(submitted, rank)
    monkeypatch.setattr(settle, "_PATIENCE", 2)
    monkeypatch.setattr(settle, "_LOOK", 1)
    held = ExitStack()
    held.enter_context(open_target(target).locked())

    def moment(seconds: float) -> None:
        if it == "dies":
            held.close()
        elif it == "finishes":
            submitted.put_state("done")

    monkeypatch.setattr(settle.time, "sleep", moment)
    with held:
        if it == "dies":
            drive(submitted, local.run_tasks, say=quiet)
            assert tree_digest(target) == plain
        else:
            message = {"finishes": "the submission is done", "stays": "another run is at work"}[it]
            with pytest.raises(IgrftError, match=message):
                settle.settle(submitted, submitted.stage("finish"), local.run_tasks, quiet)
            assert submitted.state()["state"] == {"finishes": "done", "stays": "failed"}[it] and not target.exists()


def test_a_source_that_changed_since_is_refused(submitted, source, target):
    file = next((source / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    state = table.column("observation.state").to_numpy(zero_copy_only=False)
    index = table.schema.get_field_index("observation.state")
    changed = pa.array([(row + 1).tolist() for row in state], table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), changed), file)
    with pytest.raises(IgrftError, match="has changed since this was submitted; submit again"):
        drive(submitted, local.run_tasks, say=quiet)
    assert not target.exists()
    assert submitted.state()["state"] == "failed" and "has changed" in submitted.state()["message"]


class Failing(Here):
    """A task that cannot go on where episode 2 is among its own."""

    def run_group(self, group: list[int]) -> None:
        if 2 in self.rows:
            raise RuntimeError("the driver of the GPU is gone")
        super().run_group(group)


def test_what_a_task_cannot_do_is_tried_again_and_then_set_aside(source, path, target, monkeypatch):
    monkeypatch.setattr(task, "Labelling", Failing)
    overrides = ["executor.tasks=3", "executor.retries=2"]
    found = annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    jobs = Jobs.of(open_target(target))
    # First with another episode, which the second attempt labels: that one does not count as in vain.
    attempts = [jobs.rows("subtasks", n) for n in jobs.attempts("subtasks")]
    assert [len(rows) for rows, _ in attempts] == [6, 2, 1, 1] and [tasks for _, tasks in attempts] == [3, 2, 1, 1]
    log = jobs.folder / "stages/subtasks/3/logs/task_00000.log"
    assert found.episodes == 5 and list(found.set_aside) == [2]
    assert found.set_aside[2] == (
        "episode 2: step 'subtasks' has no result after 4 attempts: RuntimeError: the driver of the GPU is gone; "
        f"log: {log}"
    )
    assert "in run_group" in log.read_text() and "Traceback" in log.read_text()
    recorded = json.loads((target / "meta/igrft.json").read_text())["episodes"]["2"]["set_aside"]
    assert "the driver of the GPU is gone" in recorded and str(target.parent) not in recorded
    assert jobs.state()["state"] == "done"
    result = json.loads((jobs.folder / "result.json").read_text())
    assert result["episodes"] == 5 and list(result["set_aside"]) == ["2"]
    # Given again, that episode alone is done.
    monkeypatch.setattr(task, "Labelling", Here)
    whole = annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    assert (whole.episodes, whole.set_aside) == (6, {})
    assert [jobs.rows("subtasks", n) for n in jobs.attempts("subtasks")] == [([2], 1)]


def test_without_retries_nothing_is_tried_again(source, path, target, monkeypatch):
    monkeypatch.setattr(task, "Labelling", Failing)
    found = annotate(source, target, pipeline=path, overrides=["executor.tasks=3", "executor.retries=0"], say=quiet)
    # The other episode of its task is left undone with it.
    assert found.episodes == 4 and 2 in found.set_aside and len(found.set_aside) == 2
    assert all("after 1 attempt: RuntimeError" in reason for reason in found.set_aside.values())


def test_a_log_tells_where_it_happened_and_no_value_there(source, path, target, monkeypatch):
    class Connecting(Here):
        def run_group(self, group: list[int]) -> None:
            key = "sk-" + "secret" * 3
            connect(key)

    def connect(key: str) -> None:
        raise RuntimeError("no route to the model")

    monkeypatch.setattr(task, "Labelling", Connecting)
    with pytest.raises(IgrftError, match="no route to the model"):
        annotate(source, target, pipeline=path, overrides=["executor.tasks=1", "executor.retries=0"], say=quiet)
    log = (target.with_name("labelled.jobs") / "stages/subtasks/0/logs/task_00000.log").read_text()
    assert "in run_group" in log and "connect(key)" in log
    assert "sk-secret" not in "".join(
        p.read_text() for p in target.with_name("labelled.jobs").rglob("*") if p.is_file()
    )


def test_an_episode_that_no_step_can_label_is_set_aside_at_once(source, path, subtask_file, pipeline_file, target):
    edit_subtasks(subtask_file, lambda episodes: episodes["3"]["subtasks"].pop())
    fixes = json.loads(subtask_file.read_text())["episodes"]["3"]
    (target.parent / "fixes.json").write_text(json.dumps({"episodes": {"3": fixes}}))
    path = pipeline_file([{**STEPS[0], "overrides": "fixes.json"}, *STEPS[1:]])
    found = annotate(source, target, pipeline=path, overrides=["executor.tasks=2"], say=quiet)
    jobs = Jobs.of(open_target(target))
    assert list(found.set_aside) == [3] and jobs.attempts("subtasks") == [0]
    assert sum(p["set_aside"] for p in jobs.progress("subtasks", 0).values()) == 1
    with pytest.raises(IgrftError, match=r"--strict stops here"):
        annotate(source, target.with_name("strict"), pipeline=path, overrides=["executor.tasks=2"], strict=True)
    strict = Jobs.of(open_target(target.with_name("strict")))
    assert strict.state()["state"] == "failed" and not target.with_name("strict").exists()
    assert strict.attempts("subtasks") == [0], "what will fail again is not tried again"


def test_an_episode_unfit_for_any_step_counts_once(source, path, target):
    file = next((source / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    state = np.stack(table.column("observation.state").to_numpy(zero_copy_only=False)).copy()
    state[3] = np.nan
    index = table.schema.get_field_index("observation.state")
    changed = pa.array(state.tolist(), table.schema.field(index).type)
    pq.write_table(table.set_column(index, table.schema.field(index), changed), file)
    found = annotate(source, target, pipeline=path, overrides=["executor.tasks=3"], say=quiet)
    assert len(found.set_aside) == 1
    progress = Jobs.of(open_target(target)).progress("subtasks", 0).values()
    assert sum(p["episodes"] for p in progress) == 5 and sum(p["set_aside"] for p in progress) == 0


def test_a_process_that_is_killed_takes_no_other_task_with_it(tmp_path):
    """Out of memory, say: nobody waits for ever, and what it left is tried again."""
    from igrft.cluster.local_executor import LocalExecutor

    executor = LocalExecutor(
        pipeline=[cluster_runs.dies_on_rank_one], tasks=4, workers=2, logging_dir=str(tmp_path / "0")
    )
    executor.run()
    assert not (tmp_path / "0/completions/00001").exists()
    for rank in (0, 2, 3):
        cluster_runs.dies_on_rank_one(None, rank, 4)


def test_ctrl_c_ends_it_at_once_and_it_goes_on(source, path, target, plain, monkeypatch):
    class Interrupted(Here):
        def run_group(self, group: list[int]) -> None:
            if len(staged(target)) >= 2:
                raise KeyboardInterrupt
            super().run_group(group)

    monkeypatch.setattr(task, "Labelling", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        annotate(source, target, pipeline=path, overrides=["executor.tasks=3"], say=quiet)
    before = staged(target)
    assert len(before) == 2 and Jobs.of(open_target(target)).state()["state"] == "cancelled"
    monkeypatch.setattr(task, "Labelling", Here)
    annotate(source, target, pipeline=path, overrides=["executor.tasks=3"], say=quiet)
    assert Jobs.of(open_target(target)).rows("subtasks", 0)[0] and tree_digest(target) == plain


def test_one_process_at_a_time(submitted, source, path, target):
    """The jobs of a process here are at work while it lives: neither jobs nor a plain run may begin beside them."""
    with local.at_work(submitted):
        for overrides in ([], ["executor.tasks=2"]):
            with pytest.raises(IgrftError, match="jobs are at work on .*; see: igrft status"):
                annotate(source, target, pipeline=path, overrides=overrides, say=quiet)
    # Its process has been killed: whoever comes next goes on.
    annotate(source, target, pipeline=path, workers=1, say=quiet)
    assert DatasetReader.open(target).igrft["episodes"]


def test_it_is_at_work_from_the_first_moment_to_the_last(source, path, target, monkeypatch):
    seen = []

    class Watching(Here):
        def run_group(self, group: list[int]) -> None:
            seen.append(local.alive(Jobs.of(self.target)))
            super().run_group(group)

    monkeypatch.setattr(task, "Labelling", Watching)
    annotate(source, target, pipeline=path, overrides=["executor.tasks=2"], say=quiet)
    assert seen == [True, True] and not local.alive(Jobs.of(open_target(target)))


def test_it_is_cancelled_from_elsewhere(source, path, target, monkeypatch):
    from igrft.cluster.schedulers import cancel

    monkeypatch.setattr(task, "BEAT", 0.0)

    class Cancelled(Here):
        def run_group(self, group: list[int]) -> None:
            threading.Thread(target=cancel, args=[Jobs.of(self.target)]).run()
            super().run_group(group)

    monkeypatch.setattr(task, "Labelling", Cancelled)
    with pytest.raises(IgrftError, match="the submission is cancelled"):
        annotate(source, target, pipeline=path, overrides=["executor.tasks=2"], say=quiet)
    assert Jobs.of(open_target(target)).state()["state"] == "cancelled" and not target.exists()


def test_what_is_for_one_process_alone_is_refused(source, path, target):
    with pytest.raises(UsageError, match=r"executor.workers"):
        annotate(source, target, pipeline=path, overrides=["executor.tasks=2"], workers=2)
    with pytest.raises(UsageError, match="no step 'reward'"):
        annotate(source, target, pipeline=path, overrides=["executor.tasks=2", "executor.steps.reward.cpus=2"])
    assert not target.with_name("labelled.jobs").exists()
