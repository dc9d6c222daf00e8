"""Next-token cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from igrft.models.text_loss import next_token_loss


def head_of(width: int, vocabulary: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, vocabulary, bias=False)


def test_by_hand():
    """Two tokens to choose from, logits of 0 and ln 3: the loss is ln 4 - ln 3 or ln 4."""
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [math.log(3)]]))
    states = torch.ones(2, 3, 1)
    tokens = torch.tensor([[1, 0], [1, 1]])
    loss, correct = next_token_loss(states, tokens, torch.tensor([[True, True], [True, False]]), head)
    hit, miss = math.log(4) - math.log(3), math.log(4)
    torch.testing.assert_close(loss, torch.tensor([(hit + miss) / 2, hit]))
    assert correct.tolist() == [0.5, 1.0]


def test_a_row_without_targets_is_zero_and_has_no_gradient():
    head = head_of(3, 7)
    states = torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    loss, correct = next_token_loss(states, torch.zeros(2, 3, dtype=torch.int64), mask, head)
    assert float(loss[1].detach()) == 0.0 == float(correct[1]) and not correct.requires_grad
    loss.sum().backward()
    assert not states.grad[1].any() and not states.grad[0, 1:].any() and states.grad[0, 0].any()


@pytest.mark.parametrize("most", [1, 7, 20, 41])
def test_parts_change_nothing(most):
    """Rows of 7 logits, one to five at once."""
    tokens = torch.randint(0, 7, (4, 3))
    mask = torch.rand(4, 3) < 0.7
    outs = []
    for limit in (10_000, most):
        head, states = head_of(5, 7), torch.arange(80.0).reshape(4, 4, 5).sin().requires_grad_()
        loss, correct = next_token_loss(states, tokens, mask, head, limit)
        loss.sum().backward()
        outs.append((loss.detach(), correct, states.grad, head.weight.grad))
    for whole, parts in zip(*outs, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        again, _ = next_token_loss(states, tokens, mask, head, most)
    torch.testing.assert_close(again, outs[0][0])
