"""datatrove's executor for Ray as the jobs here want it."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from datatrove.executor.base import PipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.utils.logging import logger

#: How often a task is run again at once whose node or process died; what is then left is tried again later.
_AGAIN = 3
#: Exit status of a task that ran out of time.
_OUT_OF_TIME = 15


class RayExecutor(RayPipelineExecutor):
    """Ranks are plain tasks of Ray, each in a process of Ray's own, which Ray sees die.

    datatrove runs each in a child of an actor, and waits for ever for a child that was killed (for memory, say), or
    for an actor whose node died while it began. Its logs are copied when all is over, from a place that all runs share.
    """

    def __init__(self, *, avoid: Sequence[str] = (), seconds: float | None = None, **options: Any) -> None:
        """As datatrove's.

        Args:
            avoid: ids of nodes on which nothing is run while there are others that fit.
            seconds: that a task may take.
        """
        super().__init__(**options)
        self.avoid, self.seconds = tuple(avoid), seconds

    def run(self) -> None:
        """Run the tasks, ``workers`` at a time. What one raises is in its progress and its log."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        self.save_executor_as_json()
        function = ray.remote(_run_rank).options(**self._options())
        executor = ray.put(self)
        waiting = deque(self.get_incomplete_ranks(range(self.tasks)))
        running: dict[Any, int] = {}
        lost: Counter[int] = Counter()
        while waiting or running:
            while waiting and len(running) < self.workers:
                rank = waiting.popleft()
                running[function.remote(executor, rank, lost[rank])] = rank
            ended, _ = ray.wait(list(running), num_returns=1)
            for task in ended:
                rank = running.pop(task)
                try:
                    ray.get(task)
                except RayTaskError:
                    # It has said so itself.
                    continue
                except RayError as error:
                    lost[rank] += 1
                    logger.warning(f"task {rank} was lost: {' '.join(str(error).split())}")
                    if lost[rank] <= _AGAIN:
                        waiting.append(rank)

    def _options(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "num_cpus": self.cpus_per_task,
            "num_gpus": self.gpus_per_task,
            "memory": int(self.mem_per_cpu_gb * self.cpus_per_task * 1024**3),
            # Counted here, for those that Ray makes are told by nobody, and for memory it makes them without end.
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
            **(self.ray_remote_kwargs or {}),
        }
        if self.avoid:
            found["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.avoid)})"}
            found["fallback_strategy"] = [{"label_selector": {"ray.io/node-id": "!none"}}]
        return found

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        # datatrove's own for Ray keeps the log to itself until the end.
        return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)


def _run_rank(executor: RayExecutor, rank: int, restarts: int) -> None:
    """Run one task, in a process of Ray's."""
    import ray

    os.environ["IGRFT_NODE"] = ray.util.get_node_ip_address()
    os.environ["IGRFT_RESTARTS"] = str(restarts)
    clock = threading.Timer(executor.seconds or threading.TIMEOUT_MAX, os._exit, [_OUT_OF_TIME])
    clock.daemon = True
    clock.start()
    try:
        # As no first one: that would talk on the terminal, too.
        executor._run_for_rank(rank, 1)
    finally:
        clock.cancel()
