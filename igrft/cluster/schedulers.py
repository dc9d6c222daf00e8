"""What every scheduler can be asked, whichever it is."""

from __future__ import annotations

from typing import Any

from igrft.cluster.jobs import Jobs


def alive(jobs: Jobs) -> bool:
    """Whether jobs of a submission are waiting or running. Raises IgrftError: it cannot be told from here."""
    return bool(_module(jobs).alive(jobs))


def cancel(jobs: Jobs) -> None:
    """End the jobs of a submission; what is staged stays, and a later submission goes on from it.

    Raises:
        IgrftError: the scheduler cannot be asked from here.
    """
    before = jobs.state()
    # First: a job that starts meanwhile finds that nobody waits for it.
    jobs.put_state("cancelled")
    try:
        _module(jobs).cancel(jobs)
    except BaseException:
        jobs.put_state(str(before.get("state")), before.get("message"))
        raise


def _module(jobs: Jobs) -> Any:
    """The scheduler's module, which must be at hand only where it is asked."""
    kind = jobs.executor().type
    if kind == "slurm":
        from igrft.cluster import slurm

        return slurm
    if kind == "ray":
        from igrft.cluster import ray

        return ray
    from igrft.cluster import local

    return local
