"""datatrove's Slurm executor as the jobs here want it."""

from __future__ import annotations

from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor


class SlurmExecutor(SlurmPipelineExecutor):
    """Memory is asked for by job, options may be left to the cluster, and there are no statistics to merge."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """The options of ``sbatch``: what is not set is the cluster's own choice."""
        found = super().get_sbatch_args(max_array)
        if "mem" in found:
            del found["mem-per-cpu"]
        return {k: v for k, v in found.items() if v is not None}

    def launch_merge_stats(self) -> None:
        """No further job: nobody reads datatrove's statistics of these pipelines."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SlurmExecutor:
        # What goes to the jobs: all but the function that takes in the ids here.
        made = self.__class__.__new__(self.__class__)
        made.__dict__.update(self.__dict__)
        made.job_id_retriever = None
        return made
