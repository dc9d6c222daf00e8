"""Six tasks through datatrove's executors: ``python six_tasks.py slurm|ray FOLDER [RANK_THAT_RAISES]``.

Each adds a line to FOLDER/attempts/RANK with the node it runs on, waits until FOLDER/go exists and writes FOLDER/RANK.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

TASKS = 6


def task(folder: str, raises: int) -> Callable[[Any, int, int], None]:
    """What datatrove calls on the nodes, where this file is no module: it carries all that it needs."""

    def work(data: Any, rank: int, world_size: int) -> None:
        import os
        import time
        from pathlib import Path

        node = os.environ.get("SLURMD_NODENAME") or os.environ["IGRFT_TESTS_RAY_NODE"]
        with (Path(folder) / "attempts" / str(rank)).open("a") as attempts:
            attempts.write(f"{node} {os.environ.get('SLURM_RESTART_COUNT', 0)}\n")
        while not (Path(folder) / "go").exists():
            time.sleep(0.1)
        if rank == raises:
            raise ValueError(f"rank {rank} of {world_size} raises")
        (Path(folder) / str(rank)).write_text(node)

    return work


def main() -> None:
    kind, folder, raises = sys.argv[1], Path(sys.argv[2]), int([*sys.argv, "-1"][3])
    (folder / "attempts").mkdir(exist_ok=True)
    pipeline, logs = [task(str(folder), raises)], str(folder / "logs")
    if kind == "slurm":
        from datatrove.executor.slurm import SlurmPipelineExecutor

        SlurmPipelineExecutor(
            pipeline, TASKS, time="00:10:00", partition="main", mem_per_cpu_gb=1, job_name="six", logging_dir=logs
        ).run()
    else:
        import ray
        from datatrove.executor.ray import RayPipelineExecutor

        ray.init(address="auto", log_to_driver=False)
        RayPipelineExecutor(pipeline, TASKS, mem_per_cpu_gb=1, logging_dir=logs).run()


def attempts(folder: Path) -> dict[int, list[str]]:
    """By rank, the node and Slurm's count of restarts of each time that it began."""
    return {int(path.name): path.read_text().splitlines() for path in (folder / "attempts").glob("*")}


def completions(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "logs" / "completions").glob("*"))


def nodes(folder: Path) -> Counter[str]:
    """On how many ranks' first attempt each node worked."""
    return Counter(lines[0].split()[0] for lines in attempts(folder).values() if lines)


if __name__ == "__main__":
    main()
