"""Streams of a labelled dataset: the frames that LeRobot's dataset gives, in another order."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_set import CAMERA, FPS, make_labelled_set
from synthetic import write_dataset
from training_sets import add_column, drop_columns, edit_column, edit_info, make_recipe

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.training.batches import RawBatch
from igrft.training.data import TrainingData
from igrft.training.frames import MemoryFrames
from igrft.training.recipe import DatasetEntry

DELTAS = {c.ACTION: [i / FPS for i in range(6)], c.RETURN: [-0.2, 0.0, 0.1, 3.0], c.INTERACTION: [0.0, 0.1]}


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes in two files of tables and two of videos; the third was set aside."""
    return make_labelled_set(tmp_path_factory.mktemp("pictured") / "set")


def stream(root: Path, **settings: Any) -> Any:
    from igrft.training.stream import LabelledStream

    return LabelledStream(root, **{"buffer_size": 24, "shards": 3, **settings})


def take(items: Any, count: int) -> list[dict[str, Any]]:
    return list(itertools.islice(items, count))


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) and v.dtype == b[k].dtype if isinstance(v, torch.Tensor) else v == b[k]
        for k, v in a.items()
    )


def test_items_are_those_of_lerobots_dataset(pictured: Path) -> None:
    """Frame by frame: label columns, what comes before and after with its padding, pictures, texts."""
    from lerobot.datasets import LeRobotDataset

    mapped = LeRobotDataset("local/set", root=pictured, delta_timestamps=DELTAS)
    items = take(stream(pictured, delta_timestamps=DELTAS), 60)
    for item in items:
        assert same(item, mapped[int(item["index"])]), int(item["index"])
    assert {int(item["episode_index"]) for item in items} == {0, 1, 3}
    assert len({int(item["index"]) for item in items}) == 60


def test_what_is_left_out(pictured: Path) -> None:
    """Columns, cameras and episodes that nobody asked for; LeRobot's own class gives them all."""
    found = take(stream(pictured, columns=[c.STATE, c.EPISODE_INDEX], cameras=[], episodes=[3, 1]), 100)
    assert set(found[0]) == {c.STATE, c.EPISODE_INDEX}
    assert {int(item[c.EPISODE_INDEX]) for item in found} == {1, 3}
    whole = stream(pictured)
    assert (whole.num_frames, whole.num_episodes, whole.fps) == (145, 4, FPS)
    with pytest.raises(UsageError, match="has no column 'return_to_gone' to stream; did you mean 'return_to_go'"):
        stream(pictured, delta_timestamps={"return_to_gone": [0.0]})
    with pytest.raises(UsageError, match="episode 9 is not among"):
        stream(pictured, episodes=[9])
    with pytest.raises(UsageError, match="has no episode to stream"):
        stream(pictured, episodes=[2])


def test_workers_and_processes_give_parts_that_do_not_meet(pictured: Path) -> None:
    plain = {"cameras": [], "columns": [c.INDEX], "shards": 4}
    alone = [int(item[c.INDEX]) for item in take(stream(pictured, **plain), 80)]
    parts = []
    for process in range(2):
        held = stream(pictured, process_index=process, num_processes=2, **plain)
        loader = torch.utils.data.DataLoader(held, batch_size=None, num_workers=2)
        parts.append([int(item[c.INDEX]) for item in take(loader, 40)])
    # A round has a frame of each of four lanes; a process has two, and a worker one.
    assert np.stack([np.reshape(p, (20, 2)) for p in parts], axis=1).reshape(-1).tolist() == alone
    # An epoch's episodes fall to one of them each.
    first = [{i // 5 for i in p[:6]} for p in parts]
    assert first[0].isdisjoint(first[1])


@pytest.mark.parametrize("at", [0, 1, 37, 119])
def test_a_stream_goes_on_where_it_was(pictured: Path, at: int) -> None:
    whole = take(stream(pictured, delta_timestamps=DELTAS), at + 60)
    first = stream(pictured, delta_timestamps=DELTAS)
    items = iter(first)
    for item, expected in zip(take(items, at), whole, strict=False):
        assert same(item, expected)
    state = json.loads(json.dumps(first.state_dict()))
    again = stream(pictured, delta_timestamps=DELTAS)
    again.load_state_dict(state)
    for item, expected in zip(take(again, 60), whole[at:], strict=True):
        assert same(item, expected)
    with pytest.raises(UsageError, match="the state is not of this stream"):
        stream(pictured, shards=2).load_state_dict(state)


def test_only_what_a_buffer_needs_is_held(pictured: Path) -> None:
    """Rows of an episode, and pictures of frames that are drawn later, go when they were."""
    from igrft.training.stream import DrawnFrames

    held = stream(pictured, columns=[c.STATE, c.ACTION])
    order = held.order()
    drawn = DrawnFrames(held, order, [0, 1, 2], 4, 5)
    most = 0
    for _ in range(80):
        draw = order.draw(6)
        drawn.enter(draw)
        drawn.take(draw.index, draw.lane)
        visits = [v for r in drawn.readers.values() for group in r._visits.values() for v in group]
        most = max(most, sum(len(v.pictures) for v in visits))
        assert sum(sum(v.pending.values()) for v in visits) == 24
    # A frame in a buffer needs two pictures; those between it and its later one are on their way.
    assert most <= 2 * 24 + 3 * 6


# The trainer's batches.


def entry(root: Path, **settings: Any) -> DatasetEntry:
    return DatasetEntry(root=str(root), streaming=True, **{"buffer_size": 40, "shards": 4, **settings})


def opened(*entries: Any, pictures: bool = True, **settings: Any) -> TrainingData:
    recipe = make_recipe(*entries, **{"objective__type": "awr", "advantage__steps": 5, **settings})
    return TrainingData.open(recipe, image_policy=pictures, chunk=6, has_text=pictures)


def check_against_map(batches: Iterator[RawBatch], mapped: TrainingData) -> int:
    """Every batch is what the datasets give for the same frames, read from anywhere."""
    count = 0
    for batch in batches:
        for number, held in enumerate(mapped.entries):
            at = (batch.dataset == number).nonzero().flatten()
            if not len(at):
                continue
            index = batch.index[at].numpy()
            now, later = mapped.frames[number].gather(index)
            for mine, theirs in ((batch.observation, now), (batch.next_observation, later)):
                assert mine is not None and theirs is not None and mine.keys() == theirs.keys()
                for name, values in theirs.items():
                    if isinstance(values, torch.Tensor):
                        assert torch.equal(mine[name][at], values), name
                        assert mine[name].dtype == values.dtype
                    else:
                        assert [mine[name][i] for i in at.tolist()] == values
            labels = held.labels.take(index)
            assert batch.labels.keys() == labels.keys()
            for name, values in labels.items():
                np.testing.assert_array_equal(batch.labels[name][at].numpy(), values, err_msg=name)
                assert batch.labels[name].numpy().dtype == values.dtype
            assert [batch.subtasks[i] for i in at.tolist()] == held.labels.subtasks(index)
            count += len(at)
    return count


def test_batches_are_those_of_the_map_for_the_same_frames(pictured: Path) -> None:
    assert check_against_map(opened(entry(pictured)).loader(0, 8, workers=0), opened(pictured)) == 64


@pytest.mark.parametrize("frames", ["all", "successes", "until_failure"])
def test_frames_of_the_actor_alone_come(pictured: Path, frames: str) -> None:
    """Without pictures."""
    settings = {"pictures": False, "objective__frames": frames}
    streamed, mapped = opened(entry(pictured), **settings), opened(pictured, **settings)
    assert check_against_map(streamed.loader(0, 40), mapped) == 320
    used = np.flatnonzero(mapped.entries[0].labels.trained)
    seen = np.unique(np.concatenate([b.index for b in streamed.loader(0, 40)]))
    assert set(seen) <= set(used) and len(seen) > 0.8 * len(used)
    assert streamed.digest == mapped.digest
    assert streamed.summary == mapped.summary


def test_workers_processes_and_parts_cut_the_same_batches(pictured: Path) -> None:
    data = opened(entry(pictured), batch_size=12)
    whole = list(data.loader(0, 6, workers=0))
    for workers in (1, 2):
        for a, b in zip(whole, data.loader(0, 6, workers=workers), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.observation[CAMERA], b.observation[CAMERA])
            assert a.subtasks == b.subtasks
    for world, parts in ((2, 1), (2, 2), (3, 1), (4, 3)):
        cut = [list(data.loader(0, 6, rank, world, parts, workers=0)) for rank in range(world)]
        for step, expected in enumerate(whole):
            order = [cut[rank][step * parts + part] for part in range(parts) for rank in range(world)]
            assert torch.equal(torch.cat([b.index for b in order]), expected.index)
            for name in (CAMERA, c.ACTION):
                assert torch.equal(torch.cat([b.observation[name] for b in order]), expected.observation[name])


def test_batches_begin_anywhere(pictured: Path) -> None:
    """From a state, and without one."""
    whole = [b.index.tolist() for b in opened(entry(pictured), pictures=False).loader(0, 30)]
    data = opened(entry(pictured), pictures=False)
    assert [b.index.tolist() for b in data.loader(17, 30)] == whole[17:]
    assert data.streams is not None
    state = json.loads(json.dumps(data.streams.state_dict(9)))
    other = opened(entry(pictured), pictures=False)
    assert other.streams is not None
    other.streams.load_state_dict(state)
    for start in (9, 21, 4):
        assert [b.index.tolist() for b in other.loader(start, 30)] == whole[start:]


def test_a_stream_beside_datasets_that_are_not(pictured: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(pictured, tmp_path / "second"))
    data = opened(entry(pictured, weight=2.0), second, batch_size=9)
    mapped = opened(DatasetEntry(root=str(pictured), weight=2.0), second, batch_size=9)
    assert check_against_map(data.loader(0, 3, workers=2), mapped) == 27
    # Each has its share of every batch, and the other is walked as it would be without a stream.
    plain = {"pictures": False, "batch_size": 9}
    data = opened(entry(pictured, weight=2.0), second, **plain)
    mapped = opened(DatasetEntry(root=str(pictured), weight=2.0), second, **plain)
    for a, b in zip(data.loader(0, 20), mapped.loader(0, 20), strict=True):
        assert torch.equal(a.dataset, b.dataset) and a.dataset.bincount().tolist() == [6, 3]
        assert torch.equal(a.index[a.dataset == 1], b.index[b.dataset == 1])


def test_held_out_frames_are_read_from_anywhere(pictured: Path) -> None:
    settings = {"critic__holdout": 0.3}
    root = pictured
    streamed, mapped = opened(entry(root), **settings), opened(root, **settings)
    assert streamed.has_heldout == mapped.has_heldout
    for a, b in zip(streamed.heldout_batches(3, 6), mapped.heldout_batches(3, 6), strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.observation[CAMERA], b.observation[CAMERA])


def test_fewer_samples_than_shards(pictured: Path) -> None:
    settings = {"batch_size": 5, "pictures": False}
    data = opened(entry(pictured, shards=16, buffer_size=32), pictured, **settings)
    assert check_against_map(data.loader(0, 20), opened(pictured, pictured, **settings)) == 100


def test_what_is_refused(pictured: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"datasets\.0\.buffer_size 3 leaves some of 4 shards without a frame"):
        opened(entry(pictured, buffer_size=3))
    with pytest.raises(UsageError, match=r"datasets\.0\.shards must be at least 1, got 0"):
        opened(entry(pictured, shards=0))
    root = Path(shutil.copytree(pictured, tmp_path / "set"))
    next(root.glob("videos/*/*/file-001.mp4")).unlink()
    for workers in (0, 2):
        with pytest.raises(
            IgrftError, match=r"set: episode 3, frame \d+ cannot be read \(.*file-001.mp4.*validate"
        ) as e:
            list(opened(entry(root)).loader(0, 30, workers=workers))
        assert "\n" not in str(e.value)


def test_states_that_are_not_finite_are_found_before_anything_is_read(pictured: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(pictured, tmp_path / "set"))
    edit_column(root, c.STATE, lambda v, e: np.where((np.arange(len(v)) == 8)[:, None] & (e == 1), np.nan, v))
    with pytest.raises(
        IgrftError, match=r"set: episode 1, frame 8: 'observation.state' is not finite \(1 such frames\)"
    ):
        opened(entry(root))


def test_columns_of_one_number_and_wide_ones(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", 3, 60, width=2)
    drop_columns(tmp_path / "set", c.STATE, c.ACTION)
    for name in (c.STATE, c.ACTION):
        add_column(tmp_path / "set", name, lambda n, e: np.arange(n) + 100 * e)
    add_column(tmp_path / "set", "observation.environment_state", lambda n, e: np.arange(5 * n).reshape(n, 5) + e)
    held = stream(tmp_path / "set", columns=[c.STATE, c.ACTION, "observation.environment_state", c.TASK_INDEX])
    index = np.array([0, 59, 5, 31])
    a, b = held.gather(index, 4, 3), MemoryFrames(DatasetReader.open(tmp_path / "set"), 4, 3).gather(index)
    for mine, theirs in zip(a, b, strict=True):
        assert mine is not None and theirs is not None and mine.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in mine.items() if isinstance(v, torch.Tensor))
    assert a[0][c.STATE].shape == (4, 1)


def test_pictures_that_lie_in_the_table(tmp_path: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    write_dataset(tmp_path / "set", 2, 30, width=2)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (30, 6, 8, 3), dtype=np.uint8)
    dataset = DatasetReader.open(tmp_path / "set")

    def png(picture: np.ndarray) -> dict[str, Any]:
        made = io.BytesIO()
        Image.fromarray(picture).save(made, format="PNG")
        return {"bytes": made.getvalue(), "path": None}

    path = tmp_path / "set" / dataset.data_files[0][0]
    column = pa.array([png(p) for p in pictures], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(pq.read_table(path).append_column("observation.images.top", column), path)
    feature = {"dtype": "image", "shape": [6, 8, 3], "names": ["height", "width", "channels"]}
    edit_info(tmp_path / "set", lambda i: i["features"].update({"observation.images.top": feature}))
    held = stream(tmp_path / "set", return_uint8=True, columns=[c.INDEX], shards=2, buffer_size=8)
    for item in take(held, 60):
        expected = torch.from_numpy(pictures[int(item[c.INDEX])]).permute(2, 0, 1)
        assert torch.equal(item["observation.images.top"], expected)


def test_why_lerobots_own_class_is_not_enough(pictured: Path) -> None:
    """When this fails, LeRobot has mended it: look at what of ours can go."""
    from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset

    one = StreamingLeRobotDataset("local/set", root=pictured, delta_timestamps={c.RETURN: [0.0, 0.1]})
    with pytest.raises(TypeError, match="expected Tensor as element 0"):
        next(iter(one))
    assert not hasattr(one, "state_dict")
    named = StreamingLeRobotDataset("local/set", root=pictured, episodes=[3])
    asked = []
    named._query_videos = lambda times, episode: asked.append((int(episode), times)) or {}
    list(named)
    # Every episode comes, and the pictures of the second file are looked for past its end.
    assert {episode for episode, _ in asked} == {0, 1, 2, 3}
    assert max(times[CAMERA][0] for episode, times in asked if episode == 3) > 9


@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    """Of four times as many frames, in a process of its own; read from anywhere it does."""
    import streaming

    found = {}
    for frames in (150_000, 600_000):
        root = streaming.labelled(tmp_path, frames)
        found[frames] = {way: streaming.measured(root, way)["mb"] for way in (True, False)}
    grown = {way: found[600_000][way] - found[150_000][way] for way in (True, False)}
    # Episodes' facts and the record of what labelled them stay in memory: 1,100 more of them.
    assert grown[True] < 20, found
    assert grown[False] > 3 * max(grown[True], 1), found
