"""The cheap half of Eq. 1: from staged counts to label columns. Decodes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError
from igrft.steps.base import Episode, EpisodeLabels, Labeller, StepDefaults
from igrft.steps.interaction.counts import (
    COUNTS_COMPENSATED,
    COUNTS_RAW,
    FACTS,
    INLIERS,
    MOTION,
    REPEATED,
    STAGED,
)
from igrft.steps.interaction.robot_mask.step import ROBOT_MASK
from igrft.steps.interaction.smoothing import runs, smooth

CameraMotion = Literal["auto", "static", "compensate", "refuse"]

#: One motion that explains this much of a moving background is the camera's, beyond doubt.
_CLEAR = 0.9
#: Fewer such frames are chance: a short episode reaches any share with two or three.
_FEWEST_CLEAR = 4


@dataclass(frozen=True)
class InteractionThreshold(StepDefaults):
    """``interaction(f) = count(f) > pixel_threshold`` with the count at ``flow_threshold``.

    Whether the counts are raw or free of the camera's motion is decided per episode and recorded,
    under ``interaction`` in the episode's record:

    - ``camera``, ``flow``, ``flow_size``, ``robot_mask``: what was looked at, and how;
    - ``camera_motion``: ``static`` or ``compensate``, what was done;
    - ``moving_share``: share of frames on which the background moves; repeated pictures left out;
    - ``clear_share``: share of them on which, moreover, one motion explains 90 % of the background;
    - ``moves``: whether either is more than the setting of its name;
    - ``inlier_share``: median over the moving frames of the background that the fit explains;
    - ``repeated_share``: share of pictures that are the one before shown again. Where it is large
      (a camera slower than the recording), the label flickers: set ``close_gaps``;
    - ``share``, ``phases``: share of interaction frames, number of runs of them.

    The settings are those of :class:`~igrft.steps.interaction.Interaction`.
    """

    type: ClassVar[str] = "interaction"

    flow_threshold: float = 2.0
    pixel_threshold: float = 400.0
    ladder: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    camera_motion: CameraMotion = "auto"
    motion_threshold: float = 0.5
    moving_share: float = 0.25
    clear_share: float = 0.05
    min_inlier_share: float = 0.5
    shortest_phase: int = 0
    close_gaps: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        return STAGED

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.INTERACTION, c.INTERACTION_PIXELS)

    @property
    def facts(self) -> tuple[str, ...]:
        """What counting and any source of masks may record."""
        return (c.INTERACTION, FACTS, ROBOT_MASK)

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        if self.flow_threshold not in self.ladder:
            raise IgrftError(f"step 'interaction': flow_threshold {self.flow_threshold:g} is not on the ladder")
        return self.label

    def label(self, episode: Episode) -> EpisodeLabels:
        """Label one episode from what was staged.

        Raises:
            EpisodeError: the camera moves and ``camera_motion`` is ``refuse``, or too little of the
                background follows one motion.
        """
        staged, facts = episode.labels, dict(episode.record.get(FACTS, {}))
        motion, moves = self.judge(staged)
        where = f"episode {episode.index}: camera {facts.get('camera')!r}"
        if moves and self.camera_motion == "refuse":
            raise EpisodeError(
                f"{where} moves on {motion['moving_share']:.0%} of the frames and camera_motion is refuse; choose a "
                "fixed camera, or set camera_motion: compensate"
            )
        compensate = self.camera_motion == "compensate" or (self.camera_motion == "auto" and moves)
        fit = motion["inlier_share"]
        if compensate and moves and (fit is None or fit < self.min_inlier_share):
            raise EpisodeError(
                f"{where} moves, and its motion explains {fit or 0:.0%} of the background where min_inlier_share is "
                f"{self.min_inlier_share:.0%}; choose a fixed camera, or lower min_inlier_share"
            )
        pixels = staged[COUNTS_COMPENSATED if compensate else COUNTS_RAW][:, self.ladder.index(self.flow_threshold)]
        flags = smooth(pixels > self.pixel_threshold, close_gaps=self.close_gaps, shortest_phase=self.shortest_phase)
        record = {
            **facts,
            "camera_motion": "compensate" if compensate else "static",
            **motion,
            "repeated_share": _share(staged[REPEATED]),
            "share": _share(flags),
            "phases": len(runs(flags)),
        }
        return EpisodeLabels(
            columns={c.INTERACTION: flags, c.INTERACTION_PIXELS: pixels.astype(np.float32)},
            record={c.INTERACTION: record},
        )

    def judge(self, staged: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], bool]:
        """Whether the camera moves, as recorded facts and as a bool."""
        motion = staged[MOTION]
        seen = np.isfinite(motion) & ~staged[REPEATED].astype(bool)
        moving = seen & (motion > self.motion_threshold)
        inliers = np.nan_to_num(staged[INLIERS])
        clearly = moving & (inliers >= _CLEAR)
        share, clear = (float(flags.sum() / max(seen.sum(), 1)) for flags in (moving, clearly))
        moves = share > self.moving_share or (clear > self.clear_share and int(clearly.sum()) >= _FEWEST_CLEAR)
        facts = {
            "moves": moves,
            "moving_share": round(share, 4),
            "clear_share": round(clear, 4),
            "inlier_share": round(float(np.median(inliers[moving])), 4) if moving.any() else None,
        }
        return facts, moves


def _share(flags: np.ndarray) -> float:
    return round(float(np.mean(flags)), 4) if len(flags) else 0.0
