"""The perfect flow of things: exact on a pinhole, and what DIS finds on rendered pictures."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from igrft.simulation.bodies import Bodies
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.projection import View, thing_flow
from igrft.simulation.truth import poses


def _bodies(things: list[int], count: int) -> Bodies:
    none = np.zeros(0, dtype=bool)
    return Bodies(none, none, none, none, np.zeros(count, dtype=bool), np.array(things), np.zeros(len(things)))


def test_a_thing_that_moves_sideways_and_one_that_comes_nearer():
    """Focal length 100 at 2 m: 0.02 m to the right is a pixel. Body 1 moves, body 2 comes from 2 m to 1 m."""
    seen = np.full((4, 6), -1, dtype=np.int32)
    seen[1, 1], seen[2, 4], seen[0, 0] = 1, 2, 3
    view = View(seen, np.full((4, 6), 2.0, dtype=np.float32), np.zeros(3), np.eye(3), 100.0)
    still = np.stack([np.eye(3)] * 2)
    before = (np.zeros((2, 3)), still)
    after = (np.array([[0.02, 0.04, 0.0], [0.0, 0.0, 1.0]]), still)
    flow = thing_flow(view, _bodies([1, 2], 4), before, after)
    assert flow[1, 1] == pytest.approx([1.0, -2.0], abs=1e-6)
    assert flow[2, 4] == pytest.approx([1.5, 0.5], abs=1e-6)  # twice as far from the middle
    assert np.count_nonzero(flow.any(axis=2)) == 2
    assert not thing_flow(view, _bodies([1, 2], 4), before, before).any()


def test_a_thing_that_turns():
    """A quarter turn about the optical axis takes the pixel right of the middle to the one above it."""
    seen = np.full((5, 5), -1, dtype=np.int32)
    seen[2, 4] = 1
    view = View(seen, np.ones((5, 5), dtype=np.float32), np.zeros(3), np.eye(3), 10.0)
    quarter = np.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    middle = np.array([[0.0, 0.0, -1.0]])
    flow = thing_flow(view, _bodies([1], 2), (middle, np.eye(3)[None]), (middle, quarter))
    assert flow[2, 4] == pytest.approx([-2.0, -2.0], abs=1e-6)


@pytest.mark.parametrize("camera", ["corner2", "topview"])  # one mounted upside down, one not
def test_it_takes_a_thing_to_where_the_camera_sees_it_next(camera: str):
    world = MetaWorld("drawer-open-v3", cameras=(camera,), width=320, height=240)
    world.reset(1)
    drawer = world.bodies.thing_bodies
    slide = world.env.model.joint("goal_slidey").qposadr[0]

    def pull(to: float) -> tuple[np.ndarray, np.ndarray]:
        world.env.data.qpos[slide] = to
        mujoco.mj_forward(world.env.model, world.env.data)
        return poses(world.env, world.bodies)

    before = pull(-0.05)
    view = View.of(world.cameras, camera)
    after = pull(-0.08)
    flow, now = thing_flow(view, world.bodies, before, after), world.cameras.bodies(camera)
    world.close()
    shown, landed = np.isin(view.bodies, drawer), np.isin(now, drawer)
    assert not flow[~shown].any()
    # The drawer's front, foremost along the way, comes as much nearer as the flow says.
    way = flow[shown].mean(axis=0)
    length = float(np.linalg.norm(way))
    assert length > 3

    def front(where: np.ndarray) -> float:
        return float((np.argwhere(where)[:, ::-1] @ way).max() / length)

    assert front(landed) - front(shown) == pytest.approx(length, abs=1.5)
    # Where a point lands there is the drawer again, or the robot before it.
    rows, columns = np.nonzero(shown)
    y, x = np.round(np.stack([rows, columns]) + flow[shown][:, ::-1].T).astype(int)
    clear = ~world.bodies.robot_bodies[now[y, x]]
    assert landed[y, x][clear].mean() > 0.97
