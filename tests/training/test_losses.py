"""Losses of a step on tiny tensors, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from igrft import rewards
from igrft.models.critic import CriticOutput
from igrft.training.losses import advantage_weights, critic_losses, expectile_loss, masked_flow_loss, masked_mean

NUMBERS = st.floats(-5, 5, width=32)


def test_flow_loss_is_the_mean_over_real_steps_draws_and_dimensions():
    error = torch.arange(24.0).view(2, 2, 3, 2)
    padded = torch.tensor([[False, False, True], [False, False, False]])
    # First sample: draws 0 and 1 over steps 0 and 1; second sample: everything.
    assert masked_flow_loss(error, padded).tolist() == [(0 + 1 + 2 + 3 + 6 + 7 + 8 + 9) / 8, sum(range(12, 24)) / 12]
    assert masked_flow_loss(error, torch.ones_like(padded)).tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(arrays(bool, (3, 4)), NUMBERS, NUMBERS)
def test_padded_errors_count_in_no_loss_and_no_gradient(padded, a, b):
    mask = torch.from_numpy(padded)
    base = torch.randn(3, 2, 4, 2, generator=torch.Generator().manual_seed(0)).square()
    found = []
    for fill in (a, b):
        error = torch.where(mask[:, None, :, None], torch.full_like(base, fill), base).requires_grad_(True)
        loss = masked_flow_loss(error, mask)
        loss.sum().backward()
        found.append((loss.detach(), error.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert (found[0][1][mask[:, None, :, None].expand_as(base)] == 0).all()
    for i, row in enumerate(padded):
        expected = base[i][:, ~row].mean().item() if not row.all() else 0.0
        assert found[0][0][i].item() == pytest.approx(expected, rel=1e-5)


def test_several_draws_are_their_mean():
    error = torch.rand(3, 4, 5, 2)
    padded = torch.rand(3, 5) > 0.5
    apart = torch.stack([masked_flow_loss(error[:, s : s + 1], padded) for s in range(4)])
    torch.testing.assert_close(masked_flow_loss(error, padded), apart.mean(dim=0))


def test_critic_losses_are_eq_8_to_10():
    output = CriticOutput(
        trajectory=torch.tensor([0.5, 1.0]),
        subtask=torch.tensor([0.25, -1.0]),
        interaction_logit=torch.tensor([0.0, math.log(3.0)]),
        pooled=torch.zeros(2, 1),
    )
    found = critic_losses(output, torch.tensor([1.0, 1.0]), torch.tensor([0.75, 1.0]), torch.tensor([1.0, 0.0]))
    assert list(found) == ["value_trajectory", "value_subtask", "interaction"]
    assert found["value_trajectory"].tolist() == [0.25, 0.0]
    assert found["value_subtask"].tolist() == [0.25, 4.0]
    # p = 1/2 and 3/4.
    assert found["interaction"].tolist() == pytest.approx([math.log(2.0), math.log(4.0)])


def test_a_confident_interaction_does_not_overflow():
    output = CriticOutput(torch.zeros(2), torch.zeros(2), torch.tensor([200.0, -200.0]), torch.zeros(2, 1))
    wrong = critic_losses(output, torch.zeros(2), torch.zeros(2), torch.tensor([0.0, 1.0]))["interaction"]
    assert wrong.tolist() == [200.0, 200.0]


def test_expectile_loss_by_hand():
    assert expectile_loss(torch.tensor([2.0, -2.0, 0.0]), 0.7).tolist() == pytest.approx([2.8, 1.2, 0.0])


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 20), elements=NUMBERS), st.floats(0.05, 0.95))
def test_expectile_loss_is_least_at_the_expectile(samples, expectile):
    """There the samples above weigh expectile, those below 1 - expectile, and their pulls are even."""
    values = samples.astype(np.float64)
    low, high = values.min(), values.max()
    for _ in range(80):
        middle = (low + high) / 2
        u = values - middle
        pull = (np.where(u < 0, 1 - expectile, expectile) * u).sum()
        low, high = (middle, high) if pull > 0 else (low, middle)
    v = torch.tensor(low, dtype=torch.float64, requires_grad=True)
    expectile_loss(torch.from_numpy(values) - v, expectile).mean().backward()
    assert abs(v.grad.item()) < 1e-6


@settings(deadline=None)
@given(arrays(np.float32, 5, elements=NUMBERS))
def test_an_expectile_of_one_half_is_half_the_square(u):
    torch.testing.assert_close(expectile_loss(torch.from_numpy(u), 0.5), torch.from_numpy(u) ** 2 / 2)


@settings(max_examples=200, deadline=None)
@given(
    arrays(np.float32, 6, elements=st.floats(-50, 50, width=32)),
    st.sampled_from([0.05, 0.5, 1.0, 3.0]),
    st.sampled_from([1.0, 10.0, 20.0]),
    arrays(bool, 6),
    st.sampled_from([0.0, 0.5, 1.0, 30.0]),
)
def test_weights_are_those_of_the_pure_maths(advantages, beta, limit, corrections, floor):
    found = advantage_weights(torch.from_numpy(advantages), beta, limit, torch.from_numpy(corrections), floor)
    expected = rewards.advantage_weights(advantages, beta, limit, interventions=corrections, intervention_floor=floor)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-30)


def test_the_worked_weights_of_the_method():
    advantages = torch.tensor(
        [0.014112, -0.15982735, -0.18682217, -0.04205355, 0.14137891, 0.19482825, 0.0691534, -0.06569866]
    )
    expected = [1.32609697, 0.0409032, 0.02383874, 0.4312484, 10, 10, 3.98711522, 0.26875013]
    assert advantage_weights(advantages, 0.05, 10.0).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_floor_lifts_corrections_alone():
    advantages, corrections = torch.tensor([-1.0, -1.0, 0.05, 0.05]), torch.tensor([True, False, True, False])
    low = math.exp(-20)
    assert advantage_weights(advantages, 0.05, 10, corrections, 1.0).tolist() == pytest.approx([1, low, math.e, math.e])
    # Off, as the formula says.
    assert advantage_weights(advantages, 0.05, 10, corrections, 0.0).tolist() == pytest.approx(
        [low, low, math.e, math.e]
    )
    assert advantage_weights(advantages, 0.05, 10).tolist() == pytest.approx([low, low, math.e, math.e])


def test_a_clipped_weight_is_the_limit_itself():
    """Whoever counts the clipped share compares with it."""
    assert (advantage_weights(torch.tensor([0.2, 1.0, 1e6, math.inf]), 0.05, 10.0) == 10.0).all()


def test_masked_mean_divides_by_the_batch():
    values, mask = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, False])
    assert masked_mean(values, mask).item() == 1.0
    assert masked_mean(values, torch.zeros(4, dtype=torch.bool)).item() == 0.0


@settings(deadline=None)
@given(arrays(np.float32, 8, elements=NUMBERS), arrays(bool, 8))
def test_masked_means_of_two_halves_average_to_the_wholes(values, mask):
    """So that two processes, whatever their masks, have the loss of one with the double batch."""
    v, m = torch.from_numpy(values), torch.from_numpy(mask)
    halves = (masked_mean(v[:4], m[:4]) + masked_mean(v[4:], m[4:])) / 2
    torch.testing.assert_close(halves, masked_mean(v, m), rtol=1e-5, atol=1e-6)
