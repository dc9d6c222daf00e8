"""`igrft status`: how far the jobs of a TARGET are, from any machine that sees its folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.cluster.jobs import Jobs
from igrft.cluster.schedulers import alive
from igrft.cluster.stages import Stage
from igrft.errors import IgrftError
from igrft.pipeline.target import open_target

#: A task that has not been heard of for so many seconds is no longer counted as running.
_SILENT = 120.0


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is.

    Attributes:
        name, kind: of the stage.
        state: ``waiting``, ``running``, ``done`` or ``failed`` (tasks did not end well; the stage after sees to them).
        episodes: to do when it was submitted.
        done: of these, labelled or set aside.
        set_aside: of these.
        tasks, tasks_done, tasks_running, tasks_failed, tasks_silent: of the newest attempt; silent ones began and were
            not heard of for two minutes.
        attempts: so far.
        restarts: of tasks whose node died.
        episodes_per_second, frames_per_second: of the tasks that run now.
        seconds_left: at that rate; None where it cannot be told.
        error: what a failed task said.
        log: of that task.
    """

    name: str
    kind: str
    state: str
    episodes: int = 0
    done: int = 0
    set_aside: int = 0
    tasks: int = 1
    tasks_done: int = 0
    tasks_running: int = 0
    tasks_failed: int = 0
    tasks_silent: int = 0
    attempts: int = 0
    restarts: int = 0
    episodes_per_second: float = 0.0
    frames_per_second: float = 0.0
    seconds_left: float | None = None
    error: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class Status:
    """How far a submission is: ``submitted``, ``done``, ``failed`` or ``cancelled``, and every stage of it."""

    target: str
    state: str
    message: str | None
    stages: list[StageStatus] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.state != "submitted"

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "stages": [s.__dict__ for s in self.stages]}

    def to_text(self) -> str:
        """A table for people."""
        lines = [f"{self.target}: {self.state}" + (f" ({self.message})" if self.message else "")]
        header = ("step", "state", "episodes", "tasks", "frames/s", "left")
        rows = [header, *(_cells(s) for s in self.stages)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        for stage in self.stages:
            if stage.error:
                lines.append(f"{stage.name}: {stage.error}" + (f"; log: {stage.log}" if stage.log else ""))
        return "\n".join(lines)


def status(target: str | Path) -> Status:
    """Read how far the jobs of TARGET are. Nothing but the folder is asked.

    Raises:
        IgrftError: nothing was submitted for it.
    """
    jobs = Jobs.of(open_target(target))
    if not jobs.exist:
        raise IgrftError(f"nothing was submitted for {target}; run igrft annotate with an executor (docs/clusters.md)")
    state = jobs.state()
    stages = [_stage_status(jobs, stage) for stage in jobs.stages()]
    return Status(str(jobs.job()["target"]), str(state.get("state")), state.get("message"), stages, jobs.ids())


def follow(
    target: str | Path, show: Callable[[Status], None], *, every: float = 5.0, ask_scheduler: float = 60.0
) -> Status:
    """Wait for the end of a submission.

    Args:
        show: called with how far it is, every so many seconds.
        ask_scheduler: seconds after which the scheduler is asked whether the jobs are still there at all.

    Raises:
        IgrftError: the jobs are gone and have not told of an end.
    """
    jobs = Jobs.of(open_target(target))
    asked = time.monotonic()
    while not (found := status(target)).ended:
        show(found)
        if time.monotonic() - asked > ask_scheduler:
            asked = time.monotonic()
            if _gone(jobs) and not (found := status(target)).ended:
                raise IgrftError(
                    f"the jobs of {target} are gone, and none told of an end (killed by the scheduler?); run the same "
                    f"command again, it resumes; logs: {jobs.folder}"
                )
        time.sleep(every)
    return found


def _gone(jobs: Jobs) -> bool:
    """Whether no job is left; not so where the scheduler does not answer, for they may go on without it."""
    try:
        return not alive(jobs)
    except IgrftError:
        return False


def _stage_status(jobs: Jobs, stage: Stage) -> StageStatus:
    attempts = jobs.attempts(stage.name)
    if stage.kind != "label":
        progress = jobs.progress(stage.name, 0).get(0)
        state = "waiting" if progress is None else str(progress.get("state"))
        if state == "running" and progress is not None and progress["silent"] > _SILENT and jobs.ended:
            state = "failed"
        return StageStatus(stage.name, stage.kind, state, error=progress.get("error") if progress else None)
    if not attempts:
        return StageStatus(stage.name, stage.kind, "done", tasks=0)
    rows, _ = jobs.rows(stage.name, attempts[0])
    told = {n: jobs.progress(stage.name, n) for n in attempts}
    everything = [p for of_attempt in told.values() for p in of_attempt.values()]
    newest = told[attempts[-1]]
    _, tasks = jobs.rows(stage.name, attempts[-1])
    running = [p for p in newest.values() if p.get("state") == "running" and p["silent"] <= _SILENT]
    failed = {r: p for r, p in newest.items() if p.get("state") == "failed"}
    ended = sum(p.get("state") == "done" for p in newest.values())
    done = min(len(rows), sum(int(p["already"]) + int(p["done"]) for p in everything))
    speed = [_speed(p) for p in running]
    episodes_per_second = sum(s[0] for s in speed)
    first = next(iter(sorted(failed)), None)
    if ended == tasks or done == len(rows):
        state = "done"
    elif running:
        state = "running"
    elif failed and ended + len(failed) == tasks:
        state = "failed"
    else:
        state = "running" if newest else "waiting"
    return StageStatus(
        name=stage.name,
        kind=stage.kind,
        state=state,
        episodes=len(rows),
        done=done,
        set_aside=sum(int(p["set_aside"]) for p in everything),
        tasks=tasks,
        tasks_done=ended,
        tasks_running=len(running),
        tasks_failed=len(failed),
        tasks_silent=len(newest) - ended - len(running) - len(failed),
        attempts=len(attempts),
        restarts=sum(int(p.get("restarts") or 0) for p in everything),
        episodes_per_second=episodes_per_second,
        frames_per_second=sum(s[1] for s in speed),
        seconds_left=(len(rows) - done) / episodes_per_second if episodes_per_second else None,
        error=None if first is None else failed[first].get("error"),
        log=None if first is None else str(jobs.log(stage.name, attempts[-1], first)),
    )


def _speed(progress: dict[str, Any]) -> tuple[float, float]:
    """Episodes and frames a second of a task, by its own clock."""
    elapsed = float(progress["now"]) - float(progress["began"])
    if elapsed <= 0:
        return 0.0, 0.0
    return int(progress["done"]) / elapsed, int(progress["done_frames"]) / elapsed


def _cells(stage: StageStatus) -> tuple[str, ...]:
    if stage.kind != "label":
        return (stage.name, stage.state, "", "", "", "")
    aside = f" ({stage.set_aside} set aside)" if stage.set_aside else ""
    parts = [f"{stage.tasks_done}/{stage.tasks} done"]
    for name in ("running", "failed", "silent"):
        if number := getattr(stage, f"tasks_{name}"):
            parts.append(f"{number} {name}")
    if stage.restarts:
        parts.append(f"{stage.restarts} restarted")
    if stage.attempts > 1:
        parts.append(f"attempt {stage.attempts}")
    rate = f"{stage.frames_per_second:.0f}" if stage.frames_per_second else ""
    left = "" if stage.seconds_left is None or stage.state != "running" else duration(stage.seconds_left)
    return (stage.name, stage.state, f"{stage.done}/{stage.episodes}{aside}", ", ".join(parts), rate, left)


def duration(seconds: float) -> str:
    """Hours and minutes, or seconds where there are no minutes."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
