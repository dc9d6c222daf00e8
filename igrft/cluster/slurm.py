"""Stages as jobs of Slurm, through datatrove: all are submitted at once, chained by dependencies."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.cluster.jobs import Jobs
from igrft.cluster.settings import Executor
from igrft.cluster.settle import SettleTask
from igrft.cluster.stages import Stage
from igrft.cluster.task import LabelTask
from igrft.dataset.parquet import write_text
from igrft.errors import IgrftError

#: Options of ``sbatch`` by which memory is asked for.
MEMORY_OPTIONS = ("mem", "mem-per-cpu", "mem-per-gpu")
#: In the folder of an attempt: ids of the jobs that try it one after the other, and nodes on which they failed.
_TRIES, _SHUNNED = "tries", "shunned"
#: Seconds between two looks at whether a further attempt has ended.
_LOOK = 5.0


def submit(jobs: Jobs, tasks: Mapping[str, int]) -> None:
    """Submit every stage. The ids of the jobs are kept as they come, so that they can be cancelled.

    Args:
        tasks: number of tasks by stage of kind ``label``; a stage that is not here has nothing to do.

    Raises:
        IgrftError: Slurm is not here, or refused.
    """
    refuse_no_slurm()
    submission = jobs.job()["submission"]
    ids: dict[str, str] = {}
    with _silence():
        for stage in jobs.stages():
            after = [ids[name] for name in stage.after if name in ids]
            if stage.kind == "label":
                if stage.name not in tasks:
                    continue
                function: Any = LabelTask(str(jobs.folder), submission, stage.name, 0)
                ids[stage.name] = launch(jobs, stage, function, 0, tasks[stage.name], after=after)
            else:
                function = SlurmSettleTask(str(jobs.folder), submission, stage.name, run_again)
                # Nobody sees to what this one leaves undone but the next of its kind.
                tries = 1 + jobs.executor().retries
                ids[stage.name] = launch(jobs, stage, function, 0, 1, after=after, tries=tries)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Who submits is told of all jobs together, not by datatrove of each."""
    from loguru import logger

    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")


@dataclass(frozen=True)
class SlurmSettleTask(SettleTask):
    """As Slurm runs it: what waits behind it and has become superfluous leaves the queue."""

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        jobs = Jobs(Path(self.folder))
        try:
            super().__call__(data, rank, world_size)
        except Exception:
            if jobs.holds(self.submission):
                _end(_ids(jobs))
            raise
        _end(_ids(jobs, self.stage))


def run_again(jobs: Jobs, stage: Stage, attempt: int, tasks: int, avoid: Sequence[str]) -> None:
    """One more attempt, on other nodes than those to ``avoid`` if there are any; returns when its jobs have ended."""
    # Those of an attempt whose job died after it had submitted them.
    _wait(_ids(jobs, stage.name))
    function = LabelTask(str(jobs.folder), jobs.job()["submission"], stage.name, attempt)
    exclude = sorted(_nodes().intersection(avoid))
    try:
        job = launch(jobs, stage, function, attempt, tasks, exclude=exclude)
    except IgrftError:
        if not exclude:
            raise
        # There are no others that have what the step needs.
        job = launch(jobs, stage, function, attempt, tasks)
    _wait(job.split(":"))


def _wait(ids: Sequence[str]) -> None:
    """Until these jobs have ended. A controller that is away is waited for, too: they go on without it."""
    while ids:
        with contextlib.suppress(IgrftError):
            if _alive().isdisjoint(ids):
                return
        time.sleep(_LOOK)


def launch(
    jobs: Jobs,
    stage: Stage,
    function: Any,
    attempt: int,
    tasks: int,
    *,
    after: Sequence[str] = (),
    exclude: Sequence[str] = (),
    tries: int = 1,
) -> str:
    """Submit one array of jobs; return the ids, joined by colons as Slurm's dependencies are.

    Args:
        after: ids of jobs that must have ended.
        exclude: nodes.
        tries: how often it is submitted, each after the one before and not on a node where one failed.

    Raises:
        IgrftError: Slurm refused.
    """
    executor = jobs.executor()
    folder = jobs.attempt(stage.name, attempt)
    launched: list[str] = []

    def keep(output: str) -> str:
        launched.append(output.split()[-1])
        # Each as it comes: what follows may be refused.
        jobs.put_ids({f"{stage.name}/{attempt}": ":".join(launched)})
        if tries > 1:
            write_text(folder / _TRIES, "\n".join(launched) + "\n")
        return launched[-1]

    made = _executor_class()(
        pipeline=[function],
        tasks=tasks,
        logging_dir=str(folder),
        job_name=f"igrft-{stage.name}",
        job_id_retriever=keep,
        depends_job_id=":".join(after) or None,
        # Whatever became of them, the next job looks at what is there.
        run_on_dependency_fail=True,
        **_options(executor, stage, folder, exclude),
    )
    try:
        with _outside_of_any_job():
            for _ in range(tries):
                # datatrove has each array wait for the one that it launched before.
                made.launch_job()
    except subprocess.CalledProcessError as error:
        raise IgrftError(
            f"sbatch refused step {stage.name!r} (status {error.returncode}); its own message is above"
        ) from None
    return ":".join(launched)


def cancel(jobs: Jobs) -> None:
    """End every job that is still there."""
    refuse_no_slurm()
    _end(_ids(jobs))


def _end(ids: Sequence[str]) -> None:
    """Cancel jobs, but not the one that this is."""
    if others := [i for i in ids if i != os.environ.get("SLURM_ARRAY_JOB_ID")]:
        subprocess.run(["scancel", *others], check=False, capture_output=True)


def alive(jobs: Jobs) -> bool:
    """Whether any job is waiting or running."""
    refuse_no_slurm()
    return bool(set(_ids(jobs)) & _alive())


def refuse_no_slurm() -> None:
    """Raises IgrftError: Slurm's commands are not on this machine."""
    if shutil.which("sbatch") is None:
        raise IgrftError("sbatch is not on this machine; run this on a login node of the cluster")


def _ids(jobs: Jobs, stage: str | None = None) -> list[str]:
    """Ids of all jobs, or of a stage's."""
    found = jobs.ids().items()
    return [i for name, joined in found if stage in (None, name.partition("/")[0]) for i in joined.split(":")]


def _alive() -> set[str]:
    """Ids of the user's jobs that have not ended; of arrays, the array's."""
    # A controller that is busy must not look like jobs that have ended.
    for wait in (2, 10, None):
        found = subprocess.run(["squeue", "--me", "-h", "-o", "%F"], check=False, capture_output=True, text=True)
        if found.returncode == 0:
            return set(found.stdout.split())
        if wait is None:
            break
        time.sleep(wait)
    raise IgrftError(f"squeue does not answer: {' '.join(found.stderr.split())}")


def _nodes() -> set[str]:
    found = subprocess.run(["sinfo", "-h", "-N", "-o", "%N"], check=False, capture_output=True, text=True)
    return set(found.stdout.split())


def _options(executor: Executor, stage: Stage, folder: Path, exclude: Sequence[str]) -> dict[str, Any]:
    own = executor.of_step(*stage.owner_names)
    needs = stage.resources
    sbatch: dict[str, Any] = {
        # A job that is run again after its node died would else begin its log anew.
        "open-mode": "append",
        **({"account": executor.account} if executor.account else {}),
        **executor.sbatch,
        **own.sbatch,
    }
    if not any(word in sbatch for word in MEMORY_OPTIONS):
        sbatch["mem"] = f"{math.ceil(needs.memory_gb * 1024)}M"
    if exclude:
        sbatch["exclude"] = ",".join([*exclude, *filter(None, [sbatch.get("exclude")])])
    return {
        "time": own.time or executor.time,
        "partition": own.partition or executor.partition,
        "qos": executor.qos,
        "cpus_per_task": needs.cpus,
        "gpus_per_task": needs.gpus,
        "workers": own.workers or executor.workers or -1,
        "sbatch_args": sbatch,
        "max_array_size": executor.max_array,
        "env_command": "\n".join(
            [
                _says_where(folder, executor.max_array),
                *([] if stage.kind == "label" else [_shuns_this_node(folder, str(sbatch.get("exclude", "")))]),
                executor.setup or _this_environment(),
            ]
        ),
    }


def _says_where(folder: Path, max_array: int) -> str:
    """A line of shell that says on which node a task is, before anything can fail there."""
    nodes = shlex.quote(str(folder / "nodes"))
    rank = f"$((SLURM_ARRAY_TASK_ID + {max_array} * ${{RUN_OFFSET:-0}}))"
    return f'mkdir -p {nodes} && echo "$SLURMD_NODENAME" > {nodes}/{rank}'


def _shuns_this_node(folder: Path, excluded: str) -> str:
    """Lines of shell: should this job fail, those that are to try the same after it do not come here.

    Where there is no other node, Slurm refuses to leave this one out, and they do come.
    """
    shunned, tries = (shlex.quote(str(folder / name)) for name in (_SHUNNED, _TRIES))
    return textwrap.dedent(f"""\
        igrft_failed() {{
            echo "$SLURMD_NODENAME" >> {shunned}
            nodes={shlex.quote(excluded and excluded + ",")}$(sort -u {shunned} | paste -sd,)
            while read -r job; do
                scontrol update JobId="$job" ExcNodeList="$nodes" || true
            done < {tries} > /dev/null 2>&1
        }}
        trap '[ $? = 0 ] || igrft_failed' EXIT""")


def _this_environment() -> str:
    return f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'


@contextlib.contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """Submit as from a login node: what Slurm told this job of itself is not the next one's."""
    kept = {k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SBATCH_")) and k != "SLURM_CONF"}
    for name in kept:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


def _executor_class() -> Any:
    # Here: importing datatrove costs a second, and it may not be installed.
    from igrft.cluster.slurm_executor import SlurmExecutor

    return SlurmExecutor
