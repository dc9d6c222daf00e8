"""IQL: an expectile value, two Q over action chunks, a target that lags behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_actor import LinearActor, gradients, step_batch
from tiny_modules import LAYERS, trained

from igrft.training.losses import expectile_loss
from igrft.training.module import ACTION, TrainingModule


def iql(**settings: Any) -> tuple[LinearActor, TrainingModule]:
    actor, module = trained(q=True, objective__type="iql", rewards__kind="sparse", **settings)
    # The target lags behind.
    with torch.no_grad():
        for parameter in module.critic.chunk_q.parameters():
            parameter.add_(0.1)
    return actor, module


def test_iql_by_hand():
    """V by the expectile of the target's smaller Q, both Q by r + V(later), weights by Q - V."""
    actor, module = iql(objective__expectile=0.8, objective__beta=0.5, objective__insulate=False)
    padded = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    batch = step_batch(
        torch.randn(4, 3),
        torch.randn(4, 3),
        actor=actor,
        padded=padded,
        reward_sum=[0.0, 0.0, 1.0, 0.5],
        bootstrap=[1.0, 0.9, 0.0, 1.0],
        critic=[True, True, True, False],
    )
    out = module(batch)
    found = gradients(module, out["loss"])

    actions = batch.observation[ACTION]
    features = actor.prefix(batch.observation, LAYERS).features
    later = actor.prefix(batch.next_observation, LAYERS).features
    critic = module.critic
    value = critic(features).trajectory
    target = batch.labels["reward_sum"] + batch.labels["bootstrap"] * critic(later).trajectory.detach()
    assert target[2].item() == 1.0  # at the end of an episode the reward is all there is
    judged = module.target_q(features, actions, padded).amin(dim=1).detach()
    q = critic.chunk_q(features, actions, padded)
    mask = batch.labels["critic"].float()
    loss_v = (expectile_loss(judged - value, 0.8) * mask).sum() / 4
    loss_q = (((q[:, 0] - target) ** 2 + (q[:, 1] - target) ** 2) * mask).sum() / 4
    assert out["loss_v"].item() == pytest.approx(loss_v.item(), rel=1e-5)
    assert out["loss_q"].item() == pytest.approx(loss_q.item(), rel=1e-5)
    torch.testing.assert_close(out["sample/advantage"], (judged - value).detach())
    weights = ((judged - value) / 0.5).exp().clamp_max(10.0).detach()
    torch.testing.assert_close(out["sample/weight"], weights)
    # The losses reach their own parameters alone: V's the trajectory head, Q's the chunk Q.
    for name, g in gradients(module, loss_v + loss_q).items():
        if name.startswith(("critic.trajectory", "critic.chunk_q")):
            torch.testing.assert_close(found[name], g, rtol=1e-4, atol=1e-6)
    assert found["critic.subtask.0.weight"] is None or not found["critic.subtask.0.weight"].any()
    only_v = gradients(module, expectile_loss(judged - critic(features).trajectory, 0.8).sum())
    assert all(g is None for n, g in only_v.items() if n.startswith(("critic.chunk_q", "target_q", "policy")))


def test_the_target_network_follows_at_its_rate():
    _, module = iql(objective__target_rate=0.25)
    source = {n: p.clone() for n, p in module.critic.chunk_q.named_parameters()}
    start = {n: p.clone() for n, p in module.target_q.named_parameters()}
    for update in (1, 2, 3):
        module.refresh(update)
        for name, parameter in module.target_q.named_parameters():
            expected = source[name] + (start[name] - source[name]) * 0.75**update
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(p, source[n]) for n, p in module.critic.chunk_q.named_parameters())


def test_the_papers_rate_hardly_moves_the_target():
    _, module = iql()
    before = module.target_q.heads[0][2].weight.clone()
    module.refresh(1)
    moved = (module.target_q.heads[0][2].weight - before) / (module.critic.chunk_q.heads[0][2].weight - before)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.005), rtol=1e-3, atol=0)


def test_iql_judges_in_the_loop_even_where_columns_are_named():
    """Nobody writes its Q into a dataset."""
    actor, module = iql(advantage__source="columns", advantage__refresh=5)
    assert module.needs_next and module.judge is None
    out = module(step_batch(torch.randn(2, 3), torch.randn(2, 3), actor=actor, advantage=[99.0, 99.0]))
    assert (out["sample/advantage"].abs() < 50).all()


def test_other_objectives_have_no_q():
    _, module = trained(objective__type="ig_awr")
    assert module.target_q is None and module.critic.chunk_q is None
    module.refresh(1)
