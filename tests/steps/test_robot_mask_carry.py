"""Masks between known ones, carried by the flow; packed masks; facts about masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.errors import IgrftError
from igrft.steps.interaction.robot_mask.carry import Planes, carried, overlap
from igrft.steps.interaction.robot_mask.facts import mask_facts
from igrft.steps.interaction.robot_mask.packed import anchors, pack, unpack

SIZE = (40, 30)


def box(left: int, top: int = 10, side: int = 8) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[top : top + side, max(left, 0) : left + side] = 1
    return mask


def shift(x: float, y: float = 0.0) -> Planes:
    return np.full(SIZE[::-1], x, np.float32), np.full(SIZE[::-1], y, np.float32)


def test_a_box_that_moves_with_the_flow_is_carried_exactly() -> None:
    truth = [box(4 + 3 * f) for f in range(7)]
    known = [truth[f] if f in anchors(7, 4) else None for f in range(7)]
    found = list(carried([shift(3)] * 6, iter(known), SIZE))
    assert [f.flow is None for f in found] == [False] * 6 + [True]
    for frame, mask in zip(found, truth, strict=True):
        assert np.array_equal(frame.robot, mask)
    agreement = [f.agreement for f in found]
    assert agreement[0] == agreement[4] == 1 and np.isnan([a for f, a in enumerate(agreement) if f not in (0, 4)]).all()


def test_where_the_flow_says_nothing_the_nearer_mask_holds() -> None:
    first, last = box(0), box(20)
    found = list(carried([shift(0)] * 5, iter([first, None, None, None, None, last]), SIZE))
    for frame, mask in zip(found, [first] * 3 + [last] * 3, strict=True):
        assert np.array_equal(frame.robot, mask)
    assert found[0].agreement == 0  # they do not overlap at all: what flickers


def test_all_masks_known() -> None:
    masks = [box(4 + f) for f in range(4)]
    found = list(carried([shift(1)] * 3, iter(masks), SIZE))
    assert all(np.array_equal(f.robot, m) for f, m in zip(found, masks, strict=True))
    assert [f.agreement for f in found[:-1]] == [1, 1, 1]
    (single,) = carried([], iter([masks[0]]), SIZE)
    assert single.flow is None and np.array_equal(single.robot, masks[0])


@given(
    st.integers(1, 30).flatmap(lambda h: st.tuples(st.just(h), st.integers(1, 30))),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_packed_masks_come_back(shape: tuple[int, int], seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    back = unpack(pack(mask), shape[::-1])
    assert back.dtype == bool and np.array_equal(back, mask)


def test_bytes_that_are_no_mask() -> None:
    with pytest.raises(IgrftError, match="is damaged"):
        unpack(b"no mask", SIZE)
    with pytest.raises(IgrftError, match="is not 80x30"):
        unpack(pack(box(0) > 0), (80, 30))


@given(st.integers(1, 400), st.integers(1, 40))
def test_anchors(length: int, every: int) -> None:
    found = anchors(length, every)
    assert found[0] == 0 and found[-1] == length - 1 and found == sorted(set(found))
    assert all(b - a <= every for a, b in pairwise(found))


def test_facts() -> None:
    nan = np.nan
    facts = mask_facts(np.array([0, 0.1, 0.2, 0.3, 0.9], np.float32), np.array([0.2, nan, 0.9, nan, nan], np.float32))
    assert facts == {
        "coverage": 0.2, "least": 0.0, "most": 0.9, "vanished": 0.2, "full": 0.2, "agreement": 0.55, "flicker": 0.5
    }  # fmt: skip
    single = mask_facts(np.array([0.1], np.float32), np.array([nan], np.float32))
    assert single["agreement"] is None and single["flicker"] is None
    empty = np.zeros((3, 3), bool)
    assert overlap(empty, empty) == 1
