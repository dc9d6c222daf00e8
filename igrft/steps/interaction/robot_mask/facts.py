"""What is recorded about an episode's robot masks, so that reports and checks need not look at them again."""

from __future__ import annotations

from typing import Any

import numpy as np

#: A mask of less than this share of the picture is empty, one of more than that nearly everything.
EMPTY, FULL = 0.001, 0.8
#: Two masks that follow each other and overlap by less than this, once the flow has brought them together, are not
#: the same thing.
FLICKER = 0.5


def mask_facts(coverage: np.ndarray, agreement: np.ndarray) -> dict[str, Any]:
    """Facts about the masks of one episode.

    Args:
        coverage: share of the picture that is robot, float32 [T].
        agreement: :attr:`igrft.steps.interaction.robot_mask.carry.Carried.agreement`, float32 [T], NaN where there
            is none.

    Returns:
        ``coverage``, ``least``, ``most``: median and extremes over the frames; ``empty``, ``full``: shares of
        frames that are under :data:`EMPTY` or over :data:`FULL`; ``agreement``: median over masks that have a next
        one; ``flicker``: share of them under :data:`FLICKER`. The last two are None for a single frame.
    """
    seen = agreement[np.isfinite(agreement)]
    return {
        "coverage": round(float(np.median(coverage)), 4),
        "least": round(float(coverage.min()), 4),
        "most": round(float(coverage.max()), 4),
        "empty": round(float(np.mean(coverage < EMPTY)), 4),
        "full": round(float(np.mean(coverage > FULL)), 4),
        "agreement": round(float(np.median(seen)), 4) if len(seen) else None,
        "flicker": round(float(np.mean(seen < FLICKER)), 4) if len(seen) else None,
    }
