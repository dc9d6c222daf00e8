"""Demonstrations in order, made by as many processes as there are cores."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import IgrftError
from igrft.simulation.episode import Demonstration, demonstrate
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.operators import OperatorSettings, Turn

if TYPE_CHECKING:
    from igrft.simulation.record import SimulationOptions

#: Episodes a process is ahead of the writer; each may hold a hundred megabytes of pictures on the disk.
_AHEAD = 2


@dataclass(frozen=True)
class Job:
    """One demonstration to give: its number, who gives it, and the seed of its start."""

    number: int
    turn: Turn
    start: int


def demonstrations(
    task: str, world: MetaWorld, options: SimulationOptions, jobs: Sequence[Job], scratch: Path
) -> Iterator[Demonstration]:
    """The demonstrations of ``jobs``, in their order.

    Args:
        world: for this process, where one is enough.
        scratch: folder for pictures on their way between processes.

    Raises:
        IgrftError: a process died.
    """
    from igrft.pipeline.workers import default_workers

    workers = min(options.workers or default_workers(), len(jobs))
    if workers <= 1:
        for job in jobs:
            yield demonstrate(world, options.operators, job.turn, job.start, masks=options.masks)
        return
    # As in igrft.pipeline.workers: loky's processes do not run the caller's script again.
    from loky import ProcessPoolExecutor

    scratch.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "task": task,
        "cameras": world.cameras.names,
        "width": options.width,
        "height": options.height,
        "max_steps": options.max_steps,
        "settle": options.settle,
    }
    pool = ProcessPoolExecutor(workers, initializer=_start, initargs=(settings, options.operators, options.masks))
    waiting: deque[Future[Demonstration]] = deque()
    left = iter(jobs)
    try:
        for job in left:
            waiting.append(pool.submit(_work, job, scratch))
            if len(waiting) >= workers * _AHEAD:
                yield _bring(waiting.popleft().result())
        while waiting:
            yield _bring(waiting.popleft().result())
    except BrokenProcessPool as error:
        raise IgrftError("a process of the simulation died (out of memory?); try --workers 1") from error
    finally:
        pool.shutdown(wait=True, kill_workers=True)


_world: MetaWorld | None = None
_settings: tuple[OperatorSettings, bool] = (OperatorSettings(), False)


def _start(settings: dict[str, Any], operators: OperatorSettings, masks: bool) -> None:
    global _world, _settings
    _world, _settings = MetaWorld(settings.pop("task"), **settings), (operators, masks)


def _work(job: Job, scratch: Path) -> Demonstration:
    """Give one demonstration; its pictures go through files, being too large for a pipe."""
    assert _world is not None
    operators, masks = _settings
    found = demonstrate(_world, operators, job.turn, job.start, masks=masks)
    for held in (found.pictures, found.masks):
        for name, values in held.items():
            path = scratch / f"{uuid.uuid4().hex}.npy"
            np.save(path, values)
            held[name] = path  # type: ignore[assignment]
    return found


def _bring(found: Demonstration) -> Demonstration:
    for held in (found.pictures, found.masks):
        for name, path in held.items():
            if isinstance(path, Path):
                held[name] = np.load(path)
                path.unlink()
    return found
