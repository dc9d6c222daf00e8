"""``python fails_on_row.py JOBS ROW``: fails where the job of Slurm that runs it is to label this row."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from igrft.cluster.jobs import Jobs
from igrft.cluster.task import open_source, share


def main() -> None:
    jobs, row = Jobs(Path(sys.argv[1])), int(sys.argv[2])
    stage = os.environ["SLURM_JOB_NAME"].removeprefix("igrft-")
    if jobs.stage(stage).kind == "label":
        rows, tasks = jobs.rows(stage, jobs.attempts(stage)[-1])
        dataset, _ = open_source(jobs)
        if row in share(rows, dataset.lengths, int(os.environ["SLURM_ARRAY_TASK_ID"]), tasks):
            sys.exit("the scratch disk of this job is gone")


if __name__ == "__main__":
    main()
