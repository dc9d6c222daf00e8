"""Experts solve their tasks from clean starts, and from where another hand left things."""

from __future__ import annotations

import numpy as np
import pytest

from igrft.simulation.experts import MetaWorldExpert, make_expert
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.pick_and_place import PickAndPlace
from igrft.simulation.tasks import TABLES


def drive(world: MetaWorld, expert, limit: int = 400) -> bool:
    expert.reset()
    for _ in range(limit):
        if world.status().success:
            return True
        world.act(expert.action(world.scene()))
    return bool(world.status().success)


@pytest.mark.parametrize("task", sorted(TABLES))
def test_the_expert_solves_clean_starts(task):
    world, expert = MetaWorld(task, max_steps=400), make_expert(task)
    assert isinstance(expert, PickAndPlace)
    solved = 0
    for seed in range(10):
        world.reset(seed)
        solved += drive(world, expert)
        assert world.steps < 300
    assert solved >= 9


@pytest.mark.parametrize("task", sorted(TABLES))
def test_the_expert_solves_what_another_hand_has_left(task):
    world, expert = MetaWorld(task, max_steps=10_000), make_expert(task)
    solved = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        world.reset(seed)
        expert.reset()
        for _ in range(int(rng.integers(0, 70))):
            world.act(expert.action(world.scene()))
        action = np.zeros(4)
        for _ in range(40):
            if rng.random() < 0.1:
                action = rng.uniform(-1, 1, 4)
            world.act(action)
        solved += drive(world, expert)
    assert solved >= 6


def test_meta_worlds_own_policy_does_the_tasks_without_a_table():
    world, expert = MetaWorld("drawer-open-v3"), make_expert("drawer-open-v3")
    assert isinstance(expert, MetaWorldExpert)
    assert world.subtasks == ()
    world.reset(0)
    assert world.status().subtask is None
    assert drive(world, expert)


def test_an_expert_acts_within_the_range_of_actions():
    for task in ("shelf-place-v3", "drawer-open-v3"):
        world, expert = MetaWorld(task), make_expert(task)
        world.reset(0)
        action = expert.action(world.scene())
        assert action.dtype == np.float32 and action.shape == (4,) and np.abs(action).max() <= 1


@pytest.mark.parametrize("task", sorted(TABLES))
def test_what_another_hand_holds_is_not_dropped(task):
    world, first, second = MetaWorld(task), make_expert(task), make_expert(task)
    world.reset(0)
    first.reset()
    while world.status().subtask < 3:
        assert not world.status().ended
        world.act(first.action(world.scene()))
    before = world.steps
    assert drive_holding(world, second)
    assert world.steps - before < 80


def drive_holding(world: MetaWorld, expert) -> bool:
    """Whether it gets there without ever opening the gripper."""
    expert.reset()
    while not (world.status().success or world.status().ended):
        action = expert.action(world.scene())
        if action[3] <= 0:
            return False
        world.act(action)
    return bool(world.status().success)
