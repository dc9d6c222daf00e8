"""One task of a heavy step: its share of the episodes, labelled and staged on the shared folder.

A task begins wherever the one before it ended: what is staged is not done again. It may run twice at the same time
(a node was thought dead and comes back): both make the same, and the first result to arrive stands.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft.cluster.jobs import Jobs, node
from igrft.cluster.stages import Stage, ancestors
from igrft.dataset.locate import locate
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.pipeline.labelling import Labelling, StrictError
from igrft.pipeline.plan import Plan, make_plan
from igrft.pipeline.target import open_target
from igrft.pipeline.workers import one_line

#: Seconds between two signs of life.
BEAT = 2.0
#: What a task tells of itself.
_TOLD = ("began", "episodes", "frames", "already", "done", "done_frames", "set_aside", "state", "error", "spent")


@dataclass(frozen=True)
class LabelTask:
    """The function that datatrove's executors call for every rank.

    Attributes:
        folder: of the jobs.
        submission: whose task this is.
        stage: name of the stage.
        attempt: 0, or of a later one.
    """

    folder: str
    submission: str
    stage: str
    attempt: int

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        with plain_traceback():
            jobs = Jobs(Path(self.folder))
            jobs.refuse_ended(self.submission)
            label_share(jobs, jobs.stage(self.stage), self.attempt, rank)


def label_share(jobs: Jobs, stage: Stage, attempt: int, rank: int) -> None:
    """Label one rank's episodes.

    Raises:
        IgrftError: this task cannot go on; what it staged stands, and the rest is tried again elsewhere.
    """
    sign = SignOfLife(jobs, jobs.job()["submission"], stage.name, attempt, rank)
    sign.write(force=True)
    try:
        dataset, plan = open_source(jobs)
        everything, tasks = jobs.rows(stage.name, attempt)
        rows = share(everything, dataset.lengths, rank, tasks)
        labelling = shared_labelling(jobs, dataset, plan, rows, sign.bar, stage)
        sign.begin(rows, dataset.lengths)
        labelling.find_earlier_work()
        number = stage.groups[0]
        for below in ancestors(plan, number):
            # Sets the keys that this step's are made from.
            if undone := labelling.missing(plan.groups[below]):
                steps = "+".join(plan.steps[n].type for n in plan.groups[below])
                raise IgrftError(f"step {steps!r} is not done for {len(undone)} episodes; the job before failed")
        sign.already = len(rows) - len(labelling.missing(plan.groups[number]))
        try:
            labelling.run_group(plan.groups[number])
        finally:
            for step in (plan.steps[n] for n in plan.groups[number]):
                if spending := step.close():
                    print(spending.line, flush=True)
                    sign.spent[step.type] = spending.numbers
        sign.set_aside = sum(row in labelling.set_aside for row in rows)
        sign.end("done")
    except BaseException as error:
        sign.end("failed", said(error))
        if isinstance(error, StrictError) and jobs.holds(sign.submission) and not jobs.ended:
            # No task need go on, and nothing is to be tried again.
            jobs.put_state("failed", f"{stage.name}: {said(error)}")
        raise


@contextmanager
def plain_traceback() -> Iterator[None]:
    """Write an error with its traceback to the task's log; what is raised in its place has none.

    datatrove's logger would write the values of variables beside every line, and a key may be among them.
    """
    told = None
    try:
        yield
    except Exception as error:
        from datatrove.utils.logging import logger

        # As one text, or every line of it would be looked through for fields to fill in.
        logger.error("{}", traceback.format_exc())
        told = said(error)
    if told is not None:
        raise IgrftError(told) from None


def said(error: BaseException) -> str:
    """An error in one line; with its kind, where it is not one that was made for people."""
    return one_line(error) if isinstance(error, IgrftError) else f"{type(error).__name__}: {one_line(error)}"


def open_source(jobs: Jobs) -> tuple[DatasetReader, Plan]:
    """The dataset as submitted, and the plan for it.

    Raises:
        IgrftError: this node does not see it, or it has changed since.
    """
    job = jobs.job()
    dataset = DatasetReader.open(locate(job["source"], what="SOURCE", tables=False))
    if (dataset.num_episodes, dataset.num_frames) != (job["episodes"], job["frames"]):
        raise IgrftError(f"{job['source']} has changed since this was submitted; submit again")
    return dataset, make_plan(jobs.pipeline(), dataset, job["fingerprint"])


def unfit(jobs: Jobs) -> dict[int, str]:
    """Reasons by row, of episodes that nothing labels, or that earlier jobs left undone too often."""
    return {int(row): str(reason) for row, reason in jobs.job()["unfit"].items()} | jobs.set_aside()


def shared_labelling(
    jobs: Jobs, dataset: DatasetReader, plan: Plan, rows: Sequence[int], bar: Callable[..., Any], stage: Stage
) -> Labelling:
    """The part of the labelling that one task sees to."""
    job = jobs.job()
    number = plan.groups[stage.groups[0]][0]
    own = plan.steps[number].resources
    return Labelling(
        dataset,
        plan,
        open_target(job["target"], job.get("staging")),
        unfit(jobs),
        workers=max(1, stage.resources.cpus // max(1, own.cpus)),
        strict=bool(job["strict"]),
        rows=rows,
        given=jobs.reductions(),
        again=False,
        isolated=True,
        bar=bar,
    )


def share(rows: Sequence[int], lengths: np.ndarray, rank: int, tasks: int) -> list[int]:
    """One rank's rows: by length, dealt like cards, so that every rank has about as many frames."""
    return sorted(row for row, dealt in deal(rows, lengths, tasks).items() if dealt == rank)


def deal(rows: Sequence[int], lengths: np.ndarray, tasks: int) -> dict[int, int]:
    """The rank that every row goes to: there and back again, the longest first."""
    ordered = sorted(rows, key=lambda row: (-int(lengths[row]), row))
    dealt = {}
    for place, row in enumerate(ordered):
        round_, seat = divmod(place, tasks)
        dealt[row] = seat if round_ % 2 == 0 else tasks - 1 - seat
    return dealt


@dataclass
class SignOfLife:
    """A task's progress, as others see it."""

    jobs: Jobs
    submission: str
    stage: str
    attempt: int
    rank: int
    began: float = field(default_factory=time.time)
    episodes: int = 0
    frames: int = 0
    already: int = 0
    done: int = 0
    done_frames: int = 0
    set_aside: int = 0
    state: str = "running"
    error: str | None = None
    spent: dict[str, Any] = field(default_factory=dict)
    _written: float = 0.0

    def begin(self, rows: Sequence[int], lengths: np.ndarray) -> None:
        self.episodes, self.frames = len(rows), int(lengths[list(rows)].sum())
        self.write(force=True)

    def end(self, state: str, error: str | None = None) -> None:
        self.state, self.error = state, error
        try:
            # A job that comes back late says nothing over what others did in its place.
            if self.jobs.holds(self.submission) and self.jobs.state().get("state") != "done":
                self._tell()
        except (OSError, IgrftError) as trouble:
            # The error itself matters more than that it cannot be told.
            print(f"{self.jobs.folder}: {one_line(trouble)}", flush=True)

    @contextmanager
    def bar(self, what: str, episodes: int, frames: int, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
        """As :func:`igrft.progress.progress`; also ends the task where the whole submission has ended."""

        def advance(more_episodes: int, more_frames: int) -> None:
            self.done += more_episodes
            self.done_frames += more_frames
            self.write()

        yield advance

    def write(self, *, force: bool = False) -> None:
        """Tell the others, if it is time to.

        Raises:
            IgrftError: nobody waits for this task any more.
        """
        if not force and time.time() - self._written < BEAT:
            return
        self.jobs.refuse_ended(self.submission)
        self._tell()

    def _tell(self) -> None:
        now = self._written = time.time()
        value = {name: getattr(self, name) for name in _TOLD}
        value |= {"node": node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "now": now}
        value["restarts"] = int(os.environ.get("SLURM_RESTART_COUNT") or os.environ.get("IGRFT_RESTARTS") or 0)
        self.jobs.put_progress(self.stage, self.attempt, self.rank, value)
