"""The line of docs/teleoperation.md that records with SO-101 arms, as far as it goes without any."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from igrft.cli.main import run, split_overrides
from igrft.cli.options import plain_overrides
from igrft.demonstrations.recipe import RecordRecipe, check_recipe
from igrft.training.recipe_file import load_recipe

pytest.importorskip("scservo_sdk", reason="lerobot[feetech] is not installed")
DOCS = Path(__file__).resolve().parents[2] / "docs/teleoperation.md"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The line's words after ``igrft``, at ports that no computer has, and a folder of the test's."""
    text = DOCS.read_text().replace("\\\n", " ").replace("/dev/tty", f"{tmp_path}/tty")
    (line,) = (x for x in text.splitlines() if x.startswith("    igrft record --environment"))
    return [w.replace("--root=", f"--root={tmp_path}/") for w in shlex.split(line)[1:]]


def test_its_devices_are_lerobots_and_fit_together(words: list[str]) -> None:
    from igrft.rollouts.devices import make_robot_device, make_teleop_device

    rest, dotted = split_overrides(words)
    recipe = load_recipe("record", [*plain_overrides(rest[1:]), *dotted], RecordRecipe)
    check_recipe(recipe, "record")
    assert recipe.episodes == 50
    robot, leader = make_robot_device(recipe.environment.robot), make_teleop_device(recipe.human.teleop)
    assert (type(robot).__name__, type(leader).__name__) == ("SOFollower", "SOLeader")
    assert robot.action_features == leader.action_features and len(robot.action_features) == 6
    assert robot.observation_features["front"] == (480, 640, 3)


def test_without_a_recipe_it_goes_as_far_as_the_port(words: list[str], tmp_path: Path, capfd) -> None:
    assert run(words) == 1
    (said,) = (x for x in capfd.readouterr().err.splitlines() if x.startswith("igrft: "))
    assert said.startswith(
        f"igrft: robot so_follower cannot be connected: Could not connect on port '{tmp_path}/ttyACM0'"
    )
    assert not list(tmp_path.iterdir())
