"""Plain-text tables and the small formats that every report shares."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 100


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = WIDTH) -> list[str]:
    """Lines of a table: all columns but the last to the right, the last to the left and cut at ``width``."""
    widths = [max(len(r[i]) for r in (header, *rows)) for i in range(len(header) - 1)]
    lines = []
    for row in (header, *rows):
        left = "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=False))
        room = max(8, width - len(left) - 2)
        lines.append(f"{left}  {cut(row[-1], room)}".rstrip())
    return lines


def cut(text: str, room: int) -> str:
    """``text`` on one line, with an ellipsis where it does not fit."""
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1].rstrip() + "…"


def wrapped(label: str, items: Sequence[str], *, width: int = WIDTH, indent: int = 12) -> list[str]:
    """``label`` and ``items``, separated by commas, over as many lines as they need; no item is split."""
    lines = [label.ljust(indent)]
    for i, item in enumerate(items or ["none"]):
        piece = item + ("," if i + 1 < len(items) else "")
        if len(lines[-1]) + len(piece) > width and len(lines[-1]) > indent:
            lines[-1] = lines[-1].rstrip()
            lines.append(" " * indent)
        lines[-1] += piece + " "
    return [line.rstrip() for line in lines]


def percent(share: float | None) -> str:
    """``41 %``, or a dash where there is none."""
    return "-" if share is None else f"{100 * share:.0f} %"


def number(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` places, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """``12.3 s``, ``4 min 10 s`` or ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 episode``, ``3 episodes``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
