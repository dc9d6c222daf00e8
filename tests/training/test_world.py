"""How a step is divided over processes, and what is spread over them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from igrft.errors import UsageError
from igrft.training.recipe import Recipe
from igrft.training.sharding import layers
from igrft.training.world import accumulation, told


@pytest.mark.parametrize(
    ("batch", "parts", "processes", "expected"),
    [
        (64, 1, 1, 1),
        (64, 2, 1, 2),
        (64, 2, 2, 1),
        (64, 2, 8, 1),
        (64, 8, 2, 4),
        (64, 8, 4, 2),
        (60, 2, 4, 1),
        (60, 4, 3, 2),
        # 16 at a time at most, 18 to take: 9 twice.
        (36, 2, 2, 1),
        (54, 3, 3, 1),
        (96, 6, 4, 2),
    ],
)
def test_no_process_takes_more_at_a_time_than_one_would(batch: int, parts: int, processes: int, expected: int) -> None:
    recipe = Recipe(batch_size=batch, gradient_accumulation=parts)
    assert accumulation(recipe, processes) == expected


@given(st.integers(1, 96), st.integers(1, 12), st.integers(1, 12))
def test_the_batch_is_the_recipes(batch: int, parts: int, processes: int) -> None:
    recipe = Recipe(batch_size=batch, gradient_accumulation=parts)
    if batch % processes or batch < processes:
        with pytest.raises(UsageError):
            accumulation(recipe, processes)
        return
    found = accumulation(recipe, processes)
    size, rest = divmod(batch, processes * found)
    assert rest == 0 and size * processes * found == batch
    assert size <= max(1, batch // parts)
    # One part fewer would be too large, or would not divide.
    share = batch // processes
    assert all(share % n or share // n > max(1, batch // parts) for n in range(1, found))


def test_a_batch_that_cannot_be_divided_is_refused_in_one_line() -> None:
    expected = (
        "batch_size 64 is that of a step over all processes and cannot be divided by 3; start 2, or give "
        "--batch_size=63 or 66"
    )
    with pytest.raises(UsageError, match=expected):
        accumulation(Recipe(batch_size=64), 3)
    with pytest.raises(UsageError, match="cannot be divided by 8; start 4, or give --batch_size=8"):
        accumulation(Recipe(batch_size=4), 8)
    assert told(Recipe(batch_size=64, gradient_accumulation=8), 2) == (
        "2 processes take 8 samples 4 time(s) a step: 64, as the recipe says"
    )


def test_layers_that_are_gathered_by_themselves() -> None:
    """Those with weights of their own, never what only holds others: LeRobot's policies do not call it."""
    inner = nn.Sequential(nn.Linear(10, 10), nn.LayerNorm(10))
    attention = nn.MultiheadAttention(8, 2)
    module = nn.ModuleDict({"inner": inner, "words": nn.Embedding(50, 10), "attention": attention})
    assert list(layers(module, 100)) == [inner[0], module["words"], attention]
    assert list(layers(module, 10_000)) == []
    assert sum(p.numel() for p in attention.parameters(recurse=False)) < 250
    assert list(layers(nn.ParameterList([torch.zeros(500)]), 100)) == []
