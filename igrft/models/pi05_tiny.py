"""A tiny π0.5 for CPUs: LeRobot's and Hugging Face's own classes, with sizes that are settings.

LeRobot's configuration admits two sizes, so the constructors that fix them are passed by here; everything
that runs is LeRobot's. The policy is known to LeRobot's factories as ``pi05_tiny``, which is why its
processors are made in this module, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import (
    GemmaConfig,
    PaliGemmaWithExpertModel,
    PI05Policy,
    PI05Pytorch,
)
from lerobot.policies.pi_gemma import PaliGemmaForConditionalGenerationWithPiGemma, PiGemmaForCausalLM
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import nn
from transformers.models.auto import CONFIG_MAPPING

from igrft.errors import UsageError

#: ``compute_layer_complete`` of LeRobot's joint forward takes this number for granted.
HEADS = 8


@PreTrainedConfig.register_subclass("pi05_tiny")
@dataclass
class TinyPI05Config(PI05Config):
    """π0.5 with sizes as settings; 0.4 M parameters as they stand.

    Attributes:
        width, mlp_width: of the language model. ``expert_width``, ``expert_mlp_width``: of the action expert.
        depth: layers of both.
        head_width: of each of 8 heads, of both; even. Keys and values have one head.
        vocabulary: tokens; at least 260 for the "bytes" tokenizer.
        vision_width, vision_mlp_width, vision_depth, vision_heads, patch: of the picture encoder.
    """

    chunk_size: int = 10
    n_action_steps: int = 10
    max_state_dim: int = 16
    max_action_dim: int = 16
    image_resolution: tuple[int, int] = (28, 28)
    tokenizer_max_length: int = 160

    width: int = 48
    mlp_width: int = 96
    expert_width: int = 32
    expert_mlp_width: int = 64
    depth: int = 6
    head_width: int = 16
    vocabulary: int = 512
    vision_width: int = 32
    vision_mlp_width: int = 64
    vision_depth: int = 2
    vision_heads: int = 2
    patch: int = 14

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_width % 2:
            raise UsageError(f"policy.head_width must be even, got {self.head_width}")
        if self.image_resolution[0] != self.image_resolution[1] or self.image_resolution[0] % self.patch:
            raise UsageError(
                f"policy.image_resolution must be a square whose side {self.patch} (policy.patch) divides, "
                f"got {list(self.image_resolution)}"
            )


class TinyPaliGemmaWithExpert(PaliGemmaWithExpertModel):
    """LeRobot's two models side by side, from a :class:`TinyPI05Config`."""

    def __init__(self, config: TinyPI05Config) -> None:
        nn.Module.__init__(self)
        self.freeze_vision_encoder = config.freeze_vision_encoder
        self.train_expert_only = config.train_expert_only
        sizes: Any = CONFIG_MAPPING
        vlm = sizes["paligemma"](
            text_config=_gemma(config, config.width, config.mlp_width, use_adarms=False),
            vision_config={
                "model_type": "siglip_vision_model",
                "image_size": config.image_resolution[0],
                "patch_size": config.patch,
                "hidden_size": config.vision_width,
                "intermediate_size": config.vision_mlp_width,
                "num_hidden_layers": config.vision_depth,
                "num_attention_heads": config.vision_heads,
                "projection_dim": config.width,
                "projector_hidden_act": "gelu_fast",
                "vision_use_head": False,
                "dtype": "float32",
            },
            projection_dim=config.width,
        )
        expert = _gemma(config, config.expert_width, config.expert_mlp_width, use_adarms=True)
        self.paligemma = PaliGemmaForConditionalGenerationWithPiGemma(config=vlm)
        self.gemma_expert = PiGemmaForCausalLM(config=sizes["gemma"](**expert))
        self.gemma_expert.model.embed_tokens = None
        self.to_bfloat16_for_selected_params(config.dtype)
        self._set_requires_grad()


class TinyPI05Pytorch(PI05Pytorch):
    """LeRobot's core model around :class:`TinyPaliGemmaWithExpert`."""

    def __init__(self, config: TinyPI05Config, rtc_processor: Any = None) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.rtc_processor = rtc_processor
        self.paligemma_with_expert = TinyPaliGemmaWithExpert(config)
        width = config.expert_width
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self.gradient_checkpointing_enabled = False


class TinyPI05Policy(PI05Policy):
    """LeRobot's policy around :class:`TinyPI05Pytorch`."""

    config_class = TinyPI05Config
    name = "pi05_tiny"

    def __init__(self, config: TinyPI05Config, **kwargs: Any) -> None:
        PreTrainedPolicy.__init__(self, config)
        config.validate_features()
        self.config = config
        self.init_rtc_processor()
        self.model = TinyPI05Pytorch(config, self.rtc_processor)
        if config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model.to(config.device)
        self.reset()


def make_pi05_tiny_pre_post_processors(
    config: TinyPI05Config, dataset_stats: Mapping[str, Mapping[str, torch.Tensor]] | None = None
) -> tuple[Any, Any]:
    """LeRobot's processors of π0.5 with the "bytes" tokenizer. The name is the one that LeRobot's factory looks for.

    Returns:
        (preprocessor, postprocessor).
    """
    from igrft.models.pi05_processors import make_processors

    return make_processors(config, dataset_stats)


def _gemma(config: TinyPI05Config, width: int, mlp_width: int, *, use_adarms: bool) -> dict[str, Any]:
    """Settings of a Gemma model, as LeRobot's constructor makes them from its own sizes."""
    sizes = GemmaConfig(width, config.depth, mlp_width, HEADS, 1, config.head_width)
    return {
        "model_type": "gemma",
        "head_dim": sizes.head_dim,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp_dim,
        "num_attention_heads": sizes.num_heads,
        "num_hidden_layers": sizes.depth,
        "num_key_value_heads": sizes.num_kv_heads,
        "vocab_size": config.vocabulary,
        "hidden_activation": "gelu_pytorch_tanh",
        "dtype": "float32",
        "use_adarms": use_adarms,
        "adarms_cond_dim": sizes.width if use_adarms else None,
    }
