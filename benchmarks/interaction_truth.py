"""What a perfect flow would count on recordings of ``igrft convert metaworld:TASK``: their actions, replayed.

Beside it the share of the picture that things take. For ``benchmarks/interaction_quality.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import read_json
from igrft.dataset.reader import DatasetReader
from igrft.simulation.metaworld import FPS, MetaWorld
from igrft.simulation.projection import View, thing_flow
from igrft.simulation.record import SIMULATION
from igrft.simulation.truth import poses
from igrft.steps.interaction.scale import Counter, Scale

#: Pictures of the replay; counts are in reference pixels, so that a quarter of the area is enough.
SIZE = (320, 240)
#: Squared reference pixels at 30 frames/s; the first stands for "moves at all".
LADDER = (0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Perfect:
    """One episode of T frames, of which every ``stride``-th is looked at: n of them.

    Attributes:
        counts: float32 [n, L], reference pixels of things whose true motion is above each threshold of LADDER; the
            last repeats the one before it.
        visible: float32 [n], reference pixels that show a thing that can move.
    """

    counts: np.ndarray
    visible: np.ndarray


def replay(root: Path, row: int, stride: int, camera: str = "corner2") -> Perfect:
    """Replay one episode and project what moved.

    Raises:
        SystemExit: the replay did not come to the recorded states.
    """
    facts = read_json(root / SIMULATION)
    dataset = DatasetReader.open(root)
    world = _world(facts["environment"]["task"], facts["environment"]["max_steps"], camera)
    actions, states = dataset.column(row, c.ACTION), dataset.column(row, c.STATE)
    world.reset(facts["episodes"][str(row)]["start_seed"])
    scale = Scale.of(*SIZE, FPS / stride, 30.0)
    counter = Counter(*SIZE, LADDER, scale)
    things = np.isin(np.arange(len(world.bodies.robot_bodies)), world.bodies.thing_bodies)
    counts, visible = [], []
    seen: tuple[View, tuple[np.ndarray, np.ndarray]] | None = None
    for frame, action in enumerate(actions):
        if not np.allclose(world.full_observation[:4], states[frame], atol=1e-5):
            raise SystemExit(f"{root}: episode {row} cannot be replayed (frame {frame}); record it again")
        if frame % stride == 0:
            now = poses(world.env, world.bodies)
            if seen is not None:
                flow = thing_flow(seen[0], world.bodies, seen[1], now)
                counts.append(counter.count(counter.energy(flow[..., 0], flow[..., 1], None)))
            seen = View.of(world.cameras, camera), now
            visible.append(things[seen[0].bodies[seen[0].bodies >= 0]].sum() / scale.area)
        world.act(action)
    return Perfect(np.stack([*counts, counts[-1]]), np.array(visible, np.float32))


_worlds: dict[Any, MetaWorld] = {}


def _world(task: str, max_steps: int, camera: str) -> MetaWorld:
    """One at a time: an OpenGL context is dear."""
    key = (task, max_steps, camera)
    if key not in _worlds:
        close()
        _worlds[key] = MetaWorld(task, cameras=(camera,), width=SIZE[0], height=SIZE[1], max_steps=max_steps)
    return _worlds[key]


def close() -> None:
    """Let go of OpenGL, before the program's end."""
    for world in _worlds.values():
        world.close()
    _worlds.clear()
