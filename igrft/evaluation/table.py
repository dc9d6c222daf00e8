"""The table that ``igrft eval`` prints."""

from __future__ import annotations

from collections.abc import Sequence

from igrft.evaluation.statistics import Interval
from igrft.evaluation.summary import Paired, Row, Summary

_HEADS = ("policy", "task", "noise", "n", "success", "", "over runs", "unaided", "progress", "interventions", "steps")
_LEFT = frozenset({0, 1})


def to_text(summary: Summary) -> str:
    """Rates, comparisons and notices, as lines."""
    percent = f"{100 * summary.confidence:g} %"
    heads = [h or percent for h in _HEADS]
    rows = [_cells(row) for row in summary.rows]
    # Columns that say nothing of any row are left out.
    empty = [i for i in (6, 7, 8) if all(row[i] == "-" for row in rows)]
    keep = [i for i in range(len(heads)) if i not in empty]
    lines = _table([[row[i] for i in keep] for row in [heads, *rows]], [keep.index(i) for i in sorted(_LEFT)])
    lines += ["", f"success: share of n episodes, with Wilson's {percent} interval; noise: standard deviation of the"]
    lines.append("flow's initial noise" + _legend(summary, empty))
    if summary.comparisons:
        lines += ["", f"on the same seeds, {percent} intervals:"]
        lines += _table([_pair_cells(pair) for pair in summary.comparisons], [0])
    lines += [f"note: {notice}" for notice in summary.notices]
    return "\n".join(lines)


def _legend(summary: Summary, empty: Sequence[int]) -> str:
    parts = []
    if 6 not in empty:
        parts.append("over runs: interval for other training seeds and starts")
    if 7 not in empty:
        parts.append("unaided: success without an intervention")
    if 8 not in empty:
        parts.append("progress: mean share of subtasks completed")
    return "".join(f"; {part}" for part in parts)


def _cells(row: Row) -> list[str]:
    progress = "-" if row.progress is None else f"{row.progress:.2f}"
    helped = "0" if not row.interventions else f"{row.interventions} ({row.interventions_per_episode:.1f} an episode)"
    return [
        row.name,
        row.task or "all",
        noise_text(row),
        str(row.n) if row.runs == 1 else f"{row.n} in {row.runs} runs",
        f"{100 * row.success_rate:.1f} %",
        interval_text(row.interval),
        "-" if row.runs_interval is None else interval_text(row.runs_interval),
        f"{100 * row.successes_alone / row.n:.1f} %" if row.interventions else "-",
        progress,
        helped,
        f"{row.steps:.0f}",
    ]


def noise_text(row: Row) -> str:
    """The temperature, and how far T(s) reached."""
    if isinstance(row.temperature, str):
        return row.temperature if row.noise is None else f"T(s) {row.noise[1]:.2f}-{row.noise[2]:.2f}"
    return f"{row.temperature:g}"


def interval_text(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _pair_cells(pair: Paired) -> list[str]:
    found = pair.comparison
    if pair.first[0] == pair.second[0]:
        sides = f"{pair.first[0]}, noise {_noise(pair.first[1])} - noise {_noise(pair.second[1])}"
    else:
        sides = f"{pair.first[0]} - {pair.second[0]}, noise {_noise(pair.first[1])}"
    interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
    how = (
        f"{found.runs} runs of {found.episodes} pairs" if found.method == "runs" else f"{found.episodes} pairs, one run"
    )
    alone = "" if found.method == "episodes" else f"; these checkpoints {_signed(found.within_low, found.within_high)}"
    return [
        sides,
        f"{100 * found.difference:+.1f} points",
        f"({interval})",
        f"{how}{alone}, McNemar p = {_p(found.mcnemar)}",
    ]


def _signed(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _noise(temperature: float | str) -> str:
    return temperature if isinstance(temperature, str) else f"{temperature:g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows with aligned columns; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in left or (i == last and not cell[:1].isdigit()) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
