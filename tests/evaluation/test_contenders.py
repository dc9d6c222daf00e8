"""Which checkpoint belongs to which method, task, training seed and number of interventions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from value_runs import write_checkpoint, write_run

from igrft.errors import UsageError
from igrft.evaluation.contenders import exploration_of, find_contenders
from igrft.evaluation.recipe import EvalRecipe
from igrft.training.recipe_file import recipe_from


def run(root: Path, *, seed: int = 0, **recipe) -> Path:
    """A run with one checkpoint and its recipe."""
    write_run(root)
    (root / "recipe.yaml").write_text(yaml.safe_dump({"seed": seed, **recipe}))
    return root


def stage_three(root: Path) -> Path:
    """Two finished rounds, with 3 and 5 interventions."""
    for number in (0, 1):
        run(root / f"round_{number}", seed=4, datasets=[{"kind": "rollouts", "root": "x"}])
    lines = [{"round": i, "interventions": n, "run": f"round_{i}"} for i, n in ((0, 3), (1, 5))]
    (root / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "checkpoints").symlink_to("round_1/checkpoints", target_is_directory=True)
    (root / "recipe.yaml").write_text(yaml.safe_dump({"seed": 4, "init_from": str(run(root.parent / "start"))}))
    return root


def found(checkpoints: list[dict], **value):
    made = {"environment": {"type": "metaworld", "task": "reach-v3"}, "checkpoints": checkpoints, **value}
    return find_contenders(recipe_from(made, [], "mine", EvalRecipe))


def test_a_run_says_its_seed_and_the_folder_its_name(tmp_path: Path):
    (one,) = found([{"path": str(run(tmp_path / "sft", seed=7, exploration={"sigma_base": 0.5}))}])
    assert (one.name, one.task, one.seed, one.run) == ("sft", "reach-v3", 7, "reach-v3 seed 7")
    assert one.checkpoint == str(tmp_path / "sft/checkpoints/000007/pretrained_model")
    assert (one.curve, one.interventions) == ("sft", 0)
    assert exploration_of(one, EvalRecipe()).sigma_base == 0.5


def test_what_the_recipe_says_comes_first(tmp_path: Path):
    path = str(run(tmp_path / "a", seed=7))
    entry = {"path": path, "name": "ours", "task": "push-v3", "seed": 2, "curve": "c", "interventions": 9}
    (one,) = found([entry], exploration={"sigma_base": 0.9})
    assert (one.name, one.task, one.seed, one.curve, one.interventions) == ("ours", "push-v3", 2, "c", 9)
    assert exploration_of(one, recipe_from({"exploration": {"sigma_base": 0.9}}, [], "m", EvalRecipe)).sigma_base == 0.9


def test_one_checkpoint_replaces_the_list(tmp_path: Path):
    path = str(run(tmp_path / "a"))
    (one,) = found([{"path": "missing"}], checkpoint=path)
    assert one.name == "a"


def test_a_checkpoint_without_a_run(tmp_path: Path):
    (one,) = found([{"path": str(write_checkpoint(tmp_path / "downloaded"))}])
    assert (one.name, one.seed, one.interventions, one.exploration) == ("downloaded", 0, None, None)
    with pytest.raises(UsageError, match="belongs to no run that says its exploration"):
        exploration_of(one, EvalRecipe())


def test_other_weights_are_another_policy(tmp_path: Path):
    path = run(tmp_path / "a")
    (before,) = found([{"path": str(path)}])
    (path / "checkpoints/000007/critic/model.safetensors").write_bytes(b"others")
    (after,) = found([{"path": str(path)}])
    assert before.digest != after.digest


def test_rounds_count_the_interventions_up_to_theirs(tmp_path: Path):
    root = stage_three(tmp_path / "hil")
    paths = [root / "round_0", root / "round_1", root]
    made = found([*({"path": str(p)} for p in paths), {"path": str(root), "name": "whole"}])
    assert [(c.name, c.curve, c.interventions) for c in made] == [
        ("hil/round_0", "hil", 3),
        ("hil/round_1", "hil", 8),
        ("hil", "hil", 8),
        ("whole", "whole", 8),
    ]


def test_every_round_of_a_run_and_its_start(tmp_path: Path):
    root = stage_three(tmp_path / "hil")
    made = found([{"path": str(root), "name": "ours", "rounds": True}])
    assert [(c.name, c.curve, c.seed, c.interventions) for c in made] == [
        ("ours start", "ours", 4, 0),
        ("ours round 0", "ours", 4, 3),
        ("ours round 1", "ours", 4, 8),
    ]
    assert made[0].checkpoint == str(tmp_path / "start/checkpoints/000007/pretrained_model")
    with pytest.raises(UsageError, match="is no run of Stage III with a finished round"):
        found([{"path": str(tmp_path / "start"), "rounds": True}])


def test_rollouts_that_no_round_recorded_leave_the_interventions_unknown(tmp_path: Path):
    (one,) = found([{"path": str(run(tmp_path / "a", datasets=[{"kind": "rollouts", "root": "x"}]))}])
    assert one.interventions is None


def test_two_of_one_name_task_and_seed_are_refused(tmp_path: Path):
    paths = [str(run(tmp_path / n)) for n in ("a", "b")]
    with pytest.raises(UsageError, match="are both 'x' on reach-v3 seed 0; give one another name or seed"):
        found([{"path": p, "name": "x"} for p in paths])
    assert len(found([{"path": p, "name": "x", "seed": i} for i, p in enumerate(paths)])) == 2


def test_a_server_is_one_policy_and_a_task_must_be_named():
    value = {"inference": {"server": "ws://127.0.0.1:1"}}
    (one,) = found([], **value)
    assert (one.name, one.checkpoint, one.digest) == ("ws://127.0.0.1:1", None, "server")
    with pytest.raises(UsageError, match="what is the policy driven on"):
        found([], environment={"type": "metaworld"}, **value)


def test_a_path_that_is_not_there():
    with pytest.raises(UsageError, match="train it first"):
        found([{"path": "runs/nowhere_at_all"}])
