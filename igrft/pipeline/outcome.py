"""What a run of `annotate` did, and what of it the user should know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft import columns as c
from igrft.pipeline.plan import Plan
from igrft.steps.base import Step

#: Share of repeated pictures above which the interaction label flickers visibly.
_MANY_REPEATS = 0.1


@dataclass(frozen=True)
class AnnotateResult:
    """What `annotate` did.

    Attributes:
        target: the labelled dataset: its folder, or its URL.
        episodes: labelled episodes.
        frames: their frames.
        set_aside: reasons by episode index.
        assumed_successes: episodes whose success nobody stated.
        notices: what else the user should know, one line each.
        unchanged: TARGET already held exactly this, and nothing was written.
        spent: what steps cost beyond time (calls and tokens of a model), by step.
    """

    target: Path | str
    episodes: int
    frames: int
    set_aside: dict[int, str] = field(default_factory=dict)
    assumed_successes: int = 0
    notices: tuple[str, ...] = ()
    unchanged: bool = False
    spent: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {**self.__dict__, "target": str(self.target), "notices": list(self.notices)}


def notices_of(plan: Plan, records: Iterable[Mapping[str, Any]], episodes: int) -> tuple[list[str], int]:
    """Lines about what was found in ``episodes`` labelled episodes, and in how many success was assumed.

    Args:
        records: what the steps recorded of each.
    """
    assumed = judged = skipped = moved = repeated = 0
    for record in records:
        assumed += record.get("success_from") == "assumed"
        judged += record.get("success_from") == "model"
        skipped += bool(record.get("skipped"))
        interaction = record.get(c.INTERACTION) or {}
        moved += interaction.get("camera_motion") == "compensate"
        repeated += interaction.get("repeated_share", 0.0) > _MANY_REPEATS
    notices = list(plan.notices)
    if judged:
        notices.append(f"success is a model's word in {judged} of {episodes} episodes")
    if skipped:
        notices.append(
            f"subtasks of the task were not seen in {skipped} successes and are not listed there (see 'skipped' in "
            "meta/igrft.json)"
        )
    if moved:
        # A camera's own motion is never taken out silently.
        notices.append(
            f"the camera moves: its motion was estimated and taken out in {moved} of {episodes} episodes "
            "(--steps.interaction.camera_motion=static for a camera that is known to be fixed)"
        )
    if any(_masked_without_evidence(step) for step in plan.entries):
        notices.append(
            "an arm's flow bleeds over plain background beside its mask and counts there: "
            "--steps.interaction.change_threshold=3 counts only where the picture changes (docs/interaction.md)"
        )
    closed = any(getattr(step, "close_gaps", 0) for step in plan.steps)
    if repeated and not closed:
        notices.append(
            f"pictures repeat (a camera slower than the recording) in {repeated} of {episodes} episodes, so that "
            "interaction flickers: give --steps.interaction.close_gaps=2"
        )
    return notices, assumed


def _masked_without_evidence(step: Step) -> bool:
    return getattr(step, "robot_mask", "none") != "none" and not getattr(step, "change_threshold", 1)
