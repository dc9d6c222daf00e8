"""What was recorded about rollouts beside their frames: whether it can be read, and is of these episodes."""

from __future__ import annotations

from igrft.reports.checks.findings import Context
from igrft.reports.rollouts.record import read_rollouts


def check_rollouts(context: Context) -> None:
    """A warning: frames and labels are whole without it, but who took over and why is lost."""
    note = read_rollouts(context.dataset).note
    if note:
        context.warn("rollouts", note.rstrip("."))
