"""A reader of many files, and of files of many row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import write_dataset

from igrft import columns as c
from igrft.dataset import reader as reader_module
from igrft.dataset.reader import DatasetReader

FILES, EPISODES = 6, 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of four episodes: four row groups, 28 column chunks each."""
    path = tmp_path_factory.mktemp("reader") / "set"
    write_dataset(path, EPISODES, 24 * 8, width=2, episodes_per_file=EPISODES // FILES)
    return path


def walk(dataset: DatasetReader) -> np.ndarray:
    """``index`` of every frame, file by file."""
    parts = [t.column(c.INDEX) for p, r in dataset.data_files for _, t in dataset.iter_file(p, r, frames=7)]
    return np.concatenate([p.to_numpy() for p in parts])


def test_few_files_are_held_open(root: Path) -> None:
    dataset = DatasetReader.open(root)
    assert (walk(dataset) == np.arange(24 * 8)).all()
    assert len(dataset._files) == 4


def test_fewer_where_their_metadata_are_large(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_KEPT_CHUNKS", 20)
    dataset = DatasetReader.open(root)
    assert (walk(dataset) == np.arange(24 * 8)).all() and not dataset._files, "each is forgotten at its end"
    assert [int(dataset.column(r, c.INDEX)[0]) for r in range(EPISODES)] == dataset.from_index.tolist()
    assert len(dataset._files) == 1
    monkeypatch.setattr(reader_module, "_KEPT_CHUNKS", 30)
    walk(dataset)
    assert len(dataset._files) == 2


def test_a_file_that_is_walked_stays_readable_when_others_are_opened(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(reader_module, "_KEPT_CHUNKS", 0)
    dataset = DatasetReader.open(root)
    (first, rows), *_ = dataset.data_files
    seen = []
    for taken, table in dataset.iter_file(first, rows, frames=7):
        assert dataset.column(EPISODES - 1, c.EPISODE_INDEX)[0] == EPISODES - 1
        seen += table.column(c.INDEX).to_pylist()
        assert len(taken) > 0
    assert seen == list(range(int(dataset.lengths[rows].sum())))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=0, max_size=12), st.randoms())
def test_data_files_and_their_episodes_stand_in_order(places, random) -> None:
    starts = list(range(0, 10 * len(places), 10))
    random.shuffle(starts)
    table = pa.table(
        {
            "episode_index": pa.array(range(len(places)), pa.int64()),
            "length": pa.array([10] * len(places), pa.int64()),
            "dataset_from_index": pa.array(starts, pa.int64()),
            "data/chunk_index": pa.array([chunk for chunk, _ in places], pa.int64()),
            "data/file_index": pa.array([file for _, file in places], pa.int64()),
        }
    )
    found = DatasetReader(Path(), {"fps": 10, "features": {}}, table).data_files
    expected = [
        (
            Path(f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"),
            sorted((r for r, p in enumerate(places) if p == (chunk, file)), key=starts.__getitem__),
        )
        for chunk, file in sorted(set(places))
    ]
    assert [(path, rows.tolist()) for path, rows in found] == expected
