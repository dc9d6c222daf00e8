"""One task of a heavy step: its share of the episodes, labelled and staged on the shared folder.

A task begins wherever the one before it ended: what is staged is not done again. It may run twice at the same time
(a node was thought dead and comes back): both make the same, and the first result to arrive stands.
"""

from __future__ import annotations

import os
import time
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
from igrft.pipeline.labelling import Labelling
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
        jobs = Jobs(Path(self.folder))
        jobs.refuse_ended(self.submission)
        label_share(jobs, jobs.stage(self.stage), self.attempt, rank)


def label_share(jobs: Jobs, stage: Stage, attempt: int, rank: int) -> None:
    """Label one rank's episodes.

    Raises:
        IgrftError: this task cannot go on; what it staged stands, and the rest is tried again elsewhere.
    """
    sign = SignOfLife(jobs, stage.name, attempt, rank)
    sign.write(force=True)
    try:
        dataset, plan = open_source(jobs)
        everything, tasks = jobs.rows(stage.name, attempt)
        rows = share(everything, dataset.lengths, rank, tasks)
        labelling = shared_labelling(jobs, dataset, plan, rows, sign.bar, stage)
        sign.begin(rows, dataset.lengths)
        labelling.find_earlier_work()
        group = stage.groups[0]
        for below in ancestors(plan, group):
            # Sets the keys that this step's are made from.
            labelling.missing(plan.groups[below])
        sign.already = len(rows) - len(labelling.left)
        try:
            labelling.run_group(plan.groups[group])
        finally:
            for number in plan.groups[group]:
                if spending := plan.steps[number].close():
                    print(spending.line, flush=True)
                    sign.spent[plan.steps[number].type] = spending.numbers
        sign.set_aside = len(labelling.set_aside)
        sign.end("done")
    except BaseException as error:
        sign.end("failed", f"{type(error).__name__}: {one_line(error)}")
        raise


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
        {int(row): reason for row, reason in job["unfit"].items()},
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
            self.write(force=True)
        except OSError as trouble:
            # The error itself matters more than that it cannot be told.
            print(f"{self.jobs.folder} cannot be written: {one_line(trouble)}", flush=True)

    @contextmanager
    def bar(self, what: str, episodes: int, frames: int, *, show: bool = True) -> Iterator[Callable[[int, int], None]]:
        """As :func:`igrft.progress.progress`; also ends the task where the whole submission has ended."""
        self.already = self.episodes - episodes

        def advance(more_episodes: int, more_frames: int) -> None:
            self.done += more_episodes
            self.done_frames += more_frames
            if self.write():
                state = self.jobs.state().get("state")
                if state in ("failed", "cancelled"):
                    raise IgrftError(f"stopped: the submission is {state}")

        yield advance

    def write(self, *, force: bool = False) -> bool:
        """Tell the others, if it is time to; whether it was."""
        now = time.time()
        if not force and now - self._written < BEAT:
            return False
        self._written = now
        value = {name: getattr(self, name) for name in _TOLD}
        value |= {"node": node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "now": now}
        value["restarts"] = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self.jobs.put_progress(self.stage, self.attempt, self.rank, value)
        return True
