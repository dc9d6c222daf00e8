"""What an evaluation's recipe says, and what no checkpoint could make right of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from igrft.errors import UsageError, did_you_mean
from igrft.rollouts.noise import NOISE_TYPES
from igrft.rollouts.settings import (
    EnvironmentSettings,
    HumanSettings,
    InferenceSettings,
    MonitorSettings,
    SafetySettings,
)
from igrft.training.recipe import ExplorationSettings

#: A temperature that is no number: T(s) of Eq. 2.
EXPLORATION = "exploration"
#: Whose noise a policy server uses is its own affair.
SERVER = "server"
VIDEOS = ("none", "failures", "all")


@dataclass
class CheckpointEntry:
    """One trained policy.

    Attributes:
        path: a run's folder, one of its checkpoints, or its id on the Hub.
        name: of the method, as tables show it; checkpoints of one name are runs of one method. None is the folder's.
        task: what it is driven on, instead of ``environment.task``; runs are grouped by it.
        seed: of its training; None is its run's.
        rounds: of a run of Stage III: evaluate the checkpoint that it started from and that of every round.
        curve: method in Figure 5, which joins the names of one curve; None is ``name``.
        interventions: of a human that its training took; None is what its run says.
    """

    path: str | None = None
    name: str | None = None
    task: str | None = None
    seed: int | None = None
    rounds: bool = False
    curve: str | None = None
    interventions: int | None = None


@dataclass
class EvalRecipe:
    """One evaluation.

    Attributes:
        checkpoint: one policy, instead of ``checkpoints``. (A policy behind ``inference.server`` replaces both.)
        checkpoints: the policies.
        baseline: name that the others are compared with on the same seeds; None is the first.
        episodes: of every checkpoint at every temperature.
        seed: of the first episode; each has the next. Recordings and rollouts use others.
        temperatures: standard deviations of the flow's initial noise; "exploration" is T(s) of Eq. 2.
        exploration: its settings; None are those of the checkpoint's run.
        human: who may take over; none by default, and then no episode has an intervention.
        monitor: whether a stagnating value calls that human.
        workers: processes; None is one a core. A robot has one.
        cpu_threads: of PyTorch in each process, where the policy runs on a CPU.
        device: of the policy; None is an accelerator if there is one.
        videos: none, failures, all, or numbers of episodes, from 0.
        video_camera: None is every camera, side by side.
        value_curve: draw the value under the pictures.
        figures: draw Figures 5 and 7 where there is something to draw.
        confidence: of all intervals.
        reset_seconds: robot: the longest reset phase between episodes.
        help_seconds: robot: how long it waits for the human where the value stagnates.
    """

    stage: str = "eval"
    checkpoint: str | None = None
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    baseline: str | None = None
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    episodes: int = 50
    seed: int = 1_000_000
    temperatures: list[float | str] = field(default_factory=lambda: [1.0])
    exploration: ExplorationSettings | None = None
    human: HumanSettings = field(default_factory=HumanSettings)
    monitor: MonitorSettings = field(default_factory=lambda: MonitorSettings(enabled=False))
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    safety: SafetySettings = field(default_factory=SafetySettings)
    workers: int | None = None
    cpu_threads: int = 1
    device: str | None = None
    videos: list[int] | str = "none"
    video_camera: str | None = None
    value_curve: bool = True
    figures: bool = True
    confidence: float = 0.95
    output_dir: str | None = None
    reset_seconds: float = 60.0
    help_seconds: float = 30.0


def check_recipe(recipe: EvalRecipe, name: str) -> None:
    """Refuse what no checkpoint could make right.

    Raises:
        UsageError: says the key and what it may be.
    """
    least = {"episodes": 1, "cpu_threads": 1, "seed": 0, "reset_seconds": 0, "help_seconds": 0}
    for key, lowest in least.items():
        if not getattr(recipe, key) >= lowest:
            raise UsageError(f"{name}: {key} must be at least {lowest}, got {getattr(recipe, key)}")
    if recipe.workers is not None and recipe.workers < 1:
        raise UsageError(f"{name}: workers must be at least 1, got {recipe.workers}")
    if not 0 < recipe.confidence < 1:
        raise UsageError(f"{name}: confidence must lie between 0 and 1, got {recipe.confidence}")
    _check_checkpoints(recipe, name)
    _check_temperatures(recipe, name)
    _check_videos(recipe, name)
    if recipe.environment.type == "robot":
        _check_robot(recipe, name)


def _check_checkpoints(recipe: EvalRecipe, name: str) -> None:
    if recipe.inference.server is None and recipe.checkpoint is None and not recipe.checkpoints:
        raise UsageError(f"{name}: which policy? give --checkpoint=RUN")
    for i, entry in enumerate(recipe.checkpoints):
        if entry.path is None:
            raise UsageError(f"{name}: checkpoints.{i} has no path; give --checkpoints.{i}.path=RUN")
        if entry.interventions is not None and entry.interventions < 0:
            raise UsageError(f"{name}: checkpoints.{i}.interventions must not be negative, got {entry.interventions}")


def _check_temperatures(recipe: EvalRecipe, name: str) -> None:
    if not recipe.temperatures:
        raise UsageError(f"{name}: temperatures is empty; [1.0] is the flow's own noise")
    for value in recipe.temperatures:
        if isinstance(value, str):
            if value != EXPLORATION:
                near = did_you_mean(value, [EXPLORATION])
                raise UsageError(f"{name}: temperatures are numbers or {EXPLORATION!r}, got {value!r}{near}")
        elif not (value >= 0 and math.isfinite(value)):
            raise UsageError(f"{name}: a temperature must not be negative, got {value}")
    if recipe.exploration is not None and recipe.exploration.type not in NOISE_TYPES:
        near = did_you_mean(recipe.exploration.type, NOISE_TYPES)
        raise UsageError(f"{name}: unknown exploration.type {recipe.exploration.type!r}{near}")
    if len(set(recipe.temperatures)) < len(recipe.temperatures):
        raise UsageError(f"{name}: a temperature is listed twice: {recipe.temperatures}")


def _check_videos(recipe: EvalRecipe, name: str) -> None:
    if isinstance(recipe.videos, str):
        if recipe.videos not in VIDEOS:
            near = did_you_mean(recipe.videos, VIDEOS)
            raise UsageError(f"{name}: videos must be none, failures, all or numbers, got {recipe.videos!r}{near}")
    elif not all(0 <= i < recipe.episodes for i in recipe.videos):
        raise UsageError(f"{name}: videos are numbers of episodes, 0 to {recipe.episodes - 1}, got {recipe.videos}")


def _check_robot(recipe: EvalRecipe, name: str) -> None:
    if recipe.workers not in (None, 1):
        raise UsageError(f"{name}: there is one robot; leave workers out")
    if recipe.human.type == "none":
        raise UsageError(
            f"{name}: nobody can say whether a robot's episode succeeded; give --human.type=keys, or teleop with "
            "--human.teleop.type=LEADER"
        )
