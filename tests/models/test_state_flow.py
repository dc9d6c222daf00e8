"""The state-based flow policy: a LeRobot policy like any other, and its actor."""

from __future__ import annotations

import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors
from torch import nn

from igrft.errors import IgrftError, UsageError
from igrft.models.actors import make_actor
from igrft.models.critic import Critic, CriticConfig
from igrft.models.load import load_checkpoint
from igrft.models.processors import make_processors, save_processors
from igrft.models.protocol import Actor, TextTargets
from igrft.models.state_flow import (
    StateFlowActor,
    StateFlowConfig,
    StateFlowPolicy,
    make_state_flow_pre_post_processors,
)

STATE, ENV, DIM, CHUNK = 5, 2, 3, 4
INPUTS = {
    "observation.state": PolicyFeature(FeatureType.STATE, (STATE,)),
    "observation.environment_state": PolicyFeature(FeatureType.ENV, (ENV,)),
    "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 8, 8)),
}
OUTPUTS = {"action": PolicyFeature(FeatureType.ACTION, (DIM,))}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**kwargs):
    sizes = {
        "width": 32,
        "chunk_size": CHUNK,
        "n_action_steps": 2,
        "input_features": INPUTS,
        "output_features": OUTPUTS,
    }
    return StateFlowConfig(device="cpu", **{**sizes, **kwargs})


def policy(**kwargs):
    torch.manual_seed(0)
    made = StateFlowPolicy(config(**kwargs))
    with torch.no_grad():
        made.model.head.out.weight.normal_(0, 0.3)  # untrained, it says nothing
    return made


def batch(n=3, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return {
        "observation.state": torch.randn(n, STATE, generator=draw),
        "observation.environment_state": torch.randn(n, ENV, generator=draw),
        "action": torch.rand(n, CHUNK, DIM, generator=draw) * 2 - 1,
        "task": ["go"] * n,
    }


def draws(n=3, samples=1, seed=2):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, samples, CHUNK, DIM, generator=draw), torch.rand(n, samples, generator=draw)


def gradients(module: nn.Module):
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def test_lerobots_factories_find_every_part():
    assert get_policy_class("state_flow") is StateFlowPolicy
    made = make_policy_config("state_flow", device="cpu", chunk_size=5, n_action_steps=5)
    assert isinstance(made, StateFlowConfig) and made.type == "state_flow" and made.chunk_size == 5
    pre, post = make_pre_post_processors(config(), dataset_stats={})
    ours = make_state_flow_pre_post_processors(config(), {})
    assert [[type(s) for s in p.steps] for p in (pre, post)] == [[type(s) for s in p.steps] for p in ours]


def test_processors_normalise_state_by_mean_and_actions_by_range(tmp_path):
    stats = {
        "observation.state": {"mean": torch.full((STATE,), 2.0), "std": torch.full((STATE,), 4.0)},
        "observation.environment_state": {"mean": torch.zeros(ENV), "std": torch.ones(ENV)},
        "action": {"min": torch.tensor([0.0, -1.0, 5.0]), "max": torch.tensor([10.0, 1.0, 5.0])},
    }
    pre, post = make_pre_post_processors(config(), dataset_stats=stats)
    for part in (pre, post):
        part.save_pretrained(tmp_path)
    again = make_pre_post_processors(config(), pretrained_path=str(tmp_path))
    raw = {**batch(), "observation.state": torch.full((3, STATE), 6.0)}
    raw["action"] = torch.tensor([5.0, 1.0, 5.0]).expand(3, CHUNK, DIM)
    for before, after in ((pre, post), again):
        seen = before(raw)
        torch.testing.assert_close(seen["observation.state"], torch.ones(3, STATE))
        torch.testing.assert_close(seen["action"], torch.tensor([0.0, 1.0, -1.0]).expand(3, CHUNK, DIM))
        torch.testing.assert_close(after(seen["action"]), raw["action"])


def test_it_is_an_actor():
    actor = make_actor(policy())
    assert isinstance(actor, StateFlowActor) and isinstance(actor, Actor)
    assert (actor.uses_images, actor.has_text) == (False, False)
    assert (actor.chunk_size, actor.action_width, actor.feature_width, actor.depth) == (CHUNK, DIM, 32, 3)
    assert actor.text_targets(["reach the cup"], None) is None
    with pytest.raises(IgrftError, match="no language model"):
        actor.generate_subtasks(batch())


def test_features_are_the_outputs_of_the_encoders_blocks():
    actor = StateFlowActor(policy())
    outputs = actor.policy.model.encoder(actor.policy.state(batch()))
    features = actor.prefix(batch(), (2, 0)).features
    assert torch.equal(features.keys[0][:, 0], outputs[2]) and torch.equal(features.keys[1][:, 0], outputs[0])
    assert torch.equal(features.values[0], features.keys[0]) and features.keys[0].shape == (3, 1, 32)
    assert features.mask.all() and features.mask.shape == (3, 1)
    assert actor.prefix(batch(), ()).features.mask.shape == (3, 1)


def test_targets_are_left_alone():
    actor = StateFlowActor(policy())
    targets = TextTargets(torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool))
    prefix = actor.prefix(batch(), (0,), targets)
    assert prefix.text_loss is None and prefix.text_correct is None


def test_two_passes_equal_the_policys_own_training_forward():
    made = policy()
    seen, (noise, time) = batch(), draws()
    seen["action_is_pad"] = torch.tensor([[False] * 4, [False, False, True, True], [True] * 4])
    loss, figures = made(seen, noise=noise[:, 0], time=time[:, 0])
    loss.backward()
    stock = gradients(made)
    made.zero_grad()
    actor = StateFlowActor(made)
    error = actor.flow_error(actor.prefix(seen, (1,)), seen["action"], noise, time)
    assert error.shape == (3, 1, CHUNK, DIM) and error.dtype == torch.float32
    ours = error[~seen["action_is_pad"][:, None]].mean()
    ours.backward()
    torch.testing.assert_close(ours, loss)
    assert figures["loss"] == pytest.approx(loss.item())
    for name, gradient in gradients(made).items():
        torch.testing.assert_close(gradient, stock[name], atol=1e-7, rtol=1e-5, msg=name)
    each, _ = made(seen, noise=noise[:, 0], time=time[:, 0], reduction="none")
    torch.testing.assert_close(each[1], error[1, 0, :2].mean())
    assert each[2] == 0


def test_padded_action_steps_count_in_no_loss():
    made, (noise, time) = policy(), draws()
    seen = batch()
    seen["action_is_pad"] = torch.zeros(3, CHUNK, dtype=torch.bool)
    seen["action_is_pad"][:, 2:] = True
    before, _ = made(seen, noise=noise[:, 0], time=time[:, 0])
    flow = made.model.head.out.weight  # the padded steps are inputs of the head too, so only their errors are left out
    before.backward()
    assert flow.grad is not None
    rows = flow.grad.reshape(CHUNK, DIM, -1)
    assert rows[:2].abs().sum() > 0 and rows[2:].abs().sum() == 0


def test_several_draws_equal_the_mean_of_separate_calls():
    actor = StateFlowActor(policy())
    seen, (noise, time) = batch(), draws(samples=3)
    prefix = actor.prefix(seen, ())
    together = actor.flow_error(prefix, seen["action"], noise, time)
    apart = [actor.flow_error(prefix, seen["action"], noise[:, i : i + 1], time[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_insulation_keeps_the_flow_out_of_the_encoder():
    actor = StateFlowActor(policy())
    seen, (noise, time) = batch(), draws()
    features = actor.prefix(seen, (1,))
    actor.flow_error(features, seen["action"], noise, time, insulated=True).mean().backward()
    found = gradients(actor.policy)
    assert all(g.abs().sum() == 0 for n, g in found.items() if ".encoder." in n)
    assert all(g.abs().sum() > 0 for n, g in found.items() if n.startswith("model.head.blocks"))


def test_sampling_is_the_policys_inference_and_integrates_from_noise():
    actor = StateFlowActor(policy(num_inference_steps=4))
    seen, (noise, _) = batch(), draws()
    out = actor.sample(seen, noise[:, 0])
    torch.testing.assert_close(out, actor.policy.predict_action_chunk(seen, noise=noise[:, 0]), rtol=0, atol=0)
    assert out.shape == (3, CHUNK, DIM) and out.dtype == torch.float32 and not out.requires_grad
    features = actor.policy.model.encoder(actor.policy.state(seen))[-1]

    def flow(x, t):
        return actor.policy.model.head(x[:, None], t[:, None], features)[:, 0]

    torch.testing.assert_close(out, euler_integrate(flow, noise[:, 0], 4))
    assert actor.sample(seen).shape == (3, CHUNK, DIM)


def test_actions_are_queued_and_forgotten_on_reset():
    made, (noise, _) = policy(), draws()
    chunk = made.predict_action_chunk(batch(), noise=noise[:, 0])
    first, second = made.select_action(batch(), noise=noise[:, 0]), made.select_action(batch(seed=9))
    assert torch.equal(first, chunk[:, 0]) and torch.equal(second, chunk[:, 1])
    third = made.select_action(batch(), noise=noise[:, 0] + 1)
    assert not torch.equal(third, chunk[:, 2])
    made.reset()
    assert torch.equal(made.select_action(batch(), noise=noise[:, 0]), chunk[:, 0])


def test_saved_and_loaded_it_acts_the_same(tmp_path):
    made, (noise, _) = policy(head_blocks=1), draws()
    made.save_pretrained(tmp_path)
    again = StateFlowPolicy.from_pretrained(tmp_path, strict=True)
    assert PreTrainedConfig.from_pretrained(tmp_path) == made.config
    sampled = [StateFlowActor(p).sample(batch(), noise[:, 0]) for p in (made, again)]
    assert torch.equal(*sampled)
    with pytest.raises(RuntimeError, match="state_dict"):
        StateFlowPolicy.from_pretrained(tmp_path, config=config(head_blocks=2), strict=True)


def test_a_checkpoint_is_read_back_whole(tmp_path):
    made, (noise, _) = policy(), draws()
    stats = {
        "observation.state": {"mean": torch.ones(STATE), "std": torch.full((STATE,), 2.0)},
        "observation.environment_state": {"mean": torch.zeros(ENV), "std": torch.ones(ENV)},
        "action": {"min": torch.full((DIM,), -5.0), "max": torch.full((DIM,), 5.0)},
    }
    before, after, tokenizer = make_processors(made.config, stats)
    assert tokenizer is None
    made.save_pretrained(tmp_path)
    save_processors(before, after, tmp_path)
    loaded = load_checkpoint(tmp_path, device="cpu")
    raw = {k: v for k, v in batch().items() if k != "action"}
    actions = loaded.postprocess(loaded.actor.sample(loaded.preprocess(dict(raw)), noise[:, 0]))
    expected = made.predict_action_chunk({**raw, "observation.state": (raw["observation.state"] - 1) / 2}, noise[:, 0])
    torch.testing.assert_close(actions, expected * 5)


def test_states_of_other_forms_are_read_alike():
    made, seen = policy(), batch()
    expected = made.state(seen)
    assert expected.shape == (3, STATE + ENV)
    torch.testing.assert_close(expected[:, :ENV], seen["observation.environment_state"])  # in the order of their names
    assert torch.equal(made.state({k: v[:, None] if torch.is_tensor(v) else v for k, v in seen.items()}), expected)
    single = policy(input_features={"observation.state": PolicyFeature(FeatureType.STATE, (1,))})
    assert single.state({"observation.state": torch.tensor([1.0, 2.0])}).tolist() == [[1.0], [2.0]]
    with pytest.raises(IgrftError, match=r"observation\.environment_state"):
        made.state({"observation.state": torch.zeros(1, STATE)})


def test_inputs_far_outside_the_data_are_clipped():
    made = policy(input_limit=2.5)
    far = {**batch(), "observation.state": torch.full((3, STATE), 1e9)}
    assert made.state(far).max() == 2.5
    assert torch.isfinite(made.predict_action_chunk(far)).all()


def test_pictures_change_nothing():
    made, (noise, _) = policy(), draws()
    with_pictures = {**batch(), "observation.images.top": torch.rand(3, 3, 8, 8)}
    assert torch.equal(*(made.predict_action_chunk(b, noise=noise[:, 0]) for b in (batch(), with_pictures)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"n_obs_steps": 2}, "n_obs_steps"),
        ({"n_action_steps": CHUNK + 1}, "n_action_steps"),
        ({"num_blocks": 0}, "num_blocks"),
        ({"time_width": 7}, "time_width"),
        ({"input_limit": 0.0}, "input_limit"),
        ({"min_period": 5.0}, "max_period"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        config(**change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input_features": {"observation.images.top": INPUTS["observation.images.top"]}}, "low-dimensional state"),
        ({"output_features": {}}, "has no 'action'"),
        ({"input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (2, 3))}}, "takes vectors"),
    ],
)
def test_features_that_do_not_fit_are_refused(change, match):
    with pytest.raises(UsageError, match=match):
        StateFlowPolicy(config(**change))


def test_presets_are_lerobots():
    made = config()
    optimizer = made.get_optimizer_preset().build(policy().get_optim_params())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert made.get_scheduler_preset().build(optimizer, 100) is not None
    assert made.action_delta_indices == [0, 1, 2, 3] and made.observation_delta_indices is None
    assert made.normalization_mapping["ACTION"] is NormalizationMode.MIN_MAX


def test_a_critic_learns_from_its_features():
    """One token an observation is enough for a value that is no linear function of the state."""
    torch.manual_seed(0)
    actor = StateFlowActor(policy(width=64))
    critic = Critic(CriticConfig(64, blocks=2, queries=2, width=32, heads=4, hidden=32))
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    for _ in range(200):
        seen = batch(128, seed=int(torch.randint(10**6, ())))
        value = seen["observation.state"][:, 0].abs()
        loss = (critic(actor.prefix(seen, (1, 2)).features).trajectory - value).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2 * value.var()
    assert all(p.grad is None for p in actor.policy.parameters())


def test_a_chunk_with_more_numbers_than_the_layers_are_wide_is_learnt():
    """The noise, which the velocity holds, passes the layers by: they are left with the actions alone."""
    torch.manual_seed(0)
    settings = config(chunk_size=16, width=16)
    settings.output_features = {"action": PolicyFeature(type=FeatureType.ACTION, shape=(20,))}
    actor = make_actor(StateFlowPolicy(settings))
    optimizer = torch.optim.AdamW(actor.policy.parameters(), lr=3e-3)
    seen = batch(64)
    seen["action"] = torch.zeros(64, 16, 20)
    loss = torch.tensor(0.0)
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(64, 1, 16, 20, generator=generator)
        time = torch.rand(64, 1, generator=generator) * 0.8 + 0.2
        loss = actor.flow_error(actor.prefix(seen, (0,)), seen["action"], noise, time).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Through 16 numbers, 320 of noise could not be told apart: the loss would stay near 1.
    assert loss.item() < 0.2
