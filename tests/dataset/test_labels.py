"""load_labels: what it reads, in which order, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from labelled_set import EPISODES, make_labelled_set

import igrft
from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("labels") / "set", videos=False)


def test_every_label_column_over_all_frames(root: Path) -> None:
    labels = igrft.load_labels(root)
    assert len(labels) == 4
    assert labels.num_frames == 145
    assert set(labels.columns) == {n for n in DatasetReader.open(root).features if n in c.LABELS} - {
        c.LANGUAGE_PERSISTENT
    }
    assert labels[c.RETURN].dtype == np.float32
    assert labels[c.DONE].dtype == bool
    assert labels.starts.tolist() == [0, 40, 70, 95]
    assert labels.subtask_names == ["reach", "grasp", "place"]
    assert labels.set_aside.tolist() == [False, False, True, False]
    assert labels.episode_record(1)["success"] is False


def test_an_episode_is_a_view_of_its_frames(root: Path) -> None:
    labels = load_labels(root)
    for episode, (length, success, segments) in EPISODES.items():
        columns = labels.episode(episode)
        assert {len(v) for v in columns.values()} == {length}
        assert columns[c.SUCCESS].any() == (success and segments is not None)
        assert np.isnan(columns[c.RETURN]).all() == (segments is None)
    assert np.shares_memory(labels.episode(0)[c.RETURN], labels[c.RETURN])
    assert labels.episode(0)[c.RETURN][0] == pytest.approx(1.0)


def test_chosen_columns_and_episodes_in_the_order_asked_for(root: Path) -> None:
    labels = load_labels(DatasetReader.open(root), columns=[c.ACTION, c.INDEX, c.LANGUAGE_PERSISTENT], episodes=[3, 0])
    assert list(labels.columns) == [c.ACTION, c.INDEX, c.LANGUAGE_PERSISTENT]
    assert labels[c.ACTION].shape == (90, 3)
    assert labels[c.INDEX].tolist() == [*range(95, 145), *range(40)]
    assert labels.episode(0)[c.INDEX].tolist() == list(range(40))
    assert [r["content"] for r in labels.episode(3)[c.LANGUAGE_PERSISTENT][7]] == ["reach", "grasp", "grasp", "place"]


def test_a_set_without_labels(tmp_path: Path) -> None:
    labels = load_labels(make_labelled_set(tmp_path / "set", labels=False, videos=False))
    assert (labels.columns, labels.record, labels.subtask_names) == ({}, {}, [])
    assert labels.num_frames == 145


def test_refusals_say_what_to_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'reward'"):
        load_labels(root, columns=["rewrad"])
    with pytest.raises(UsageError, match="no episode 7"):
        load_labels(root, episodes=[0, 7])
    with pytest.raises(UsageError, match="episode 1 is not among the 1 episodes read"):
        load_labels(root, episodes=[0]).episode(1)
    with pytest.raises(UsageError, match="no label column 'value' was read"):
        load_labels(root)["value"]
    with pytest.raises(IgrftError, match="does not exist"):
        load_labels(tmp_path / "nothing")


def test_rows_that_are_missing_are_an_error(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    root = make_labelled_set(tmp_path / "set", videos=False)
    path = root / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 70), path)
    with pytest.raises(IgrftError, match="holds 70 rows where the episodes' table says 75"):
        load_labels(root)


def test_reading_labels_imports_neither_torch_nor_lerobot(root: Path) -> None:
    code = (
        "import sys; from igrft.dataset.labels import load_labels; from igrft.reports.validate import validate;"
        "from igrft.reports.page import report; from igrft.reports.inspect import inspect;"
        f"load_labels({str(root)!r}); inspect({str(root)!r}); validate({str(root)!r});"
        "print([m for m in ('torch', 'lerobot', 'matplotlib', 'datasets') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
