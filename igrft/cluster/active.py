"""Are jobs at work on a TARGET? Importing this costs nothing."""

from __future__ import annotations

from igrft.errors import IgrftError
from igrft.pipeline.target import Target


def refuse_active(target: Target) -> None:
    """Refuse to write a TARGET that jobs of a cluster are at work on.

    Raises:
        IgrftError: they are, or it cannot be told from here.
    """
    folder = target.path.with_name(target.path.name + ".jobs")
    # Nearly always: nothing was ever submitted for it.
    if not folder.exists():
        return
    from igrft.cluster.jobs import Jobs
    from igrft.cluster.schedulers import alive

    jobs = Jobs(folder)
    if not jobs.exist or jobs.ended:
        return
    try:
        at_work = alive(jobs)
    except IgrftError as error:
        raise IgrftError(
            f"jobs were submitted for {target}, and whether they are still there cannot be told from here "
            f"({error}); run: igrft status {target}, or igrft cancel {target}"
        ) from None
    if at_work:
        raise IgrftError(
            f"jobs are at work on {target}; see: igrft status {target}, or end them: igrft cancel {target}"
        )
