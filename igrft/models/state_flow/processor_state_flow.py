"""Pre- and postprocessor of the state-based flow policy: LeRobot's defaults."""

from __future__ import annotations

from typing import Any

from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.factory import make_default_pre_post_processors

from igrft.models.state_flow.configuration_state_flow import StateFlowConfig


def make_state_flow_pre_post_processors(
    config: StateFlowConfig, dataset_stats: dict[str, dict[str, Any]] | None = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """(preprocessor, postprocessor): rename, batch, device, normalise; and back.

    LeRobot's factory finds this function by its name.

    Args:
        dataset_stats: of each feature, for the normalisation.
    """
    processors: tuple[PolicyProcessorPipeline, PolicyProcessorPipeline] = make_default_pre_post_processors(
        config, dataset_stats
    )
    return processors
