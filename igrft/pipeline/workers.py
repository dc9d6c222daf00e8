"""Worker processes for steps that take seconds an episode."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.pipeline.staging import Result, Staged, write_staged
from igrft.steps.base import Episode, EpisodeLabels, Labeller, Step


@dataclass(frozen=True)
class Task:
    """One episode for one heavy step: its key, and where the results it builds on are staged."""

    row: int
    key: str
    upstream: tuple[Staged, ...]


@dataclass(frozen=True)
class Job:
    """What a worker sets up once: the step, the dataset, where results go."""

    step: Step
    root: Path
    reduced: Any
    folder: Path


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def label_episode(label: Labeller, episode: Episode, step: Step) -> tuple[EpisodeLabels, str | None]:
    """Run one step on one episode: (labels, None), or (nothing, the reason to set it aside).

    Raises:
        IgrftError: what is wrong with the run, not with the episode (a full disk, bad settings).
    """
    try:
        if episode.length < 1:
            raise EpisodeError(f"episode {episode.index} has no frames")
        labels = label(episode)
    except EpisodeError as error:
        return EpisodeLabels(), one_line(error)
    except IgrftError:
        raise
    except OSError as error:
        refuse_full_disk(error)
        return EpisodeLabels(), f"episode {episode.index}: {one_line(error)}"
    except Exception as error:
        return (
            EpisodeLabels(),
            f"episode {episode.index}: step {step.type!r} failed: {type(error).__name__}: {one_line(error)}",
        )
    for name, values in (*labels.columns.items(), *labels.staged.items()):
        if len(values) != episode.length:
            raise IgrftError(
                f"step {step.type!r} made {len(values)} values of {name!r} for the {episode.length} frames of "
                f"episode {episode.index}; this is a defect of the step"
            )
    return labels, None


def refuse_full_disk(error: OSError) -> None:
    """Turn 'no space left' into the error that ends the run: no other episode would fare better."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" while writing {error.filename}" if error.filename else ""
        raise IgrftError(f"the disk is full{where}; free space and run the same command again, it resumes") from None


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def run_tasks(job: Job, tasks: Sequence[Task], workers: int, *, isolated: bool = False) -> Iterator[Staged]:
    """Stage the result of every task, in any order; in this process where one worker is asked for, unless
    ``isolated``.

    A worker that dies (out of memory, a crash in a native library) takes no other episode with it:
    those in flight are tried once more, each alone, and set aside if the worker dies again.
    """
    if (workers <= 1 or len(tasks) == 1) and not isolated:
        run = _opened(job)
        for task, following in zip_longest(tasks, tasks[1:]):
            yield run(task, following)
        return
    left = list(tasks)
    while left:
        unfinished: list[Task] = []
        yield from _run_pool(job, left, min(workers, len(left)), unfinished)
        left = []
        for task in unfinished:
            again: list[Task] = []
            yield from _run_pool(job, [task], 1, again)
            if again:
                reason = f"episode at row {task.row}: the worker process died twice on it (out of memory?)"
                yield write_staged(job.folder, [Result(task.row, task.key, 0, EpisodeLabels(), reason)])[0]


def _run_pool(job: Job, tasks: Sequence[Task], workers: int, unfinished: list[Task]) -> Iterator[Staged]:
    # loky rather than concurrent.futures: its workers do not run the caller's script again, so that
    # igrft.annotate() works from a script without a __main__ guard, and it does not fork threads.
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, initializer=_start, initargs=(job, os.getpid()))
    waiting: dict[Future[Staged], Task] = {}
    queue = iter(tasks)
    try:
        exhausted = broken = False
        while not exhausted or waiting:
            # Two tasks a worker in flight: enough to keep it busy, few to try again if one dies.
            while not exhausted and not broken and len(waiting) < 2 * workers:
                task = next(queue, None)
                if task is None:
                    exhausted = True
                    break
                try:
                    waiting[pool.submit(_run, task)] = task
                except BrokenProcessPool:
                    unfinished.append(task)
                    broken = True
            if broken and not exhausted:
                unfinished.extend(queue)
                exhausted = True
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                task = waiting.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    unfinished.append(task)
                    broken = True
    finally:
        pool.shutdown(wait=True, kill_workers=bool(waiting))


_RUN: Callable[..., Staged] | None = None


def _start(job: Job, parent: int) -> None:
    """Set a worker up. It ends when its parent does, however that ended."""
    global _RUN

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    # Ctrl-C reaches the whole process group; the parent alone decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _RUN = _opened(job)
    except Exception as error:
        # Raised by the first task instead: an initializer's own error is lost with its process.
        failure = error if isinstance(error, IgrftError) else IgrftError(f"step {job.step.type!r}: {one_line(error)}")

        def _RUN(_: Task, following: Task | None = None) -> Staged:
            raise failure


def _run(task: Task) -> Staged:
    assert _RUN is not None
    return _RUN(task)


def _opened(job: Job) -> Callable[..., Staged]:
    dataset = DatasetReader.open(job.root)
    label = job.step.open(dataset, job.reduced)
    expect: Callable[[int], None] | None = getattr(label, "expect", None)

    def run(task: Task, following: Task | None = None) -> Staged:
        if expect is not None and following is not None:
            expect(following.row)
        return label_task(job, label, dataset, task)

    return run


def label_task(job: Job, label: Labeller, dataset: DatasetReader, task: Task) -> Staged:
    """Label one episode and stage the result."""
    episode = Episode(dataset, task.row)
    for staged in task.upstream:
        merge(episode, staged.labels())
    labels, reason = label_episode(label, episode, job.step)
    if not (staging := job.folder.parent.parent).is_dir():
        # It is not made anew: TARGET is there already, and this process was thought dead.
        raise IgrftError(f"{staging} is gone: the run that this belongs to has ended")
    try:
        return write_staged(job.folder, [Result(task.row, task.key, episode.length, labels, reason)])[0]
    except OSError as error:
        refuse_full_disk(error)
        raise IgrftError(f"{job.folder} cannot be written: {one_line(error)}") from None


def merge(episode: Episode, labels: EpisodeLabels) -> None:
    """Let later steps see what an earlier one made."""
    episode.labels.update(labels.columns)
    episode.labels.update(labels.staged)
    episode.record.update(labels.record)
