"""What the `values` step makes of a critic's output, with an actor whose values follow from the frames."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_set import CAMERA, EPISODES, TASK, make_labelled_set
from value_runs import plain_loaded

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.errors import EpisodeError, IgrftError
from igrft.rewards import combine, n_step_advantages
from igrft.steps.base import Episode
from igrft.steps.values.checkpoint import Inputs

INPUTS = Inputs((CAMERA,), {c.STATE: 3})


def judging(**change):
    from igrft.steps.values.labeller import Judging

    return Judging(**{"trajectory_weight": 0.25, "subtask_weight": 0.75, "discount": 0.9, "steps": 3} | change)


def labeller(dataset, see, batch_size=16, inputs=INPUTS, **change):
    from igrft.steps.values.labeller import ValueLabeller

    loaded = plain_loaded(see)
    return loaded.actor, ValueLabeller(loaded, dataset, inputs, judging(**change), batch_size)


def of_frames(batch):
    """The mean of the picture, the first state, and a logit of the second state."""
    import torch

    return torch.stack([batch[CAMERA].mean(dim=(1, 2, 3)), batch[c.STATE][:, 0], batch[c.STATE][:, 1]], dim=1)


@pytest.fixture
def dataset(tmp_path):
    return DatasetReader.open(make_labelled_set(tmp_path / "set"))


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_every_frame_gets_what_the_critic_says_of_it(dataset, batch_size):
    actor, label = labeller(dataset, of_frames, batch_size)
    for row in (0, 1, 3):
        columns = label(Episode(dataset, row)).columns
        assert all(v.dtype == np.float32 and v.shape == (EPISODES[row][0],) for v in columns.values())
        state = dataset.column(row, c.STATE)
        pictures = np.stack(list(episode_frames(dataset, row, CAMERA))).astype(np.float64)
        np.testing.assert_allclose(columns[c.VALUE_TRAJECTORY], pictures.mean(axis=(1, 2, 3)) / 255, rtol=1e-5)
        np.testing.assert_array_equal(columns[c.VALUE_SUBTASK], state[:, 0])
        np.testing.assert_allclose(columns[c.INTERACTION_PROBABILITY], 1 / (1 + np.exp(-state[:, 1])), rtol=1e-6)
        value = 0.25 * columns[c.VALUE_TRAJECTORY].astype(float) + 0.75 * columns[c.VALUE_SUBTASK].astype(float)
        np.testing.assert_allclose(columns[c.VALUE], value, rtol=1e-6)
        reward = combine(dataset.column(row, c.REWARD_TRAJECTORY), dataset.column(row, c.REWARD_SUBTASK), 0.25, 0.75)
        np.testing.assert_allclose(columns[c.ADVANTAGE], n_step_advantages(reward, value, 3, 0.9), atol=1e-6)
    batch, layers = actor.seen[0]
    assert layers == (2, 5) and batch["prompt"][0] == f"Task: {TASK}"
    assert batch[CAMERA].shape[1:] == (3, 48, 64) and batch[CAMERA].is_contiguous()
    assert float(batch[CAMERA].max()) <= 1


def test_rewards_of_an_earlier_step_are_used_before_the_recorded(dataset):
    _, label = labeller(dataset, of_frames, trajectory_weight=1.0, subtask_weight=0.0, steps=1)
    episode = Episode(dataset, 0)
    recorded = label(episode).columns[c.ADVANTAGE]
    episode.labels = {c.REWARD_TRAJECTORY: dataset.column(0, c.REWARD_TRAJECTORY) + 2}
    np.testing.assert_allclose(label(episode).columns[c.ADVANTAGE], recorded + 2, atol=1e-6)


def test_worked_numbers():
    found = np.array([[0.5, 1.0, 0.3], [0.4, 0.5, 0.6], [0.2, 0.0, 0.9]])
    rewards = np.full(3, 1 / 3), np.array([0.0, 0.5, 0.5])
    both = judging(trajectory_weight=0.4, subtask_weight=0.6, discount=1.0, steps=2).columns(found, *rewards)
    np.testing.assert_allclose(both[c.VALUE], [0.8, 0.46, 0.08], rtol=1e-6)
    rewarded = [0.4 / 3, 0.4 / 3 + 0.3, 0.4 / 3 + 0.3]
    expected = [sum(rewarded[:2]) + 0.08 - 0.8, sum(rewarded[1:]) - 0.46, rewarded[2] - 0.08]
    np.testing.assert_allclose(both[c.ADVANTAGE], expected, rtol=1e-5)
    sparse = judging(trajectory_weight=1.0, subtask_weight=0.0, discount=0.5, steps=1, reward="sparse")
    made = sparse.columns(found, *rewards)
    np.testing.assert_allclose(made[c.ADVANTAGE], [0.2 - 0.5, 0.1 - 0.4, 1 - 0.2], rtol=1e-5)
    failed = sparse.columns(found, np.zeros(3), rewards[1])
    np.testing.assert_allclose(failed[c.ADVANTAGE], [0.2 - 0.5, 0.1 - 0.4, -0.2], rtol=1e-5)
    single = judging(trajectory_weight=0.4, subtask_weight=0.6, discount=1.0, steps=1, value="single")
    made = single.columns(found, *rewards)
    np.testing.assert_allclose(made[c.VALUE], found[:, 0], rtol=1e-6)
    assert made[c.VALUE_SUBTASK].tolist() == [0, 0, 0]
    np.testing.assert_allclose(made[c.ADVANTAGE], np.add(rewarded, [0.4 - 0.5, 0.2 - 0.4, -0.2]), rtol=1e-5)


def test_an_actor_without_cameras_reads_none(dataset):
    (dataset.root / "videos").rename(dataset.root.parent / "elsewhere")
    actor, label = labeller(dataset, lambda b: b[c.STATE], inputs=Inputs((), {c.STATE: 3}))
    np.testing.assert_array_equal(label(Episode(dataset, 0)).columns[c.VALUE_SUBTASK], dataset.column(0, c.STATE)[:, 1])
    assert CAMERA not in actor.seen[0][0]


def test_the_next_episode_is_read_while_the_last_batch_is_computed(dataset):
    states = []

    def see(batch):
        states.append(label._reading is not None)
        return of_frames(batch)

    _, label = labeller(dataset, see, 16)
    label.expect(3)
    label(Episode(dataset, 0))
    assert states == [False, False, True], "40 frames are 16, 16 and 8"
    ahead = label(Episode(dataset, 3)).columns
    assert label._reading is None
    other = labeller(dataset, of_frames, 16)[1](Episode(dataset, 3)).columns
    for name, values in ahead.items():
        np.testing.assert_array_equal(values, other[name])
    # Another episode than was expected, as after an error.
    label.expect(3)
    label(Episode(dataset, 0))
    np.testing.assert_array_equal(
        label(Episode(dataset, 1)).columns[c.VALUE],
        labeller(dataset, of_frames)[1](Episode(dataset, 1)).columns[c.VALUE],
    )


def test_what_is_wrong_with_the_next_episode_is_not_this_ones_fault(dataset):
    _, label = labeller(dataset, of_frames)
    data = dataset.root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(data)
    # The second episode of the file says that it is another one.
    index = np.where(np.arange(len(table)) < 25, 2, 9)
    pq.write_table(table.set_column(table.column_names.index(c.EPISODE_INDEX), c.EPISODE_INDEX, pa.array(index)), data)
    label.expect(3)
    assert len(label(Episode(dataset, 0)).columns[c.VALUE]) == 40
    with pytest.raises(EpisodeError, match=r"episode 3: .* episodes \[9\]"):
        label(Episode(dataset, 3))


def test_an_episode_that_was_set_aside_has_no_rewards(dataset):
    _, label = labeller(dataset, of_frames)
    with pytest.raises(EpisodeError, match="episode 2: reward_trajectory is nan at frame 0"):
        label(Episode(dataset, 2))


def test_a_critic_that_gives_no_number(dataset):
    def see(batch):
        out = of_frames(batch)
        out[:, 1] = out[:, 1].where(out[:, 1] < 0.9, float("nan"))
        return out

    bad = np.flatnonzero(~(dataset.column(0, c.STATE)[:, 0] < 0.9))
    _, label = labeller(dataset, see)
    with pytest.raises(EpisodeError, match=rf"episode 0: .* no number at frame {bad[0]} \({len(bad)} frames in all\)"):
        label(Episode(dataset, 0))


def test_a_batch_that_does_not_fit(dataset):
    import torch

    def see(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    _, label = labeller(dataset, see, 16)
    with pytest.raises(IgrftError, match=r"a batch of 16 frames does not fit .*--steps\.values\.batch_size=8"):
        label(Episode(dataset, 0))


def test_pictures_that_cannot_be_decoded_set_one_episode_aside(dataset):
    (dataset.root / f"videos/{CAMERA}/chunk-000/file-001.mp4").write_bytes(b"")
    _, label = labeller(dataset, of_frames)
    with pytest.raises(EpisodeError, match="cannot be decoded"):
        label(Episode(dataset, 3))
    assert len(label(Episode(dataset, 0)).columns[c.VALUE]) == 40


def test_rewards_are_read_from_the_columns_that_the_set_has(dataset):
    table = pq.read_table(dataset.root / "data/chunk-000/file-000.parquet", columns=[c.REWARD_TRAJECTORY])
    episode = Episode(dataset, 0)
    np.testing.assert_array_equal(episode.given(c.REWARD_TRAJECTORY), table.column(0).to_numpy()[:40])
    episode.labels[c.REWARD_TRAJECTORY] = np.ones(40)
    assert episode.given(c.REWARD_TRAJECTORY).sum() == 40
