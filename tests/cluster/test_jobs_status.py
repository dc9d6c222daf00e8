"""How far jobs are, from what they left in their folder; who may begin beside them; and what is no folder of jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from igrft import annotate
from igrft.cli.main import run
from igrft.cluster.jobs import Jobs
from igrft.cluster.settings import Executor
from igrft.cluster.stages import Stage
from igrft.cluster.status import duration, status
from igrft.errors import IgrftError
from igrft.steps.base import Resources

NEEDS = Resources(1, 4.0, 0)


@dataclass(frozen=True)
class Done:
    """What a command of the toolkit came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def igrft(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        return Done(run([str(a) for a in arguments]), *capsys.readouterr())

    return call


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """Ten episodes in four tasks of a heavy step, then another that waits, then the end."""
    made = Jobs(tmp_path / "labelled.jobs")
    stages = [
        Stage("counts", "label", (0,), (), NEEDS, "interaction"),
        Stage("before-values", "settle", (0,), ("counts",), NEEDS, "before-values"),
        Stage("values", "label", (1,), ("before-values",), NEEDS, "values"),
        Stage("apart", "label", (2,), (), NEEDS, "apart"),
        Stage("finish", "finish", (0, 1, 2), ("counts", "before-values", "values", "apart"), NEEDS, "finish"),
    ]
    made.begin(
        {
            "submission": "abc",
            "source": str(tmp_path / "source"),
            "target": str(tmp_path / "labelled"),
            "executor": Executor(tasks=4).to_json(),
            "pipeline": {"name": "p", "steps": []},
            "stages": [s.to_json() for s in stages],
        }
    )
    made.put_rows("counts", 0, list(range(10)), 4)
    made.put_rows("values", 0, list(range(10)), 2)
    return made


def tell(jobs: Jobs, rank: int, silent: float = 0.0, *, stage: str = "counts", attempt: int = 0, **more) -> None:
    """A task's progress, last heard of so many seconds ago."""
    told = {"began": 1000.0, "now": 1020.0, "episodes": 3, "already": 0, "done": 0, "done_frames": 0, "set_aside": 0}
    jobs.put_progress(stage, attempt, rank, {**told, "state": "running", "error": None, "restarts": 0, **more})
    path = jobs.attempt(stage, attempt) / "progress" / f"{rank:05d}.json"
    os.utime(path, (path.stat().st_mtime - silent,) * 2)


def by_name(jobs: Jobs) -> dict:
    return {s.name: s for s in status(jobs.folder.with_name("labelled")).stages}


def test_nothing_has_begun(jobs):
    found = by_name(jobs)
    assert [s.state for s in found.values()] == ["waiting", "waiting", "waiting", "done", "waiting"]
    assert (found["counts"].episodes, found["counts"].tasks, found["counts"].attempts) == (10, 4, 1)
    # Nothing was to do for it.
    assert (found["apart"].tasks, found["apart"].episodes) == (0, 0)


def test_numbers_add_up(jobs):
    tell(jobs, 0, state="done", already=1, done=2, done_frames=200, set_aside=1)
    tell(jobs, 1, already=0, done=2, done_frames=300, restarts=1)
    tell(jobs, 2, 500.0, done=1, done_frames=100)
    tell(jobs, 3, state="failed", error="RuntimeError: boom")
    log = jobs.attempt("counts", 0) / "logs" / "task_00003.log"
    log.parent.mkdir()
    log.touch()
    found = by_name(jobs)["counts"]
    assert (found.state, found.episodes, found.done, found.set_aside) == ("running", 10, 6, 1)
    assert (found.tasks_done, found.tasks_running, found.tasks_silent, found.tasks_failed) == (1, 1, 1, 1)
    assert (found.restarts, found.attempts) == (1, 1)
    # Of the one that runs: two episodes and 300 frames in its 20 seconds.
    assert (found.episodes_per_second, found.frames_per_second) == (0.1, 15.0)
    assert found.seconds_left == pytest.approx(40.0)
    assert (found.error, found.log) == ("RuntimeError: boom", str(log))
    line = status(jobs.folder.with_name("labelled")).to_text().splitlines()[2]
    assert line.split("  ")[0] == "counts" and "6/10 (1 set aside)" in line
    assert "1/4 done, 1 running, 1 failed, 1 silent, 1 restarted" in line and line.rstrip().endswith("40 s")


def test_a_later_attempt_counts_with_the_first(jobs):
    tell(jobs, 0, state="done", done=3)
    tell(jobs, 1, state="failed", error="boom", done=1)
    tell(jobs, 2, state="done", done=2)
    tell(jobs, 3, state="done", done=2)
    assert by_name(jobs)["counts"].state == "failed"
    jobs.put_rows("counts", 1, [4, 5], 2)
    tell(jobs, 0, attempt=1, state="done", done=1)
    found = by_name(jobs)["counts"]
    assert (found.state, found.done, found.tasks, found.tasks_done, found.attempts) == ("running", 9, 2, 1, 2)
    assert found.error is None, "what failed is being done again"
    tell(jobs, 1, attempt=1, state="done", done=1)
    assert (by_name(jobs)["counts"].state, by_name(jobs)["counts"].done) == ("done", 10)


def test_where_a_job_never_came_so_far_as_its_log_its_output_is_named(jobs):
    tell(jobs, 2, state="failed", error="x")
    assert by_name(jobs)["counts"].log == str(jobs.attempt("counts", 0))
    output = jobs.attempt("counts", 0) / "slurm_logs"
    output.mkdir()
    for name in ("17_2.out", "17_12.out"):
        (output / name).touch()
    assert by_name(jobs)["counts"].log == str(output / "17_2.out")


@pytest.mark.parametrize(("state", "exit_status"), [("submitted", 0), ("done", 0), ("failed", 1), ("cancelled", 1)])
def test_exit_statuses(igrft, jobs, state, exit_status):
    jobs.put_state(state, "finish: the disk is full" if state == "failed" else None)
    target = jobs.folder.with_name("labelled")
    done = igrft("status", target)
    assert done.status == exit_status
    assert done.out.splitlines()[0] == f"{target}: {state}" + (
        " (finish: the disk is full)" if state == "failed" else ""
    )
    told = json.loads(igrft("status", target, "--json").out)
    assert (told["state"], [s["name"] for s in told["stages"]][-1]) == (state, "finish")
    if state != "submitted":
        assert igrft("status", target, "--watch", "--quiet").status == exit_status


def test_cancel(igrft, jobs):
    target = jobs.folder.with_name("labelled")
    assert igrft("cancel", target).status == 0 and jobs.state()["state"] == "cancelled"
    again = igrft("cancel", target)
    assert again.status == 0 and "cancelled already" in again.out


@pytest.mark.parametrize("verb", ["status", "cancel"])
def test_nothing_was_submitted(igrft, tmp_path, verb):
    done = igrft(verb, tmp_path / "labelled")
    assert done.status == 1 and done.err.startswith("igrft: nothing was submitted for") and done.err.count("\n") == 1


@pytest.mark.parametrize("file", ["job.json", "state.json", "ids.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"submission": 3}'])
def test_damage_is_one_line_that_says_what_to_do(igrft, jobs, source, pipeline_file, file, content):
    if content.startswith(b'{"') and file != "job.json":
        pytest.skip("is no damage there")
    (jobs.folder / file).write_bytes(content)
    target = jobs.folder.with_name("labelled")
    commands = [["status", target], ["cancel", target], ["annotate", source, target, "--pipeline", pipeline_file()]]
    for command in commands[: 2 if file == "ids.json" else 3]:
        done = igrft(*command)
        assert done.status == 1 and done.err.count("\n") == 1, (command, done.err)
        assert f"{file} is damaged" in done.err and f"remove the folder {jobs.folder}" in done.err
    assert (jobs.folder / file).read_bytes() == content


def test_a_task_whose_progress_is_damaged_is_left_out(jobs):
    tell(jobs, 0, done=1)
    (jobs.attempt("counts", 0) / "progress" / "00001.json").write_text("{")
    assert by_name(jobs)["counts"].done == 1


def test_what_is_no_folder_of_jobs_is_left_alone(source, pipeline_file, tmp_path):
    folder = tmp_path / "labelled.jobs"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for name in ("notes.txt", "job.json"):
        if name == "job.json":
            (folder / name).write_text('{"theirs": 1}')
        with pytest.raises(IgrftError, match=r"holds something else|is damaged"):
            annotate(source, tmp_path / "labelled", pipeline=pipeline_file(), overrides=["executor.tasks=2"])
        assert (folder / "notes.txt").read_text() == "mine"
    folder.rename(tmp_path / "away")
    folder.write_text("a file")
    with pytest.raises(IgrftError, match="holds something else"):
        annotate(source, tmp_path / "labelled", pipeline=pipeline_file(), overrides=["executor.tasks=2"])


@pytest.mark.parametrize("executor", ["type=slurm", "type=ray", "tasks=2"])
def test_processes_of_one_run_are_not_jobs(igrft, source, pipeline_file, tmp_path, executor):
    done = igrft(
        "annotate", source, tmp_path / "out", "--pipeline", pipeline_file(), "--workers", 2, f"--executor.{executor}"
    )
    assert done.status == 2 and "--executor.workers is how many jobs run at a time" in done.err
    assert not (tmp_path / "out.jobs").exists()


def test_a_cluster_that_is_not_here(igrft, source, pipeline_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for address in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(address, raising=False)
    command = ["annotate", source, tmp_path / "out", "--pipeline", pipeline_file()]
    done = igrft(*command, "--executor.type=slurm")
    assert done.status == 1 and "sbatch is not on this machine; run this on a login node" in done.err
    assert not (tmp_path / "out.jobs").exists()
    done = igrft(*command, "--executor.type=ray", "--executor.address=http://127.0.0.1:9")
    assert done.status == 1 and done.err.splitlines()[-1].startswith(
        "igrft: no job server of Ray answers at 'http://127"
    )
    # It was not submitted, and nothing keeps another run from beginning.
    assert igrft("status", tmp_path / "out").status == 1
    assert igrft(*command).status == 0


def test_durations():
    assert [duration(s) for s in (0, 59.6, 61, 3599, 3600, 90061)] == [
        "0 s",
        "1 min 00 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 00 min",
        "25 h 01 min",
    ]
