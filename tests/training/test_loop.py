"""The loop: resuming, signals, disks, numbers that are none, several processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import small_disk, tree_digest
from safetensors.torch import load_file
from training_sets import edit_column

from igrft.errors import IgrftError, UsageError
from igrft.models.load import load_checkpoint
from igrft.training import checkpoint
from igrft.training.loop import Loop
from igrft.training.recipe import Recipe
from igrft.training.run import train

Make = Callable[..., Recipe]
TIMES = ("seconds", "seconds_data", "samples_per_second", "memory_gb")
RL = ("objective.type=ig_awr", "advantage.refresh=2", "critic.update_every=2", "objective.intervention_floor=1")


def lines(run: Path) -> list[dict]:
    found = [json.loads(t) for t in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def weights(run: Path, part: str = "pretrained_model") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/last" / part / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(Exception):
    """Stands for SIGKILL: nothing after it runs."""


STREAM = ("objective.type=ig_awr", "datasets.0.streaming=true", "datasets.0.buffer_size=64", "datasets.0.shards=4")


@pytest.mark.parametrize("settings", [(), RL, ("objective.type=iql",), ("critic.patience=1",), STREAM], ids=str)
def test_a_killed_and_resumed_run_gives_the_same_bits(make_recipe, tmp_path, monkeypatch, settings) -> None:
    train(make_recipe(*settings, output_dir=str(tmp_path / "whole")))
    step = Loop._step

    def dies(self, number, parts):
        if number == 5:
            raise Killed
        return step(self, number, parts)

    monkeypatch.setattr(Loop, "_step", dies)
    with pytest.raises(Killed):
        train(make_recipe(*settings))
    monkeypatch.setattr(Loop, "_step", step)
    assert train(make_recipe(*settings)).resumed_at == 3
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert lines(run) == lines(whole)
    for part in ("pretrained_model", "critic"):
        assert same(weights(run, part), weights(whole, part))
    for name in ("samples", "heldout"):
        a, b = (pq.read_table(r / "diagnosis" / name).sort_by([("step", "ascending")]) for r in (run, whole))
        assert (a.num_rows == b.num_rows and a.equals(b)) or np.allclose(a["step"], b["step"])


def test_a_finished_run_is_left_alone(make_recipe, tmp_path) -> None:
    train(make_recipe())
    before = tree_digest(tmp_path / "run")
    assert train(make_recipe()).resumed_at == 6
    assert tree_digest(tmp_path / "run") == before


def test_a_run_that_streams_leaves_nothing_of_its_labels(make_recipe, tmp_path) -> None:
    train(make_recipe(*STREAM))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        ".lock", "checkpoints", "diagnosis", "metrics.jsonl", "recipe.yaml",
    ]  # fmt: skip
    state = json.loads((tmp_path / "run/checkpoints/last/training_state/state.json").read_text())
    assert state["streams"]["0"]["step"] == 6
    assert sum(len(lane["buffer"]) for lane in state["streams"]["0"]["lanes"]) == 64
    with pytest.raises(UsageError, match=r"holds a run with another datasets\.0\.buffer_size \(64 there, 32 now\)"):
        train(make_recipe(*STREAM, "datasets.0.buffer_size=32"))


def test_a_run_of_a_version_that_knew_fewer_settings_is_gone_on_with(make_recipe, tmp_path) -> None:
    train(make_recipe("steps=3"))
    recipe = tmp_path / "run/recipe.yaml"
    kept = [x for x in recipe.read_text().splitlines() if "streaming:" not in x and "buffer_size:" not in x]
    recipe.write_text("\n".join(kept).replace("\nsteps: 3\n", "\nsteps: 6\n"))
    assert train(make_recipe("steps=6")).resumed_at == 3


def test_another_recipe_in_the_same_folder_is_refused(make_recipe, tmp_path) -> None:
    train(make_recipe())
    with pytest.raises(UsageError, match=r"holds a run with another optimizer\.learning_rate"):
        train(make_recipe("optimizer.learning_rate=0.1"))
    train(make_recipe("optimizer.learning_rate=0.1"), overwrite=True)
    assert len(lines(tmp_path / "run")) == 6


def test_a_folder_that_is_no_run_is_refused(make_recipe, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("...")
    with pytest.raises(UsageError, match="holds something that is no run"):
        train(make_recipe(), overwrite=True)
    assert (tmp_path / "run/thesis.tex").is_file()


def test_only_the_two_newest_checkpoints_keep_their_training_state(make_recipe, tmp_path) -> None:
    train(make_recipe("save_every=1", "keep_checkpoints=3"))
    folder = tmp_path / "run/checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["000004", "000005", "000006", "last"]
    assert [p.name for p in sorted(folder.glob("0*")) if (p / "training_state").exists()] == ["000005", "000006"]
    assert (tmp_path / "run/checkpoints/last").readlink() == Path("000006")


def test_sigterm_saves_and_ends_cleanly(make_recipe, tmp_path, monkeypatch) -> None:
    step = Loop._step

    def signalled(self, number, parts):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, parts)

    monkeypatch.setattr(Loop, "_step", signalled)
    with pytest.raises(IgrftError, match="stopped at step 2 of 6 and saved"):
        train(make_recipe())
    monkeypatch.setattr(Loop, "_step", step)
    assert train(make_recipe()).resumed_at == 2
    train(make_recipe(output_dir=str(tmp_path / "whole")))
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_loss_that_is_not_finite_stops_with_step_and_indices(make_recipe, tmp_path, monkeypatch) -> None:
    step = Loop._step

    def poisons(self, number, parts):
        if number == 5:
            parts[0].batch.noise[2] = float("nan")
        return step(self, number, parts)

    monkeypatch.setattr(Loop, "_step", poisons)
    with pytest.raises(IgrftError, match=r"step 5: the loss is nan; its batch was dataset .*: indices \d+, .*000003"):
        train(make_recipe())
    assert all(torch.isfinite(t).all() for t in weights(tmp_path / "run").values())
    assert not (tmp_path / "run/checkpoints/000006").exists()


def test_a_full_disk_during_a_checkpoint_leaves_the_last_one_intact(make_recipe, tmp_path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        run = disk / "run"
        train(make_recipe("steps=1", output_dir=str(run)))
        before = tree_digest(run / "checkpoints/000001")
        (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("\nsteps: 1\n", "\nsteps: 2\n"))
        filler = disk / "filler"
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(b"0" * max(0, free - 60_000))
        with pytest.raises(
            IgrftError, match=r"step 2: the checkpoint could not be written .*disk is full.*000001 is intact"
        ):
            train(make_recipe("steps=2", output_dir=str(run)))
        assert tree_digest(run / "checkpoints/000001") == before
        assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["000001", "last"]
        filler.unlink()
        assert train(make_recipe("steps=2", output_dir=str(run))).resumed_at == 1


def test_accumulated_parts_equal_the_whole_batch(make_recipe, tmp_path) -> None:
    train(make_recipe(*RL, output_dir=str(tmp_path / "one")))
    train(make_recipe(*RL, "gradient_accumulation=4", output_dir=str(tmp_path / "four")))
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "four"), strict=True):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    assert all(torch.allclose(one[k], four[k], atol=2e-4) for k in one)


def test_the_critic_stops_at_its_best_held_out_fit(make_recipe, tmp_path, monkeypatch) -> None:
    fits = iter([0.1, 0.5, 0.4, 0.3, 0.9, 0.9])
    monkeypatch.setattr("igrft.training.heldout.score", lambda found: next(fits))
    train(make_recipe("critic.patience=2", "critic.evaluate_every=1", "save_every=2", "keep_checkpoints=9"))
    stopped = [(x["step"], x["critic_stopped"]) for x in lines(tmp_path / "run") if "critic_stopped" in x]
    assert stopped == [(4, {"best_step": 2, "fit": 0.5})]
    at_the_end = load_file(tmp_path / "run/checkpoints/000006/critic/model.safetensors")
    at_the_stop = load_file(tmp_path / "run/checkpoints/000004/critic/model.safetensors")
    assert same(at_the_end, at_the_stop)
    assert "critic_grad_norm" not in lines(tmp_path / "run")[-1]


def test_what_a_run_leaves(make_recipe, tmp_path) -> None:
    train(make_recipe(*RL))
    run = tmp_path / "run"
    first = lines(run)[0]
    expected = {
        "step", "loss", "loss_flow", "loss_critic", "loss_value_trajectory", "loss_value_subtask", "loss_interaction",
        "learning_rate", "critic_learning_rate", "grad_norm", "advantage_mean", "advantage_std", "weight_mean",
        "clipped_share", "ess", "positive_share",
    }  # fmt: skip
    assert set(first) == expected
    assert first["loss"] == pytest.approx(first["loss_flow"] + first["loss_critic"], rel=1e-5)
    table = pq.read_table(run / "diagnosis/samples")
    assert table.num_rows == 6 * 8
    assert np.isfinite(table["weight"].to_numpy()).all()
    heldout = [x for x in lines(run) if "heldout" in x]
    assert [x["step"] for x in heldout] == [3, 6]
    assert heldout[0]["heldout"]["episodes"] == 2
    loaded = load_checkpoint(run, device="cpu")
    assert loaded.settings["advantage_steps"] == 4
    assert loaded.critic is not None


def test_stages_are_chained(make_recipe, tmp_path) -> None:
    train(make_recipe(output_dir=str(tmp_path / "sft")))
    rl = make_recipe("objective.type=ig_awr", "steps=1", init_from=str(tmp_path / "sft"))
    result = train(rl)
    assert any("normalisation is that of" in n for n in result.notices)
    a, b = (tmp_path / n / "checkpoints/last/pretrained_model" for n in ("sft", "run"))
    name = "policy_preprocessor.json"
    assert (a / name).is_file() and (b / name).is_file()
    before, after = weights(tmp_path / "sft"), weights(tmp_path / "run")
    assert all((before[k] - after[k]).abs().max() < 5e-3 for k in before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": "nowhere/at/all"}, "there is no run or checkpoint at 'nowhere/at/all' yet"),
        ({"stage": "evil"}, "unknown stage 'evil'; did you mean 'eval'|unknown stage"),
        ({"stage": "eval"}, "run: igrft eval"),
    ],
)
def test_what_is_refused_before_training(make_recipe, tmp_path, changes, message) -> None:
    with pytest.raises(UsageError, match=message):
        train(make_recipe(**changes))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_init_from_another_architecture_is_refused(make_recipe, tmp_path) -> None:
    train(make_recipe("steps=1", output_dir=str(tmp_path / "sft")))
    wide = make_recipe(init_from=str(tmp_path / "sft"))
    wide.policy.width = 32
    with pytest.raises(IgrftError, match="does not fit StateFlowPolicy"):
        train(wide)
    tiny = make_recipe(
        init_from=str(tmp_path / "sft"),
        policy={"type": "pi05_tiny", "device": "cpu", "chunk_size": 4, "n_action_steps": 4},
    )
    with pytest.raises(UsageError, match="holds a 'state_flow' policy and the recipe trains a 'pi05_tiny'"):
        train(tiny)


def test_a_second_process_on_the_same_folder_is_refused(make_recipe, tmp_path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(IgrftError, match="is being trained by another process"):
            train(make_recipe())


def test_nan_labels_are_refused_before_anything_is_written(make_recipe, labelled, tmp_path) -> None:
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(labelled, root)
    edit_column(root, "reward_subtask", lambda v, e: np.where(np.arange(len(v)) == 7, np.nan, v) if e == 3 else v)
    with pytest.raises(IgrftError, match="episode 3, frame 7.*reward_subtask"):
        train(make_recipe(datasets=[{"root": str(root)}]))
    assert checkpoint.newest(tmp_path / "run") is None


def test_overwriting_waits_for_the_lock(make_recipe, tmp_path) -> None:
    import fcntl

    train(make_recipe("steps=1"))
    with (tmp_path / "run/.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(IgrftError, match="another process"):
            train(make_recipe("steps=1", "seed=3"), overwrite=True)
    assert checkpoint.newest(tmp_path / "run") is not None


def test_overwriting_with_data_that_are_not_there_removes_nothing(make_recipe, tmp_path) -> None:
    train(make_recipe("steps=1"))
    before = tree_digest(tmp_path / "run")
    with pytest.raises(IgrftError):
        train(make_recipe("steps=1", "datasets.0.root=/nowhere/x"), overwrite=True)
    assert tree_digest(tmp_path / "run") == before


def test_a_fit_that_is_not_defined_stops_no_critic(make_recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("igrft.training.heldout.score", lambda found: float("-inf"))
    train(make_recipe("critic.patience=1", "critic.evaluate_every=1"))
    assert not any("critic_stopped" in x for x in lines(tmp_path / "run"))


def test_patience_without_held_out_episodes_is_refused(make_recipe) -> None:
    with pytest.raises(UsageError, match="watches held-out episodes, and there are none"):
        train(make_recipe("critic.patience=1", "critic.holdout=0"))


def test_a_critic_that_stops_takes_its_judge_along(make_recipe, tmp_path, monkeypatch) -> None:
    fits = iter([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    monkeypatch.setattr("igrft.training.heldout.score", lambda found: next(fits))
    train(make_recipe("objective.type=awr", "critic.patience=1", "critic.evaluate_every=1", "advantage.refresh=2"))
    state = load_file(tmp_path / "run/checkpoints/last/training_state/module.safetensors")
    best = {k.removeprefix("best."): v for k, v in state.items() if k.startswith("best.")}
    for copy in ("judge.", "critic."):
        assert all(torch.equal(best[k], state[copy + k]) for k in best)


def test_figures_of_weights_are_those_of_the_whole_batch(make_recipe, tmp_path) -> None:
    train(make_recipe("objective.type=awr", "steps=1", output_dir=str(tmp_path / "one")))
    train(make_recipe("objective.type=awr", "steps=1", "gradient_accumulation=4", output_dir=str(tmp_path / "four")))
    one, four = (lines(tmp_path / n)[0] for n in ("one", "four"))
    for key in ("ess", "advantage_std", "weight_mean", "clipped_share"):
        assert one[key] == pytest.approx(four[key], rel=1e-4), key


def test_a_run_that_failed_before_its_first_checkpoint_blocks_nothing(make_recipe, tmp_path, monkeypatch) -> None:
    step = Loop._step

    def fails(self, number, parts):
        raise IgrftError("out of memory")

    monkeypatch.setattr(Loop, "_step", fails)
    with pytest.raises(IgrftError, match="out of memory"):
        train(make_recipe())
    monkeypatch.setattr(Loop, "_step", step)
    train(make_recipe("batch_size=4"))


def test_relabelled_data_are_noticed_when_a_run_goes_on(make_recipe, labelled, tmp_path) -> None:
    import shutil

    root = tmp_path / "data"
    shutil.copytree(labelled, root)
    train(make_recipe("steps=3", datasets=[{"root": str(root)}]))
    recipe = tmp_path / "run/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("\nsteps: 3\n", "\nsteps: 6\n"))
    edit_column(root, "reward_subtask", lambda v, e: v * 2)
    with pytest.raises(IgrftError, match="cannot go on: the labels or frames of its datasets changed"):
        train(make_recipe("steps=6", datasets=[{"root": str(root)}]))


def test_a_run_goes_on_when_the_checkpoint_it_started_from_is_gone(make_recipe, tmp_path, monkeypatch) -> None:
    import shutil

    train(make_recipe("steps=1", output_dir=str(tmp_path / "sft")))
    step = Loop._step

    def dies(self, number, parts):
        if number == 5:
            raise Killed
        return step(self, number, parts)

    monkeypatch.setattr(Loop, "_step", dies)
    with pytest.raises(Killed):
        train(make_recipe(init_from=str(tmp_path / "sft")))
    monkeypatch.setattr(Loop, "_step", step)
    shutil.rmtree(tmp_path / "sft")
    assert train(make_recipe(init_from=str(tmp_path / "sft"))).resumed_at == 3


def test_overwriting_an_equal_run_starts_anew(make_recipe, tmp_path) -> None:
    train(make_recipe())
    assert train(make_recipe(), overwrite=True).resumed_at == 0


def test_what_is_trained_is_held_in_float32_and_saved_as_the_policy_says() -> None:
    from lerobot.configs import FeatureType, PolicyFeature

    from igrft.models.actors import build_policy
    from igrft.training.lora import merged_state
    from igrft.training.recipe_file import recipe_from
    from igrft.training.setup import effective_precision, train_in_float32

    value = {"policy": {"type": "pi05_tiny", "device": "cpu", "dtype": "bfloat16", "train_expert_only": True}}
    recipe = recipe_from({**value, "datasets": [{"root": "x"}]})
    config = recipe.policy
    config.input_features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        "observation.images.a": PolicyFeature(FeatureType.VISUAL, (3, 28, 28)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (3,))}
    assert effective_precision(recipe, config) == "bf16"
    policy = build_policy(config)
    saved = {n: t.dtype for n, t in policy.state_dict().items()}
    train_in_float32(policy)
    frozen = {p.dtype for p in policy.parameters() if not p.requires_grad}
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    assert torch.bfloat16 in frozen
    assert {n: t.dtype for n, t in merged_state(policy, {}, saved).items()} == saved
