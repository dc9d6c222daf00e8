"""Stages on Ray, through datatrove: the driver is a job of the cluster, and outlives whoever submitted it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from igrft.cluster.drive import task_of
from igrft.cluster.jobs import Jobs
from igrft.cluster.settings import seconds_of
from igrft.cluster.stages import Stage
from igrft.errors import IgrftError
from igrft.pipeline.workers import one_line
from igrft.steps.base import Resources

_DRIVER = "driver"


def submit(jobs: Jobs) -> None:
    """Hand the driver to Ray's job server.

    Raises:
        IgrftError: no job server answers at ``executor.address``.
    """
    client = _client(jobs)
    submission = jobs.job()["submission"]
    # No environment goes along: Ray shows a job's variables to everybody, and one may be a key.
    command = shlex.join([sys.executable, "-m", "igrft.cluster.drive", str(jobs.folder), submission])
    name = f"igrft-{submission}"
    # First: an answer may be lost on its way.
    jobs.put_ids({_DRIVER: name})
    try:
        client.submit_job(entrypoint=command, submission_id=name, metadata={"name": f"igrft {jobs.folder.stem}"})
    except Exception as error:
        raise IgrftError(f"Ray did not take the job: {one_line(error)}") from None


def connect() -> None:
    """Be part of the cluster that this process is a job of."""
    # Somewhere above a job may stand `uv run` (of `ray start --block`, say): Ray would then send the working folder to
    # all nodes and start every worker by uv there, which need not have it. Workers run as their node's own Python.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray

    ray.init(address="auto", log_to_driver=False)


def run_tasks(jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None:
    """Run an attempt's tasks on the cluster that this process is part of; what fails is seen to later."""
    import ray

    from igrft.cluster.ray_executor import RayExecutor

    executor = jobs.executor()
    own = executor.of_step(*stage.owner_names)
    needs = stage.resources
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not any(_fits(needs, node["Resources"]) for node in nodes) and not jobs.ended:
        # It may grow: that is its autoscaler's to know.
        message = f"{stage.name} waits for a node with {needs.cpus} CPUs, {needs.memory_gb:g} GiB and {needs.gpus} GPUs"
        jobs.put_state("submitted", message)
    RayExecutor(
        pipeline=[task_of(jobs, stage, attempt)],
        tasks=tasks,
        workers=own.workers or executor.workers or -1,
        cpus_per_task=needs.cpus,
        mem_per_cpu_gb=needs.memory_gb / needs.cpus,
        gpus_per_task=needs.gpus,
        logging_dir=str(jobs.attempt(stage.name, attempt)),
        avoid=[node["NodeID"] for node in nodes if node["NodeManagerAddress"] in avoid],
        seconds=seconds_of(own.time or executor.time),
    ).run()


def cancel(jobs: Jobs) -> None:
    """Stop the driver; its tasks go with it."""
    for job, client in _submitted(jobs):
        try:
            client.stop_job(job)
        except Exception as error:
            if not _unknown(error):
                raise IgrftError(f"Ray did not stop the job {job}: {one_line(error)}") from None


def alive(jobs: Jobs) -> bool:
    """Whether the driver is waiting or running."""
    for job, client in _submitted(jobs):
        try:
            if not client.get_job_status(job).is_terminal():
                return True
        except Exception as error:
            if not _unknown(error):
                raise IgrftError(f"Ray does not say how the job {job} is: {one_line(error)}") from None
    return False


def _submitted(jobs: Jobs) -> Iterator[tuple[str, Any]]:
    """Ids of jobs with a client to ask; where there are none, no server need be there."""
    ids = list(jobs.ids().values())
    client = _client(jobs) if ids else None
    return ((job, client) for job in ids)


def _fits(needs: Resources, has: dict[str, float]) -> bool:
    memory = needs.memory_gb * 1024**3
    return has.get("CPU", 0) >= needs.cpus and has.get("GPU", 0) >= needs.gpus and has.get("memory", 0) >= memory


def _unknown(error: Exception) -> bool:
    """Whether Ray was started anew, or never took it."""
    return "does not exist" in str(error)


def _client(jobs: Jobs) -> Any:
    from ray.job_submission import JobSubmissionClient

    address = jobs.executor().address
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise IgrftError(
            f"no job server of Ray answers at {address!r} ({one_line(error)}); give --executor.address=http://HEAD:8265"
        ) from None
