"""datatrove's executor for this machine as the jobs here want it."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from datatrove.executor.local import LocalPipelineExecutor
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool


class LocalExecutor(LocalPipelineExecutor):
    """Every task runs, whatever becomes of the others; and nobody waits for one whose process was killed."""

    def run(self) -> None:
        """Run the tasks, ``workers`` at a time, or here where that is one."""
        self.save_executor_as_json()
        ranks = self.get_incomplete_ranks(range(self.tasks))
        if self.workers == 1:
            for rank in ranks:
                self.attempt(rank)
            return
        pool = ProcessPoolExecutor(self.workers, initializer=_end_with, initargs=(os.getpid(),))
        try:
            futures = [pool.submit(self.attempt, rank) for rank in ranks]
            # The episodes of the tasks that went with a killed process are tried again.
            with contextlib.suppress(BrokenProcessPool):
                for future in futures:
                    future.result()
        finally:
            pool.shutdown(wait=True, kill_workers=True)

    def attempt(self, rank: int) -> None:
        """Run one task. What it raises is in its progress and its log."""
        with contextlib.suppress(Exception):
            # As no first one: that would talk on the terminal, too.
            self._run_for_rank(rank, 1)


def _end_with(parent: int) -> None:
    """A worker ends when its parent does, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
