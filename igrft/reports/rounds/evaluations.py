"""Results of `igrft eval` that lie in a run's folder, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from igrft.reports.text import percent


@dataclass(frozen=True)
class Evaluation:
    """Attributes:
    name: of its folder.
    header, rows: success rates.
    comparisons: sentences.
    notes: what it says itself.
    """

    name: str
    header: list[str]
    rows: list[list[str]]
    comparisons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_evaluation(name: str, summary: Mapping[str, Any]) -> Evaluation:
    """What ``summary.json`` says; a row that lacks something shows a dash there."""
    level = percent(float(summary.get("confidence") or 0.95))
    header = ["policy", "task", "noise", "episodes", "success", f"{level} interval", "progress", "takeovers an episode"]
    rows = [_row(r) for r in summary["results"] if isinstance(r, Mapping)]
    pairs = summary.get("comparisons")
    found = [_pair(p) for p in pairs if isinstance(p, Mapping)] if isinstance(pairs, list) else []
    notes = [str(n) for n in summary.get("notices") or ()]
    if summary.get("complete") is False:
        notes.insert(0, "It was stopped before its last episode; the same command goes on.")
    return Evaluation(name, header, rows, [p for p in found if p], notes)


def _row(r: Mapping[str, Any]) -> list[str]:
    interval = r.get("interval")
    shown = "-"
    if isinstance(interval, list) and len(interval) == 2 and all(isinstance(v, int | float) for v in interval):
        shown = f"{100 * interval[0]:.0f} to {percent(interval[1])}"
    n = r.get("n")
    runs = r.get("runs")
    episodes = "-" if n is None else f"{n}" + (f" in {runs} runs" if isinstance(runs, int) and runs > 1 else "")
    return [
        str(r.get("name", "-")),
        str(r.get("task") or "all"),
        _noise(r.get("temperature")),
        episodes,
        _share(r.get("success_rate")),
        shown,
        _share(r.get("progress")),
        f"{v:.2f}" if isinstance(v := r.get("interventions_per_episode"), int | float) else "-",
    ]


def _pair(p: Mapping[str, Any]) -> str:
    sides = [p.get("first"), p.get("second")]
    numbers = [p.get(k) for k in ("difference", "low", "high")]
    if not all(isinstance(s, Mapping) for s in sides) or not all(isinstance(v, int | float) for v in numbers):
        return ""
    names = [f"{s.get('name')} (noise {_noise(s.get('temperature'))})" for s in sides if isinstance(s, Mapping)]
    difference, low, high = (100 * float(v) for v in numbers if isinstance(v, int | float))
    said = f"{difference:+.1f} points, {low:+.1f} to {high:+.1f}".replace("-", "−")
    return f"{names[0]} against {names[1]}: {said}, on the same seeds"


def _noise(temperature: Any) -> str:
    return f"{temperature:g}" if isinstance(temperature, int | float) else str(temperature or "-")


def _share(value: Any) -> str:
    return percent(float(value)) if isinstance(value, int | float) else "-"
