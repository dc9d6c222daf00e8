"""Threads for steps that wait for a server: many episodes in flight in one process."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Iterator, Sequence

from igrft.dataset.reader import DatasetReader
from igrft.pipeline.staging import Staged
from igrft.pipeline.workers import Job, Task, label_task


def run_in_threads(job: Job, tasks: Sequence[Task], threads: int) -> Iterator[Staged]:
    """Stage the result of every task, in any order, with ``threads`` of them in flight.

    The threads are daemons: Ctrl-C ends the program at once, whatever they wait for, and nothing is lost but the
    episodes in flight, since each is staged as it comes.

    Raises:
        IgrftError: as a labeller raises it; no further task is then begun.
    """
    dataset = DatasetReader.open(job.root)
    label = job.step.open(dataset, job.reduced)
    waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
    for task in tasks:
        waiting.put(task)
    done: queue.SimpleQueue[Staged | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        # A reader's open files are its own; what it has found out (success, places of rows) is shared.
        own = copy.copy(dataset)
        while not stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(label_task(job, label, own, task))
            except BaseException as error:
                done.put(error)

    for _ in range(min(threads, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in tasks:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stop.set()
