"""Runs the stages from one process: on Ray, where it is a job of the cluster; or on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from igrft.cluster.jobs import Jobs
from igrft.cluster.settle import Again, settle
from igrft.cluster.stages import Stage
from igrft.cluster.task import LabelTask, said
from igrft.errors import IgrftError
from igrft.pipeline.outcome import AnnotateResult
from igrft.pipeline.run import say_to_stderr


def drive(
    jobs: Jobs, run_tasks: Again, *, at_once: int = 1, say: Callable[[str], None] = say_to_stderr
) -> AnnotateResult:
    """Run every stage after those that it builds on; those that do not wait for each other side by side.

    Args:
        run_tasks: runs the tasks of a stage, and returns when they have ended.
        at_once: stages at the same time.

    Raises:
        IgrftError: as of :func:`igrft.annotate`.
    """
    submission, stages = jobs.job()["submission"], jobs.stages()
    if at_once == 1:
        # In this thread: Ctrl-C ends what it is about.
        return _result(_run(jobs, submission, stage, (), run_tasks, say) for stage in stages)
    ended: dict[str, Future[AnnotateResult | None]] = {}
    # In order, so that none waits for one that has no thread yet.
    with ThreadPoolExecutor(at_once) as pool:
        for stage in stages:
            after = [ended[name] for name in stage.after]
            ended[stage.name] = pool.submit(_run, jobs, submission, stage, after, run_tasks, say)
        return _result(future.result() for future in ended.values())


def _result(found: Iterable[AnnotateResult | None]) -> AnnotateResult:
    *_, last = found
    assert last is not None
    return last


def _run(
    jobs: Jobs,
    submission: str,
    stage: Stage,
    after: Sequence[Future[Any]],
    run_tasks: Again,
    say: Callable[[str], None],
) -> AnnotateResult | None:
    for future in after:
        future.result()
    state = jobs.state()
    if state.get("state") == "failed" and state.get("message") and jobs.holds(submission):
        raise IgrftError(state["message"])
    jobs.refuse_ended(submission)
    if stage.kind != "label":
        return settle(jobs, stage, run_tasks, say)
    if 0 in jobs.attempts(stage.name):
        _, tasks = jobs.rows(stage.name, 0)
        run_tasks(jobs, stage, 0, tasks, ())
    return None


def task_of(jobs: Jobs, stage: Stage, attempt: int) -> LabelTask:
    """The function that every rank of an attempt calls."""
    return LabelTask(str(jobs.folder), jobs.job()["submission"], stage.name, attempt)


def main() -> None:
    """``python -m igrft.cluster.drive FOLDER SUBMISSION``: the driver on Ray."""
    from igrft.cluster.ray import connect, run_tasks

    jobs = Jobs(Path(sys.argv[1]))
    submission = sys.argv[2]
    try:
        jobs.refuse_ended(submission)
        connect()
        drive(jobs, run_tasks, at_once=max(2, len(jobs.stages())))
    except Exception as error:
        if jobs.holds(submission) and not jobs.ended:
            jobs.put_state("failed", said(error))
        if isinstance(error, IgrftError):
            sys.exit(f"igrft: {error}")
        raise


if __name__ == "__main__":
    main()
