"""Tiny SmolVLA policies and batches, for the tests of the actor. LeRobot loads their backbone from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE

STATE, DIM, CHUNK, WIDTH = 5, 6, 4, 8
CAMERAS = ("observation.images.top", "observation.images.wrist")
#: Side of the vision tower's pictures; 2×2 patches, merged to one token.
SIDE = 16
_SPECIALS = {
    "pad_token": "<pad>",
    "eos_token": "<end_of_utterance>",
    "unk_token": "<unk>",
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
}


def write_backbone(folder: Path, layers: int = 4, seed: int = 0) -> Path:
    """Configuration, weights and processor of a SmolVLM that has a few thousand parameters."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    tokenizer = _tokenizer()
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer) + 6,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": 8,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    SmolVLMForConditionalGeneration(config).save_pretrained(folder)
    _processor(tokenizer).save_pretrained(folder)
    return folder


def tiny_policy(backbone: Path, seed: int = 0, **changes: Any) -> SmolVLAPolicy:
    """A policy in training mode, with random weights all over."""
    inputs = {OBS_STATE: PolicyFeature(FeatureType.STATE, (STATE,))}
    inputs |= {name: PolicyFeature(FeatureType.VISUAL, (3, 20, 30)) for name in CAMERAS}
    sizes: dict[str, Any] = {
        "chunk_size": CHUNK,
        "n_action_steps": CHUNK,
        "max_state_dim": WIDTH,
        "max_action_dim": WIDTH,
        "resize_imgs_with_padding": (SIDE, SIDE),
        "tokenizer_max_length": 24,
        "num_steps": 3,
        "num_vlm_layers": 4,
        "input_features": inputs,
        "output_features": {ACTION: PolicyFeature(FeatureType.ACTION, (DIM,))},
    }
    config = SmolVLAConfig(device="cpu", vlm_model_name=str(backbone), **{**sizes, **changes})
    torch.manual_seed(seed)
    policy = SmolVLAPolicy(config)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    policy.train()
    return policy


def tiny_batch(lengths: tuple[int, ...] = (7, 12, 9), cameras: int = 2, state: int = STATE, seed: int = 1) -> Any:
    """Processed observations and actions; prompts of these lengths, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    n, longest = len(lengths), max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    tokens = torch.randint(len(_SPECIALS), 200, (n, longest), generator=draw)
    batch = {name: torch.rand(n, 3, 20, 30, generator=draw) for name in CAMERAS[:cameras]}
    return batch | {
        OBS_STATE: torch.randn(n, state, generator=draw),
        OBS_LANGUAGE_TOKENS: tokens * mask,
        OBS_LANGUAGE_ATTENTION_MASK: mask,
        ACTION: torch.randn(n, CHUNK, DIM, generator=draw),
    }


def draws(n: int = 3, samples: int = 1, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise [n, samples, CHUNK, WIDTH] and flow times [n, samples]."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, samples, CHUNK, WIDTH, generator=draw), torch.rand(n, samples, generator=draw)


def _tokenizer() -> Any:
    """One token a byte, and the special tokens that LeRobot and SmolVLM's processor ask for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*_SPECIALS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    plain = ("pad_token", "eos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={k: v for k, v in _SPECIALS.items() if k not in plain},
        **{k: _SPECIALS[k] for k in plain},
    )


def _processor(tokenizer: Any) -> Any:
    from transformers import SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    size = {"longest_edge": SIDE}
    images = SmolVLMImageProcessor(size=size, max_image_size=size)
    videos = SmolVLMVideoProcessor(size=size, max_image_size=size)
    return SmolVLMProcessor(images, tokenizer, videos, image_seq_len=1)
