"""How the page of a run spells numbers; a dash where there is none."""

from __future__ import annotations


def two(value: float | None) -> str:
    """Two places, with a real minus: R² and weights."""
    # Adding 0 to what is rounded takes the sign off -0.00.
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Three places and always a sign: advantages."""
    return "-" if value is None else f"{round(value, 3) + 0.0:+.3f}".replace("-", "−")
