"""Labels that one process writes and others read."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled_set import make_labelled_set
from synthetic import write_dataset
from training_sets import add_column, make_recipe

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.training import blocks
from igrft.training.data import TrainingData
from igrft.training.kept import RECORD, KeptLabels
from igrft.training.labelling import facts_of, frame_labels, label_pieces
from igrft.training.labels import ARRAYS, DTYPES
from igrft.training.opening import Keep


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("set") / "set")


def kept_of(root: Path, folder: Path, **settings) -> KeptLabels:
    dataset, recipe = DatasetReader.open(root), make_recipe(root, **settings)
    facts = facts_of(dataset, recipe, None)
    return KeptLabels.write(folder, facts, dataset.subtask_names, label_pieces(dataset, recipe, 5, facts))


def test_a_record_is_read_as_it_was_made(root: Path, tmp_path: Path) -> None:
    settings = {"rewards__discount": 0.98, "objective__frames": "until_failure", "rewards__idle_credit": False}
    written = kept_of(root, tmp_path / "labels", **settings)
    expected = frame_labels(DatasetReader.open(root), make_recipe(root, **settings), 5)
    index = np.array([144, 0, 40, 40, 72, 101])
    for held in (written, KeptLabels.open(tmp_path / "labels"), pickle.loads(pickle.dumps(written))):
        assert len(held) == len(expected) == 145
        for name, values in held.take(index).items():
            assert values.dtype == DTYPES[name] and values.flags.writeable
            np.testing.assert_array_equal(values, getattr(expected, name)[index])
        assert set(held.take(index)) == set(ARRAYS)
        assert held.subtasks(index) == expected.subtasks(index)
        for a, b in ((held.whole(), expected), (next(iter(held.parts())), next(iter(expected.parts())))):
            for name in DTYPES:
                x, y = (v[name] if isinstance(v, dict) else getattr(v, name) for v in (a, b))
                np.testing.assert_array_equal(x, y)
        for name in ("index", "start", "length", "success", "set_aside", "chosen", "held_out", "trained"):
            np.testing.assert_array_equal(getattr(held.episodes, name), getattr(expected.episodes, name))
        assert held.episodes.reasons == expected.episodes.reasons != {}
        assert held.episodes.knows_success and list(held.subtask_names) == list(expected.subtask_names)
    assert (tmp_path / "labels/frames.records").stat().st_size == 145 * RECORD.itemsize


def test_pieces_of_any_size_make_the_same_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes of several files, and files whose episodes share a row group."""
    for one in (False, True):
        set_ = tmp_path / f"set_{one}"
        write_dataset(set_, 9, 700, width=3, episodes_per_file=4, one_row_group=one)
        for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK):
            add_column(set_, name, lambda n, e: np.linspace(0, 0.1, n) + e)
        whole = frame_labels(DatasetReader.open(set_), make_recipe(set_), 5)
        monkeypatch.setattr(blocks.pieces, "__defaults__", (90,))
        small = kept_of(set_, tmp_path / f"labels_{one}")
        monkeypatch.undo()
        again = frame_labels(DatasetReader.open(set_), make_recipe(set_), 5)
        for name in DTYPES:
            np.testing.assert_array_equal(getattr(small.whole(), name), getattr(again, name), err_msg=name)
            # The deviation by which motion is measured is summed in another order.
            np.testing.assert_allclose(getattr(small.whole(), name), getattr(whole, name), rtol=1e-6, err_msg=name)


def test_another_process_finds_the_same_data_without_reading_a_column(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(root, root, objective__type="awr")
    recipe.datasets[1].streaming = True
    arguments = {"image_policy": False, "chunk": 6, "has_text": False}
    main = TrainingData.open(recipe, keep=Keep(tmp_path), **arguments)
    digest = main.digest
    monkeypatch.setattr("igrft.training.blocks.pieces", None)
    monkeypatch.setattr("igrft.training.labelling.pieces", None)
    other = TrainingData.open(recipe, keep=Keep(tmp_path, written=True), **arguments)
    assert other.digest == digest
    assert other.summary == main.summary
    for a, b in zip(main.loader(0, 5), other.loader(0, 5), strict=True):
        assert a.index.tolist() == b.index.tolist()
        assert all((a.labels[n].numpy() == b.labels[n].numpy()).all() for n in ("reward_sum", "critic", "motion"))


def test_what_another_machine_does_not_see_is_told(root: Path, tmp_path: Path) -> None:
    kept_of(root, tmp_path / "labels")
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(IgrftError, match="must lie where every machine of the run sees it") as error:
        KeptLabels.open(tmp_path / "labels")
    assert "\n" not in str(error.value)
