"""Eq. 1: on which frames does something that is not the robot move?

``Interaction`` is the entry of a pipeline file. It stands for two steps: :class:`InteractionCounts`
decodes, computes flow and stages counts; :class:`InteractionThreshold` makes the label columns from
them, so that new thresholds decode nothing.
"""

from igrft.steps.interaction.counts import InteractionCounts
from igrft.steps.interaction.step import Interaction
from igrft.steps.interaction.threshold import InteractionThreshold

__all__ = ["Interaction", "InteractionCounts", "InteractionThreshold"]
