"""The share of a batch that its weights leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.rewards import effective_sample_size


def test_worked_numbers() -> None:
    assert effective_sample_size(np.full(7, 3.0)) == pytest.approx(1.0)
    assert effective_sample_size(np.array([0.0, 0.0, 0.0, 5.0])) == pytest.approx(0.25)
    # (1 + 2 + 3)^2 / (3 (1 + 4 + 9)) = 36 / 42.
    assert effective_sample_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 42)
    assert math.isnan(effective_sample_size(np.zeros(3)))
    assert math.isnan(effective_sample_size(np.zeros(0)))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        effective_sample_size(np.array([1.0, bad]))


@given(st.lists(st.floats(1e-3, 10.0), min_size=1, max_size=50), st.floats(0.1, 100.0))
def test_it_lies_between_one_sample_and_all_and_ignores_scale(weights: list[float], scale: float) -> None:
    w = np.array(weights)
    found = effective_sample_size(w)
    assert 1 / len(w) - 1e-9 <= found <= 1 + 1e-9
    assert effective_sample_size(scale * w) == pytest.approx(found)
