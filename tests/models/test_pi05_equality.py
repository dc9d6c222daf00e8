"""The two passes are LeRobot's joint forward: float32 on a CPU, gradients to 1e-5 of the largest one."""

from __future__ import annotations

import pytest
import torch
from tiny_pi05 import draws, gradients, joint_error, largest_difference, tiny_batch, tiny_policy

from igrft.models.pi05 import Pi05Actor
from igrft.models.protocol import Actor, TextTargets

LAYERS = (1, 2)
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def targets(rows: int = 3, length: int = 5, seed: int = 3) -> TextTargets:
    """Ragged targets; the middle row has none."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([length, 0, length - 2] + [length] * rows)[:rows]
    return TextTargets(torch.randint(4, 260, (rows, length), generator=random), torch.arange(length) < lengths[:, None])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", [(11, 19, 14), (16, 16, 16), (24, 3, 24)], ids=["padded", "even", "full"])
def test_loss_and_every_gradient_are_the_joint_forwards(checkpointing, lengths):
    """With a camera that the batch lacks, with and without padding in the prompt."""
    policy = tiny_policy(cameras=3, gradient_checkpointing=checkpointing)
    batch = tiny_batch(lengths, cameras=2)
    noise, time = draws(3)
    expected = joint_error(policy, batch, noise[:, 0], time[:, 0])
    actor = Pi05Actor(policy)
    error = actor.flow_error(actor.prefix(batch, LAYERS), batch["action"], noise, time)
    assert error.shape == (3, 1, *expected.shape[1:]) and error.dtype == torch.float32
    torch.testing.assert_close(error[:, 0], expected, rtol=1e-5, atol=1e-5)
    first, second = gradients(policy, error.mean()), gradients(policy, expected.mean())
    assert largest_difference(first, second) < TOLERANCE


@pytest.mark.parametrize("checkpointing", [False, True])
def test_targets_change_neither_the_flow_loss_nor_its_gradients(checkpointing):
    policy = tiny_policy(gradient_checkpointing=checkpointing)
    actor, batch, (noise, time) = Pi05Actor(policy), tiny_batch(), draws(3)
    without = actor.prefix(batch, LAYERS)
    error = actor.flow_error(without, batch["action"], noise, time)
    expected = gradients(policy, error.mean())
    with_targets = actor.prefix(batch, LAYERS, targets())
    again = actor.flow_error(with_targets, batch["action"], noise, time)
    torch.testing.assert_close(again, error, rtol=1e-5, atol=1e-6)
    assert largest_difference(gradients(policy, again.mean()), expected) < TOLERANCE
    for a, b in zip(with_targets.features.keys, without.features.keys, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_targets_do_not_leak():
    """Other targets of the same shape: the same bits in what critic and expert see."""
    actor, batch, (noise, time) = Pi05Actor(tiny_policy()), tiny_batch(), draws(3)
    first, second = (actor.prefix(batch, (0, 1, 2), targets(seed=s)) for s in (3, 4))
    for a, b in zip(
        [*first.features.keys, *first.features.values], [*second.features.keys, *second.features.values], strict=True
    ):
        assert torch.equal(a, b)
    errors = [actor.flow_error(p, batch["action"], noise, time) for p in (first, second)]
    assert torch.equal(*errors)
    assert not torch.equal(first.text_loss, second.text_loss)


def test_the_stock_policy_acts_the_same_after_our_passes():
    policy = tiny_policy()
    batch, noise = tiny_batch(), draws(3)[0][:, 0]
    before = policy.predict_action_chunk(batch, noise=noise)
    policy.train()
    actor = Pi05Actor(policy)
    prefix = actor.prefix(batch, LAYERS, targets())
    actor.flow_error(prefix, batch["action"], *draws(3)).mean().backward()
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), before)


def test_sample_is_the_stock_inference_and_leaves_the_mode():
    policy = tiny_policy()
    batch, noise = tiny_batch(), draws(3)[0][:, 0]
    actor = Pi05Actor(policy)
    actions = actor.sample(batch, noise)
    assert policy.training and actions.dtype == torch.float32
    assert torch.equal(actions, policy.predict_action_chunk(batch, noise=noise))
    torch.manual_seed(5)
    drawn = actor.sample(batch)
    torch.manual_seed(5)
    assert torch.equal(drawn, policy.predict_action_chunk(batch))


def test_the_flow_field_is_that_of_inference():
    """One step of integration from noise is noise minus the predicted flow at t = 1."""
    policy = tiny_policy(num_inference_steps=1)
    batch, (noise, _) = tiny_batch(), draws(3)
    actor = Pi05Actor(policy)
    with torch.no_grad():
        error = actor.flow_error(actor.prefix(batch, ()), batch["action"], noise, torch.ones(3, 1))
    missed = (actor.sample(batch, noise[:, 0]) - batch["action"]).square()
    torch.testing.assert_close(error[:, 0], missed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_insulation_keeps_the_flow_loss_out_of_the_language_model(checkpointing):
    policy = tiny_policy(gradient_checkpointing=checkpointing)
    actor, batch, (noise, time) = Pi05Actor(policy), tiny_batch(), draws(3)
    prefix = actor.prefix(batch, LAYERS, targets())
    insulated = actor.flow_error(prefix, batch["action"], noise, time, insulated=True)
    free = actor.flow_error(prefix, batch["action"], noise, time)
    assert torch.equal(insulated, free)
    policy.zero_grad(set_to_none=True)
    insulated.mean().backward(retain_graph=True)
    for name, parameter in policy.named_parameters():
        inside = ".paligemma." in name
        assert not inside or parameter.grad is None or not parameter.grad.any(), name
    trained = [n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("gemma_expert" in n for n in trained) and any("action_in_proj" in n for n in trained)
    policy.zero_grad(set_to_none=True)
    prefix.text_loss.mean().backward()
    trained = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(".paligemma." in n for n in trained)
    for part in ("vision_tower", "multi_modal_projector", "embed_tokens", "layers.0.", "layers.2.self_attn.q_proj"):
        assert any(part in n for n in trained), part


def test_several_draws_are_the_mean_of_as_many_calls():
    policy = tiny_policy()
    actor, batch, (noise, time) = Pi05Actor(policy), tiny_batch(), draws(3, 4)
    prefix = actor.prefix(batch, LAYERS)
    together = actor.flow_error(prefix, batch["action"], noise, time)
    assert together.shape == (3, 4, 4, 6)
    expected = gradients(policy, together.mean())
    prefix = actor.prefix(batch, LAYERS)
    apart = [actor.flow_error(prefix, batch["action"], noise[:, s : s + 1], time[:, s : s + 1]) for s in range(4)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1), rtol=1e-5, atol=1e-5)
    assert largest_difference(gradients(policy, torch.cat(apart, dim=1).mean()), expected) < TOLERANCE
    even = tiny_batch((16, 16, 16))
    prefix = actor.prefix(even, LAYERS)
    together = actor.flow_error(prefix, even["action"], noise, time)
    last = actor.flow_error(prefix, even["action"], noise[:, 3:], time[:, 3:])
    torch.testing.assert_close(together[:, 3:], last, rtol=1e-5, atol=1e-5)


def test_checkpointing_changes_no_gradient_of_the_text_loss():
    policy = tiny_policy()
    actor, batch = Pi05Actor(policy), tiny_batch()
    plain = gradients(policy, actor.prefix(batch, (), targets()).text_loss.sum())
    policy.model.gradient_checkpointing_enable()
    recomputed = gradients(policy, actor.prefix(batch, (), targets()).text_loss.sum())
    assert largest_difference(recomputed, plain) < TOLERANCE


def test_the_actor_says_what_it_is():
    policy = tiny_policy()
    actor = Pi05Actor(policy)
    assert isinstance(actor, Actor)
    assert (actor.chunk_size, actor.action_width, actor.feature_width, actor.depth) == (4, 8, 16, 3)
    assert actor.uses_images and actor.has_text
    features = actor.prefix(tiny_batch(), (0, 2)).features
    assert [k.shape for k in features.keys] == [(3, 2 * 4 + 24, 16)] * 2  # 19 words take 24 places
    assert features.mask.shape == (3, 32) and features.mask.sum(1).tolist() == [19, 27, 22]
    assert features.keys[0].requires_grad and not features.detached().keys[0].requires_grad


def test_uint8_pictures_are_scaled():
    policy = tiny_policy()
    actor, batch, noise = Pi05Actor(policy), tiny_batch(), draws(3)[0][:, 0]
    raw = {k: (v * 255).round().to(torch.uint8) if "images" in k else v for k, v in batch.items()}
    scaled = {k: v.float() / 255 if "images" in k else v for k, v in raw.items()}
    first, second = (actor.prefix(b, (0,)).features.keys[0] for b in (raw, scaled))
    assert torch.equal(first, second)
    assert torch.equal(actor.sample(raw, noise), actor.sample(scaled, noise))
