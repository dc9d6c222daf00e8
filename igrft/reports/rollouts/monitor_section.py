"""What the page says of the stagnation monitor: where it would have fired, and whether that was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.reports import palette
from igrft.reports.rollouts.measure import Grid, Measured, measure, measure_grid
from igrft.reports.rollouts.replay import Replay, Takeover, Track
from igrft.reports.rollouts.settings import ReplaySettings
from igrft.reports.summary import EpisodeSummary, pipeline_step
from igrft.reports.text import percent, plural
from igrft.rollouts.episode import STAGNATION
from igrft.rollouts.stagnation import StagnationMonitor

# Thresholds of the verdict, ours: where a person who reads the two rates would start to ask.
_USEFUL = 0.25
_FEW = 10
#: With fewer moments, or fewer unaided successes, other settings are not proposed: any fit would be to chance.
_FEWEST = 5


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: its text, its fill and the colour on it, whether it is the page's own settings, and all
    counts in words."""

    text: str
    fill: str
    ink: str
    current: bool
    note: str


@dataclass(frozen=True)
class MonitorSection:
    """Attributes:
    settings: what was replayed.
    fires: frames at which it would have fired, by ``episode_index``.
    verdict: in a sentence.
    facts: (name, value).
    margins: heads of the grid's columns. rows: (window, cells).
    hint: options that would separate better, or empty.
    notes: what to know.
    """

    settings: ReplaySettings
    fires: dict[int, list[int]]
    verdict: str
    facts: list[tuple[str, str]]
    margins: list[str]
    rows: list[tuple[str, list[Cell]]]
    hint: str = ""
    notes: list[str] = field(default_factory=list)


def monitor_section(
    dataset: DatasetReader, summaries: Sequence[EpisodeSummary], settings: ReplaySettings
) -> MonitorSection | None:
    """Replay the monitor over all episodes that have labels; None where the dataset has no value.

    Raises:
        UsageError: settings that cannot be. IgrftError: files that cannot be read.
    """
    if c.VALUE not in dataset.features:
        return None
    used = [s for s in summaries if s.set_aside is None and s.frames]
    labels = load_labels(dataset, [c.VALUE], [s.episode for s in used]) if used else None
    tracks = [track_of(s, labels.episode(s.episode)[c.VALUE]) for s in used] if labels is not None else []
    kept = [i for i, t in enumerate(tracks) if np.isfinite(t.values).any()]
    if not kept:
        return None
    used, tracks = [used[i] for i in kept], [tracks[i] for i in kept]
    replay = Replay(tracks)
    monitor = StagnationMonitor.of(settings.monitor, dataset.fps)
    fires = replay.firings(monitor)
    found = measure(tracks, fires, round(settings.within * dataset.fps))
    grid = measure_grid(replay, settings.monitor, dataset.fps, settings.within)
    return MonitorSection(
        settings,
        {s.episode: f for s, f in zip(used, fires, strict=True)},
        _verdict(found),
        _facts(found, settings.within),
        [f"{m:g}" for m in grid.margins],
        _rows(grid, settings),
        _hint(grid, found),
        _notes(dataset, tracks, replay.every, len(summaries)),
    )


def track_of(summary: EpisodeSummary, values: np.ndarray) -> Track:
    """An episode as the monitor sees it.

    Args:
        values: its ``value``, [T].
    """
    length = len(values)
    takeovers = []
    for t in summary.takeovers or ():
        start, end = max(0, t["start"]), min(t["end"], length)
        if start < end:
            called = None if t["why"] is None else t["why"] == STAGNATION
            takeovers.append(Takeover(start, end, t["by"], t["why"], called))
    return Track(values.astype(np.float64), tuple(takeovers), summary.success)


def _verdict(m: Measured) -> str:
    if not m.needs:
        return "Nobody took over and nothing failed: these episodes cannot show whether it fires where help is needed."
    caught = f"It fires at {m.caught} of {plural(m.needs, 'moment')} where help was needed ({percent(m.caught_share)})"
    if m.false_share is None or m.gain is None:
        return f"{caught}; no episode succeeded unaided, so false alarms cannot be told."
    false = f"and in {m.fired_alone} of {plural(m.alone, 'episode')} that succeeded unaided ({percent(m.false_share)})"
    judged = "it tells them apart" if m.gain >= _USEFUL else "it hardly tells them apart: do not rely on it as it is"
    few = " Few episodes: rough figures." if min(m.needs, m.alone) < _FEW else ""
    return f"{caught} {false}: {judged}.{few}"


def _facts(m: Measured, within: float) -> list[tuple[str, str]]:
    neither = m.firings - m.hits - m.false_alarms
    out = [
        ("it fires", f"{plural(m.firings, 'time')}, in {m.fired} of {plural(m.episodes, 'episode')}"),
        (
            "by outcome",
            f"in {_of(m.fired_successes, m.successes)} successes, in {_of(m.fired_failures, m.failures)} failures",
        ),
        (
            "hits",
            f"{_of(m.hits, m.firings)} firings: at most {within:g} s before a takeover, or in an episode that failed",
        ),
        (
            "false alarms",
            f"{_of(m.false_alarms, m.firings)} firings: in {_of(m.fired_alone, m.alone)} successes that nobody helped",
        ),
    ]
    if neither:
        out.append(("neither", f"{_of(neither, m.firings)} firings: the episode was helped at another time"))
    if m.takeovers:
        announced = f"{_of(m.announced, m.takeovers)} takeovers have a firing at most {within:g} s before them"
        if 0 < m.asked < m.takeovers:
            announced += f"; {_of(m.announced_asked, m.asked)} of those that the human asked for"
        out.append(("announced", announced))
    return out


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}" + (f" ({percent(part / whole)})" if whole else "")


def _rows(grid: Grid, settings: ReplaySettings) -> list[tuple[str, list[Cell]]]:
    current = settings.monitor.window, settings.monitor.margin
    out = []
    for window, row in zip(grid.windows, grid.cells, strict=True):
        cells = []
        for margin, m in zip(grid.margins, row, strict=True):
            text = f"{percent(m.caught_share)} / {percent(m.false_share)}".replace("-", "–")
            note = (
                f"window {window:g} s, margin {margin:g}: {plural(m.firings, 'firing')}, "
                f"{m.caught} of {m.needs} moments caught, {m.fired_alone} of {m.alone} unaided successes disturbed, "
                f"{m.announced} of {m.takeovers} takeovers announced"
            )
            share = max(m.gain or 0.0, 0.0)
            ink = palette.PAPER if share > 0.55 else palette.INK
            cells.append(Cell(text, palette.shade(share), ink, (window, margin) == current, note))
        out.append((f"{window:g} s", cells))
    return out


def _hint(grid: Grid, found: Measured) -> str:
    """Options of a rollout, where another cell of the grid separates better by more than a little."""
    best = grid.best()
    if best is None or min(found.needs, found.alone) < _FEWEST:
        return ""
    cell = grid.cells[grid.windows.index(best[0])][grid.margins.index(best[1])]
    if cell.gain is None or found.gain is None or cell.gain <= found.gain + 0.1:
        return ""
    return f"--rollout.monitor.window={best[0]:g} --rollout.monitor.margin={best[1]:g}"


def _notes(dataset: DatasetReader, tracks: Sequence[Track], every: int, episodes: int) -> list[str]:
    out = []
    called = sum(bool(t.called) for track in tracks for t in track.takeovers)
    total = sum(len(track.takeovers) for track in tracks)
    if total and pipeline_step(dataset.igrft or {}, "values") is not None:
        out.append("The values are those of the step 'values', not what the critic said while this was recorded.")
    elif called:
        out.append(
            f"{called} of {plural(total, 'takeover')} came because the monitor called while this was recorded: with "
            "the settings of the recording they are announced by construction. Failures, and takeovers that the human "
            "asked for, say more."
        )
    if total:
        out.append(
            "What the policy would have done instead of being helped nobody knows: after a takeover the replay goes on "
            "where the policy drove again."
        )
    if every > 1:
        out.append(f"The critic spoke about every {every} frames; the replay looks there, as the rollout did.")
    left = episodes - len(tracks)
    if left:
        out.append(f"{plural(left, 'episode')} without a value, or set aside, left out.")
    return out
