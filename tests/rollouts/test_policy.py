"""A checkpoint as a source of actions: the policy's own actions, Eq. 2's noise, the critic's words."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from value_runs import CRITIC_SETTINGS, tiny_checkpoint

from igrft.errors import UsageError
from igrft.models.load import load_checkpoint
from igrft.rollouts.noise import NoiseRule
from igrft.rollouts.policy import LocalPolicy

CAMERA = "observation.images.front"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": None},
    CAMERA: {"dtype": "video", "shape": (32, 32, 3), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
}


@pytest.fixture(scope="module", params=["state_flow", "pi05_tiny"])
def checkpoint(request, tmp_path_factory):
    cameras = (CAMERA,) if request.param == "pi05_tiny" else ()
    folder = tmp_path_factory.mktemp(request.param)
    return tiny_checkpoint(folder, SimpleNamespace(features=FEATURES), kind=request.param, cameras=cameras)


def observation(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observation.state": rng.normal(size=3).astype(np.float32),
        CAMERA: rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "task": "lift the cup",
    }


def test_actions_are_the_policys_own_from_the_same_noise(checkpoint):
    source = LocalPolicy.load(checkpoint, device="cpu", temperature=0.5)
    source.reset(11)
    chunk = source.infer(observation())

    loaded = load_checkpoint(checkpoint, device="cpu")
    seen = observation()
    batch = {"observation.state": torch.from_numpy(seen["observation.state"])[None], "task": ["lift the cup"]}
    if loaded.actor.uses_images:
        batch[CAMERA] = torch.from_numpy(seen[CAMERA]).permute(2, 0, 1).float()[None] / 255
    ready = loaded.preprocess(batch)
    shape = (1, loaded.actor.chunk_size, loaded.actor.action_width)
    noise = 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(11))
    wanted = loaded.actor.sample(ready, noise)
    with torch.no_grad():
        said = loaded.critic(loaded.actor.prefix(ready, loaded.critic_layers).features)
    np.testing.assert_allclose(chunk.normalised, wanted[0].numpy(), atol=2e-5)
    np.testing.assert_allclose(chunk.actions, loaded.postprocess(wanted.clone())[0].numpy(), atol=2e-5)
    assert chunk.actions.shape == (source.chunk_size, 2) and chunk.noise_scale == 0.5
    judgement = chunk.judgement
    assert judgement.trajectory == pytest.approx(said.trajectory.item(), abs=1e-5)
    assert judgement.interaction == pytest.approx(said.interaction_probability.item(), abs=1e-5)
    assert judgement.value == pytest.approx(0.25 * judgement.trajectory + 0.75 * judgement.subtask)
    again = source.judge(observation())
    assert (again.trajectory, again.interaction) == pytest.approx(
        (judgement.trajectory, judgement.interaction), abs=1e-6
    )


def test_noise_is_wide_where_the_critic_sees_no_interaction(checkpoint):
    explored = LocalPolicy.load(checkpoint, device="cpu", exploration=NoiseRule("interaction"))
    explored.reset(3)
    chunk = explored.infer(observation())
    wanted = 1.5 * (1 - 0.9 * chunk.judgement.interaction) + 0.2
    assert chunk.noise_scale == pytest.approx(wanted)
    fixed = LocalPolicy.load(checkpoint, device="cpu", temperature=chunk.noise_scale)
    fixed.reset(3)
    np.testing.assert_allclose(fixed.infer(observation()).actions, chunk.actions, atol=1e-5)


def test_a_seed_draws_the_same_noise_and_a_session_draws_its_own(checkpoint):
    source = LocalPolicy.load(checkpoint, device="cpu")
    source.reset(5)
    first, second = source.infer(observation()), source.infer(observation())
    source.reset(5)
    assert np.array_equal(source.infer(observation()).actions, first.actions)
    assert not np.array_equal(first.actions, second.actions)
    other = source.session()
    assert not np.array_equal(other.infer(observation()).actions, first.actions)
    other.reset(5)
    assert np.array_equal(other.infer(observation()).actions, first.actions)


def test_a_chunk_agrees_with_what_is_left_of_the_last(checkpoint):
    source = LocalPolicy.load(checkpoint, device="cpu", horizon=source_horizon(checkpoint))
    left = np.full((source.chunk_size - 1, 2), 0.8, dtype=np.float32)
    source.reset(1)
    free = source.infer(observation()).normalised
    source.reset(1)
    guided = source.infer(observation(), left_over=left, delay=2).normalised
    assert np.abs(guided[:2] - 0.8).mean() < 0.5 * np.abs(free[:2] - 0.8).mean()


def source_horizon(checkpoint):
    return json.loads((checkpoint / "pretrained_model/config.json").read_text())["chunk_size"] - 1


def test_what_is_driven_must_give_what_the_policy_reads(checkpoint):
    source = LocalPolicy.load(checkpoint, device="cpu")
    source.refuse_unfit(FEATURES)
    with pytest.raises(UsageError, match="'observation.state' has shape \\(4,\\) here"):
        source.refuse_unfit({**FEATURES, "observation.state": {"shape": (4,)}})
    with pytest.raises(UsageError, match="takes actions of 5 numbers, and the policy makes 2"):
        source.refuse_unfit({**FEATURES, "action": {"shape": (5,)}})
    without = {k: v for k, v in FEATURES.items() if k != "observation.state"}
    with pytest.raises(UsageError, match="'observation.state', which the environment does not give"):
        source.refuse_unfit(without)


def test_inputs_go_by_the_datasets_names(tmp_path):
    folder = tiny_checkpoint(tmp_path / "c", SimpleNamespace(features=FEATURES), kind="state_flow")
    path = folder / "pretrained_model/policy_preprocessor.json"
    value = json.loads(path.read_text())
    for step in value["steps"]:
        if step["registry_name"] == "rename_observations_processor":
            step["config"]["rename_map"] = {"observation.joints": "observation.state"}
    path.write_text(json.dumps(value))
    source = LocalPolicy.load(folder, device="cpu")
    assert list(source.input_features) == ["observation.joints"]
    seen = observation()
    plain = LocalPolicy.load(
        tiny_checkpoint(tmp_path / "d", SimpleNamespace(features=FEATURES), kind="state_flow"), device="cpu"
    )
    for one in (source, plain):
        one.reset(1)
    renamed = source.infer({"observation.joints": seen["observation.state"], "task": "x"})
    assert np.array_equal(renamed.actions, plain.infer(seen).actions)


def test_without_a_critic(tmp_path):
    folder = tiny_checkpoint(tmp_path / "c", SimpleNamespace(features=FEATURES), kind="state_flow")
    for part in (folder / "critic").iterdir():
        part.unlink()
    source = LocalPolicy.load(folder, device="cpu")
    assert not source.has_critic and source.judge(observation()) is None
    assert source.infer(observation()).judgement is None
    with pytest.raises(UsageError, match="the checkpoint has none"):
        LocalPolicy.load(folder, device="cpu", exploration=NoiseRule("interaction"))


def test_the_range_of_training_noise_is_the_checkpoints_own(tmp_path):
    settings = {**CRITIC_SETTINGS, "noise_scale": [0.35, 1.7]}
    folder = tiny_checkpoint(tmp_path / "c", SimpleNamespace(features=FEATURES), kind="state_flow", settings=settings)
    source = LocalPolicy.load(folder, device="cpu", exploration=NoiseRule("interaction"))
    assert source.trained_noise == (0.35, 1.7)
    assert source.noise.warning(source.trained_noise) is None
