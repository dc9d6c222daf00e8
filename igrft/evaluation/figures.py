"""The paper's Figure 5: success rate against human interventions; and how figures are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.dataset.parquet import whole_file
from igrft.errors import UsageError
from igrft.reports import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours of methods, in order: the paper draws its own in red, the baselines in blue and grey.
CURVES = ("#c53030", "#2b6cb0", "#6b7785", "#2f855a", "#805ad5", "#c05621")
_MARKERS = "os^Dv*"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.edgecolor": palette.MUTED,
    "axes.labelcolor": palette.INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": palette.INK,
    "xtick.color": palette.MUTED,
    "ytick.color": palette.MUTED,
    "xtick.labelcolor": palette.INK,
    "ytick.labelcolor": palette.INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    # Files of equal content are equal, byte for byte.
    "svg.hashsalt": "igrft",
}


@dataclass(frozen=True)
class CurvePoint:
    """A method after so many interventions.

    Attributes:
        interventions: of a human, in training up to there, in the mean over tasks.
        rates: success rate by task, each in [0, 1].
    """

    interventions: float
    rates: Mapping[str, float]


def figure_5(curves: Mapping[str, Sequence[CurvePoint]]) -> Figure:
    """Success rate against the number of human interventions: a curve a method, its mean over tasks; shaded from
    the worst to the best task.

    Args:
        curves: by method, in the order of the legend; points in any order.

    Raises:
        UsageError: no points at all, or a point without a task.
    """
    if not any(curves.values()):
        raise UsageError("Figure 5 needs checkpoints that say how many interventions they were trained with")
    with styled():
        from matplotlib.ticker import MaxNLocator

        figure, axes = _figure(5.6, 3.6)
        for number, (method, points) in enumerate(curves.items()):
            _curve(axes, method, sorted(points, key=lambda p: p.interventions), number)
        axes.set_xlabel("human interventions")
        axes.set_ylabel("success rate (%)")
        # A little room, so that markers on the edge stay whole.
        axes.set_ylim(-3, 103)
        axes.set_yticks(range(0, 101, 20))
        axes.margins(x=0.04)
        axes.grid(axis="y", color=palette.RULE, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if any(len(p.rates) > 1 for points in curves.values() for p in points):
            axes.plot([], [], color=palette.MUTED, alpha=0.25, linewidth=7, label="worst to best task")
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
        return figure


def _curve(axes: Axes, method: str, points: Sequence[CurvePoint], number: int) -> None:
    if any(not p.rates for p in points):
        raise UsageError(f"Figure 5: a point of {method!r} has no task")
    colour = CURVES[number % len(CURVES)]
    x = [p.interventions for p in points]
    rates = [100 * np.array(list(p.rates.values())) for p in points]
    if any(len(r) > 1 for r in rates):
        low, high = [float(r.min()) for r in rates], [float(r.max()) for r in rates]
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        if len(points) == 1:
            axes.vlines(x, low, high, color=colour, alpha=0.35, linewidth=4)
    mean = [float(r.mean()) for r in rates]
    marker = _MARKERS[number % len(_MARKERS)]
    axes.plot(x, mean, color=colour, marker=marker, markersize=5, linewidth=1.8, label=method, clip_on=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as ``stem.png`` and ``stem.svg``, each whole or not at all."""
    paths = []
    for kind in ("png", "svg"):
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with whole_file(path) as temporary, styled():
            figure.savefig(temporary, format=kind, dpi=160, bbox_inches="tight", metadata=metadata)
        paths.append(path)
    return paths


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own: no global state, no window, whatever backend is set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """matplotlib's settings for our figures inside the block. Raises UsageError: it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("figures need matplotlib; run: pip install 'igrft[eval]'") from None
    with matplotlib.rc_context(_STYLE):
        yield
