"""What is kept in memory of many episodes, and in which order they are labelled."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.pipeline.labelling import _longest_first
from igrft.pipeline.staging import Result, Staged, merge_staged, write_staged
from igrft.pipeline.store import StageStore
from igrft.steps.base import EpisodeLabels


def result(row: int, key: str, reason: str | None = None, frames: int = 3) -> Result:
    labels = EpisodeLabels({"reward": np.full(frames, row, np.float32)}, {}, {"row": row, "key": key})
    return Result(row, key, frames, EpisodeLabels() if reason else labels, reason)


def seen(store: StageStore, row: int, key: str):
    """(record, first reward) of an entry, or its reason, or None."""
    staged = store.get(row, key)
    if staged is None or staged.reason is not None:
        return None if staged is None else staged.reason
    assert (staged.row, staged.key) == (row, key)
    # As a worker process gets it.
    there = pickle.loads(pickle.dumps(staged)).labels()
    return there.record, float(there.columns["reward"][0])


ENTRIES = st.builds(
    Staged,
    row=st.integers(0, 4),
    key=st.sampled_from("abc"),
    path=st.sampled_from([Path("x"), Path("y")]),
    batch=st.integers(0, 9),
    offset=st.integers(0, 2**40),
    length=st.integers(0, 10**6),
    text=st.sampled_from(["{}", '{"success": true}']),
    reason=st.none() | st.just("no frame"),
)


@given(st.lists(ENTRIES, max_size=12))
def test_a_store_is_a_dictionary_by_row_and_key(entries):
    store = StageStore(Path("nowhere"))
    for entry in entries:
        store.add([entry])
    expected = {(e.row, e.key): e for e in entries}
    assert {(r, k): store.get(r, k) for r in range(6) for k in "abcd" if store.get(r, k)} == expected


def test_what_was_staged_is_found_again_with_its_record(tmp_path: Path):
    write_staged(tmp_path / "step", [result(r, "k") for r in range(5)])
    write_staged(tmp_path / "step", [result(7, "k"), result(8, "k", "no frame")])
    merge_staged(tmp_path / "kept.arrow", write_staged(tmp_path / "other", [result(r, "old") for r in (2, 9)]))
    store = StageStore(tmp_path / "step")
    store.scan(tmp_path / "kept.arrow")
    for row, key in [*((r, "k") for r in (0, 1, 2, 3, 4, 7)), (2, "old"), (9, "old")]:
        assert seen(store, row, key) == ({"row": row, "key": key}, float(row))
    assert seen(store, 8, "k") == "no frame" and store.get(9, "k") is None and store.get(100, "k") is None
    store.forget_set_aside()
    assert store.get(8, "k") is None and seen(store, 7, "k") == ({"row": 7, "key": "k"}, 7.0)


def test_rows_that_another_process_sees_to_are_not_held(tmp_path: Path):
    write_staged(tmp_path, [result(r, "k") for r in range(5)])
    store = StageStore(tmp_path)
    store.scan(rows=[1, 3])
    assert [store.get(r, "k") is not None for r in range(5)] == [False, True, False, True, False]


def test_a_file_with_an_episode_that_was_set_aside_may_go(tmp_path: Path):
    write_staged(tmp_path, [result(0, "k"), result(1, "k", "bad")])
    write_staged(tmp_path, [result(2, "k")])
    store = StageStore(tmp_path)
    store.scan()
    store.forget_set_aside(remove=True)
    assert [store.get(r, "k") is not None for r in range(3)] == [False, False, True]
    assert len(list(tmp_path.glob("*.arrow"))) == 1


def test_records_of_many_episodes_stay_in_their_file(tmp_path: Path):
    texts = {r: json.dumps({"row": r, "key": "k"}) for r in range(3)}
    store = StageStore(tmp_path)
    store.add(write_staged(tmp_path, [result(r, "k") for r in range(3)]))
    for row in range(3):
        staged = store.get(row, "k")
        assert staged is not None and staged.text is None and staged.read_text() == texts[row]


@pytest.mark.parametrize(
    "lengths, order",
    [([5, 9, 7, 9], [1, 3, 2, 0]), ([100] * 2000 + [4000], [2000, *range(2000)]), ([100, 101] * 1000, [*range(2000)])],
)
def test_the_longest_come_first_and_many_in_the_order_of_the_files(lengths, order):
    assert _longest_first(range(len(lengths)), np.array(lengths)) == order
