"""Makes the labels of every frame of label columns, recombined as a recipe says; a piece of the set at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.rewards.advantages import n_step_advantages
from igrft.rewards.hybrid import combine
from igrft.rewards.idle import idle_frames, state_speed, without_idle_credit
from igrft.rewards.returns import return_to_go
from igrft.training.blocks import Piece, pieces
from igrft.training.episodes import Episodes, episode_facts, first_failure
from igrft.training.frames import matrix, place_of
from igrft.training.labels import DTYPES, FrameLabels, required_columns, reward_weights
from igrft.training.recipe import Recipe

Columns = Mapping[str, np.ndarray]


def frame_labels(
    dataset: DatasetReader, recipe: Recipe, steps: int, *, episodes: Sequence[int] | None = None
) -> FrameLabels:
    """Read the labels of a dataset and recombine them with the recipe's settings.

    Labels that the dataset lacks are left NaN: :func:`igrft.training.checks.check_columns` says which a
    recipe needs.

    Args:
        steps: N, of the advantage.
        episodes: ``episode_index`` of those to use; None is all.

    Raises:
        UsageError: an episode that the dataset has not.
        IgrftError: NaN in a label that is used; frames that are not in the order of the episodes' table; idle
            credit without a state.
    """
    facts = facts_of(dataset, recipe, episodes)
    arrays = {name: np.empty(dataset.num_frames, dtype) for name, dtype in DTYPES.items()}
    for index, made in label_pieces(dataset, recipe, steps, facts):
        for name, values in made.items():
            arrays[name][index] = values
    return FrameLabels(**arrays, episodes=facts, subtask_names=dataset.subtask_names)


def facts_of(dataset: DatasetReader, recipe: Recipe, episodes: Sequence[int] | None) -> Episodes:
    """Facts of the episodes, with how far the actor trains on each. Raises as :func:`frame_labels`."""
    _refuse_disorder(dataset)
    facts = episode_facts(dataset, recipe, load_labels(dataset, []), episodes)
    return replace(facts, trained=_frames_of_the_actor(dataset, recipe, facts))


def label_pieces(
    dataset: DatasetReader, recipe: Recipe, steps: int, facts: Episodes
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(absolute indices, the arrays of FrameLabels there), a piece at a time. Raises as :func:`frame_labels`."""
    names = _columns_to_read(dataset, recipe)
    scale = None
    if c.STATE in dataset.features:
        scale = _deviation(dataset)
        names.append(c.STATE)
    for piece in pieces(dataset, names):
        if len(piece.index):
            yield piece.index, _labelled(dataset, recipe, steps, facts, piece, scale)


def _labelled(
    dataset: DatasetReader, recipe: Recipe, steps: int, facts: Episodes, piece: Piece, scale: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The arrays of some episodes."""
    here = facts.at(piece.rows)
    read = piece.columns
    used = np.repeat(here.usable, here.length)
    _refuse_nan(dataset, read, recipe, used, piece.index)
    length = np.repeat(here.length, here.length)
    frame = np.arange(len(length)) - np.repeat(here.start, here.length)
    motion = _motion(read, here, scale)
    gamma = recipe.rewards.discount
    components = _components(dataset, recipe, read, here, motion)
    returns, reward_sum, advantage = _recombined(recipe, read, here, components, steps)
    nothing = np.full(len(length), np.nan, dtype=np.float32)
    interaction = read.get(c.INTERACTION)
    subtask = read.get(c.SUBTASK_INDEX)
    return {
        "episode": np.repeat(here.index, here.length),
        "frame": frame,
        "length": length,
        "return_trajectory": returns[:, 0],
        "return_subtask": returns[:, 1],
        "reward_sum": reward_sum,
        "bootstrap": np.where(frame + steps < length, gamma**steps, 0.0),
        "next_index": piece.index - frame + np.minimum(frame + steps, length - 1),
        "interaction": nothing if interaction is None else np.where(used, interaction, np.nan),
        "intervention": _intervention(dataset, read, len(length)),
        "motion": motion,
        "advantage": advantage,
        "trained": frame < np.repeat(here.trained, here.length),
        "critic": used & ~np.repeat(here.held_out, here.length),
        "success": np.repeat(here.success, here.length),
        "subtask": np.full(len(length), -1) if subtask is None else subtask,
    }


def _refuse_disorder(dataset: DatasetReader) -> None:
    """LeRobot addresses rows by their absolute index: it must be their place."""
    expected = np.cumsum(dataset.lengths) - dataset.lengths
    wrong = np.flatnonzero((dataset.from_index != expected) | (dataset.episode_indices != np.arange(len(expected))))
    if len(wrong):
        raise IgrftError(
            f"{dataset.root}: the episodes' table says that episode {dataset.episode_indices[wrong[0]]} begins at row "
            f"{dataset.from_index[wrong[0]]}, but the episodes before it end at {expected[wrong[0]]}; "
            f"run: igrft validate {dataset.root}"
        )


def _columns_to_read(dataset: DatasetReader, recipe: Recipe) -> list[str]:
    wanted = [c.REWARD_TRAJECTORY, c.REWARD_SUBTASK, c.INTERACTION, c.SUBTASK_INDEX, *_spelling(dataset)]
    if recipe.advantage.source == "columns":
        wanted += [c.VALUE_TRAJECTORY, c.VALUE_SUBTASK]
    return [name for name in wanted if name in dataset.features]


def _spelling(dataset: DatasetReader) -> list[str]:
    return [n for n in c.INTERVENTION_SPELLINGS if n in dataset.features][:1]


def _intervention(dataset: DatasetReader, read: Columns, count: int) -> np.ndarray:
    """bool [N]; absent reads as false."""
    for name in _spelling(dataset):
        return np.nan_to_num(read[name].astype(np.float32)) > 0.5
    return np.zeros(count, dtype=bool)


def _refuse_nan(dataset: DatasetReader, read: Columns, recipe: Recipe, used: np.ndarray, index: np.ndarray) -> None:
    """No NaN in a label that the recipe needs, in an episode that is used."""
    for name in required_columns(recipe, has_text=False):
        values = read.get(name)
        if values is None or values.dtype.kind != "f":
            continue
        wrong = np.flatnonzero(used & ~np.isfinite(values))
        if len(wrong):
            raise IgrftError(
                f"{dataset.root}: {place_of(dataset, int(index[wrong[0]]))}: {name!r} is not finite ({len(wrong)} such "
                "frames), though the episode was not set aside; label the dataset again: igrft annotate"
            )


def _motion(read: Columns, facts: Episodes, scale: np.ndarray | None) -> np.ndarray:
    """float32 [N]; NaN throughout where the dataset has no state."""
    total = int(facts.length.sum())
    if scale is None:
        return np.full(total, np.nan, dtype=np.float32)
    state = matrix(read[c.STATE])
    out = np.zeros(total, dtype=np.float32)
    for start, length in zip(facts.start.tolist(), facts.length.tolist(), strict=True):
        out[start : start + length] = state_speed(state[start : start + length], scale)
    return out


def _deviation(dataset: DatasetReader) -> np.ndarray:
    """Standard deviation of each dimension of the state over the frames that are finite, float64 [d]."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for piece in pieces(dataset, [c.STATE]):
        rows = matrix(piece.columns[c.STATE]).astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            continue
        # Means and squares of two parts are those of the whole, exactly but for rounding.
        added = rows.mean(axis=0)
        apart = added - mean if count else np.zeros(1)
        squares = squares + ((rows - added) ** 2).sum(axis=0) + apart**2 * (count * len(rows) / (count + len(rows)))
        mean = (mean * count + added * len(rows)) / (count + len(rows))
        count += len(rows)
    width = int(np.prod(dataset.features[c.STATE]["shape"]))
    return np.sqrt(squares / max(count, 1)) * np.ones(width)


def _components(
    dataset: DatasetReader, recipe: Recipe, read: Columns, facts: Episodes, motion: np.ndarray
) -> np.ndarray:
    """Trajectory and subtask reward, float64 [N, 2]; NaN where there are none."""
    total = int(facts.length.sum())
    out = np.full((total, 2), np.nan)
    if recipe.rewards.kind == "sparse":
        if facts.knows_success:
            out[:] = 0.0
            filled = facts.success & (facts.length > 0)
            out[(facts.start + facts.length - 1)[filled], 0] = 1.0
        return out
    for i, name in enumerate((c.REWARD_TRAJECTORY, c.REWARD_SUBTASK)):
        if name in read:
            out[:, i] = read[name]
    if recipe.rewards.idle_credit or c.REWARD_TRAJECTORY not in read:
        return out
    if c.STATE not in dataset.features:
        raise IgrftError(
            f"{dataset.root} has no column {c.STATE!r}, by which idle frames are found; set rewards.idle_credit=true"
        )
    for start, length in zip(facts.start[facts.usable].tolist(), facts.length[facts.usable].tolist(), strict=True):
        span = slice(start, start + length)
        out[span, 0] = without_idle_credit(out[span, 0], idle_frames(motion[span], recipe.rewards.idle_speed))
    return out


def _recombined(
    recipe: Recipe, read: Columns, facts: Episodes, components: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns float32 [N, 2], N-step reward sums and advantages float32 [N]; NaN in episodes not used."""
    gamma = recipe.rewards.discount
    weights = reward_weights(recipe)
    reward = combine(components[:, 0], components[:, 1], *weights) if weights[1] else weights[0] * components[:, 0]
    value = _value(recipe, read, weights)
    returns = np.full(components.shape, np.nan, dtype=np.float32)
    reward_sum = np.full(len(components), np.nan, dtype=np.float32)
    advantage = np.full(len(components), np.nan, dtype=np.float32)
    zeros = np.zeros(int(facts.length.max(initial=0)))
    for start, length in zip(facts.start[facts.usable].tolist(), facts.length[facts.usable].tolist(), strict=True):
        span = slice(start, start + length)
        returns[span] = return_to_go(components[span], gamma)
        reward_sum[span] = n_step_advantages(reward[span], zeros[:length], steps, gamma)
        if value is not None:
            advantage[span] = n_step_advantages(reward[span], value[span], steps, gamma)
    return returns, reward_sum, advantage


def _value(recipe: Recipe, read: Columns, weights: tuple[float, float]) -> np.ndarray | None:
    """The value columns, recombined; None where they are not asked for or not there."""
    if recipe.advantage.source != "columns" or c.VALUE_TRAJECTORY not in read:
        return None
    if not weights[1]:
        return weights[0] * read[c.VALUE_TRAJECTORY].astype(np.float64)
    if c.VALUE_SUBTASK not in read:
        return None
    return combine(read[c.VALUE_TRAJECTORY], read[c.VALUE_SUBTASK], *weights)


def _frames_of_the_actor(dataset: DatasetReader, recipe: Recipe, facts: Episodes) -> np.ndarray:
    """Frames of each episode, from its first on, that ``objective.frames`` lets through: int64 [E]."""
    upto = np.where(facts.usable, facts.length, 0)
    if recipe.objective.frames == "successes":
        return np.where(facts.success, upto, 0)
    if recipe.objective.frames == "until_failure":
        entries = (dataset.igrft or {}).get("episodes") or {}
        for i in np.flatnonzero(~facts.success & facts.usable):
            cut = first_failure((entries.get(str(int(facts.index[i]))) or {}).get("subtasks") or [])
            if cut is not None:
                upto[i] = min(upto[i], cut)
    return upto
