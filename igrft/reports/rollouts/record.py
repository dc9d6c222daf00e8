"""What a dataset says of its rollouts: takeovers, who and why, and how each episode ended."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.reports.rollouts.replay import Takeover
from igrft.rollouts.episode import REASONS, STAGNATION
from igrft.rollouts.facts import ROLLOUT, read_rollout


@dataclass(frozen=True)
class Rollouts:
    """``meta/igrft_rollout.json``, as far as it can be read.

    Attributes:
        settings: under which the episodes were recorded; None where the dataset does not say.
        episodes: facts by ``episode_index``.
        note: why there are none although the file is there; empty otherwise.
    """

    settings: dict[str, Any] | None = None
    episodes: dict[int, dict[str, Any]] = field(default_factory=dict)
    note: str = ""

    def takeovers(self, episode: int) -> list[Takeover] | None:
        """As recorded; None where the file does not list them."""
        listed = self.episodes.get(episode, {}).get("takeovers")
        if not isinstance(listed, list):
            return None
        found = []
        for one in listed:
            # The file is JSON that anyone may have edited.
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
                why = None if one.get("why") is None else str(one["why"])
                by = None if one.get("by") is None else str(one["by"])
                called = None if why is None else why == STAGNATION
                found.append(Takeover(int(one["start"]), int(one["end"]), by, why, called))
        return sorted(found, key=lambda t: t.start)

    def calls(self, episode: int) -> list[int]:
        """Frames at which the monitor called while the episode was recorded."""
        listed = self.episodes.get(episode, {}).get("calls")
        return [int(f) for f in listed if isinstance(f, int)] if isinstance(listed, list) else []


def read_rollouts(dataset: DatasetReader) -> Rollouts:
    """The file of ``dataset``; nothing where it has none, a note where it cannot be used."""
    if not (dataset.root / ROLLOUT).is_file():
        return Rollouts()
    try:
        record = read_rollout(dataset.root)
    except IgrftError as error:
        return Rollouts(note=f"What is recorded about the rollouts cannot be used: {error}")
    if len(record.episodes) != dataset.num_episodes:
        return Rollouts(record.settings, note=f"{ROLLOUT} is of other episodes than the dataset holds.")
    facts = (f if isinstance(f, Mapping) else {} for f in record.episodes)
    return Rollouts(record.settings, {int(e): dict(f) for e, f in zip(dataset.episode_indices, facts, strict=True)})


def takeovers_of(flags: np.ndarray, reasons: np.ndarray | None = None) -> list[Takeover]:
    """Takeovers as the columns have them: stretches of ``intervention``, cut where the reason changes.

    Args:
        flags: bool [T].
        reasons: ``takeover_reason``, int [T], or None.
    """
    codes = np.where(flags, 0 if reasons is None else reasons, -1)
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    found = []
    for start, end in itertools.pairwise(edges):
        if start < end and flags[start]:
            why = REASONS.get(int(codes[start]))
            found.append(Takeover(start, end, None, why, None if why is None else why == STAGNATION))
    return found


def intervention_column(dataset: DatasetReader) -> str | None:
    """The column that says where a human overrode a policy, or None."""
    return next((n for n in c.INTERVENTION_SPELLINGS if n in dataset.features), None)
