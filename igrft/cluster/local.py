"""The same jobs on this machine, one after the other or a few at a time: how a cluster would run it, to try it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from igrft.cluster.drive import task_of
from igrft.cluster.jobs import Jobs
from igrft.cluster.stages import Stage
from igrft.dataset.locks import locked
from igrft.errors import IgrftError


def run_tasks(jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None:
    """Run an attempt's tasks; what fails is seen to later."""
    # Here: importing datatrove costs a second, and it may not be installed.
    from igrft.cluster.local_executor import LocalExecutor

    executor = jobs.executor()
    workers = executor.of_step(*stage.owner_names).workers or executor.workers or 1
    folder = jobs.attempt(stage.name, attempt)
    made = LocalExecutor(
        pipeline=[task_of(jobs, stage, attempt)],
        tasks=tasks,
        workers=min(workers, tasks),
        logging_dir=str(folder),
    )
    with (folder / "driver.log").open("a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        made.run()


@contextlib.contextmanager
def at_work(jobs: Jobs) -> Iterator[None]:
    """Say for the block that this process runs these jobs; it is the kernel's to know when that has ended."""
    with locked(jobs.folder / "lock", f"another process runs the jobs in {jobs.folder}"):
        yield


def alive(jobs: Jobs) -> bool:
    """Whether a process of this machine is at work on them."""
    try:
        with at_work(jobs):
            return False
    except IgrftError:
        return True
    except OSError:
        # Another's folder, which we cannot lock; nor could we write TARGET.
        return False


def cancel(jobs: Jobs) -> None:
    """Nothing more than has been written already: each task looks at it every few seconds."""
