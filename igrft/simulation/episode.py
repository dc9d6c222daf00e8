"""One demonstration: an operator drives the simulation until success, the time limit, or until they give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.operators import Operator, OperatorSettings, Turn
from igrft.simulation.phases import segments
from igrft.simulation.truth import TRUTH, motion, poses, robot_mask


@dataclass
class Demonstration:
    """What was recorded of T steps.

    Attributes:
        columns: name to [T, ...]: observations before each action, actions, and the truth.
        pictures: feature to uint8 [T, H, W, 3].
        masks: camera to bool [T, H, W], the robot's pixels; empty unless asked for.
        success: whether the goal was reached.
        subtasks: true segments, as a subtask file has them; empty where the task has no table.
        facts: start seed, operator, skill, steps, failed tries, whether they gave up.
    """

    columns: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    success: bool
    subtasks: list[dict[str, Any]]
    facts: dict[str, Any]

    @property
    def length(self) -> int:
        return len(self.columns[c.ACTION])


def start_seed(seed: int, episode: int) -> int:
    """Seed of the start of an episode of a recording: below 2^32, and hardly one of the small numbers that
    evaluations count their starts with.
    """
    return int(np.random.SeedSequence([seed, 3, episode]).generate_state(1)[0])


def demonstrate(
    world: MetaWorld, settings: OperatorSettings, turn: Turn, start: int, *, masks: bool = False
) -> Demonstration:
    """Let an operator give one demonstration.

    Args:
        world: with the cameras that are to be recorded; it is reset here.
        settings: of operators.
        turn: who, how well, and the seed of what goes wrong.
        start: seed of the start.
        masks: whether the robot's masks are rendered, at about the price of a picture each.
    """
    world.reset(start)
    operator = Operator(world.env_task, settings, turn.skill, turn.seed)
    rows: dict[str, list[Any]] = {}
    seen: dict[str, list[np.ndarray]] = {camera: [] for camera in world.cameras.names if masks}
    phases = [world.status().subtask or 0]
    here = poses(world.env, world.bodies)
    while True:
        for name, value in world.observe().items():
            rows.setdefault(name, []).append(value)
        for camera, found in seen.items():
            found.append(robot_mask(world.cameras.bodies(camera), world.bodies))
        scene, contact = world.scene(), world.contacts()
        rows.setdefault(c.ACTION, []).append(world.act(operator.action(scene)))
        before, here = here, poses(world.env, world.bodies)
        truth = (phases[-1], contact.robot > 0, contact.robot, contact.world, motion(before, here, world.bodies.radius))
        for name, value in zip(TRUTH, truth, strict=True):
            rows.setdefault(name, []).append(value)
        status = world.status()
        phases.append(status.subtask or 0)
        if status.success or status.ended or operator.gave_up:
            break
    success = bool(status.success)
    columns = {name: np.stack([np.asarray(v) for v in values]) for name, values in rows.items()}
    last = np.arange(world.steps) == world.steps - 1
    columns |= {c.DONE: last, c.SUCCESS: last & success}
    return Demonstration(
        columns={name: values for name, values in columns.items() if not name.startswith(c.IMAGE_PREFIX)},
        pictures={name: values for name, values in columns.items() if name.startswith(c.IMAGE_PREFIX)},
        masks={camera: np.stack(found) for camera, found in seen.items()},
        success=success,
        subtasks=segments(phases, world.subtasks, success) if world.subtasks else [],
        facts={
            "start_seed": start,
            "operator": turn.operator,
            "skill": round(turn.skill, 4),
            "success": success,
            "steps": world.steps,
            "failed_tries": operator.tries,
            "gave_up": operator.gave_up,
        },
    )
