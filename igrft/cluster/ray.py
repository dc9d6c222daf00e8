"""Stages on Ray, through datatrove: the driver is a job of the cluster, and outlives whoever submitted it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from igrft.cluster.drive import task_of
from igrft.cluster.jobs import Jobs
from igrft.cluster.stages import Stage
from igrft.errors import IgrftError
from igrft.pipeline.workers import one_line

_DRIVER = "driver"


def submit(jobs: Jobs) -> None:
    """Hand the driver to Ray's job server.

    Raises:
        IgrftError: no job server answers at ``executor.address``.
    """
    client = _client(jobs)
    # No environment goes along: Ray shows a job's variables to everybody, and one may be a key.
    command = f"{shlex.quote(sys.executable)} -m igrft.cluster.drive {shlex.quote(str(jobs.folder))}"
    try:
        submitted = client.submit_job(entrypoint=command, metadata={"name": f"igrft {jobs.folder.stem}"})
    except Exception as error:
        raise IgrftError(f"Ray did not take the job: {one_line(error)}") from None
    jobs.put_ids({_DRIVER: submitted})


def run_tasks(jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None:
    """Run an attempt's tasks on the cluster that this process is part of; what fails is seen to later."""
    import ray
    from datatrove.executor.ray import RayPipelineExecutor
    from datatrove.utils.logging import logger

    if not ray.is_initialized():
        ray.init(address="auto", ignore_reinit_error=True, log_to_driver=False)
    executor = jobs.executor()
    own = executor.of_step(*stage.owner_names)
    needs = stage.resources
    made = RayPipelineExecutor(
        pipeline=[task_of(jobs, stage, attempt)],
        tasks=tasks,
        workers=own.workers or executor.workers or -1,
        cpus_per_task=needs.cpus,
        mem_per_cpu_gb=needs.memory_gb / needs.cpus,
        gpus_per_task=needs.gpus,
        logging_dir=str(jobs.attempt(stage.name, attempt)),
        # Over all nodes: Ray has no list of nodes to avoid, but what is tried again then lands elsewhere, mostly.
        ray_remote_kwargs={"scheduling_strategy": "SPREAD"},
    )
    try:
        made.run()
    except Exception as error:
        logger.warning(f"{stage.name}: {error}")


def cancel(jobs: Jobs) -> None:
    """Stop the driver; its tasks go with it."""
    client = _client(jobs)
    for job in jobs.ids().values():
        try:
            client.stop_job(job)
        except Exception as error:
            if "does not exist" not in str(error):
                raise IgrftError(f"Ray did not stop the job {job}: {one_line(error)}") from None


def alive(jobs: Jobs) -> bool:
    """Whether the driver is waiting or running."""
    client = _client(jobs)
    for job in jobs.ids().values():
        try:
            if not client.get_job_status(job).is_terminal():
                return True
        except RuntimeError:
            # Ray was started anew and knows nothing of it.
            continue
    return False


def _client(jobs: Jobs) -> Any:
    from ray.job_submission import JobSubmissionClient

    address = jobs.executor().address
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise IgrftError(
            f"no job server of Ray answers at {address!r} ({one_line(error)}); give --executor.address=http://HEAD:8265"
        ) from None
