"""One task of Meta-World as an Embodiment: starts, observations, pictures, success, the time limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from igrft import columns as c
from igrft.errors import IgrftError, UsageError
from igrft.rollouts.protocols import Embodiment, Human
from igrft.rollouts.settings import EnvironmentSettings, HumanSettings
from igrft.simulation.human import ExpertHuman
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.tasks import TABLES

_STARTS = """
import hashlib, json, sys
import numpy as np
from igrft.simulation.metaworld import MetaWorld

found = []
for task, seeds in json.loads(sys.argv[1]):
    world = MetaWorld(task)
    for seed in seeds:
        world.reset(seed)
        for _ in range(20):
            world.act(np.array([0.3, -0.2, -0.5, 1.0]))
    seen = world.observe()
    found.append(hashlib.sha256(b"".join(seen[k].tobytes() for k in sorted(seen))).hexdigest())
print(json.dumps(found))
"""


def _elsewhere(*runs: tuple[str, list[int]]) -> list[str]:
    """In a process of its own: what is seen after the last of the episodes of every run."""
    command = [sys.executable, "-c", _STARTS, json.dumps(runs)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=True)
    return json.loads(done.stdout)


def test_a_seed_names_the_same_start_in_any_process_and_after_other_episodes():
    tasks = sorted(TABLES)
    alone = _elsewhere(*((task, [7]) for task in tasks))
    later = _elsewhere(*((task, [3, 11, 7]) for task in reversed(tasks)))
    assert alone == later[::-1]
    other = _elsewhere(*((task, [8]) for task in tasks))
    assert all(a != b for a, b in zip(alone, other, strict=True))


def test_it_is_an_embodiment_and_its_features_are_what_it_observes():
    world = MetaWorld.from_settings(EnvironmentSettings(type="metaworld", task="shelf-place-v3"), pictures=False)
    assert isinstance(world, Embodiment)
    world.reset(0)
    seen = world.observe()
    assert set(seen) | {c.ACTION} == set(world.features)
    for name, value in seen.items():
        assert value.shape == world.features[name]["shape"] == (len(world.features[name]["names"]),)
        assert value.dtype == np.float32
    by_name = dict(zip(world.features[c.ENVIRONMENT_STATE]["names"], seen[c.ENVIRONMENT_STATE], strict=True))
    hand = seen[c.STATE][:3]
    assert by_name["hand_to_object_x"] == pytest.approx(by_name["object_x"] - hand[0], abs=1e-6)
    # The goal is seen: the shelf stands between y = 0.8 and 0.9, and not at 0.
    assert 0.79 < by_name["goal_y"] < 0.91


def test_an_action_moves_the_hand_and_is_cut_to_its_range():
    world = MetaWorld("shelf-place-v3")
    world.reset(0)
    before = world.observe()[c.STATE]
    for _ in range(20):
        sent = world.act(np.array([5.0, 0.0, 0.0, -1.0], dtype=np.float32))
    assert sent.tolist() == [1.0, 0.0, 0.0, -1.0]
    assert world.observe()[c.STATE][0] - before[0] > 0.1


@pytest.mark.parametrize("bad", [np.full(4, np.nan), np.zeros(3)])
def test_an_action_that_is_none_is_refused(bad):
    world = MetaWorld("shelf-place-v3")
    world.reset(0)
    with pytest.raises(IgrftError, match="4 finite numbers"):
        world.act(bad)


def test_the_time_limit_ends_an_episode():
    world = MetaWorld("assembly-v3", max_steps=3)
    world.reset(0)
    for _ in range(3):
        assert not world.status().ended
        world.act(np.zeros(4))
    assert world.status().ended and not world.status().success


def test_success_has_to_settle():
    first = {}
    for settle in (1, 5):
        world = MetaWorld("shelf-place-v3", settle=settle)
        human = ExpertHuman(world, HumanSettings(until="episode"))
        world.reset(1)
        while not world.status().success:
            assert not world.status().ended
            world.act(human.action(world.observe()))
        first[settle] = world.steps
        assert world.status().subtask == len(world.subtasks)
    assert first[5] == first[1] + 4


@pytest.mark.parametrize(("wrong", "meant"), [("shelf-place", None), ("shelf-plcae-v3", "shelf-place-v3")])
def test_a_wrong_task_names_the_near_miss(wrong, meant):
    if meant is None:
        assert MetaWorld(wrong).env_task == "shelf-place-v3"
    else:
        with pytest.raises(UsageError, match=meant):
            MetaWorld(wrong)


def test_a_wrong_camera_names_the_near_miss():
    with pytest.raises(UsageError, match="corner2"):
        MetaWorld("shelf-place-v3", cameras=("korner2",))


def test_the_expert_takes_over_and_hands_back_when_the_subtask_is_done():
    world = MetaWorld("bin-picking-v3")
    human = ExpertHuman(world, HumanSettings(limit=5.0))
    assert isinstance(human, Human)
    world.reset(4)
    human.start(4)
    rng = np.random.default_rng(0)
    for _ in range(40):
        world.act(rng.uniform(-1, 1, 4))
    before = world.status().subtask
    human.take_over(world.observe(), None)
    driven = 0
    while not human.finished(world.status()):
        world.act(human.action(world.observe()))
        driven += 1
    assert world.status().subtask == before + 1
    assert 0 < driven < 400


def test_the_expert_hands_back_at_its_limit():
    world = MetaWorld("bin-picking-v3")
    human = ExpertHuman(world, HumanSettings(limit=0.1, until="episode"))
    world.reset(0)
    human.take_over(world.observe(), None)
    driven = 0
    while not human.finished(world.status()):
        world.act(human.action(world.observe()))
        driven += 1
    assert driven == 8
