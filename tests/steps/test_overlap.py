"""The thread that decodes ahead: order, errors, how far ahead, and that none is left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from picture_sets import picture_set, square_over_background

from igrft.errors import EpisodeError
from igrft.steps.base import Episode
from igrft.steps.interaction import Interaction
from igrft.steps.interaction.counts import COUNTS_RAW
from igrft.steps.interaction.flow import Dis
from igrft.steps.interaction.overlap import THREAD, ahead, on_gpu


def _threads() -> int:
    return sum(t.name == THREAD for t in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert _threads() == 0


class Source:
    """Counts up; remembers what was taken, by which thread, and whether it was closed."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.taken, self.closed, self.thread = 0, False, ""
        self._count, self._fails_at = count, fails_at

    def __iter__(self) -> Iterator[int]:
        try:
            for i in range(self._count):
                if i == self._fails_at:
                    raise EpisodeError("episode 3: frame 7 is damaged")
                self.taken, self.thread = i + 1, threading.current_thread().name
                yield i
        finally:
            self.closed = True


def _settle(source: Source, taken: int) -> None:
    for _ in range(200):
        if source.taken >= taken:
            break
        time.sleep(0.005)
    time.sleep(0.02)


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_all_items_in_order_by_another_thread(depth: int) -> None:
    source = Source(50)
    assert list(ahead(iter(source), depth)) == list(range(50))
    assert source.closed and source.thread == THREAD
    assert _threads() == 0


def test_no_depth_no_thread() -> None:
    source = Source(5)
    assert list(ahead(iter(source), 0)) == [0, 1, 2, 3, 4]
    assert source.thread == threading.current_thread().name
    assert list(ahead(iter(Source(0)), 3)) == []


def test_it_is_no_further_ahead_than_asked() -> None:
    source = Source(100)
    items = ahead(iter(source), 4)
    assert next(items) == 0
    _settle(source, 6)
    # One was given, four wait, and one is held by the thread until there is room.
    assert source.taken == 6
    items.close()
    assert source.closed and _threads() == 0


def test_an_error_comes_in_its_place_and_once() -> None:
    items = ahead(iter(Source(10, fails_at=3)), 8)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(EpisodeError, match="frame 7 is damaged"):
        next(items)
    assert _threads() == 0
    with pytest.raises(StopIteration):
        next(items)


def test_an_error_of_the_user_ends_the_thread() -> None:
    source = Source(1000)
    items = ahead(iter(source), 2)
    with pytest.raises(ValueError, match="user"):
        for item in items:
            if item == 5:
                raise ValueError("user")
    items.close()
    assert source.closed and source.taken < 12


def test_what_is_dropped_unused_ends_its_thread() -> None:
    source = Source(1000)
    items = ahead(iter(source), 2)
    next(items)
    del items
    gc.collect()
    assert source.closed and _threads() == 0
    ahead(iter(Source(5)), 2)  # never begun
    assert _threads() == 0


def test_close_while_the_source_is_slow() -> None:
    waits = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        waits.set()
        time.sleep(0.2)
        yield 2

    items = ahead(slow(), 1)
    assert next(items) == 1
    waits.wait()
    items.close()
    items.close()
    assert _threads() == 0
    with pytest.raises(StopIteration):
        next(items)


def test_decoding_and_using_overlap() -> None:
    """A source that takes 10 ms an item (asleep, as a decoder is without Python's lock), a user that takes as long."""

    def source() -> Iterator[int]:
        for i in range(20):
            time.sleep(0.01)
            yield i

    def use(depth: int) -> float:
        begun = time.perf_counter()
        for _ in ahead(source(), depth):
            time.sleep(0.01)
        return time.perf_counter() - begun

    assert use(4) < 0.8 * use(0)


def test_what_is_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    assert on_gpu("cuda") and on_gpu("cuda:1") and not on_gpu("cpu")
    assert on_gpu("auto") == torch.cuda.is_available()


class Waits(Dis):
    """DIS as if on a GPU."""

    ahead = 3


def test_the_step_decodes_ahead_and_leaves_no_thread_behind_an_episode_set_aside(tmp_path: Path) -> None:
    shown = square_over_background(6, size=(160, 120), side=40, start=(40, 30), step=(4, 0))
    dataset = picture_set(tmp_path / "set", [shown])
    step = Interaction(camera_motion="static").resolve(dataset).expand()[0]
    counts = [step.count(Episode(dataset, 0), estimator).staged[COUNTS_RAW] for estimator in (Dis(1), Waits(1))]
    assert np.array_equal(*counts) and counts[0].max() > 0 and _threads() == 0
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/episode_000000.npy", np.zeros((6, 60, 80), bool))  # of another size
    masked = Interaction(robot_mask="folder", mask_path=str(tmp_path / "masks")).resolve(dataset).expand()[0]
    try:
        masked.count(Episode(dataset, 0), Waits(1))
    except EpisodeError as error:
        assert "mask is 80x60" in str(error)
    else:
        raise AssertionError("it was labelled")
    assert _threads() == 0
