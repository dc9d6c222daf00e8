"""Labels of every frame: recombined as the recipe says, and who uses which."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_set import NAMES, make_labelled_set
from training_sets import add_column, drop_columns, edit_column, edit_json, make_recipe

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.rewards import combine, n_step_advantages, return_to_go, trajectory_rewards
from igrft.training.episodes import first_failure, held_out_episodes
from igrft.training.labelling import frame_labels
from igrft.training.labels import ARRAYS, FrameLabels, required_columns
from igrft.training.recipe import Recipe

#: Frames of the four episodes of the labelled set: a success, a failure, one set aside, a success with a retry.
SPANS = {0: slice(0, 40), 1: slice(40, 70), 2: slice(70, 95), 3: slice(95, 145)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("original") / "set")


@pytest.fixture
def root(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "set"))


def labels_of(root: Path, steps: int = 5, recipe: Recipe | None = None, **settings) -> FrameLabels:
    return frame_labels(DatasetReader.open(root), recipe or make_recipe(root, **settings), steps)


def test_indices_and_lengths(original: Path) -> None:
    found = labels_of(original)
    assert len(found) == 145
    assert found.episode.tolist() == [0] * 40 + [1] * 30 + [2] * 25 + [3] * 50
    assert found.frame[38:43].tolist() == [38, 39, 0, 1, 2]
    assert found.length[[0, 40, 70, 95]].tolist() == [40, 30, 25, 50]
    assert found.next_index[[0, 34, 35, 39, 64, 69, 144]].tolist() == [5, 39, 39, 39, 69, 69, 144]
    assert found.bootstrap[[0, 34, 35, 39]].tolist() == [1, 1, 0, 0]
    assert [found.subtask_names[i] for i in found.subtask[[0, 39, 69]]] == [NAMES[0], NAMES[2], NAMES[1]]
    assert (found.subtask[SPANS[2]] == -1).all()
    types = {n: getattr(found, n).dtype for n in ARRAYS}
    assert {n for n, t in types.items() if t.kind == "b"} == {"trained", "critic", "success", "intervention"}
    assert {n for n, t in types.items() if t == np.int32} == {"episode", "frame", "length"}
    assert types["next_index"] == np.int64
    assert {t for n, t in types.items() if t.kind == "f"} == {np.dtype(np.float32)}


@pytest.mark.parametrize("gamma", [1.0, 0.97])
def test_hybrid_rewards_are_recombined(original: Path, gamma: float) -> None:
    found = labels_of(original, rewards__discount=gamma, rewards__trajectory_weight=0.3, rewards__subtask_weight=0.7)
    stored = load_labels(original)
    for episode in (0, 1, 3):
        span = SPANS[episode]
        columns = stored.episode(episode)
        trajectory, subtask = columns[c.REWARD_TRAJECTORY], columns[c.REWARD_SUBTASK]
        np.testing.assert_allclose(found.return_trajectory[span], return_to_go(trajectory, gamma), atol=1e-6)
        np.testing.assert_allclose(found.return_subtask[span], return_to_go(subtask, gamma), atol=1e-6)
        reward = combine(trajectory, subtask, 0.3, 0.7)
        wanted = [sum(gamma**j * reward[f + j] for j in range(min(5, len(reward) - f))) for f in range(len(reward))]
        np.testing.assert_allclose(found.reward_sum[span], wanted, atol=1e-6)
        assert found.bootstrap[span][0] == np.float32(gamma**5)
        np.testing.assert_array_equal(found.interaction[span], columns[c.INTERACTION].astype(np.float32))
    for name in ("return_trajectory", "return_subtask", "reward_sum", "interaction"):
        assert np.isnan(getattr(found, name)[SPANS[2]]).all()
    assert np.isnan(found.advantage).all()
    assert found.return_trajectory[40] == 0
    if gamma == 1:
        assert found.return_trajectory[0] == found.return_subtask[0] == pytest.approx(1)


def test_a_window_longer_than_the_episode(original: Path) -> None:
    found = labels_of(original, steps=1000)
    assert (found.bootstrap == 0).all()
    np.testing.assert_allclose(
        found.reward_sum[SPANS[0]],
        combine(found.return_trajectory[SPANS[0]], found.return_subtask[SPANS[0]]),
        atol=1e-6,
    )
    assert (found.next_index[SPANS[3]] == 144).all()


def test_a_sparse_reward_pays_one_on_the_last_frame_of_a_success(original: Path) -> None:
    found = labels_of(original, steps=3, rewards__kind="sparse", rewards__discount=0.5)
    np.testing.assert_allclose(found.return_trajectory[36:40], [0.125, 0.25, 0.5, 1])
    assert (found.return_trajectory[SPANS[1]] == 0).all()
    assert (found.return_subtask[SPANS[0]] == 0).all()
    np.testing.assert_allclose(found.reward_sum[36:40], [0, 0.25, 0.5, 1])


def test_idle_frames_get_no_trajectory_reward(root: Path) -> None:
    def pause(values: np.ndarray, episode: int) -> np.ndarray:
        values[10:20] = values[10]
        return values

    edit_column(root, c.STATE, pause)
    with_credit, without = labels_of(root, steps=1), labels_of(root, steps=1, rewards__idle_credit=False)
    per_frame = trajectory_rewards(40, True)
    moving = np.delete(np.arange(40), np.s_[10:19])
    reward = load_labels(root).episode(0)[c.REWARD_SUBTASK] * 0.6
    np.testing.assert_allclose(with_credit.reward_sum[SPANS[0]], reward + 0.4 * per_frame, atol=1e-7)
    np.testing.assert_allclose(without.reward_sum[10:19], reward[10:19], atol=1e-7)
    np.testing.assert_allclose(without.reward_sum[moving], reward[moving] + 0.4 / len(moving), atol=1e-7)
    assert without.return_trajectory[0] == pytest.approx(1)
    np.testing.assert_array_equal(without.return_subtask, with_credit.return_subtask)
    # A failure has no trajectory reward to move.
    assert (without.return_trajectory[SPANS[1]] == 0).all()


def test_motion_is_speed_in_standard_deviations(original: Path) -> None:
    found = labels_of(original)
    state = load_labels(original, [c.STATE])[c.STATE].astype(np.float64)
    scaled = state / state.std(axis=0)
    step = np.linalg.norm(np.diff(scaled[SPANS[3]], axis=0), axis=1)
    np.testing.assert_allclose(found.motion[SPANS[3]], [*step, step[-1]], rtol=1e-5)


def test_advantages_from_the_value_columns(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name in (c.VALUE_TRAJECTORY, c.VALUE_SUBTASK):
        add_column(root, name, lambda n, e: np.full(n, np.nan) if e == 2 else rng.normal(size=n))
    found = labels_of(root, advantage__source="columns", objective__type="awr", rewards__discount=0.9)
    for episode in (0, 1, 3):
        columns = load_labels(root).episode(episode)
        reward = combine(columns[c.REWARD_TRAJECTORY], columns[c.REWARD_SUBTASK])
        value = combine(columns[c.VALUE_TRAJECTORY], columns[c.VALUE_SUBTASK])
        wanted = n_step_advantages(reward, value, 5, 0.9)
        np.testing.assert_allclose(found.advantage[SPANS[episode]], wanted, atol=1e-6)
    assert np.isnan(found.advantage[SPANS[2]]).all()
    assert np.isnan(labels_of(root).advantage).all()
    sparse = labels_of(root, advantage__source="columns", rewards__kind="sparse")
    value = load_labels(root).episode(1)[c.VALUE_TRAJECTORY]
    np.testing.assert_allclose(
        sparse.advantage[SPANS[1]], n_step_advantages(np.zeros(30), value.astype(float), 5), atol=1e-6
    )


def test_interventions_under_any_spelling(root: Path) -> None:
    assert not labels_of(root).intervention.any()
    add_column(root, "complementary_info.is_intervention", lambda n, e: (np.arange(n) < 4) * (e == 1))
    assert np.flatnonzero(labels_of(root).intervention).tolist() == [40, 41, 42, 43]
    add_column(root, c.INTERVENTION, lambda n, e: np.arange(n) == 7, "bool")
    assert np.flatnonzero(labels_of(root).intervention).tolist() == [7, 47, 77, 102]


def test_frames_of_the_actor(root: Path) -> None:
    used = {kind: labels_of(root, objective__frames=kind).trained for kind in ("all", "successes", "until_failure")}
    ones = {kind: {e: int(mask[span].sum()) for e, span in SPANS.items()} for kind, mask in used.items()}
    assert ones["all"] == {0: 40, 1: 30, 2: 0, 3: 50}
    assert ones["successes"] == {0: 40, 1: 0, 2: 0, 3: 50}
    # Episode 1 failed at `grasp`, which begins at frame 10; the retry of episode 3 is no failure.
    assert ones["until_failure"] == {0: 40, 1: 10, 2: 0, 3: 50}
    assert used["until_failure"][40:50].all()
    assert (labels_of(root, objective__frames="successes").critic == used["all"]).all()


def test_the_first_failure() -> None:
    def subtask(name: str, start: int, done: bool) -> dict:
        return {"name": name, "start": start, "end": start + 5, "done": done}

    assert first_failure([subtask("a", 0, True), subtask("b", 5, False), subtask("c", 10, False)]) == 5
    assert first_failure([subtask("a", 0, False), subtask("a", 5, True), subtask("b", 10, False)]) == 10
    assert first_failure([subtask("a", 0, True)]) is None
    assert first_failure([]) is None


def test_chosen_episodes(original: Path) -> None:
    dataset = DatasetReader.open(original)
    found = frame_labels(dataset, make_recipe(original), 5, episodes=[3, 1])
    assert np.unique(found.episode[found.trained]).tolist() == [1, 3]
    assert np.isnan(found.reward_sum[SPANS[0]]).all()
    with pytest.raises(UsageError, match=r"has no episode 9; it has 4 episodes"):
        frame_labels(dataset, make_recipe(original), 5, episodes=[9])


def test_success_from_the_record_else_from_columns(root: Path) -> None:
    assert labels_of(root).episodes.success.tolist() == [True, False, False, True]
    assert labels_of(root).success[SPANS[3]].all()
    (root / "meta/igrft.json").unlink()
    drop_columns(root, c.SUCCESS)
    unknown = labels_of(root, critic__enabled=False)
    assert not unknown.episodes.knows_success and not unknown.success.any()
    assert np.isnan(labels_of(root, rewards__kind="sparse").reward_sum).all()
    assert not unknown.episodes.set_aside.any()
    add_column(root, "is_success", lambda n, e: (np.arange(n) == 3) * (e in (1, 2)), "bool")
    found = labels_of(root, critic__enabled=False)
    assert found.episodes.knows_success and found.episodes.success.tolist() == [False, True, True, False]


def test_a_set_without_labels_has_frames_all_the_same(root: Path, tmp_path: Path) -> None:
    plain = make_labelled_set(tmp_path / "plain", labels=False, videos=False)
    found = labels_of(plain, critic__enabled=False)
    assert found.trained.all() and not found.episodes.held_out.any()
    for name in ("return_trajectory", "return_subtask", "reward_sum", "interaction", "advantage"):
        assert np.isnan(getattr(found, name)).all()
    assert (found.subtask == -1).all() and found.motion.max() > 0


def test_nan_in_a_label_that_is_used(root: Path) -> None:
    def hole(values: np.ndarray, episode: int) -> np.ndarray:
        values[3:5] = np.nan if episode == 3 else values[3:5]
        return values

    edit_column(root, c.REWARD_SUBTASK, hole)
    with pytest.raises(IgrftError, match=r"set: episode 3, frame 3: 'reward_subtask' is not finite \(2 such frames\)"):
        labels_of(root)
    labels_of(root, critic__enabled=False)
    frame_labels(DatasetReader.open(root), make_recipe(root), 5, episodes=[0, 1])


def test_rows_out_of_order_are_refused(root: Path) -> None:
    dataset = DatasetReader.open(root)
    dataset.from_index[2] += 1
    with pytest.raises(IgrftError, match=r"episode 2 begins at row 71, .* end at 70; run: igrft validate"):
        frame_labels(dataset, make_recipe(root), 5)


def test_idle_credit_needs_a_state(root: Path) -> None:
    drop_columns(root, c.STATE)
    assert np.isnan(labels_of(root).motion).all()
    with pytest.raises(IgrftError, match=r"no column 'observation.state'.*rewards.idle_credit=true"):
        labels_of(root, rewards__idle_credit=False)


def test_required_columns() -> None:
    def needed(has_text: bool = False, **settings) -> set[str]:
        return set(required_columns(make_recipe(**settings), has_text))

    rewards = {c.REWARD_TRAJECTORY, c.REWARD_SUBTASK}
    plain = {"critic__enabled": False}
    assert needed(**plain) == set()
    assert needed() == rewards | {c.INTERACTION}
    assert needed(rewards__kind="sparse") == {c.SUCCESS, c.INTERACTION}
    assert needed(objective__type="ig_awr") == rewards | {c.INTERACTION}
    values = {"objective__type": "awr", "advantage__source": "columns"}
    assert needed(**plain, **values) == rewards | {c.VALUE_TRAJECTORY, c.VALUE_SUBTASK}
    assert needed(**plain, **values, rewards__kind="sparse") == {c.SUCCESS, c.VALUE_TRAJECTORY}
    assert needed(objective__type="iql", advantage__source="columns") == rewards | {c.INTERACTION}
    assert needed(**plain, objective__frames="successes") == {c.SUCCESS}
    assert needed(True, **plain) == {c.SUBTASK_INDEX}
    assert needed(True, **plain, objective__text_weight=0.0) == set()
    assert "--critic.enabled=false" in required_columns(make_recipe(), False)[c.INTERACTION]


def test_held_out_episodes_are_of_both_kinds() -> None:
    success = np.arange(40) % 4 != 0
    held = held_out_episodes(success, 0.1, seed=0)
    assert held.sum() == 4 and (held & ~success).sum() == 1
    np.testing.assert_array_equal(held, held_out_episodes(success, 0.1, seed=0))
    assert any((held != held_out_episodes(success, 0.1, seed=s)).any() for s in range(1, 4))
    assert held_out_episodes(np.ones(5, dtype=bool), 0.1, 0).sum() == 1
    assert held_out_episodes(np.ones(3, dtype=bool), 0.5, 0).sum() == 0
    assert held_out_episodes(np.ones(50, dtype=bool), 0.0, 0).sum() == 0
    # One failure of ten is never held out: the critic would see none.
    assert not held_out_episodes(np.arange(10) > 0, 0.5, 0)[0]


@given(arrays(np.bool_, st.integers(4, 60)), st.floats(0.01, 0.99), st.integers(0, 3))
def test_held_out_episodes_in_any_dataset(success: np.ndarray, share: float, seed: int) -> None:
    held = held_out_episodes(success, share, seed)
    kinds = [success.sum(), (~success).sum()]
    most = sum(max(k - 1, 0) for k in kinds)
    assert held.sum() == min(max(1, round(share * len(success))), most)
    for mask, count in zip((success, ~success), kinds, strict=True):
        if count:
            assert (held & mask).sum() < count
        if held.sum() >= 2 and count >= 2:
            assert (held & mask).any()


def test_the_critic_never_sees_held_out_episodes(root: Path) -> None:
    edit_json(root / "meta/igrft.json", lambda r: r["episodes"]["2"].update(set_aside=None, success=False))
    for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK):
        edit_column(root, name, lambda v, e: np.nan_to_num(v))
    found = labels_of(root, critic__holdout=0.5, seed=1)
    held = found.episodes.held_out
    assert held.sum() == 2 and (held & found.episodes.success).sum() == 1
    assert found.trained.all()
    np.testing.assert_array_equal(found.critic, ~np.repeat(held, found.episodes.length))
    assert labels_of(root, critic__holdout=0.5, critic__enabled=False).episodes.held_out.sum() == 0
    assert labels_of(root, critic__holdout=0.0).critic.all()
