"""The averaged weights: exact numbers, the ramp, precision, restoring."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from igrft.training.ema import Ema


class Pair(nn.Module):
    """One weight in each of two types, and one that is frozen."""

    def __init__(self, first: float = 0.0, kind: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.single = nn.Parameter(torch.full((2,), first))
        self.narrow = nn.Parameter(torch.full((3,), first, dtype=kind))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def put(self, value: float) -> None:
        with torch.no_grad():
            self.single.fill_(value)
            self.narrow.fill_(value)


def test_only_what_is_trained_is_averaged_in_float32():
    module = Pair(1.0)
    ema = Ema(module, 0.999)
    assert list(ema.average) == ["single", "narrow"]
    assert all(t.dtype == torch.float32 and not t.requires_grad for t in ema.average.values())
    module.put(5.0)
    assert all((t == 1.0).all() for t in ema.average.values())  # a copy, not a view


def test_the_first_steps_by_hand():
    """From 0 towards 1 with decays 2/11, 3/12 and 4/13."""
    module = Pair(0.0)
    ema = Ema(module, 0.999)
    module.put(1.0)
    expected = 0.0
    for n in (1, 2, 3):
        ema.update()
        decay = (1 + n) / (10 + n)
        expected = decay * expected + (1 - decay)
        assert ema.updates == n
        for average in ema.average.values():
            assert average.tolist() == pytest.approx([expected] * len(average), rel=1e-6)
    assert expected == pytest.approx(1 - 2 / 11 * 3 / 12 * 4 / 13)


def test_the_ramp_ends_at_the_decay():
    """0.5 is reached at update 8; 0.999 at update 8990."""
    module = Pair(0.0)
    for decay, last in ((0.5, 8), (0.999, 8990)):
        ema = Ema(module, decay)
        for n, reached in ((last - 1, False), (last, True), (last + 1, True)):
            ema.updates = n - 1
            for average in ema.average.values():
                average.fill_(1.0)
            ema.update()
            found = ema.average["single"][0].item()
            assert found == pytest.approx(decay if reached else (1 + n) / (10 + n), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=30), st.floats(0.1, 0.999))
def test_the_average_is_the_recursion(values, decay):
    module = Pair(values[0], torch.float32)
    ema = Ema(module, decay)
    expected = values[0]
    for n, value in enumerate(values, start=1):
        module.put(value)
        ema.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    for average in ema.average.values():
        assert average[0].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_averages_of_bfloat16_keep_what_bfloat16_would_lose():
    """A step of 2^-7 moves the average by 2^-17 a time, which is nothing to a bfloat16 near 1."""
    module = Pair(1.0)
    ema = Ema(module, 0.999)
    ema.updates = 100_000
    module.put(1.0078125)
    for _ in range(100):
        ema.update()
    expected = 1 + 0.0078125 * (1 - 0.999**100)
    assert ema.average["narrow"].tolist() == pytest.approx([expected] * 3, rel=1e-6)
    assert torch.equal(ema.average["narrow"][:2], ema.average["single"])
    assert ema.average["narrow"].bfloat16().float()[0] == 1.0


def test_averages_on_another_device():
    module = Pair(1.0).to("meta")
    assert all(t.is_meta for t in Ema(module, 0.9).average.values())
    ema = Ema(Pair(1.0), 0.9, "cpu")
    assert {t.device.type for t in ema.average.values()} == {"cpu"}


def test_a_restored_average_goes_on_as_if_never_stopped():
    module = Pair(0.0)
    ema = Ema(module, 0.9)
    values = [0.3, -1.0, 2.0, 0.5, 0.25, -3.0]
    held = {}
    for i, value in enumerate(values):
        if i == 3:
            held = {n: t.clone() for n, t in ema.average.items()}
        module.put(value)
        ema.update()
    other = Ema(module, 0.9)
    other.load(lambda name, _: held[name], 3)
    for value in values[3:]:
        module.put(value)
        other.update()
    assert other.updates == ema.updates
    assert all(torch.equal(other.average[n], t) for n, t in ema.average.items())
    assert all(other.average[n] is not held[n] for n in held)


def test_gradients_do_not_matter():
    module = Pair(1.0, torch.float32)
    (module.single.sum() + module.narrow.sum()).backward()
    ema = Ema(module, 0.9)
    ema.update()
    assert module.single.grad.tolist() == [1, 1]
