"""LeRobot's processors of π0.5, around any tokenizer.

LeRobot's own function fetches PaliGemma's tokenizer from the Hub. The steps and their order are the same here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    ProcessorStep,
    RelativeActionsProcessorStep,
    TokenizerProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)

from igrft.models.text import BYTES, byte_tokenizer, no_tokenizer

#: PaliGemma's, as LeRobot names it.
PALIGEMMA_TOKENIZER = "google/paligemma-3b-pt-224"


def default_tokenizer(config: PI05Config) -> str:
    """Name of the tokenizer of a policy's type."""
    return BYTES if config.type == "pi05_tiny" else PALIGEMMA_TOKENIZER


def make_processors(
    config: PI05Config, stats: Mapping[str, Any] | None = None, tokenizer: Any = None
) -> tuple[Any, Any]:
    """LeRobot's pre- and postprocessor of a π0.5.

    Args:
        stats: the dataset's statistics, for the normalisation.
        tokenizer: a tokenizer object; None is the policy's own, which for the full size comes from the Hub.

    Returns:
        (preprocessor, postprocessor).

    Raises:
        IgrftError: the tokenizer cannot be had.
    """
    steps = make_default_policy_processor_steps(config, None if stats is None else dict(stats))
    relative = RelativeActionsProcessorStep(
        enabled=config.use_relative_actions,
        exclude_joints=config.relative_exclude_joints,
        action_names=config.action_feature_names,
    )
    before: list[ProcessorStep] = [
        steps.rename_observations,
        steps.add_batch_dim,
        relative,
        steps.normalize,
        Pi05PrepareStateTokenizerProcessorStep(max_state_dim=config.max_state_dim),
        _tokenize(config, tokenizer),
        steps.to_device,
    ]
    after: list[ProcessorStep] = [
        steps.unnormalize,
        AbsoluteActionsProcessorStep(enabled=config.use_relative_actions, relative_step=relative),
        steps.to_cpu,
    ]
    return make_policy_processor_pipelines(input_steps=before, output_steps=after)


def _tokenize(config: PI05Config, tokenizer: Any) -> TokenizerProcessorStep:
    name = default_tokenizer(config)
    if tokenizer is None and name == BYTES:
        tokenizer = byte_tokenizer()
    # LeRobot saves a name with the processor, and leaves out an object.
    chosen = {"tokenizer_name": name} if tokenizer is None else {"tokenizer": tokenizer}
    try:
        return TokenizerProcessorStep(
            **chosen, max_length=config.tokenizer_max_length, padding_side="right", padding="max_length"
        )
    except Exception as error:
        raise no_tokenizer(name, error) from None
