"""The jobs between steps and after the last: see to what tasks left undone, label cheap steps, write TARGET."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from igrft.cluster.jobs import Jobs
from igrft.cluster.stages import Stage
from igrft.cluster.task import SignOfLife, deal, open_source, plain_traceback, said, unfit
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError
from igrft.pipeline.outcome import AnnotateResult
from igrft.pipeline.run import Run, say_to_stderr
from igrft.pipeline.target import Target, open_target
from igrft.pipeline.workers import one_line, refuse_full_disk

#: Seconds for which a job that settles waits for TARGET, and between two tries.
_PATIENCE, _LOOK = 300, 5


class Again(Protocol):
    """Runs one more attempt at a stage, and returns when it has ended, however it did."""

    def __call__(self, jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None: ...


@dataclass(frozen=True)
class SettleTask:
    """The function of the one task of a ``settle`` or ``finish`` stage."""

    folder: str
    submission: str
    stage: str
    again: Again

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        with plain_traceback():
            jobs = Jobs(Path(self.folder))
            jobs.refuse_ended(self.submission)
            settle(jobs, jobs.stage(self.stage), self.again)


def settle(jobs: Jobs, stage: Stage, again: Again, say: Callable[[str], None] = say_to_stderr) -> AnnotateResult | None:
    """Do what a ``settle`` or ``finish`` stage stands for. What goes wrong ends the submission, and says why.

    Returns:
        What the run came to, of ``finish``; else None.

    Raises:
        IgrftError: as of :func:`igrft.annotate`.
    """
    submission = jobs.job()["submission"]
    sign = SignOfLife(jobs, submission, stage.name, 0, 0)
    sign.write(force=True)
    try:
        try:
            found = _settle(jobs, stage, again, say, sign)
        except OSError as error:
            refuse_full_disk(error)
            raise IgrftError(f"{error.filename or jobs.folder}: {error.strerror or one_line(error)}") from error
    except Exception as error:
        # Not where the scheduler ends it: it may well begin it again.
        sign.end("failed", said(error))
        if jobs.holds(submission) and not jobs.ended:
            jobs.put_state("failed", f"{stage.name}: {said(error)}")
        raise
    sign.end("done")
    if found is not None:
        # Last: who waits for it looks at what there is.
        write_json(jobs.folder / "result.json", found.to_json())
        jobs.put_state("done")
    return found


def _settle(
    jobs: Jobs, stage: Stage, again: Again, say: Callable[[str], None], sign: SignOfLife
) -> AnnotateResult | None:
    job = jobs.job()
    where = open_target(job["target"], job.get("staging"))
    if stage.kind == "finish":
        # It alone checks the whole source anew: labels must not land on other rows than they were made for.
        base = Run.prepare(job["source"], job["target"], jobs.pipeline(), staging=job.get("staging"))
        if base.plan.source != job["fingerprint"]:
            raise IgrftError(f"{job['source']} has changed since this was submitted; submit again")
        dataset, plan = base.dataset, base.plan
    else:
        dataset, plan = open_source(jobs)
    run = SettlingRun(
        dataset,
        plan,
        where,
        unfit(jobs),
        name=job["pipeline"]["name"],
        strict=bool(job["strict"]),
        say=say,
        again=False,
        jobs=jobs,
        try_again=again,
    )
    with _held(jobs, job["submission"], where):
        where.recover()
        where.refuse_strangers(plan.source, bool(job["overwrite"]))
        if stage.kind == "finish":
            result = run.go()
            return dataclasses.replace(result, spent=spent(jobs, result.spent))
        run.find_earlier_work()
        try:
            for number in stage.groups:
                run.run_group(plan.groups[number])
        finally:
            for step in plan.steps:
                if spending := step.close():
                    say(spending.line)
                    sign.spent[step.type] = spending.numbers
        jobs.put_reductions(run.reductions)
        # Neither later steps nor the end try anew what was tried often enough.
        jobs.put_set_aside({row: reason for row, reason in run.set_aside.items() if row in run.left_undone})
    return None


@contextmanager
def _held(jobs: Jobs, submission: str, where: Target) -> Iterator[None]:
    """Hold TARGET. A job that is thought dead may still do so, for as long as it does not know.

    Raises:
        IgrftError: another process holds it for too long; or it has ended the submission.
    """
    with ExitStack() as block:
        for left in range(_PATIENCE, -1, -_LOOK):
            try:
                block.enter_context(where.locked())
                break
            except IgrftError:
                if not left:
                    raise
            time.sleep(_LOOK)
            jobs.refuse_ended(submission)
        yield


def spent(jobs: Jobs, here: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What jobs spent, and what was spent ``here``, added up by step."""
    told = [
        p.get("spent") or {}
        for s in jobs.stages()
        for n in jobs.attempts(s.name)
        for p in jobs.progress(s.name, n).values()
    ]
    total: dict[str, dict[str, Any]] = {}
    for part in (*told, here):
        for step, numbers in part.items():
            into = total.setdefault(step, {})
            for name, value in numbers.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    into[name] = into.get(name, 0) + value
                else:
                    into.setdefault(name, value)
    return total


@dataclass
class SettlingRun(Run):
    """A run whose heavy steps were tasks' work: what they left undone is tried again, then set aside."""

    jobs: Jobs = field(kw_only=True)
    try_again: Again = field(kw_only=True)
    #: Rows that jobs left undone too often.
    left_undone: set[int] = field(default_factory=set)

    def run_group(self, group: list[int]) -> None:
        step = self.plan.steps[group[0]]
        if not step.heavy:
            super().run_group(group)
            return
        missing = self.missing(group)
        executor = self.jobs.executor()
        if missing:
            # What all episodes say together: the job that should have told may have been killed.
            self.jobs.put_reductions(self.reductions)
        fruitless = 0
        while missing and fruitless < executor.retries:
            attempt = 1 + max(self.jobs.attempts(step.type), default=-1)
            stage = self.jobs.stage(step.type)
            wanted = executor.of_step(step.type, self.plan.owners[group[0]]).tasks or executor.tasks
            tasks = min(len(missing), wanted or DEFAULT_TASKS)
            before = self._failed(step.type)
            self.jobs.put_rows(step.type, attempt, missing, tasks)
            self.say(f"{step.type}: {len(missing)} episodes are not done, attempt {attempt + 1}")
            self.try_again(self.jobs, stage, attempt, tasks, sorted({str(p.get("node")) for p in before.values()}))
            self.stores[group[0]].scan()
            left = self.missing(group)
            fruitless = 0 if len(left) < len(missing) else fruitless + 1
            missing = left
        self.left_undone.update(missing)
        for row in missing:
            self.put_aside(row, self._why(row, step.type))

    def refuse_what_is_lacking(self) -> None:
        """Nothing: who submitted has asked, and heavy steps do not run here."""

    def _failed(self, stage: str) -> dict[int, dict[str, Any]]:
        """Tasks of the last attempt that did not end well, by rank."""
        attempts = self.jobs.attempts(stage)
        if not attempts:
            return {}
        _, tasks = self.jobs.rows(stage, attempts[-1])
        # What never came so far as to tell of itself has said on which node it began.
        begun = {r: {"node": n} for r, n in self.jobs.begun_on(stage, attempts[-1]).items() if r < tasks}
        told: dict[int, dict[str, Any]] = begun | self.jobs.progress(stage, attempts[-1])
        return {r: p for r, p in told.items() if p.get("state") != "done"}

    def _why(self, row: int, stage: str) -> str:
        """Why an episode has no result, as its last task told, and where that task's log is."""
        attempts = self.jobs.attempts(stage)
        episode = f"episode {int(self.dataset.episode_indices[row])}: step {stage!r}"
        if not attempts:
            return f"{episode} was never begun; submit again"
        rows, tasks = self.jobs.rows(stage, attempts[-1])
        rank = deal(rows, self.dataset.lengths, tasks)[row]
        log = self.jobs.log(stage, attempts[-1], rank)
        progress = self._failed(stage).get(rank)
        why = (
            "its job never began"
            if progress is None
            else progress.get("error")
            or (f"its job on node {progress.get('node')} ended without a word (killed, out of memory or out of time?)")
        )
        return f"{episode} has no result after {count(len(attempts), 'attempt')}: {why}; log: {log}"


def count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


#: Jobs that a step's episodes are dealt to where nobody says.
DEFAULT_TASKS = 100
