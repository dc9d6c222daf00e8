"""The order of a stream's frames: shuffled by buffers, every episode read once an epoch, the same however it is cut."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.training.order import StreamOrder


def made(lengths: list[int], lanes: int, buffer: int, seed: int = 0, number: int = 0) -> StreamOrder:
    frames = np.array(lengths)
    return StreamOrder(np.cumsum(frames) - frames, frames, lanes, buffer, seed, number)


def drawn(order: StreamOrder, steps: int, count: int) -> np.ndarray:
    return np.stack([order.draw(count).index for _ in range(steps)])


def test_a_buffer_of_one_frame_gives_an_episode_in_order() -> None:
    order = made([4, 3], 1, 1)
    found = drawn(order, 14, 1).reshape(2, 7).tolist()
    assert sorted(found[0]) == sorted(found[1]) == list(range(7))
    assert found[0] in ([0, 1, 2, 3, 4, 5, 6], [4, 5, 6, 0, 1, 2, 3])


def test_by_hand_what_enters_and_what_is_drawn() -> None:
    """One lane, a buffer of three, an episode of five frames from index 10 on, of which four are wanted."""
    order = StreamOrder(np.array([10, 15]), np.array([4, 0]), 1, 3, 0)
    first = order.draw(2)
    assert first.entering[0].tolist() == [10, 11, 12, 13, 10]
    assert set(first.index.tolist()) < {10, 11, 12} and len(set(first.index.tolist())) == 2
    left = ({10, 11, 12} - set(first.index.tolist())).pop()
    assert sorted(order.buffered(0).tolist()) == sorted([left, 13, 10])
    assert order.following(0) == 11
    assert order.draw(1).entering[0].tolist() == [11]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 3),
)
def test_every_frame_enters_once_an_epoch_and_leaves_once(
    lengths: list[int], lanes: int, buffer: int, seed: int
) -> None:
    order = made(lengths, lanes, max(buffer, lanes), seed)
    entered: Counter[int] = Counter()
    left: Counter[int] = Counter()
    for _ in range(40):
        draw = order.draw(2 * lanes)
        assert draw.lane.tolist() == sorted([*range(lanes), *range(lanes)])
        for frames in draw.entering.values():
            entered.update(frames.tolist())
        left.update(draw.index.tolist())
    held: Counter[int] = Counter()
    for lane in range(lanes):
        held.update(order.buffered(lane).tolist())
    assert left + held == entered
    # No frame begins its n-th round before all have begun the round before, but for episodes under way.
    rounds = [entered[i] for i in range(sum(lengths))]
    assert max(rounds) - min(rounds) <= 1 + lanes


def test_frames_of_an_epoch_are_spread_over_the_lanes_and_mixed() -> None:
    order = made([50] * 40, 4, 400)
    found = drawn(order, 200, 8).ravel()
    # What has not come yet is in the buffers; nothing came twice in the first epoch.
    assert Counter(found.tolist()).most_common(1)[0][1] <= 2
    episodes = found // 50
    # A batch of eight has frames of several episodes, and not in the order of time.
    batches = episodes.reshape(200, 8)
    assert np.mean([len(set(batch.tolist())) for batch in batches]) > 6
    assert abs(np.corrcoef(np.arange(1600), found % 50)[0, 1]) < 0.1


def test_seeds_and_datasets_have_orders_of_their_own() -> None:
    orders = [drawn(made([20] * 9, 3, 30, seed, number), 10, 6).tolist() for seed in (0, 1) for number in (0, 1)]
    assert len({json.dumps(order) for order in orders}) == 4
    assert drawn(made([20] * 9, 3, 30), 10, 6).tolist() == orders[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 25), st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 3), st.integers(0, 5))
def test_it_goes_on_from_its_state(at: int, lengths: list[int], lanes: int, extra: int) -> None:
    """Through JSON, and played again from the beginning; with steps of different sizes."""

    def count(step: int) -> int:
        return lanes + (step * 7 + extra) % 4

    whole = made(lengths, lanes, 12)
    expected = [whole.draw(count(s)) for s in range(40)]
    before = made(lengths, lanes, 12)
    before.skip_to(at, count)
    again = made(lengths, lanes, 12)
    again.load_state_dict(json.loads(json.dumps(before.state_dict())))
    copied = before.copy()
    for s in range(at, 40):
        for order in (before, again, copied):
            draw = order.draw(count(s))
            assert draw.index.tolist() == expected[s].index.tolist()
            assert draw.lane.tolist() == expected[s].lane.tolist()
            entering = {k: v.tolist() for k, v in draw.entering.items()}
            assert entering == {k: v.tolist() for k, v in expected[s].entering.items()}


def test_what_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="0 episodes"):
        made([0, 0], 1, 4)
    with pytest.raises(ValueError, match="2 frames of 3 lanes"):
        made([5], 3, 4).draw(2)
    with pytest.raises(ValueError, match="the state is of 2 lanes, and there are 3"):
        made([5], 3, 6).load_state_dict(made([5], 2, 6).state_dict())
    assert made([5], 1, 4).draw(0).index.tolist() == []
