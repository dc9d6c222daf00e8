"""The same jobs on this machine, one after the other or a few at a time: how a cluster would run it, to try it out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from igrft.cluster.drive import task_of
from igrft.cluster.jobs import Jobs
from igrft.cluster.stages import Stage


def run_tasks(jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None:
    """Run an attempt's tasks; what fails is seen to later."""
    from datatrove.executor.local import LocalPipelineExecutor

    class Quiet(LocalPipelineExecutor):
        """The first task talks into its log alone, as the others do."""

        def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
            return super()._run_for_rank(rank, local_rank + 1, node_rank)

    executor = jobs.executor()
    workers = executor.of_step(*stage.owner_names).workers or executor.workers or 1
    folder = jobs.attempt(stage.name, attempt)
    made = Quiet(
        pipeline=[task_of(jobs, stage, attempt)],
        tasks=tasks,
        workers=min(workers, tasks),
        logging_dir=str(folder),
    )
    # An exception: its task has told in its progress and its log.
    with (
        (folder / "driver.log").open("a", encoding="utf-8") as log,
        contextlib.redirect_stderr(log),
        contextlib.suppress(Exception),
    ):
        made.run()
