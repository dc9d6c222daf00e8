"""A recipe's datasets, opened, mixed and batched."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_set import CAMERA, NAMES, make_labelled_set
from training_sets import edit_column, edit_json, make_recipe

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.errors import IgrftError, UsageError
from igrft.training.data import RawBatch, TrainingData
from igrft.training.frames import ACTION_IS_PAD
from igrft.training.labels import ARRAYS
from igrft.training.recipe import DatasetEntry, Recipe

CHUNK = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("data") / "first")


@pytest.fixture(scope="module")
def second(root: Path) -> Path:
    """The same with its actions shifted by 100."""
    other = Path(shutil.copytree(root, root.with_name("second")))
    edit_column(other, c.ACTION, lambda v, e: v + 100)

    def shift(stats: dict) -> None:
        for name in ("min", "max", "mean", "q01", "q99"):
            stats[c.ACTION][name] = [x + 100 for x in stats[c.ACTION][name]]

    edit_json(other / "meta/stats.json", shift)
    return other


def opened(recipe: Recipe, *, image_policy: bool = False, has_text: bool = False) -> TrainingData:
    return TrainingData.open(recipe, image_policy=image_policy, chunk=CHUNK, has_text=has_text)


def check_same(a: RawBatch, b: RawBatch) -> None:
    assert a.subtasks == b.subtasks and len(a) == len(b)
    assert (a.next_observation is None) == (b.next_observation is None)
    for x, y in (
        (a.observation, b.observation),
        (a.next_observation or {}, b.next_observation or {}),
        (a.labels, b.labels),
    ):
        assert x.keys() == y.keys()
        for name, value in x.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value.nan_to_num(-1), y[name].nan_to_num(-1)), name
            else:
                assert value == y[name]
    assert torch.equal(a.dataset, b.dataset) and torch.equal(a.index, b.index)


def test_a_batch_is_what_its_indices_say(root: Path, second: Path) -> None:
    data = opened(make_recipe(root, second, objective__type="awr"))
    assert (data.steps, data.has_next, data.fps, data.has_heldout) == (CHUNK, True, 10, False)
    stored = [load_labels(r, [c.STATE, c.ACTION, c.INTERACTION, c.SUBTASK_INDEX]) for r in (root, second)]
    for batch in data.loader(3, 8):
        assert isinstance(batch, RawBatch) and len(batch) == 8
        assert batch.dataset.bincount().tolist() == [4, 4]
        assert batch.labels.keys() == set(ARRAYS)
        for i, (number, index) in enumerate(zip(batch.dataset.tolist(), batch.index.tolist(), strict=True)):
            columns = stored[number]
            labels = {k: v[i].item() for k, v in batch.labels.items()}
            assert labels["trained"] and labels["critic"] and labels["episode"] != 2
            assert torch.equal(batch.observation[c.STATE][i], torch.from_numpy(columns[c.STATE][index]))
            later = min(index + CHUNK, index - labels["frame"] + labels["length"] - 1)
            assert batch.next_observation is not None
            assert torch.equal(batch.next_observation[c.STATE][i], torch.from_numpy(columns[c.STATE][later]))
            real = ~batch.observation[ACTION_IS_PAD][i]
            assert real.sum() == min(CHUNK, labels["length"] - labels["frame"])
            wanted = torch.from_numpy(columns[c.ACTION][index : index + int(real.sum())])
            assert torch.equal(batch.observation[c.ACTION][i][real], wanted)
            assert batch.subtasks[i] == NAMES[columns[c.SUBTASK_INDEX][index]]
            assert labels["interaction"] == columns[c.INTERACTION][index]


def test_every_usable_frame_once_an_epoch(root: Path) -> None:
    data = opened(make_recipe(root))
    seen = torch.cat([b.index for b in data.loader(0, 15)]).tolist()
    assert sorted(seen) == [*range(70), *range(95, 145)]


def test_processes_and_parts_share_a_batch(root: Path, second: Path) -> None:
    data = opened(make_recipe(root, second))
    for step in (0, 40):
        whole = next(data.loader(step, step + 1))
        slices = [list(data.loader(step, step + 1, rank, 2, 2)) for rank in range(2)]
        assert all(len(part) == 2 for part in slices)
        index = torch.cat([slices[rank][part].index for part in range(2) for rank in range(2)])
        assert torch.equal(index, whole.index)
    with pytest.raises(UsageError, match="batch_size 8 cannot be divided by 3 processes x 1 accumulation steps"):
        data.loader(0, 1, 0, 3)


def test_a_resumed_run_sees_the_same_batches(root: Path, second: Path) -> None:
    first = list(opened(make_recipe(root, second, seed=3)).loader(0, 12))
    again = list(opened(make_recipe(root, second, seed=3)).loader(7, 12))
    for a, b in zip(first[7:], again, strict=True):
        check_same(a, b)
    other = next(opened(make_recipe(root, second, seed=4)).loader(0, 1))
    assert not torch.equal(other.index, first[0].index)


def test_pictures_through_workers_are_the_same(root: Path) -> None:
    recipe = make_recipe(root, objective__type="ig_awr", batch_size=4)
    data = opened(recipe, image_policy=True, has_text=True)
    plain = list(opened(recipe, image_policy=True, has_text=True).loader(0, 3, accumulation=2, workers=2))
    assert plain[0].observation[CAMERA].dtype == torch.uint8
    assert plain[0].observation[CAMERA].shape == (2, 3, 48, 64)
    assert plain[0].next_observation is not None and CAMERA in plain[0].next_observation
    for a, b in zip(plain, data.loader(0, 3, accumulation=2, workers=0), strict=True):
        check_same(a, b)
    low = list(opened(recipe).loader(0, 3, accumulation=2, workers=2))
    assert torch.equal(low[0].index, plain[0].index)
    assert torch.equal(low[0].observation[c.STATE], plain[0].observation[c.STATE])


def test_an_error_in_a_worker_is_one_line(root: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(root, tmp_path / "set"))
    data = opened(make_recipe(broken), image_policy=True, has_text=True)
    for path in broken.glob("videos/*/*/*.mp4"):
        path.write_bytes(b"no video")
    for workers in (1, 0):
        with pytest.raises(IgrftError, match=r"set: episode \d, frame \d+ cannot be read") as error:
            list(data.loader(0, 2, workers=workers))
        assert "\n" not in str(error.value)


def test_moving_a_batch(root: Path) -> None:
    batch = next(opened(make_recipe(root)).loader(0, 1))
    moved = batch.to("meta")
    assert moved.observation[c.STATE].device.type == moved.index.device.type == "meta"
    assert moved.labels["reward_sum"].device.type == "meta" and moved.subtasks == batch.subtasks
    assert batch.next_observation is None and moved.next_observation is None
    assert batch.observation[c.STATE].device.type == "cpu"


def test_features_and_statistics(root: Path, second: Path) -> None:
    data = opened(make_recipe(root, second), image_policy=True)
    assert {k: (f.type.value, f.shape) for k, f in data.input_features.items()} == {
        c.STATE: ("STATE", (3,)),
        CAMERA: ("VISUAL", (3, 48, 64)),
    }
    assert {k: (f.type.value, f.shape) for k, f in data.output_features.items()} == {c.ACTION: ("ACTION", (3,))}
    assert data.stats.keys() == data.features.keys()
    one = opened(make_recipe(root)).stats[c.ACTION]
    np.testing.assert_allclose(data.stats[c.ACTION]["mean"], one["mean"] + 50)
    np.testing.assert_allclose(data.stats[c.ACTION]["max"], one["max"] + 100)
    np.testing.assert_allclose(data.stats[c.ACTION]["q01"], one["q01"] + 50)
    np.testing.assert_allclose(data.stats[c.ACTION]["std"], np.sqrt(one["std"] ** 2 + 50**2))
    assert data.stats[c.ACTION]["count"].tolist() == [240]
    assert CAMERA not in opened(make_recipe(root)).features


def test_the_statistics_are_lerobots_own(root: Path, second: Path) -> None:
    from lerobot.datasets.compute_stats import aggregate_stats
    from lerobot.datasets.io_utils import load_stats

    found = opened(make_recipe(root, second)).stats
    wanted = aggregate_stats([load_stats(r) for r in (root, second)])
    for name, parts in found.items():
        assert parts.keys() == wanted[name].keys()
        for key, values in parts.items():
            np.testing.assert_array_equal(values, wanted[name][key])


def test_the_summary(root: Path, second: Path) -> None:
    entries = [
        DatasetEntry(root=str(root), weight=3),
        DatasetEntry(root=str(second), kind="rollouts", episodes=[0, 1, 2]),
    ]
    first, other = opened(make_recipe(*entries, objective__frames="until_failure")).summary
    assert (first.root, first.kind, first.share) == (str(root), "demonstrations", 0.75)
    assert (first.episodes, first.frames, first.successes, first.set_aside) == (4, 145, 2, 1)
    assert (first.held_out, first.frames_used) == (0, 100)
    assert (other.kind, other.share, other.successes, other.set_aside) == ("rollouts", 0.25, 1, 1)
    assert other.frames_used == 50


def test_held_out_batches(root: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(root, tmp_path / "set"))
    edit_json(whole / "meta/igrft.json", lambda r: r["episodes"]["2"].update(set_aside=None, success=False))
    for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK):
        edit_column(whole, name, lambda v, e: np.nan_to_num(v))
    data = opened(make_recipe(whole, whole, objective__type="awr", critic__holdout=0.3))
    held = data.entries[0].labels.episodes
    assert data.has_heldout and held.held_out.sum() == 1
    # The same episode in both entries: it is the same dataset.
    np.testing.assert_array_equal(held.held_out, data.entries[1].labels.episodes.held_out)
    length = int(held.length[held.held_out][0])
    start = int(held.start[held.held_out][0])
    batches = list(data.heldout_batches(4, 10))
    assert [len(b) for b in batches] == [4, 4, 2]
    index = torch.cat([b.index for b in batches]).numpy() - start
    number = torch.cat([b.dataset for b in batches]).numpy()
    position = index + number * length
    assert (np.diff(position) > 0).all() and np.ptp(np.diff(position)) <= 1
    assert ((index >= 0) & (index < length)).all()
    assert all(b.next_observation is None and not b.labels["critic"].any() for b in batches)
    halves = [torch.cat([b.index for b in data.heldout_batches(4, 10, rank, 2)]) for rank in range(2)]
    assert sorted(torch.cat(halves).tolist()) == sorted(torch.cat([b.index for b in batches]).tolist())
    assert sum(len(b) for b in data.heldout_batches(64, 10_000)) == 2 * length
    # Training batches still hold them, for the actor.
    seen = torch.cat([b.labels["critic"] for b in data.loader(0, 40)])
    assert 0 < (~seen).sum() < len(seen)


def test_no_held_out_episodes_no_batches(root: Path) -> None:
    data = opened(make_recipe(root))
    assert not data.has_heldout
    assert list(data.heldout_batches(4, 10)) == []


def test_v_of_the_next_observation_is_asked_for_only_where_it_is_used(root: Path) -> None:
    def following(**settings) -> bool:
        return opened(make_recipe(root, **settings)).has_next

    assert not following()
    assert following(objective__type="iql", advantage__source="columns")
    assert following(objective__type="ig_awr")
    assert opened(make_recipe(root, objective__type="awr", advantage__steps=2)).steps == 2


def test_lerobot_is_quiet(root: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        list(opened(make_recipe(root), image_policy=True).loader(0, 1, workers=0))
    assert all("\n" not in r.getMessage() for r in caplog.records)
    assert capfd.readouterr().out == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_observations_for_cuda_come_in_page_locked_memory(root: Path) -> None:
    data = opened(make_recipe(root), image_policy=True)
    batch = next(data.loader(0, 1, workers=1, device="cuda"))
    assert batch.observation[CAMERA].is_pinned() and batch.pin_memory().labels["reward_sum"].is_pinned()
