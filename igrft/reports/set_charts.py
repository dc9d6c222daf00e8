"""The charts over the whole dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.reports import distributions
from igrft.reports.summary import EpisodeSummary, pipeline_step


@dataclass(frozen=True)
class Chart:
    """A distribution: its heading, the SVG, and what to look for."""

    heading: str
    picture: str
    note: str


def set_charts(dataset: DatasetReader, summaries: Sequence[EpisodeSummary], fills: Mapping[str, str]) -> list[Chart]:
    """Distributions over the dataset; those without a value are left out.

    Args:
        fills: colour by subtask name.
    """
    labelled = [s for s in summaries if s.set_aside is None]
    spans: dict[str, list[float]] = {name: [] for name in fills}
    for s in labelled:
        for one in s.subtasks:
            if one["end"] > one["start"]:
                spans[one["name"]].append((one["end"] - one["start"]) / dataset.fps)
    shares, returns, lengths = (_grouped(labelled, n) for n in ("interaction_share", "return_at_start", "seconds"))
    counted = count_frames(dataset)
    found = [
        Chart(
            "Subtask durations",
            distributions.durations(spans, fills),
            "A dot is a segment, the box the middle half, the line the median. Look first at what lies far out.",
        ),
        Chart(
            "Moving pixels per frame",
            _pixels(dataset, counted),
            "Where the threshold (dashed) cuts through a hill, small changes of it change many labels.",
        ),
        Chart(
            "Interaction per episode",
            distributions.histogram(shares, "share of frames", low=0.0, high=1.0),
            "Episodes near 0 or 1 point at a threshold that does not suit the camera.",
        ),
        Chart(
            "Return at start",
            distributions.histogram(returns, "return-to-go of the first frame", low=0.0),
            "1 on every success when undiscounted; on a failure what its finished subtasks weigh.",
        ),
        Chart("Reward per frame", _rewards(counted), "Peaks of the reward stand to the right."),
        Chart(
            "Episode lengths",
            distributions.histogram(lengths, "length, s", low=0.0),
            "The longer an episode, the smaller the reward of each of its frames.",
        ),
    ]
    return [chart for chart in found if chart.picture]


def _grouped(summaries: Sequence[EpisodeSummary], name: str) -> dict[str, list[float]]:
    """Values by success and failure; one group where success is not known."""
    groups: dict[str, list[float]] = {}
    for s in summaries:
        value = getattr(s, name)
        if value is not None:
            key = {True: "success", False: "failure", None: "episodes"}[s.success]
            groups.setdefault(key, []).append(float(value))
    return {k: groups[k] for k in ("success", "failure", "episodes") if k in groups}


@dataclass
class Counted:
    """Frames by a tenth of a decade of their value: bin i of ``counts`` starts at 10^(low + i/10)."""

    low: int
    counts: np.ndarray
    nothing: int = 0

    @property
    def edges(self) -> np.ndarray:
        """Exponents of ten, [bins + 1]."""
        return self.low + np.arange(len(self.counts) + 1) / 10

    def add(self, values: np.ndarray) -> None:
        """Count values [n]; what is below the lowest bin counts as nothing, NaN not at all."""
        values = values[np.isfinite(values)]
        kept = values > 10.0**self.low
        self.nothing += int((~kept).sum())
        top = self.edges[-1]
        self.counts += np.histogram(np.minimum(np.log10(values[kept]), top), self.edges)[0]


def count_frames(dataset: DatasetReader) -> dict[str, Counted]:
    """Reward and moving pixels of all frames, counted; walks the files once."""
    counted = {c.REWARD: Counted(-7, np.zeros(70)), c.INTERACTION_PIXELS: Counted(0, np.zeros(55))}
    counted = {n: v for n, v in counted.items() if n in dataset.features}
    if counted:
        for relative, rows in dataset.data_files:
            for _, table in dataset.iter_file(relative, rows, names=list(counted)):
                for name, count in counted.items():
                    count.add(table.column(name).to_numpy())
    return counted


def _rewards(counted: Mapping[str, Counted]) -> str:
    return _logarithmic(counted.get(c.REWARD), "reward", "earn nothing", None)


def _pixels(dataset: DatasetReader, counted: Mapping[str, Counted]) -> str:
    settings = pipeline_step(dataset.igrft or {}, "interaction") or {}
    threshold = settings.get("pixel_threshold")
    return _logarithmic(counted.get(c.INTERACTION_PIXELS), "moving pixels", "have none", threshold)


def _logarithmic(counted: Counted | None, label: str, none: str, mark: float | None) -> str:
    held = np.flatnonzero(counted.counts) if counted is not None else np.zeros(0, dtype=int)
    if counted is None or not len(held):
        return ""
    first, last = int(held[0]), int(held[-1]) + 1
    if mark:
        at = round((np.log10(mark) - counted.low) * 10)
        first, last = min(first, max(0, at - 2)), max(last, at + 2)
    first, last = max(0, first - 1), min(len(counted.counts), last + 1)
    if counted.nothing:
        label += f" ({counted.nothing:,} frames {none})"
    bins = {"frames": counted.counts[first:last]}
    return distributions.bars(
        counted.edges[first : last + 1],
        bins,
        label,
        count="frames",
        logarithmic=True,
        mark=np.log10(mark) if mark else None,
    )
