"""Evaluation of a LeRobot robot, judged by keys, and of a policy behind a server."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from mock_robot import arm, camera
from policy_servers import FakePolicy, features, served
from rollout_fakes import Walker
from value_runs import write_run

from igrft.dataset.video import probe
from igrft.evaluation.bench import Bench
from igrft.evaluation.recipe import EvalRecipe
from igrft.evaluation.run import evaluate
from igrft.rollouts.keys import ScriptedKeys
from igrft.rollouts.protocols import Chunk, Embodiment, Human
from igrft.rollouts.teleop import make_human
from igrft.training.recipe_file import recipe_from


class Reacher(Walker):
    """Drives three joints to 1; its value falls with the first one's way."""

    uses_images, trained_noise = True, (1.0, 1.0)

    def infer(self, observation, **more):
        self.asked += 1
        actions = np.ones((4, 3), np.float32)
        return Chunk(actions, actions.copy(), self.judge(observation), self.noise.scale(None), 0.0)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_robot_is_judged_by_keys_and_let_go_of(tmp_path: Path) -> None:
    bodies: list = []

    def human(body: Embodiment) -> Human | None:
        bodies.append(body)
        # Enter ends a reset phase; then s is success and f is failure, after some looks.
        keys = ScriptedKeys(
            [(6, "s"), (9, "enter")], [(8, "f"), (11, "enter")], [(4, "s"), (7, "enter")], before=[(1, "enter")]
        )
        return make_human(recipe.human, body, keys=keys)

    value = {
        "checkpoint": str(write_run(tmp_path / "sft")),
        "environment": {
            "type": "robot",
            "robot": arm(tmp_path, cameras={"front": camera(48, 32)}),
            "task": "close the box",
            "fps": 100.0,
        },
        "human": {"type": "keys", "sound": False},
        "videos": "all",
        "episodes": 3,
        "reset_seconds": 20.0,
        "output_dir": str(tmp_path / "out"),
    }
    recipe = recipe_from(value, [], "mine", EvalRecipe)
    bench = partial(Bench, open_source=lambda one: Reacher(), open_human=human)
    found = evaluate(recipe, make_bench=bench)
    made = lines(found.folder)
    assert [(r["success"], r["said"], r["ended"], r["steps"]) for r in made] == [
        (True, True, "success", 6),
        (False, True, "failure", 8),
        (True, True, "success", 4),
    ]
    # Nobody but the human knows of subtasks.
    assert {(r["task"], r["progress"], r["subtasks"]) for r in made} == {("close the box", None, None)}
    assert found.summary.rows[0].success_rate == pytest.approx(2 / 3)
    facts = probe(found.folder / made[1]["video"])
    assert (facts.width, facts.height, facts.frames, facts.fps) == (48, 32 + 64, 8, 100.0)
    (body,) = bodies
    assert not body._robot.is_connected
    # A robot's episode cannot be run again for the sake of a video.
    (found.folder / made[1]["video"]).unlink()
    assert evaluate(recipe, make_bench=bench).ran == 0


def test_a_policy_behind_a_server(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    policy = FakePolicy(critic=False)
    policy.input_features = features(cameras=())
    with served(policy) as address:
        value = {
            "inference": {"server": address},
            "environment": {"type": "metaworld", "task": "reach-v3", "max_steps": 12},
            "episodes": 2,
            "workers": 1,
            "output_dir": str(tmp_path / "out"),
        }
        found = evaluate(recipe_from(value, [], "mine", EvalRecipe))
    (row,) = found.summary.rows
    assert (row.name, row.temperature, row.n, row.steps) == (address, "server", 2, 12)
    # What the server says that it drew with.
    assert row.noise == (0.5, 0.5, 0.5)
    assert [c[1] for c in policy.calls if c[0] == "reset"] == [1_000_000, 1_000_001]
