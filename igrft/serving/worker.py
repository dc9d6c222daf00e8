"""One thread in which a policy works, one request after the other, in the order in which they came.

A connection has one request under way, so that first come, first served gives every client its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Unwanted(Exception):
    """The turn of a job came, and nobody waited for it any more."""


@dataclass(frozen=True)
class Done[T]:
    """What a job gave.

    Attributes:
        waited, took: seconds before its turn, and of its own.
    """

    value: T
    waited: float
    took: float


@dataclass(eq=False)
class _Job[T]:
    work: Callable[[], T]
    wanted: Callable[[], bool]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Done[T]]
    given_up: bool = False
    asked: float = field(default_factory=time.perf_counter)

    def run(self) -> None:
        began = time.perf_counter()
        if self.given_up or not self.wanted():
            self._tell(lambda: self.future.set_exception(Unwanted()))
            return
        try:
            value = self.work()
        except BaseException as error:
            # Kept by the future alone: a name in this frame would keep the frame, and what the client sent.
            self._tell(lambda error=error: self.future.set_exception(error))  # type: ignore[misc]
            return
        done = Done(value, began - self.asked, time.perf_counter() - began)
        self._tell(lambda: self.future.set_result(done))

    def _tell(self, how: Callable[[], object]) -> None:
        def on_the_loop() -> None:
            if not self.future.done():
                how()

        # Raised where the loop has ended: nobody waits.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(on_the_loop)


class InferenceThread:
    """The thread. A daemon: a policy that never returns does not keep the process from ending."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="igrft-inference", daemon=True)
        self._thread.start()

    @property
    def busy_for(self) -> float:
        """Seconds that the job in progress has taken so far; 0 without one."""
        since = self._since
        return 0.0 if since is None else time.perf_counter() - since

    async def run[T](
        self, work: Callable[[], T], *, limit: float, wanted: Callable[[], bool] = lambda: True
    ) -> Done[T]:
        """Do ``work`` when its turn comes.

        Args:
            limit: seconds that its turn and the work itself may take.
            wanted: asked when the turn comes; false lets it pass.

        Raises:
            TimeoutError: beyond ``limit``; work that has begun is done to its end all the same.
            Unwanted: by ``wanted``.
            Exception: of ``work``.
        """
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(work, wanted, loop, loop.create_future())
        self._jobs.put(job)
        try:
            async with asyncio.timeout(limit):
                return await job.future
        finally:
            job.given_up = True

    def close(self, wait: float) -> bool:
        """End after what is under way; whether it ended within ``wait`` seconds."""
        self._jobs.put(None)
        self._thread.join(wait)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._since = time.perf_counter()
            job.run()
            self._since = None
            # An idle thread must not hold on to the last request.
            del job
