"""Robot masks that flicker, vanish or cover nearly everything, by what was recorded when they were used."""

from __future__ import annotations

from igrft.reports.checks.findings import Context
from igrft.steps.interaction.robot_mask.facts import complaints


def check_masks(context: Context) -> None:
    """A warning for each: the labels are what the masks make of them."""
    settings = context.step("interaction") or {}
    source = settings.get("robot_mask", "none")
    for episode, entry in context.entries.items():
        for _, text in complaints((entry.get("interaction") or {}).get("mask") or {}):
            context.warn("robot mask", f"the robot mask ({source}) {text}; look at it with igrft report", int(episode))
