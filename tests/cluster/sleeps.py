"""A step whose seconds are known."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from igrft.steps.base import Episode, EpisodeLabels, StepDefaults


@dataclass(frozen=True)
class Sleeps(StepDefaults):
    """Takes what it says: an episode 40 ms, a frame 2 ms; and a worker a quarter of a second at its first."""

    type: ClassVar[str] = "sleeps"

    @property
    def heavy(self) -> bool:
        return True

    @property
    def makes(self) -> tuple[str, ...]:
        return ("igrft.slept",)

    def open(self, dataset, reduced):
        begun = False

        def label(episode: Episode) -> EpisodeLabels:
            nonlocal begun
            if not begun:
                begun = True
                time.sleep(0.25)
            length = int(dataset.lengths[episode.row])
            time.sleep(0.04 + 0.002 * length)
            return EpisodeLabels(staged={"igrft.slept": np.zeros(length, np.float32)})

        return label
