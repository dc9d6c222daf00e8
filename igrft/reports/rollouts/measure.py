"""Measures the stagnation monitor before it is trusted: does it fire where help is needed, and not elsewhere?

The paper gives no rule for stagnation, so no figure of its own either; these definitions are ours. Pure: arrays in,
numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from igrft.reports.rollouts.replay import Replay, Track
from igrft.rollouts.settings import MonitorSettings
from igrft.rollouts.stagnation import StagnationMonitor

#: Of the settings, what windows and margins are tried.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: Tried where a setting is 0.
_WINDOWS, _MARGINS = (0.5, 1.0, 2.0, 4.0, 8.0), (0.0, 0.005, 0.01, 0.02, 0.05)


@dataclass(frozen=True)
class Measured:
    """What a monitor would have done over some episodes.

    Attributes:
        episodes, fired: all, and those in which it fires at least once.
        successes, fired_successes, failures, fired_failures: the same by outcome, where it is known.
        alone, fired_alone: successes that nobody helped.
        firings: in all. Each is a hit (at most ``within`` seconds before a takeover, or anywhere in a failure), a
            false alarm (in a success that nobody helped), or neither (in a success that was helped at another time).
        takeovers, announced: all, and those with a firing at most ``within`` seconds before.
        asked, announced_asked: the same of those that the human asked for; the others the monitor itself brought about.
        needs, caught: moments where help was needed (every takeover, and every failure without one), and those with a
            firing: at most ``within`` seconds before the takeover, or anywhere in the failure.
    """

    episodes: int = 0
    fired: int = 0
    successes: int = 0
    fired_successes: int = 0
    failures: int = 0
    fired_failures: int = 0
    alone: int = 0
    fired_alone: int = 0
    firings: int = 0
    hits: int = 0
    false_alarms: int = 0
    takeovers: int = 0
    announced: int = 0
    asked: int = 0
    announced_asked: int = 0
    needs: int = 0
    caught: int = 0

    @property
    def caught_share(self) -> float | None:
        """Of the moments where help was needed; None where there were none."""
        return self.caught / self.needs if self.needs else None

    @property
    def false_share(self) -> float | None:
        """Of the successes that nobody helped; None where there were none."""
        return self.fired_alone / self.alone if self.alone else None

    @property
    def gain(self) -> float | None:
        """How much likelier it fires where help is needed than where it is not; 0 is a coin."""
        caught, false = self.caught_share, self.false_share
        return None if caught is None or false is None else caught - false


def measure(tracks: Sequence[Track], firings: Sequence[Sequence[int]], within: int) -> Measured:
    """Count.

    Args:
        firings: frames, rising, one list an episode.
        within: frames that a firing may lie before a takeover.
    """
    counted: dict[str, int] = dict.fromkeys(Measured.__dataclass_fields__, 0)

    def add(name: str, number: int | bool = 1) -> None:
        counted[name] += int(number)

    for track, fires in zip(tracks, firings, strict=True):
        helped, fired = bool(track.takeovers), bool(fires)
        add("episodes")
        add("fired", fired)
        add("firings", len(fires))
        if track.success is not None:
            outcome = "successes" if track.success else "failures"
            add(outcome)
            add(f"fired_{outcome}", fired)
        before = [any(0 <= t.start - f <= within for f in fires) for t in track.takeovers]
        add("takeovers", len(before))
        add("announced", sum(before))
        add("needs", len(before))
        add("caught", sum(before))
        for one, told in zip(track.takeovers, before, strict=True):
            if one.called is False:
                add("asked")
                add("announced_asked", told)
        if track.success is False:
            add("hits", len(fires))
            if not helped:
                add("needs")
                add("caught", fired)
            continue
        add("hits", sum(any(0 <= t.start - f <= within for t in track.takeovers) for f in fires))
        if track.success and not helped:
            add("alone")
            add("fired_alone", fired)
            add("false_alarms", len(fires))
    return Measured(**counted)


@dataclass(frozen=True)
class Grid:
    """The same over windows and margins.

    Attributes:
        windows: seconds, rising. margins: rising.
        cells: by window, by margin.
    """

    windows: tuple[float, ...]
    margins: tuple[float, ...]
    cells: list[list[Measured]]

    def best(self) -> tuple[float, float] | None:
        """(window, margin) of the largest :attr:`Measured.gain`, of equals that nearest to the middle of the grid.

        None where it is not known.
        """
        middle = (len(self.windows) // 2, len(self.margins) // 2)
        known = [
            (cell.gain, -abs(i - middle[0]) - abs(j - middle[1]), self.windows[i], self.margins[j])
            for i, row in enumerate(self.cells)
            for j, cell in enumerate(row)
            if cell.gain is not None
        ]
        return max(known)[2:] if known else None


def measure_settings(replay: Replay, settings: MonitorSettings, fps: float, within: float) -> Measured:
    """Measure a monitor over all episodes of ``replay``.

    Args:
        within: seconds.

    Raises:
        UsageError: a setting that cannot be.
    """
    fires = replay.firings(StagnationMonitor.of(settings, fps))
    return measure(replay.tracks, fires, round(within * fps))


def measure_grid(replay: Replay, settings: MonitorSettings, fps: float, within: float) -> Grid:
    """Measure monitors around ``settings``: other windows and margins, ``rise`` and ``grace`` as they are."""
    windows = _around(settings.window, _WINDOWS)
    margins = _around(settings.margin, _MARGINS)
    cells = [
        [measure_settings(replay, replace(settings, window=w, margin=m), fps, within) for m in margins] for w in windows
    ]
    return Grid(windows, margins, cells)


def _around(value: float, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    # Rounded, so that what the page shows can be given back.
    return tuple(float(f"{value * f:.4g}") for f in FACTORS) if value > 0 else otherwise
