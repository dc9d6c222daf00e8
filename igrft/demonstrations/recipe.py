"""What a recipe says about recording."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.errors import UsageError
from igrft.rollouts.settings import EnvironmentSettings, HumanSettings, SafetySettings
from igrft.steps.task_file import Task, load_task


@dataclass
class RecordRecipe:
    """One set of demonstrations.

    Attributes:
        root: folder of the dataset; None is ``recorded_<task>``.
        environment: the robot, its rate, the sentence that says what it does, and the longest episode. Without
            ``task`` it is the task file's.
        task_file: that will label the set (``igrft annotate --steps.subtasks.task``); must be for this task.
        episodes: of the set; run again, recording goes on until there are so many.
        human: teleoperator, keys, pedal and sound.
        safety: limits of the action, as of rollouts; what they cut is recorded cut.
        reset_seconds: the longest reset phase between episodes, in which the robot is driven, but nothing recorded.
        encoder: fields of LeRobot's ``RGBEncoderConfig``; None is H.264 at its fastest.
    """

    stage: str = "record"
    root: str | None = None
    environment: EnvironmentSettings = field(default_factory=lambda: EnvironmentSettings(type="robot"))
    task_file: str | None = None
    episodes: int = 50
    human: HumanSettings = field(default_factory=lambda: HumanSettings(type="teleop"))
    safety: SafetySettings = field(default_factory=SafetySettings)
    reset_seconds: float = 60.0
    encoder: dict[str, Any] | None = None


def check_recipe(recipe: RecordRecipe, name: str) -> Task | None:
    """Refuse what no robot could make right, and read the task file.

    Fills in ``environment.task`` where only the file says it, and the types, of which there is one each.

    Raises:
        UsageError: says the key and what it may be.
    """
    recipe.environment.type = recipe.environment.type or "robot"
    if recipe.human.type == "none":
        recipe.human.type = "teleop"
    if recipe.environment.type != "robot":
        raise UsageError(
            f"{name}: environment.type is {recipe.environment.type!r}: a robot is recorded; simulated demonstrations "
            "come from igrft convert metaworld:TASK"
        )
    if recipe.human.type != "teleop":
        raise UsageError(f"{name}: human.type is {recipe.human.type!r}: somebody drives, with a teleop")
    if recipe.episodes < 1:
        raise UsageError(f"{name}: episodes must be at least 1, got {recipe.episodes}")
    if not recipe.reset_seconds >= 0:
        raise UsageError(f"{name}: reset_seconds must not be negative, got {recipe.reset_seconds}")
    if not (recipe.environment.fps > 0 and float(recipe.environment.fps).is_integer()):
        raise UsageError(f"{name}: environment.fps must be a whole number above 0, got {recipe.environment.fps:g}")
    most = recipe.environment.max_steps
    if most is not None and most < 1:
        raise UsageError(f"{name}: environment.max_steps must be at least 1, got {most}")
    return _task(recipe, name)


def _task(recipe: RecordRecipe, name: str) -> Task | None:
    given = recipe.environment.task
    if recipe.task_file is None:
        if not given:
            raise UsageError(
                f"{name}: say in one sentence what is done (--environment.task=…), or give --task_file=FILE"
            )
        return None
    task = load_task(Path(recipe.task_file).expanduser())
    known = task.match or ((task.goal,) if task.goal else ())
    if not given and not known:
        raise UsageError(f"{name}: {task.path} has neither 'match' nor 'goal'; give --environment.task=…")
    if not given:
        recipe.environment.task = known[0]
    elif task.match and given not in task.match:
        raise UsageError(
            f"{name}: environment.task is {given!r}, and {task.path} is for {', '.join(map(repr, task.match))}: "
            "it would not label this set"
        )
    return task
