"""Facts of a dataset's episodes: success, set aside, held out from the critic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import Labels
from igrft.dataset.reader import DatasetReader
from igrft.errors import UsageError
from igrft.training.recipe import Recipe

#: Stream of the generator that chooses held-out episodes; the other draws of a run take other numbers.
_HELD_OUT = 3
#: Fewest episodes of which some are held out.
_FEWEST = 4


@dataclass(frozen=True)
class Episodes:
    """Facts of a dataset's episodes, in the order of its frames: arrays [E].

    Attributes:
        index: ``episode_index``, int64. start, length: in frames, int64.
        success: bool; false throughout where nothing says (``knows_success`` is then false).
        set_aside: bool, by whoever labelled the dataset; such an episode is used by nobody.
        chosen: bool, named by the recipe's ``episodes`` (all, where it names none).
        held_out: bool, the critic never trains on it.
        trained: frames of each, from its first on, that the actor trains on, int64.
        reasons: of those set aside, by ``episode_index``.
    """

    index: np.ndarray
    start: np.ndarray
    length: np.ndarray
    success: np.ndarray
    set_aside: np.ndarray
    chosen: np.ndarray
    held_out: np.ndarray
    trained: np.ndarray
    knows_success: bool
    reasons: Mapping[int, str]

    def at(self, rows: np.ndarray) -> Episodes:
        """Some of them, as if their frames were all there are: ``start`` counts from the first."""
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.type == "np.ndarray"}
        arrays["start"] = np.cumsum(arrays["length"]) - arrays["length"]
        return replace(self, **arrays)

    @property
    def usable(self) -> np.ndarray:
        """Chosen, not set aside, and not empty: bool [E]."""
        return self.chosen & ~self.set_aside & (self.length > 0)


def episode_facts(dataset: DatasetReader, recipe: Recipe, read: Labels, episodes: Sequence[int] | None) -> Episodes:
    """Facts of every episode of a dataset.

    Args:
        read: labels of all of its episodes.
        episodes: ``episode_index`` of those to use; None is all.

    Raises:
        UsageError: an episode that the dataset has not.
    """
    chosen: np.ndarray = np.ones(len(read), dtype=bool)
    if episodes is not None:
        existing = set(read.episode_indices.tolist())
        strange = [e for e in episodes if e not in existing]
        if strange:
            raise UsageError(f"{dataset.root} has no episode {strange[0]}; it has {len(read)} episodes")
        chosen = np.isin(read.episode_indices, list(episodes))
    entries = read.record.get("episodes") or {}
    records = [entries.get(str(int(i))) or {} for i in read.episode_indices]
    success, known = _success(dataset, records)
    facts = Episodes(
        index=read.episode_indices,
        start=read.starts,
        length=read.lengths,
        success=success,
        set_aside=read.set_aside,
        chosen=chosen,
        held_out=np.zeros(len(read), dtype=bool),
        trained=np.zeros(len(read), dtype=np.int64),
        knows_success=known,
        reasons={i: str(r["set_aside"]) for i, r in enumerate(records) if r.get("set_aside")},
    )
    if recipe.critic.enabled:
        at = np.flatnonzero(facts.usable)
        facts.held_out[at] = held_out_episodes(success[at], recipe.critic.holdout, recipe.seed)
    return facts


def _success(dataset: DatasetReader, records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, bool]:
    """Success of each episode, and whether anything says so: igrft's record, else the columns."""
    if any("success" in r for r in records):
        return np.array([bool(r.get("success")) for r in records]), True
    for name in c.SUCCESS_SPELLINGS:
        if name in dataset.features:
            return dataset.any_true(name).copy(), True
    return np.zeros(len(records), dtype=bool), False


def held_out_episodes(success: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Episodes that the critic never trains on, the same for the same episodes and seed.

    Args:
        success: bool [E].
        share: of the episodes, in [0, 1).

    Returns:
        bool [E]: round(share * E) of them, at least one, none where there are fewer than four. Successes and
        failures are held out in proportion, and at least one of each where two are held out and there are two
        of each; never all of either kind that has two.
    """
    out = np.zeros(len(success), dtype=bool)
    if share <= 0 or len(success) < _FEWEST:
        return out
    order = np.random.default_rng([seed, _HELD_OUT]).permutation(len(success))
    kinds = [order[~success[order]], order[success[order]]]
    spare = [max(len(k) - 1, 0) for k in kinds]
    total = min(max(1, round(share * len(success))), sum(spare))
    failures = round(total * len(kinds[0]) / len(success))
    least = [int(total >= 2 and len(k) >= 2) for k in kinds]
    failures = min(max(failures, least[0], total - spare[1]), spare[0], total - least[1])
    out[kinds[0][:failures]] = True
    out[kinds[1][: total - failures]] = True
    return out


def first_failure(subtasks: Sequence[Mapping[str, Any]]) -> int | None:
    """Frame at which the first subtask that was never done begins, or None.

    An attempt that was repeated and then done is no failure, as in a success with a retry.
    """
    done = {s["name"] for s in subtasks if s["done"]}
    return next((int(s["start"]) for s in subtasks if s["name"] not in done), None)
