"""Reads the folder of a run made of rounds, finished, in progress or broken off: what can be read is kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.dataset.files import INFO
from igrft.errors import IgrftError
from igrft.evaluation.store import SUMMARY
from igrft.reports.run.read import METRICS, RECIPE, ROUND, Metrics, is_run, read_metrics, read_recipe, setting_of
from igrft.reports.text import plural
from igrft.rollouts.facts import ROLLOUT, ROUNDS, RolloutRecord, read_rollout
from igrft.rollouts.run import summary

#: Numbers of a round that are read from ``rounds.jsonl``.
FIGURES = (
    "episodes",
    "successes",
    "successes_without_help",
    "interventions",
    "human_share",
    "mean_steps",
    "progress",
    "steps",
)


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: from 0.
        figures: numbers of :data:`FIGURES`; of a round in progress those of the episodes so far. Empty where there
            are none.
        finished: whether its update is done.
        update: folder of the update, where it has logged something.
        rollouts: folder of its rollouts as recorded, or None.
        labelled: folder of the same, labelled, or None.
        reasons: takeovers by (who, why).
        settings: under which its rollouts were recorded.
    """

    number: int
    figures: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    update: Path | None = None
    rollouts: Path | None = None
    labelled: Path | None = None
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        return self.figures.get(name)

    @property
    def success(self) -> float | None:
        """Share of episodes that succeeded, help included."""
        return self._share("successes", self.figure("episodes"))

    @property
    def unaided(self) -> float | None:
        """Share of all episodes that succeeded without help."""
        return self._share("successes_without_help", self.figure("episodes"))

    @property
    def takeovers(self) -> float | None:
        """By episode."""
        return self._share("interventions", self.figure("episodes"))

    def _share(self, name: str, whole: float | None) -> float | None:
        part = self.figure(name)
        return part / whole if part is not None and whole else None


@dataclass(frozen=True)
class RoundsRun:
    """What a run made of rounds left behind.

    Attributes:
        root: its folder.
        recipe: ``recipe.yaml``, as resolved.
        rounds: in order.
        metrics: of all updates, steps counted on.
        evaluations: (name of the folder, its ``summary.json``).
        notes: what could not be read.
    """

    root: Path
    recipe: Mapping[str, Any]
    rounds: list[Round]
    metrics: Metrics
    evaluations: list[tuple[str, Mapping[str, Any]]]
    notes: list[str]

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting of the recipe by its dotted name."""
        return setting_of(self.recipe, key, default)

    def whole(self, key: str, default: int) -> int:
        """A setting that is a whole number."""
        value = self.setting(key, default)
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    @property
    def planned(self) -> int:
        """Rounds that are asked for."""
        return max(self.whole("rounds.count", 0), len(self.rounds))

    @property
    def finished(self) -> int:
        return sum(r.finished for r in self.rounds)


def read_rounds(root: Path) -> RoundsRun:
    """Read the run.

    Raises:
        IgrftError: its recipe cannot be read. Anything else that cannot be read goes to the notes.
    """
    notes: list[str] = []
    recipe = read_recipe(root / RECIPE)
    lines = _lines(root / ROUNDS, notes)
    updates = {int(m[1]): p for p in root.iterdir() if p.is_dir() and (m := re.fullmatch(ROUND, p.name))}
    recorded = _rollouts(root)
    numbers = sorted({*lines, *updates, *recorded})
    found = [_round(n, lines.get(n), updates.get(n), recorded.get(n), notes) for n in numbers]
    return RoundsRun(root, recipe, found, _metrics(root, notes), _evaluations(root, notes), notes)


def _metrics(root: Path, notes: list[str]) -> Metrics:
    path = root / METRICS
    if not path.is_file():
        return Metrics()
    found = read_metrics(path)
    if found.broken:
        notes.append(f"{plural(found.broken, 'line')} of {METRICS} could not be read and were left out.")
    return found


def _lines(path: Path, notes: list[str]) -> dict[int, dict[str, Any]]:
    """Finished rounds by their number; of one that stands there twice the later counts."""
    if not path.is_file():
        return {}
    found: dict[int, dict[str, Any]] = {}
    broken = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not text.strip():
            continue
        try:
            value = json.loads(text)
            found[_natural(value["round"])] = value
        except (ValueError, TypeError, KeyError):
            broken += 1
    if broken:
        notes.append(f"{plural(broken, 'line')} of {path.name} could not be read and were left out.")
    return found


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _rollouts(root: Path) -> dict[int, dict[str, Path]]:
    """Folders of rollouts by round: as recorded (``raw``), and ``labelled``; those that are datasets."""
    found: dict[int, dict[str, Path]] = {}
    for folder in sorted(root.iterdir()):
        parts = re.fullmatch(r"rollout_.+_(\d+)(_labelled)?", folder.name)
        if parts and (folder / INFO).is_file():
            found.setdefault(int(parts[1]), {})["labelled" if parts[2] else "raw"] = folder
    return found


def _round(
    number: int,
    line: Mapping[str, Any] | None,
    update: Path | None,
    datasets: Mapping[str, Path] | None,
    notes: list[str],
) -> Round:
    raw, labelled = (datasets or {}).get("raw"), (datasets or {}).get("labelled")
    record = _record(raw or labelled, notes)
    held: Mapping[str, Any] = line or {}
    if not held and record is not None:
        try:
            held = summary(record.episodes)
        except (TypeError, KeyError, ValueError):
            notes.append(f"Round {number}: {ROLLOUT} lacks facts of its episodes; they are left out.")
    figures = {k: float(v) for k in FIGURES if isinstance(v := held.get(k), int | float) and not isinstance(v, bool)}
    return Round(
        number,
        figures,
        line is not None,
        update if update is not None and is_run(update) else None,
        raw,
        labelled,
        _reasons(record),
        {} if record is None else record.settings,
    )


def _record(folder: Path | None, notes: list[str]) -> RolloutRecord | None:
    if folder is None:
        return None
    try:
        return read_rollout(folder)
    except IgrftError as error:
        notes.append(str(error))
        return None


def _reasons(record: RolloutRecord | None) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for facts in record.episodes if record is not None else ():
        listed = facts.get("takeovers") if isinstance(facts, Mapping) else None
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, Mapping):
                found[str(one.get("by") or "not recorded"), str(one.get("why") or "not recorded")] += 1
    return found


def _evaluations(root: Path, notes: list[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Summaries of `igrft eval` in the run's folder, or in a folder of it."""
    found = []
    for path in [root / SUMMARY, *sorted(root.glob(f"*/{SUMMARY}"))]:
        if not path.is_file():
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            results = value["results"]
            if not isinstance(results, list):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            notes.append(f"{path.relative_to(root)} is no summary of igrft eval, and is left out.")
            continue
        found.append((path.parent.name if path.parent != root else "evaluation", value))
    return found
