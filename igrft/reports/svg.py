"""Small building blocks for inline SVG: elements, scales, ticks, paths. No chart library."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

Scale = Callable[[float], float]
Points = Sequence[float] | np.ndarray


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element. ``stroke_width=2`` becomes ``stroke-width="2"``; ``class_`` becomes ``class``; None is left out.

    Children are markup already: text goes through :func:`text` or :func:`escape`.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None:
            continue
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(shown)}"')
    opening = " ".join(parts)
    return f"<{opening}>{''.join(children)}</{name}>" if children else f"<{opening}/>"


def escape(value: object) -> str:
    """Text as markup."""
    return html.escape(str(value))


def text(x: float, y: float, value: object, **attributes: object) -> str:
    """A line of text at (x, y)."""
    return tag("text", escape(value), x=float(x), y=float(y), **attributes)


def title(value: object) -> str:
    """What shows when the pointer rests on the element around it."""
    return tag("title", escape(value))


def linear(domain: tuple[float, float], target: tuple[float, float]) -> Scale:
    """A scale from ``domain`` to ``target``; an empty domain maps to the start of ``target``."""
    (a, b), (c, d) = domain, target
    factor = (d - c) / (b - a) if b != a else 0.0
    return lambda value: c + (value - a) * factor


def log1p(top: float, target: tuple[float, float], knee: float = 10.0) -> Scale:
    """A scale from 0 … ``top``: logarithmic above about ``knee``, linear below, so that 0 has a place."""
    inner = linear((0.0, math.log1p(top / knee)), target)
    return lambda value: inner(math.log1p(max(value, 0.0) / knee))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, ``about`` so many."""
    if not high > low:
        return [low]
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def spell(value: float) -> str:
    """A tick's label: ``0.25``, ``1,000``, ``20k``."""
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:,g}" if abs(value) >= 1000 else f"{value:g}"


def polyline(xs: Points, ys: Points) -> str:
    """Path data through points; NaN breaks the line."""
    parts: list[str] = []
    pen = "M"
    for x, y in zip(xs, ys, strict=True):
        if not math.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)


def area(xs: Points, upper: Points, lower: Points) -> str:
    """Path data of the region between two lines; frames with NaN are left out."""
    good = [i for i, (u, v) in enumerate(zip(upper, lower, strict=True)) if math.isfinite(u) and math.isfinite(v)]
    if not good:
        return ""
    forth = "L".join(f"{xs[i]:.1f} {upper[i]:.1f}" for i in good)
    back = "L".join(f"{xs[i]:.1f} {lower[i]:.1f}" for i in reversed(good))
    return f"M{forth}L{back}Z"


def thin(values: np.ndarray, most: int) -> np.ndarray:
    """Frames to draw of a long series [T]: the ends, and of each of ``most``/2 buckets the least and the greatest."""
    length = len(values)
    if length <= most:
        return np.arange(length)
    edges = np.linspace(0, length, most // 2 + 1).astype(int)
    kept = {0, length - 1}
    filled = np.nan_to_num(values.astype(np.float64))
    for start, end in pairwise(edges.tolist()):
        kept.add(start + int(np.argmin(filled[start:end])))
        kept.add(start + int(np.argmax(filled[start:end])))
    return np.array(sorted(kept))
