"""A set to label on a cluster, its labels as a local run makes them, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers import tree_digest
from picture_sets import picture_set, square_over_background

from igrft.cluster.jobs import Jobs
from igrft.pipeline.target import open_target

EPISODES = 12
STEP = "interaction_counts"


@dataclass(frozen=True)
class Sets:
    """A source, the pipeline, what a local run made of it, and the source's files before."""

    source: Path
    pipeline: Path
    labelled: Path
    before: dict[str, str]

    @property
    def slurm(self) -> tuple[str, ...]:
        """Six tasks: more than one node takes."""
        return (
            "--executor.type=slurm",
            "--executor.tasks=6",
            "--executor.time=00:10:00",
            "--executor.steps.interaction.memory_gb=1",
            "--executor.steps.finish.memory_gb=1",
        )


@dataclass(frozen=True)
class Labelled:
    """A TARGET on the way, and what lies beside it."""

    path: Path

    @property
    def jobs(self) -> Jobs:
        return Jobs.of(open_target(self.path))

    @property
    def staging(self) -> Path:
        return self.path.with_name(self.path.name + ".staging")

    def staged(self) -> dict[str, int]:
        """Results of the heavy step, and the moments at which they appeared."""
        return {p.name: p.stat().st_mtime_ns for p in (self.staging / "steps" / STEP).glob("*.arrow")}

    def status(self) -> dict[str, Any]:
        """As ``igrft status --json`` has it, and ``exit_status``."""
        done = igrft("status", self.path, "--json", check=False)
        return json.loads(done.stdout) | {"exit_status": done.returncode}

    def stage(self) -> dict[str, Any]:
        """How far the heavy step is."""
        return next(s for s in self.status()["stages"] if s["name"] == STEP)

    def check(self, made: Sets) -> None:
        """It is what a local run makes, whole, and nothing else is left; the source is as it was."""
        state = self.jobs.state()
        assert state["state"] == "done", state
        assert tree_digest(self.path) == tree_digest(made.labelled)
        assert tree_digest(made.source) == made.before
        assert not self.staging.exists()


def sets(folder: Path) -> Sets:
    """Twelve episodes of 60 frames and more, labelled here."""
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.integers(60, 160, EPISODES)]
    pictures = [square_over_background(n, size=(320, 240), side=60, step=(1, 0), start=(20, 60)) for n in lengths]
    source = folder / "source"
    picture_set(source, pictures)
    (folder / "subtasks.json").write_text(json.dumps({"episodes": {str(i): _halves(n) for i, n in enumerate(lengths)}}))
    pipeline = folder / "pipeline.yaml"
    steps = [
        {"type": "subtasks", "source": "file", "path": "subtasks.json"},
        {"type": "interaction", "flow": "dis_medium"},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    pipeline.write_text(yaml.safe_dump({"steps": steps}))
    labelled = folder / "labelled"
    before = tree_digest(source)
    igrft("annotate", source, labelled, "--pipeline", pipeline)
    return Sets(source, pipeline, labelled, before)


def _halves(length: int) -> dict[str, Any]:
    half = length // 2
    halves = [{"name": "reach", "start": 0, "end": half}, {"name": "place", "start": half, "end": length}]
    return {"success": True, "subtasks": halves}


def igrft(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of the toolkit, as a user of the cluster does."""
    done = subprocess.run(**_command(*arguments), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def igrft_meanwhile(*arguments: object) -> subprocess.Popen[str]:
    """The same, and the test goes on."""
    return subprocess.Popen(**_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _command(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "igrft.cli.main", *map(str, arguments)]
    return {"args": command, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}


def dies_on_rank_one(data: Any, rank: int, world_size: int) -> None:
    """A task whose process is killed on one rank: what a task of datatrove's executors is."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
