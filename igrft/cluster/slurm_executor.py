"""datatrove's Slurm executor as the jobs here want it."""

from __future__ import annotations

import shlex
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from igrft.cluster.slurm import MEMORY_OPTIONS

#: Options of ``sbatch`` by which GPUs are asked for: where the user gives one, no other is added.
_GPUS = ("gpus", "gres", "gpus-per-node", "gpus-per-task")


class SlurmExecutor(SlurmPipelineExecutor):
    """Memory is asked for by job, options may be left to the cluster, and there are no statistics to merge."""

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """The options of ``sbatch``: the user's own come first, what is not set is the cluster's own choice."""
        given = self._sbatch_args
        found = {**super().get_sbatch_args(max_array), **given}
        for words, plain in ((MEMORY_OPTIONS, "mem-per-cpu"), (_GPUS, "gpus")):
            if plain not in given and any(word in given for word in words):
                found.pop(plain, None)
        # A switch has no value; one that is off is not there; 0 is a value.
        return {k: "" if v is True else str(v) for k, v in found.items() if v is not None and v is not False}

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The script of a job; folders may have blanks in their names."""
        pickled = self.logging_dir.resolve_paths("executor.pik")
        quoted = {k: f'"{v}"' if " " in v else v for k, v in sbatch_args.items()}
        script: str = super().get_launch_file_contents(quoted, run_script.replace(pickled, shlex.quote(pickled)))
        return script

    def launch_merge_stats(self) -> None:
        """No further job: nobody reads datatrove's statistics of these pipelines."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SlurmExecutor:
        # What goes to the jobs: all but the function that takes in the ids here.
        made = self.__class__.__new__(self.__class__)
        made.__dict__.update(self.__dict__)
        made.job_id_retriever = None
        return made
