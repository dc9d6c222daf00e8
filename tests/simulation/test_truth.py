"""What the simulator knows: subtasks, contacts, motion of things, robot masks; and what a camera sees."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft import columns as c
from igrft.simulation.experts import make_expert
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.phases import Phases, segments
from igrft.simulation.tasks import TABLES, Scene, TaskTable
from igrft.simulation.truth import motion, poses, robot_mask
from igrft.steps.task_file import load_task

TASKS = Path(__file__).resolve().parents[2] / "pipelines" / "tasks"


@pytest.mark.parametrize("task", sorted(TABLES))
def test_task_files_name_the_true_subtasks_and_lerobots_sentence(task):
    file = load_task(TASKS / f"metaworld-{task}.yaml")
    world = MetaWorld(task)
    assert file.subtasks == world.subtasks
    assert file.match == (world.task,)
    assert file.goal and file.success


@pytest.mark.parametrize("task", sorted(TABLES))
def test_subtasks_of_an_expert_come_in_order_and_none_is_left_out(task):
    world, expert = MetaWorld(task), make_expert(task)
    for seed in (0, 1):
        world.reset(seed)
        expert.reset()
        seen = [world.status().subtask]
        while not (world.status().success or world.status().ended):
            world.act(expert.action(world.scene()))
            seen.append(world.status().subtask)
        assert sorted(seen) == seen
        assert sorted(set(seen)) == list(range(len(world.subtasks) + 1))


def _scene(success: bool) -> Scene:
    spot = np.zeros(3)
    return Scene(spot, spot, spot, spot, False, success, np.zeros(39))


def test_a_subtask_that_was_done_stays_done_and_success_ends_them_all():
    held = [True]
    phases = Phases(TaskTable((("take", lambda s: held[0]), ("put", lambda s: False))))
    assert phases.update(_scene(False)) == 1
    held[0] = False
    assert phases.update(_scene(False)) == 1
    assert phases.update(_scene(True)) == 2


def test_segments_of_a_success_a_failure_and_a_surprise():
    names = ("a", "b", "c")

    def plain(found):
        return [(s["start"], s["end"], s["done"]) for s in found]

    assert plain(segments([0, 0, 1, 2, 2, 3], names, True)) == [(0, 2, True), (2, 3, True), (3, 5, True)]
    # Five frames, b never done, c never begun.
    assert plain(segments([0, 0, 1, 1, 1, 1], names, False)) == [(0, 2, True), (2, 5, False), (5, 5, False)]
    # Done with the last action: the next one was never begun.
    assert plain(segments([0, 0, 0, 0, 0, 1], names, False)) == [(0, 5, True), (5, 5, False), (5, 5, False)]
    # Success while a was going on: b and c get a frame each.
    assert plain(segments([0, 0, 0, 0, 0, 3], names, True)) == [(0, 3, True), (3, 4, True), (4, 5, True)]


@given(st.lists(st.integers(0, 1), min_size=3, max_size=40), st.booleans())
def test_segments_cover_the_episode(rises, success):
    phases = [0, *np.minimum(np.cumsum(rises), 3).tolist()]
    success = success and phases[-1] == 3
    found = segments(phases, ("a", "b", "c"), success)
    assert found[0]["start"] == 0 and found[-1]["end"] == len(rises)
    assert all(one["end"] == two["start"] for one, two in pairwise(found))
    if success:
        assert all(s["done"] and s["end"] > s["start"] for s in found)


@pytest.mark.parametrize("task", sorted(TABLES))
def test_things_are_touched_only_when_held_and_move_when_carried(task):
    world, expert = MetaWorld(task), make_expert(task)
    world.reset(3)
    expert.reset()
    for _ in range(25):  # the cover falls onto the table first
        world.act(np.array([0.0, 0.0, 0.2, -1.0]))
    touched, moved, carried = [], [], []
    while not (world.status().success or world.status().ended):
        before = poses(world.env, world.bodies)
        world.act(expert.action(world.scene()))
        moved.append(motion(before, poses(world.env, world.bodies), world.bodies.radius))
        touched.append(world.contacts().robot > 0)
        carried.append(world.status().subtask >= 3)
    touched, moved, carried = map(np.array, (touched, moved, carried))
    assert not touched[:10].any() and max(moved[:10]) < 1e-3
    assert touched[carried].mean() > 0.9
    assert np.median(moved[carried]) > 2e-3
    # What rests on the table is carried by it.
    world.reset(3)
    for _ in range(40):
        world.act(np.array([0.0, 0.0, 0.5, -1.0]))
    contact = world.contacts()
    assert contact.robot == 0 and contact.world > 0.01


def test_motion_is_the_way_and_the_turn():
    radius = np.array([0.1, 0.2])
    still = (np.zeros((2, 3)), np.stack([np.eye(3)] * 2))
    moved = (np.array([[0.3, 0.0, 0.4], [0.0, 0.0, 0.0]]), still[1])
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = (still[0], np.stack([np.eye(3), quarter]))
    assert motion(still, still, radius) == 0
    assert motion(still, moved, radius) == pytest.approx(0.5)
    assert motion(still, turned, radius) == pytest.approx(0.2 * np.pi / 2)
    assert motion((np.zeros((0, 3)), np.zeros((0, 3, 3))), (np.zeros((0, 3)), np.zeros((0, 3, 3))), np.zeros(0)) == 0


@pytest.fixture(scope="module")
def seen():
    world = MetaWorld("shelf-place-v3", cameras=("corner2",), width=160, height=120)
    world.reset(2)
    yield world
    world.close()


def _where(world: MetaWorld, body: str) -> tuple[float, float]:
    """Middle of the pixels that show a body or what hangs on it: (row, column)."""
    model = world.env.model
    wanted = {b for b in range(model.nbody) if body in _ancestors(model, b)}
    shown = np.isin(world.cameras.bodies("corner2"), list(wanted))
    assert shown.any()
    rows, columns = np.nonzero(shown)
    return float(rows.mean()), float(columns.mean())


def _ancestors(model, body: int) -> list[str]:
    names = []
    while body:
        names.append(model.body(body).name)
        body = int(model.body_parentid[body])
    return names


def test_a_picture_is_the_right_way_up(seen):
    picture = seen.observe()[c.IMAGE_PREFIX + "corner2"]
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    hand, puck, shelf = (_where(seen, body) for body in ("hand", "obj", "shelf"))
    # The hand hangs above the puck; looking back at the robot from the far corner, its base is to the left.
    assert hand[0] < puck[0]
    assert _where(seen, "right_arm_base_link")[1] < hand[1]
    assert 0 <= shelf[0] < 120
    # The puck is blue, and the picture and the geometry agree on where it is.
    row, column = map(round, puck)
    red, green, blue = picture[row, column].astype(int)
    assert blue > 100 and blue > red + 50 and blue > green + 50


def test_a_mask_covers_the_robot_and_not_the_thing(seen):
    mask = robot_mask(seen.cameras.bodies("corner2"), seen.bodies)
    picture = seen.observe()[c.IMAGE_PREFIX + "corner2"].astype(int)
    red = (picture[..., 0] > picture[..., 1] + 60) & (picture[..., 0] > picture[..., 2] + 60)
    blue = (picture[..., 2] > picture[..., 0] + 50) & (picture[..., 2] > picture[..., 1] + 50)
    assert red.sum() > 300 and blue.sum() > 5
    assert mask[red].mean() > 0.98
    assert not mask[blue].any()
    assert 0.02 < mask.mean() < 0.5


def test_the_red_dots_on_the_fingertips_are_the_robots():
    """They are sites, not geoms: holes in the mask that move as the hand does."""
    world = MetaWorld("drawer-open-v3", cameras=("corner2",), width=640, height=480)
    world.reset(1)
    mask = robot_mask(world.cameras.bodies("corner2"), world.bodies)
    picture = world.observe()[c.IMAGE_PREFIX + "corner2"].astype(int)
    dots = (picture[..., 0] > 150) & (picture[..., 1] < 30) & (picture[..., 2] < 30)
    world.close()
    assert dots.sum() > 20 and mask[dots].all()


def test_pictures_are_rendered_when_looked_at_and_once_a_step(seen, monkeypatch):
    rendered = []
    real = seen.cameras.picture
    monkeypatch.setattr(seen.cameras, "picture", lambda camera: rendered.append(camera) or real(camera))
    seen.reset(4)
    for _ in range(5):
        seen.act(np.zeros(4))
    assert rendered == []
    first, again = seen.observe(), seen.observe()
    assert rendered == ["corner2"]
    assert np.array_equal(first[c.IMAGE_PREFIX + "corner2"], again[c.IMAGE_PREFIX + "corner2"])


def test_shadows_and_multisampling_are_off(seen):
    import mujoco

    seen.observe()
    assert seen.env.model.vis.quality.offsamples == 0
    flags = seen.cameras._renderer.scene.flags
    assert not flags[mujoco.mjtRndFlag.mjRND_SHADOW] and not flags[mujoco.mjtRndFlag.mjRND_REFLECTION]
