"""``meta/igrft_rollout.json``: under which settings a dataset was recorded, and how each episode went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import igrft
from igrft.dataset.files import INFO, read_json
from igrft.errors import IgrftError, UsageError

ROLLOUT = "meta/igrft_rollout.json"
#: In the folder of a run of Stage III: one line a finished round.
ROUNDS = "rounds.jsonl"


@dataclass(frozen=True)
class RolloutRecord:
    """What the file says.

    Attributes:
        settings: as given to the recorder: checkpoint, exploration, monitor, environment …
        episodes: by episode, in order: ``success`` (None where nobody said), ``frames``, and the facts given when
            it was saved (seed, takeovers, why it ended …).
    """

    settings: dict[str, Any]
    episodes: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"igrft_version": igrft.__version__, "settings": self.settings, "episodes": self.episodes}


def read_rollout(root: Path) -> RolloutRecord:
    """The record of the rollouts at ``root``, of the complete episodes alone.

    Raises:
        IgrftError: there is none, or it does not fit the dataset.
    """
    path = root / ROLLOUT
    if not path.is_file():
        raise IgrftError(f"{root} was not recorded by igrft rollout: {ROLLOUT} is missing; give another folder")
    value = read_json(path)
    complete = int(read_json(root / INFO).get("total_episodes", 0))
    try:
        settings, episodes = dict(value["settings"]), list(value["episodes"])
    except (TypeError, KeyError, ValueError):
        raise IgrftError(f"{path} has no 'settings' and 'episodes'; restore it, or give another folder") from None
    if len(episodes) < complete:
        raise IgrftError(
            f"{path} describes {len(episodes)} of {complete} episodes; restore it, or record into another folder"
        )
    # A crash between two renames may leave the facts of an episode that is not complete.
    return RolloutRecord(settings, episodes[:complete])


def as_json(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """``value`` as it will be read back from JSON.

    Raises:
        UsageError: it holds something that JSON does not, NaN included.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} cannot be written as JSON ({error})") from None


def first_difference(old: Any, new: Any, place: str = "") -> str | None:
    """In words, the first place in which two JSON values differ; None where they are equal."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(k for k in new if k not in old)]:
            name = f"{place}.{key}" if place else str(key)
            if key not in new:
                return f"{name} is {_short(old[key])} there, and not given now"
            if key not in old:
                return f"{name} is not there, and {_short(new[key])} now"
            if found := first_difference(old[key], new[key], name):
                return found
        return None
    if _is_list(old) and _is_list(new) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return next((found for i, (a, b) in pairs if (found := first_difference(a, b, f"{place}[{i}]"))), None)
    same = old == new and isinstance(old, bool) == isinstance(new, bool)
    return None if same else f"{place} is {_short(old)} there, and {_short(new)} now"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def read_rounds(run: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run of Stage III, in order; none where there is no such file."""
    path = run / ROUNDS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
