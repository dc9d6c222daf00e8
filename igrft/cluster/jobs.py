"""``TARGET.jobs``: what was submitted, how far it is, and the logs; on a folder that every node sees.

::

    TARGET.jobs/
      job.json            what was submitted: dataset, pipeline, executor, stages
      ids.json            jobs of the scheduler by stage
      state.json          submitted, done, failed or cancelled
      reductions.json     what steps made of all episodes together
      set_aside.json      reasons by row, of episodes that jobs left undone too often
      result.json         what the run came to
      lock                held by the process that runs them, where that is no scheduler
      stages/STAGE/ATTEMPT/
        rows.json         the episodes' rows that its tasks share
        nodes/RANK        where a task of Slurm began
        progress/RANK.json
        logs/, completions/, …   datatrove's

Everything but datatrove's own ``executor.pik`` is JSON. Files appear whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.cluster.settings import Executor, read_executor
from igrft.cluster.stages import Stage
from igrft.dataset.files import read_json
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError
from igrft.pipeline.config import Pipeline, build_step
from igrft.pipeline.target import Target

#: States in which no job is left that should run.
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Jobs:
    """The folder of one TARGET's jobs."""

    folder: Path

    @classmethod
    def of(cls, target: Target) -> Jobs:
        return cls(target.path.with_name(target.path.name + ".jobs"))

    @property
    def exist(self) -> bool:
        try:
            return (self.folder / "job.json").is_file()
        except OSError as error:
            raise IgrftError(f"{self.folder} cannot be read: {error.strerror}") from None

    def job(self) -> dict[str, Any]:
        """What was submitted.

        Raises:
            IgrftError: nothing was, or the file is damaged.
        """
        found = _object(self.folder / "job.json")
        if not {"submission", "stages", "executor", "pipeline", "target", "source"} <= found.keys():
            raise IgrftError(_damaged(self.folder / "job.json"))
        return found

    def begin(self, job: Mapping[str, Any]) -> None:
        """Start anew with a submission; what earlier ones left here is removed.

        Raises:
            IgrftError: the folder holds something else.
        """
        if self.exist:
            # What is no submission of ours is not removed.
            self.job()
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise IgrftError(
                f"{self.folder} is where the jobs of TARGET are kept, and holds something else; move it away, or name "
                "another TARGET"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "job.json", dict(job))
        self.put_state("submitted")

    # State.

    def state(self) -> dict[str, Any]:
        """``state`` and, where it failed, ``message``."""
        path = self.folder / "state.json"
        return _object(path) if path.is_file() else {"state": "submitted"}

    def put_state(self, state: str, message: str | None = None) -> None:
        write_json(self.folder / "state.json", {"state": state, "message": message, "at": time.time()})

    @property
    def ended(self) -> bool:
        return self.state().get("state") in ENDED

    def refuse_ended(self, submission: str) -> None:
        """For a job that nobody waits for any more: it is over, or another submission has taken its place.

        Raises:
            IgrftError: saying which.
        """
        if not self.holds(submission):
            raise IgrftError(f"{self.folder} holds another submission, or none; this job has nothing to do")
        state = self.state().get("state")
        if state in ENDED:
            raise IgrftError(f"{self.folder}: the submission is {state}; this job has nothing to do")

    def holds(self, submission: str) -> bool:
        """Whether this is still the folder of a submission."""
        return self.exist and self.job()["submission"] == submission

    def ids(self) -> dict[str, str]:
        """Jobs of the scheduler by stage (and attempt)."""
        path = self.folder / "ids.json"
        return {str(k): str(v) for k, v in _object(path).items()} if path.is_file() else {}

    def put_ids(self, ids: Mapping[str, str]) -> None:
        write_json(self.folder / "ids.json", {**self.ids(), **ids})

    # What was submitted.

    def stages(self) -> list[Stage]:
        return [Stage.from_json(s) for s in self.job()["stages"]]

    def stage(self, name: str) -> Stage:
        return next(s for s in self.stages() if s.name == name)

    def executor(self) -> Executor:
        return read_executor(self.job()["executor"], (), str(self.folder / "job.json"))

    def pipeline(self) -> Pipeline:
        """As it was loaded: entries not yet resolved, paths absolute."""
        described = self.job()["pipeline"]
        where = str(self.folder / "job.json")
        return Pipeline(described["name"], tuple(build_step(e, where) for e in described["steps"]), self.executor())

    def reductions(self) -> dict[str, Any]:
        path = self.folder / "reductions.json"
        return _object(path) if path.is_file() else {}

    def put_reductions(self, reductions: Mapping[str, Any]) -> None:
        write_json(self.folder / "reductions.json", {**self.reductions(), **reductions}, indent=None)

    def set_aside(self) -> dict[int, str]:
        """Reasons by row, of episodes that jobs left undone too often."""
        path = self.folder / "set_aside.json"
        return {int(row): str(reason) for row, reason in _object(path).items()} if path.is_file() else {}

    def put_set_aside(self, reasons: Mapping[int, str]) -> None:
        found = self.set_aside() | dict(reasons)
        write_json(self.folder / "set_aside.json", {str(row): reason for row, reason in found.items()})

    # Attempts at a stage.

    def attempt(self, stage: str, number: int) -> Path:
        """Folder of one attempt at a stage."""
        return self.folder / "stages" / stage / str(number)

    def attempts(self, stage: str) -> list[int]:
        folder = self.folder / "stages" / stage
        return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())

    def rows(self, stage: str, number: int) -> tuple[list[int], int]:
        """Rows that an attempt's tasks share, and how many tasks."""
        found = _object(self.attempt(stage, number) / "rows.json")
        return [int(r) for r in found["rows"]], int(found["tasks"])

    def put_rows(self, stage: str, number: int, rows: list[int], tasks: int) -> None:
        write_json(self.attempt(stage, number) / "rows.json", {"tasks": tasks, "rows": rows}, indent=None)

    def progress(self, stage: str, number: int) -> dict[int, dict[str, Any]]:
        """How far each task of an attempt is, by rank, with ``silent``: seconds since it was heard of.

        Compared with the clock of the machine that keeps the folder, not of the one that asks.
        """
        folder = self.attempt(stage, number) / "progress"
        if not folder.is_dir():
            return {}
        now = self._now()
        found = {}
        for path in folder.glob("*.json"):
            try:
                found[int(path.stem)] = {**_object(path), "silent": max(0.0, now - path.stat().st_mtime)}
            except (IgrftError, OSError, ValueError):
                continue
        return found

    def log(self, stage: str, number: int, rank: int) -> Path:
        """Where a task says what became of it; where it never came so far, where its job does; else their folder."""
        folder = self.attempt(stage, number)
        own = folder / "logs" / f"task_{rank:05d}.log"
        if own.is_file():
            return own
        return max((folder / "slurm_logs").glob(f"*_{rank}.out"), default=folder, key=lambda p: p.stat().st_mtime)

    def begun_on(self, stage: str, number: int) -> dict[int, str]:
        """Nodes by rank as the jobs of an attempt said before anything else, where the scheduler lets them."""
        folder = self.attempt(stage, number) / "nodes"
        return {int(p.name): p.read_text().strip() for p in folder.glob("*") if p.name.isdigit()}

    def put_progress(self, stage: str, number: int, rank: int, value: Mapping[str, Any]) -> None:
        write_json(self.attempt(stage, number) / "progress" / f"{rank:05d}.json", dict(value), indent=None)

    def _now(self) -> float:
        path = self.folder / f".clock-{node()}-{os.getpid()}"
        try:
            path.touch()
            return path.stat().st_mtime
        except OSError:
            # Somebody else's folder, read-only for us.
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def node() -> str:
    """Name of this node, as its scheduler calls it."""
    return os.environ.get("SLURMD_NODENAME") or os.environ.get("IGRFT_NODE") or socket.gethostname()


def _object(path: Path) -> dict[str, Any]:
    try:
        there = path.is_file()
    except OSError as error:
        raise IgrftError(f"{path} cannot be read: {error.strerror}") from None
    if not there:
        raise IgrftError(f"{path} is not there: nothing was submitted for this TARGET, or its jobs were removed")
    try:
        value = read_json(path)
    except OSError as error:
        raise IgrftError(f"{path} cannot be read: {error.strerror}") from None
    except IgrftError:
        value = None
    if not isinstance(value, dict):
        raise IgrftError(_damaged(path))
    return value


def _damaged(path: Path) -> str:
    folder = next((p for p in path.parents if p.name.endswith(".jobs")), path.parent)
    return f"{path} is damaged; end its jobs, remove the folder {folder}, and submit again: it resumes"
