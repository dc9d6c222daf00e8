"""What the trainer knows of every frame of a dataset: label columns, recombined as a recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import Labels, load_labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.rewards.advantages import n_step_advantages
from igrft.rewards.hybrid import combine
from igrft.rewards.idle import idle_frames, state_speed, without_idle_credit
from igrft.rewards.returns import return_to_go
from igrft.training.episodes import Episodes, episode_facts, first_failure
from igrft.training.frames import place_of, read_matrix
from igrft.training.recipe import Recipe

#: Objectives that weight samples by their advantage.
WEIGHTED = ("awr", "ig_awr", "iql")


@dataclass(frozen=True)
class FrameLabels:
    """Arrays [N] over the frames of a dataset, whose absolute index is their place here.

    NaN stands where the dataset has no such label, and throughout episodes that are not used.

    Attributes:
        episode, frame, length: ``episode_index``, frame in it and its number of frames T, int32.
        return_trajectory, return_subtask: unweighted returns-to-go with the recipe's discount, float32.
        reward_sum: sum over j < N of gamma^j r(f+j), float32; past the end of the episode r is 0.
        bootstrap: gamma^N where f + N < T, else 0, float32: the factor of V(f+N).
        next_index: absolute index of the frame N later, at most the episode's last, int64.
        interaction: 0 or 1, float32.
        intervention: a human overrode a policy, bool.
        motion: speed of the state in standard deviations a frame, float32.
        advantage: N-step, of the dataset's value columns, float32; NaN unless ``advantage.source`` is columns.
        trained: used by the actor, bool.
        critic: the critic may train on it (where it is drawn for the actor), bool.
        success: of its episode, bool.
        subtask: ``subtask_index``, int32; -1 where there is none.
        episodes: facts of the episodes.
        subtask_names: by ``subtask``.
    """

    episode: np.ndarray
    frame: np.ndarray
    length: np.ndarray
    return_trajectory: np.ndarray
    return_subtask: np.ndarray
    reward_sum: np.ndarray
    bootstrap: np.ndarray
    next_index: np.ndarray
    interaction: np.ndarray
    intervention: np.ndarray
    motion: np.ndarray
    advantage: np.ndarray
    trained: np.ndarray
    critic: np.ndarray
    success: np.ndarray
    subtask: np.ndarray
    episodes: Episodes
    subtask_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays at some frames, [B] each, by name; all but ``subtask``."""
        return {name: getattr(self, name)[index] for name in ARRAYS}


#: Names of the arrays that a batch carries.
ARRAYS = tuple(f.name for f in fields(FrameLabels) if f.type == "np.ndarray" and f.name != "subtask")


def reward_weights(recipe: Recipe) -> tuple[float, float]:
    """Weights of the two components (Eq. 7). The sparse reward has one, which pays 1 (METHOD)."""
    if recipe.rewards.kind == "sparse":
        return 1.0, 0.0
    return recipe.rewards.trajectory_weight, recipe.rewards.subtask_weight


def needs_next(recipe: Recipe) -> bool:
    """Whether the loop judges by V of the observation N frames later."""
    return recipe.objective.type in WEIGHTED and (recipe.objective.type == "iql" or recipe.advantage.source == "critic")


def required_columns(recipe: Recipe, has_text: bool) -> dict[str, str]:
    """Label columns that a recipe cannot do without, each with what needs it and how to do without.

    ``next.success`` stands for any record of the episodes' success.

    Args:
        has_text: whether the policy has a language model.
    """
    needed: dict[str, str] = {}
    objective = recipe.objective
    weighted = objective.type in WEIGHTED
    if weighted or recipe.critic.enabled:
        why = (
            f"objective {objective.type} weights by it; --objective.type=sft --critic.enabled=false does without"
            if weighted
            else "the critic learns its return; --critic.enabled=false does without"
        )
        if recipe.rewards.kind == "sparse":
            needed[c.SUCCESS] = why
        else:
            needed |= {c.REWARD_TRAJECTORY: why, c.REWARD_SUBTASK: why}
    if recipe.critic.enabled:
        needed[c.INTERACTION] = "the critic learns it; --critic.enabled=false does without"
    if weighted and objective.type != "iql" and recipe.advantage.source == "columns":
        why = "advantage.source is columns; --advantage.source=critic does without"
        needed |= {c.VALUE_TRAJECTORY: why} | ({} if recipe.rewards.kind == "sparse" else {c.VALUE_SUBTASK: why})
    if objective.frames != "all":
        needed.setdefault(c.SUCCESS, f"objective.frames is {objective.frames}; --objective.frames=all does without")
    if has_text and objective.text_weight > 0:
        needed[c.SUBTASK_INDEX] = "the language model learns its text; --objective.text_weight=0 does without"
    return needed


def frame_labels(
    dataset: DatasetReader,
    recipe: Recipe,
    steps: int,
    *,
    episodes: Sequence[int] | None = None,
    state: np.ndarray | None = None,
) -> FrameLabels:
    """Read the labels of a dataset and recombine them with the recipe's settings.

    Labels that the dataset lacks are left NaN: :func:`igrft.training.checks.check_columns` says which a
    recipe needs.

    Args:
        steps: N, of the advantage.
        episodes: ``episode_index`` of those to use; None is all.
        state: ``observation.state`` [N, d] where it has been read already.

    Raises:
        UsageError: an episode that the dataset has not.
        IgrftError: NaN in a label that is used; frames that are not in the order of the episodes' table; idle
            credit without a state.
    """
    _refuse_disorder(dataset)
    read = load_labels(dataset, _columns_to_read(dataset, recipe))
    facts = episode_facts(dataset, recipe, read, episodes)
    used = np.repeat(facts.usable, facts.length)
    _refuse_nan(dataset, read, recipe, used)
    start = np.repeat(facts.start, facts.length)
    length = np.repeat(facts.length, facts.length)
    frame = np.arange(len(start)) - start
    motion = _motion(dataset, facts, state)
    gamma = recipe.rewards.discount
    components = _components(dataset, recipe, read, facts, motion)
    returns, reward_sum, advantage = _recombined(recipe, read, facts, components, steps)
    success = np.repeat(facts.success, facts.length)
    nothing = np.full(len(start), np.nan, dtype=np.float32)
    interaction = read.columns.get(c.INTERACTION)
    subtask = read.columns.get(c.SUBTASK_INDEX)
    return FrameLabels(
        episode=np.repeat(facts.index, facts.length).astype(np.int32),
        frame=frame.astype(np.int32),
        length=length.astype(np.int32),
        return_trajectory=returns[:, 0],
        return_subtask=returns[:, 1],
        reward_sum=reward_sum,
        bootstrap=np.where(frame + steps < length, gamma**steps, 0.0).astype(np.float32),
        next_index=start + np.minimum(frame + steps, length - 1),
        interaction=nothing if interaction is None else np.where(used, interaction, np.nan).astype(np.float32),
        intervention=_intervention(dataset, read),
        motion=motion,
        advantage=advantage,
        trained=used & _frames_of_the_actor(dataset, recipe, facts, frame),
        critic=used & ~np.repeat(facts.held_out, facts.length),
        success=success,
        subtask=np.full(len(start), -1, dtype=np.int32) if subtask is None else subtask.astype(np.int32),
        episodes=facts,
        subtask_names=read.subtask_names,
    )


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


def _intervention(dataset: DatasetReader, read: Labels) -> np.ndarray:
    """bool [N]; absent reads as false."""
    for name in _spelling(dataset):
        return np.nan_to_num(read[name].astype(np.float32)) > 0.5
    return np.zeros(read.num_frames, dtype=bool)


def _refuse_nan(dataset: DatasetReader, read: Labels, recipe: Recipe, used: np.ndarray) -> None:
    """No NaN in a label that the recipe needs, in an episode that is used."""
    for name in required_columns(recipe, has_text=False):
        values = read.columns.get(name)
        if values is None or values.dtype.kind != "f":
            continue
        wrong = np.flatnonzero(used & ~np.isfinite(values))
        if len(wrong):
            raise IgrftError(
                f"{dataset.root}: {place_of(dataset, int(wrong[0]))}: {name!r} is not finite ({len(wrong)} such "
                "frames), though the episode was not set aside; label the dataset again: igrft annotate"
            )


def _motion(dataset: DatasetReader, facts: Episodes, state: np.ndarray | None) -> np.ndarray:
    """float32 [N]; NaN throughout where the dataset has no state."""
    total = int(facts.length.sum())
    if state is None:
        if c.STATE not in dataset.features:
            return np.full(total, np.nan, dtype=np.float32)
        state = read_matrix(dataset, c.STATE)
    scale = _deviation(state)
    out = np.zeros(total, dtype=np.float32)
    for start, length in zip(facts.start.tolist(), facts.length.tolist(), strict=True):
        out[start : start + length] = state_speed(state[start : start + length], scale)
    return out


#: Rows that are held in double precision at a time.
_BLOCK = 1 << 16


def _deviation(state: np.ndarray) -> np.ndarray:
    """Standard deviation of each dimension over the rows that are finite, float64 [d]."""
    count, total = 0, np.zeros(state.shape[1])
    blocks = [slice(at, at + _BLOCK) for at in range(0, len(state), _BLOCK)]
    for block in blocks:
        rows = _finite_rows(state[block])
        count, total = count + len(rows), total + rows.sum(axis=0)
    mean = total / max(count, 1)
    squares = sum(((_finite_rows(state[block]) - mean) ** 2).sum(axis=0) for block in blocks)
    return np.sqrt(squares / max(count, 1)) * np.ones(state.shape[1])


def _finite_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.isfinite(rows).all(axis=1)].astype(np.float64)


def _components(
    dataset: DatasetReader, recipe: Recipe, read: Labels, facts: Episodes, motion: np.ndarray
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
        if name in read.columns:
            out[:, i] = read[name]
    if recipe.rewards.idle_credit or c.REWARD_TRAJECTORY not in read.columns:
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
    recipe: Recipe, read: Labels, facts: Episodes, components: np.ndarray, steps: int
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


def _value(recipe: Recipe, read: Labels, weights: tuple[float, float]) -> np.ndarray | None:
    """The value columns, recombined; None where they are not asked for or not there."""
    if recipe.advantage.source != "columns" or c.VALUE_TRAJECTORY not in read.columns:
        return None
    if not weights[1]:
        return weights[0] * read[c.VALUE_TRAJECTORY].astype(np.float64)
    if c.VALUE_SUBTASK not in read.columns:
        return None
    return combine(read[c.VALUE_TRAJECTORY], read[c.VALUE_SUBTASK], *weights)


def _frames_of_the_actor(dataset: DatasetReader, recipe: Recipe, facts: Episodes, frame: np.ndarray) -> np.ndarray:
    """Frames that ``objective.frames`` lets through, bool [N]."""
    if recipe.objective.frames == "all":
        return np.ones(len(frame), dtype=bool)
    if recipe.objective.frames == "successes":
        return np.repeat(facts.success, facts.length)
    entries = (dataset.igrft or {}).get("episodes") or {}
    upto = facts.length.copy()
    for i in np.flatnonzero(~facts.success & facts.usable):
        cut = first_failure((entries.get(str(int(facts.index[i]))) or {}).get("subtasks") or [])
        if cut is not None:
            upto[i] = cut
    return frame < np.repeat(upto, facts.length)
