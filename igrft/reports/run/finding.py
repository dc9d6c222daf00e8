"""One finding about a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One sentence or two.

    Attributes:
        level: ``bad`` (explains a worse policy), ``warn`` (look at it) or ``note``.
        text: what is seen, and what to change.
        section: id of the section of the page that shows it.
    """

    level: str
    text: str
    section: str
