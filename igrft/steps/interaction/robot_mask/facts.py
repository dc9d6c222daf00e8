"""What is recorded about an episode's robot masks, so that reports and checks need not look at them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

#: A mask of less than this share of the picture is empty, one of more than that nearly everything.
EMPTY, FULL = 0.001, 0.8
#: A mask that is less than this part of the episode's median has vanished, too.
_VANISHED = 0.1
#: Two masks that follow each other and overlap by less than this, once the flow has brought them together, are not
#: the same thing. (Exact masks 30 frames apart never fell so low.)
FLICKER = 0.5
#: Shares of masks or frames above which validate and the report complain.
_MANY_FLICKER, _MANY_VANISHED, _MANY_FULL = 0.1, 0.02, 0.02


def mask_facts(coverage: np.ndarray, agreement: np.ndarray) -> dict[str, Any]:
    """Facts about the masks of one episode.

    Args:
        coverage: share of the picture that is robot, float32 [T].
        agreement: :attr:`igrft.steps.interaction.robot_mask.carry.Carried.agreement`, float32 [T], NaN where there
            is none.

    Returns:
        ``coverage``, ``least``, ``most``: median and extremes over the frames; ``vanished``: share of frames under
        :data:`EMPTY`, or a tenth of the median; ``full``: share over :data:`FULL`; ``agreement``: median over masks
        that have a next one; ``flicker``: share of them under :data:`FLICKER`. The last two are None for a single
        frame.
    """
    seen = agreement[np.isfinite(agreement)]
    median = float(np.median(coverage))
    return {
        "coverage": round(median, 4),
        "least": round(float(coverage.min()), 4),
        "most": round(float(coverage.max()), 4),
        "vanished": round(float(np.mean(coverage < max(EMPTY, _VANISHED * median))), 4),
        "full": round(float(np.mean(coverage > FULL)), 4),
        "agreement": round(float(np.median(seen)), 4) if len(seen) else None,
        "flicker": round(float(np.mean(seen < FLICKER)), 4) if len(seen) else None,
    }


def complaints(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is odd about an episode's masks: (kind, what "the robot mask" does).

    Args:
        facts: as :func:`mask_facts` gives them; may be empty.
    """
    if not facts:
        return
    if facts["coverage"] < EMPTY and facts["vanished"] == 1:
        yield "vanishes", "finds no robot on any frame"
    elif facts["vanished"] > _MANY_VANISHED:
        yield "vanishes", f"vanishes on {facts['vanished']:.0%} of the frames, where the robot's motion counts"
    if facts["full"] > _MANY_FULL:
        yield "full", f"covers more than {FULL:.0%} of the picture on {facts['full']:.0%} of the frames"
    if (facts["flicker"] or 0) > _MANY_FLICKER:
        yield (
            "flickers",
            f"flickers: {facts['flicker']:.0%} of its masks hardly overlap the next one, carried by the flow (a lower "
            "mask_every helps where the robot is fast)",
        )
