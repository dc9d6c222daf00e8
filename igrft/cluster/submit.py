"""`annotate` with an executor: check everything here, then hand the stages to the cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import igrft
from igrft.cluster.active import refuse_active
from igrft.cluster.jobs import Jobs
from igrft.cluster.settle import DEFAULT_TASKS
from igrft.cluster.stages import Stage, ancestors, refuse_unknown_steps, stages_of
from igrft.cluster.task import said
from igrft.errors import IgrftError, UsageError
from igrft.extras import require
from igrft.pipeline.config import Pipeline
from igrft.pipeline.outcome import AnnotateResult
from igrft.pipeline.run import Run, say_to_stderr
from igrft.pipeline.target import open_target


@dataclass(frozen=True)
class Submission:
    """What was handed to a cluster.

    Attributes:
        target: the dataset that will be there when all is done.
        folder: where its jobs tell how far they are.
        tasks: by stage; settling and finishing have one.
        episodes: by stage of a heavy step, those that are not done yet.
        ids: the scheduler's jobs.
    """

    target: Path | str
    folder: Path
    tasks: dict[str, int]
    episodes: dict[str, int]
    ids: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "target": str(self.target), "folder": str(self.folder)}


def submit(
    source: str | Path,
    target: str | Path,
    pipeline: Pipeline,
    *,
    strict: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = say_to_stderr,
) -> Submission:
    """Check a run as :func:`igrft.annotate` does, and submit it. Submitted again, it resumes.

    Args:
        source, target: on a folder that every node sees under the same path, or a Hub id or URL.
        pipeline: loaded, with ``executor.type`` ``slurm`` or ``ray``.
        strict, overwrite, say: as of :func:`igrft.annotate`.

    Raises:
        UsageError, IgrftError: as of :func:`igrft.annotate`; or the scheduler cannot be reached, or jobs are at work
            on TARGET already.
    """
    kind = pipeline.executor.type
    if kind == "local":
        raise UsageError("executor.type is local, which is no cluster; give slurm or ray")
    require(f"executor type {kind}", kind)
    if kind == "slurm":
        from igrft.cluster.slurm import refuse_no_slurm

        refuse_no_slurm()
    jobs, tasks, episodes = prepare(source, target, pipeline, strict, overwrite, say)
    try:
        if kind == "slurm":
            from igrft.cluster import slurm

            slurm.submit(jobs, tasks)
        else:
            from igrft.cluster import ray

            ray.submit(jobs)
    except BaseException as error:
        from igrft.cluster.schedulers import cancel

        # What was submitted of it must not run on alone.
        with contextlib.suppress(IgrftError):
            cancel(jobs)
        jobs.put_state("failed", f"it was not submitted: {error}")
        raise
    counts = {s.name: tasks.get(s.name, 0) if s.kind == "label" else 1 for s in jobs.stages()}
    return Submission(open_target(target).shown, jobs.folder, counts, episodes, jobs.ids())


def run_here(
    source: str | Path,
    target: str | Path,
    pipeline: Pipeline,
    *,
    strict: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = say_to_stderr,
    staging: str | Path | None = None,
) -> AnnotateResult:
    """Run the same jobs in this process and its children.

    Raises:
        UsageError: the pipeline asks for a cluster.
    """
    if pipeline.executor.type != "local":
        raise UsageError(
            f"the pipeline asks for executor {pipeline.executor.type!r}: run igrft annotate, or igrft.cluster.submit"
        )
    require("executor.tasks", "slurm")
    from igrft.cluster.drive import drive
    from igrft.cluster.local import at_work, run_tasks

    with contextlib.ExitStack() as block:
        jobs, _, _ = prepare(
            source,
            target,
            pipeline,
            strict,
            overwrite,
            say,
            staging=staging,
            hold=lambda j: block.enter_context(at_work(j)),
        )
        try:
            return drive(jobs, run_tasks, say=say)
        except Exception as error:
            if not jobs.ended:
                jobs.put_state("failed", said(error))
            raise
        except BaseException:
            jobs.put_state("cancelled")
            raise


def prepare(
    source: str | Path,
    target: str | Path,
    pipeline: Pipeline,
    strict: bool,
    overwrite: bool,
    say: Callable[[str], None],
    *,
    staging: str | Path | None = None,
    hold: Callable[[Jobs], object] = lambda jobs: None,
) -> tuple[Jobs, dict[str, int], dict[str, int]]:
    """Check the run, and write down what is to be done: the jobs, and tasks and episodes by stage of a heavy step.

    Args:
        hold: called with the jobs while TARGET is still held.
    """
    run = Run.prepare(source, target, pipeline, staging=staging)
    refuse_unknown_steps(run.plan, pipeline)
    run.strict, run.say = strict, say
    where, plan = run.target, run.plan
    where.refuse_strangers(plan.source, overwrite)
    jobs = Jobs.of(where)
    refuse_active(where)
    with where.locked():
        where.recover()
        where.refuse_strangers(plan.source, overwrite)
        run.find_earlier_work()
        for store in run.stores:
            store.forget_set_aside(remove=True)
        run.refuse_what_is_lacking()
        rows = _to_do(run)
        for number, missing in rows.items():
            for step in plan.groups[number]:
                if missing and (line := plan.steps[step].announce(run.dataset, missing)):
                    say(line)
        stages = stages_of(plan, pipeline.executor)
        text = str(source)
        jobs.begin(
            {
                "submission": secrets.token_hex(8),
                "at": time.time(),
                "igrft_version": igrft.__version__,
                "source": str(Path(text).expanduser().resolve()) if Path(text).expanduser().exists() else text,
                "target": str(where),
                "staging": where.workplace,
                "fingerprint": plan.source,
                "episodes": run.dataset.num_episodes,
                "frames": run.dataset.num_frames,
                "unfit": {str(row): reason for row, reason in run.unfit.items()},
                "strict": strict,
                "overwrite": overwrite,
                "pipeline": {
                    "name": pipeline.name,
                    "steps": [{"type": s.type, **dataclasses.asdict(s)} for s in pipeline.steps],  # type: ignore[call-overload]
                },
                "executor": pipeline.executor.to_json(),
                "stages": [s.to_json() for s in stages],
            }
        )
        hold(jobs)
        tasks, episodes = {}, {}
        for stage in stages:
            if stage.kind == "label" and (missing := rows[stage.groups[0]]):
                tasks[stage.name] = _tasks(stage, pipeline, len(missing))
                episodes[stage.name] = len(missing)
                jobs.put_rows(stage.name, 0, missing, tasks[stage.name])
    return jobs, tasks, episodes


def _to_do(run: Run) -> dict[int, list[int]]:
    """By group, the rows that are not done; all that are left where it cannot be known yet."""
    rows: dict[int, list[int]] = {}
    unknown: set[int] = set()
    for number, group in enumerate(run.plan.groups):
        reducing = run.plan.steps[group[0]].reduces
        if (
            unknown.intersection(ancestors(run.plan, number))
            # What it takes from all episodes is not there before all of them are.
            or (reducing and any(rows[g] for g in range(number)))
            or not run.known(group)
        ):
            unknown.add(number)
            rows[number] = run.left
        else:
            rows[number] = run.missing(group)
    return rows


def _tasks(stage: Stage, pipeline: Pipeline, episodes: int) -> int:
    own = pipeline.executor.of_step(*stage.owner_names).tasks
    return min(episodes, own or pipeline.executor.tasks or DEFAULT_TASKS)
