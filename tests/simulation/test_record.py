"""``igrft convert metaworld:TASK``: a dataset that LeRobot, validate and annotate take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.files import read_json
from igrft.dataset.reader import DatasetReader
from igrft.simulation.bodies import survey
from igrft.simulation.engine import make_environment
from igrft.simulation.metaworld import MetaWorld

TASKS = Path(__file__).resolve().parents[2] / "pipelines" / "tasks"


def _table(root: Path):
    return pq.read_table(sorted(root.glob("data/*/*.parquet"))[0])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("recorded") / "shelf"
    arguments = ["--episodes", "3", "--seed", "4", "--size", "96x64", "--truth", "--masks", "--workers", "2", "-q"]
    assert run(["convert", "metaworld:shelf-place-v3", str(target), *arguments, "--operators.skill_low=0.9"]) == 0
    return target


def test_lerobot_opens_it_and_its_pictures_are_those_of_the_frames(recorded):
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset("igrft/test", root=recorded)
    assert dataset.meta.total_episodes == 3 and dataset.fps == 80 and dataset.meta.robot_type == "sawyer"
    facts = read_json(recorded / "meta/igrft_simulation.json")
    lengths = [facts["episodes"][str(i)]["steps"] for i in range(3)]
    assert dataset.meta.total_frames == sum(lengths)
    # The first frame of the second episode is the start that its seed names, rendered again.
    world = MetaWorld("shelf-place-v3", cameras=("corner2",), width=96, height=64)
    world.reset(facts["episodes"]["1"]["start_seed"])
    item = dataset[lengths[0]]
    seen = world.observe()
    assert np.allclose(item[c.STATE].numpy(), seen[c.STATE], atol=1e-6)
    assert np.allclose(item[c.ENVIRONMENT_STATE].numpy(), seen[c.ENVIRONMENT_STATE], atol=1e-6)
    picture = item[c.IMAGE_PREFIX + "corner2"].permute(1, 2, 0).numpy() * 255
    assert np.abs(picture - seen[c.IMAGE_PREFIX + "corner2"]).mean() < 6
    assert item["task"] == "Pick and place a puck onto a shelf"
    world.close()


def test_success_done_and_settings_are_written(recorded):
    facts = read_json(recorded / "meta/igrft_simulation.json")
    assert facts["operators"]["skill_low"] == 0.9 and facts["seed"] == 4
    reader, table = DatasetReader.open(recorded), _table(recorded)
    ends = np.cumsum(reader.lengths) - 1
    done = table[c.DONE].to_numpy(zero_copy_only=False)
    success = table[c.SUCCESS].to_numpy(zero_copy_only=False)
    assert np.flatnonzero(done).tolist() == ends.tolist()
    expected = [facts["episodes"][str(i)]["success"] for i in range(3)]
    assert success[ends].tolist() == expected and success.sum() == sum(expected) > 0


def test_replaying_its_actions_gives_its_states(recorded):
    facts, table = read_json(recorded / "meta/igrft_simulation.json"), _table(recorded)
    states, actions = (np.stack(table[k].to_numpy(zero_copy_only=False)) for k in (c.STATE, c.ACTION))
    world = MetaWorld("shelf-place-v3")
    world.reset(facts["episodes"]["0"]["start_seed"])
    for frame in range(facts["episodes"]["0"]["steps"]):
        assert np.array_equal(world.observe()[c.STATE], states[frame])
        world.act(actions[frame])
    assert world.status().success == facts["episodes"]["0"]["success"]


def test_the_truth_agrees_with_the_file_of_subtasks(recorded):
    table = _table(recorded)
    truth = read_json(recorded / "meta/true_subtasks.json")["episodes"]
    phase = table["truth.subtask"].to_numpy()
    at = 0
    for episode in range(3):
        entry = truth[str(episode)]
        segments = entry["subtasks"]
        numbers = np.concatenate([np.full(s["end"] - s["start"], i) for i, s in enumerate(segments)])
        assert np.array_equal(numbers, phase[at : at + len(numbers)])
        at += len(numbers)
    assert at == len(phase)
    contact, motion = table["truth.contact"].to_numpy(zero_copy_only=False), table["truth.object_motion"].to_numpy()
    assert contact[phase == 3].mean() > 0.8 and np.median(motion[phase == 3]) > 1e-3
    assert contact[phase == 0].mean() < 0.3


def test_validate_and_annotate_take_it(recorded, tmp_path, capsys):
    assert run(["validate", str(recorded)]) == 0
    target = tmp_path / "labelled"
    subtasks = ["--steps.subtasks.source=file", f"--steps.subtasks.path={recorded}/meta/true_subtasks.json"]
    masks = [f"--steps.interaction.mask_path={recorded}/robot_masks/corner2", "--steps.interaction.robot_mask=folder"]
    assert run(["annotate", str(recorded), str(target), "-q", "--workers", "1", *subtasks, *masks]) == 0
    capsys.readouterr()
    assert run(["validate", str(target)]) == 0
    names = pq.read_table(target / "meta/subtasks.parquet").to_pandas().index.tolist()
    assert set(names) == set(MetaWorld("shelf-place-v3").subtasks)


def test_annotate_takes_the_task_files(recorded, tmp_path):
    target = tmp_path / "labelled"
    options = [f"--steps.subtasks.task={TASKS}", "--steps.subtasks.source=proprio", "--steps.subtasks.shortest=0.05"]
    assert run(["annotate", str(recorded), str(target), "-q", "--workers", "1", *options]) == 0
    names = pq.read_table(target / "meta/subtasks.parquet").to_pandas().index.tolist()
    assert set(names) == set(MetaWorld("shelf-place-v3").subtasks)


def test_masks_in_the_video_are_the_robot(recorded):
    from igrft.dataset.video import episode_frames
    from igrft.steps.interaction.masks import folder_masks

    reader = DatasetReader.open(recorded)
    count = int(reader.lengths[0])
    masks = np.stack(list(folder_masks(recorded / "robot_masks/corner2", 0, count))) > 127
    pictures = np.stack(list(episode_frames(reader, 0, c.IMAGE_PREFIX + "corner2"))).astype(int)
    red = (pictures[..., 0] > pictures[..., 1] + 70) & (pictures[..., 0] > pictures[..., 2] + 70)
    blue = (pictures[..., 2] > pictures[..., 0] + 60) & (pictures[..., 2] > pictures[..., 1] + 60)
    assert masks[red].mean() > 0.97
    assert blue.sum() == 0 or masks[blue].mean() < 0.2


def test_without_pictures_and_in_one_process_it_is_the_same_demonstration(recorded, tmp_path):
    target = tmp_path / "state"
    arguments = ["--episodes", "3", "--seed", "4", "--no-pictures", "--workers", "1", "-q"]
    assert run(["convert", "metaworld:shelf-place-v3", str(target), *arguments, "--operators.skill_low=0.9"]) == 0
    one, two = _table(recorded), _table(target)
    assert not list(target.glob("videos/*"))
    for name in (c.STATE, c.ACTION, c.ENVIRONMENT_STATE, c.SUCCESS):
        assert one[name].equals(two[name])
    assert "truth.contact" not in two.column_names


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["metaworld:shelf-plac-v3"], "shelf-place-v3"),
        (["metaworld:shelf-place-v3", "--fps", "30"], "frame rate of its own"),
        (["metaworld:shelf-place-v3", "--format", "lerobot-v2.1"], "has no format"),
        (["metaworld:shelf-place-v3", "--camera", "corner22"], "corner2"),
        (["metaworld:shelf-place-v3", "--size", "big"], "WIDTHxHEIGHT"),
        (["metaworld:shelf-place-v3", "--size", "97x64"], "even"),
        (["metaworld:shelf-place-v3", "--episodes", "0"], "at least 1"),
        (["metaworld:shelf-place-v3", "--no-pictures", "--masks"], "no pictures"),
        (["metaworld:shelf-place-v3", "--operators.skil_low=1"], "skill_low"),
        (["metaworld:shelf-place-v3", "--operators.skill_low=much"], "must be a number"),
        (["metaworld:shelf-place-v3", "--steps.a=1"], "no option --steps.a"),
        ([".", "--episodes", "5"], "is a recording"),
    ],
)
def test_wrong_usage_is_told_in_one_line_and_leaves_nothing(arguments, says, tmp_path, capsys):
    target = tmp_path / "target"
    assert run(["convert", arguments[0], str(target), *arguments[1:], "-q"]) == 2
    said = capsys.readouterr().err.strip()
    assert says in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_relied_on_inside_lerobot_and_meta_world():
    import lerobot.envs.metaworld as theirs

    from igrft.simulation import catalogue

    assert catalogue.task_names() == tuple(sorted(theirs.TASK_DESCRIPTIONS))
    for task in catalogue.task_names():
        assert catalogue.description(task) == theirs.TASK_DESCRIPTIONS[task]
        assert catalogue.expert_class(task) is theirs.TASK_POLICY_MAPPING[task]
    env = make_environment("assembly-v3")
    # A switch that was renamed would be set in vain.
    fresh = type(env)()
    for name in ("_partially_observable", "_freeze_rand_vec", "seeded_rand_vec", "_set_task_called", "max_path_length"):
        assert hasattr(fresh, name) and getattr(fresh, name) != getattr(env, name)
    assert env.dt == pytest.approx(1 / 80)
    assert (theirs.MetaworldEnv.metadata["render_fps"], env.metadata["render_fps"]) == (80, 80)
    bodies = survey(env.model)
    assert bodies.robot.any() and bodies.left.any() and bodies.right.any() and bodies.things.any()
    assert not (bodies.robot & bodies.things).any()


def test_the_settings_are_json(recorded):
    assert json.loads((recorded / "meta/igrft_simulation.json").read_text())["environment"]["task"] == "shelf-place-v3"
