"""Frames on their way to the model: in order, in batches, ahead of it."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_set import CAMERA, EPISODES, TASK, make_labelled_set
from picture_sets import CAMERA as FRONT
from picture_sets import picture_set

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.errors import EpisodeError
from igrft.steps.values.checkpoint import Inputs


def readers() -> int:
    return sum(thread.name.startswith("igrft-ahead") for thread in threading.enumerate())


def settled(wanted: int) -> bool:
    """Whether the number of reading threads comes to ``wanted`` soon."""
    until = time.monotonic() + 5
    while readers() != wanted and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
    return readers() == wanted


def test_batches_hold_what_the_recording_holds(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    dataset = DatasetReader.open(make_labelled_set(tmp_path / "set"))
    inputs = Inputs((CAMERA,), {c.STATE: 3})
    for row, (length, _, _) in EPISODES.items():
        frames = EpisodeFrames(dataset, row, inputs, 16)
        assert frames.remaining == -(-length // 16)
        batches = list(frames)
        assert [len(b["task"]) for b in batches] == [16] * (length // 16) + [length % 16]
        assert {t for b in batches for t in b["task"]} == {TASK}
        pictures = np.concatenate([b[CAMERA].numpy() for b in batches])
        assert pictures.dtype == np.uint8
        np.testing.assert_array_equal(pictures, np.stack(list(episode_frames(dataset, row, CAMERA))))
        states = np.concatenate([b[c.STATE].numpy() for b in batches])
        np.testing.assert_array_equal(states, dataset.column(row, c.STATE))
        assert states.dtype == np.float32 and frames.remaining == 0
    assert settled(0)


def test_pictures_in_the_table(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    rng = np.random.default_rng(0)
    episodes = [[rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(n)] for n in (5, 3)]
    dataset = picture_set(tmp_path / "set", episodes, dtype="image")
    for row, expected in enumerate(episodes):
        found = list(EpisodeFrames(dataset, row, Inputs((FRONT,), {}), 2))
        np.testing.assert_array_equal(np.concatenate([b[FRONT].numpy() for b in found]), np.stack(expected))


def test_pictures_of_two_sizes(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    episodes = [[np.zeros((24, 32, 3), np.uint8)] * 3 + [np.zeros((20, 32, 3), np.uint8)] * 2]
    dataset = picture_set(tmp_path / "set", episodes, dtype="image")
    frames = EpisodeFrames(dataset, 0, Inputs((FRONT,), {}), 2)
    assert len(next(frames)["task"]) == 2
    with pytest.raises(EpisodeError, match=f"episode 0: {FRONT} has pictures of 32x24 and of 32x20"):
        list(frames)


def test_each_frame_has_its_own_task(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    root = make_labelled_set(tmp_path / "set", videos=False)
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    index = table.column_names.index(c.TASK_INDEX)
    table = table.set_column(index, c.TASK_INDEX, pa.array(np.arange(len(table)) % 2))
    pq.write_table(table, path)
    tasks = pa.table({"task_index": [0, 1], "task": ["reach", "retreat"]})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    batch = next(EpisodeFrames(DatasetReader.open(root), 0, Inputs((), {c.STATE: 3}), 4))
    assert batch["task"] == ["reach", "retreat", "reach", "retreat"]
    pq.write_table(tasks.slice(0, 1), root / "meta/tasks.parquet")
    with pytest.raises(EpisodeError, match="episode 0: frame 1 has task_index 1, but meta/tasks.parquet has 1 rows"):
        EpisodeFrames(DatasetReader.open(root), 0, Inputs((), {c.STATE: 3}), 4)


def test_no_camera_opens_no_video(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    dataset = DatasetReader.open(make_labelled_set(tmp_path / "set"))
    (dataset.root / "videos").rename(tmp_path / "elsewhere")
    before = readers()
    assert sum(len(b["task"]) for b in EpisodeFrames(dataset, 0, Inputs((), {c.STATE: 3}), 16)) == 40
    assert readers() == before


def test_what_cannot_be_decoded_is_said_where_it_is_asked_for(tmp_path):
    from igrft.steps.values.frames import EpisodeFrames

    dataset = DatasetReader.open(make_labelled_set(tmp_path / "set"))
    for path in (dataset.root / "videos").rglob("*.mp4"):
        path.write_bytes(path.read_bytes()[:100])
    frames = EpisodeFrames(dataset, 0, Inputs((CAMERA,), {}), 16)
    with pytest.raises(EpisodeError, match="episode 0: .* cannot be decoded"):
        next(frames)


def test_reading_ahead_is_bounded_and_ends():
    from igrft.steps.values.frames import Ahead

    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    ahead = Ahead(items(), depth=2)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(made) <= 4, "one given out, two ready, one waiting to be"
    assert list(ahead) == list(range(1, 100)) and list(ahead) == []
    closed, forgotten = Ahead(items(), depth=1), Ahead(items(), depth=1)
    closed.close()
    del forgotten
    assert settled(0)
