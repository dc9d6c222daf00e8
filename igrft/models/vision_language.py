"""What the adapters of vision-language-action policies have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igrft.models.protocol import TextTargets

if TYPE_CHECKING:
    from igrft.models.text import TargetWriter
    from igrft.training.recipe import TextSettings


class VisionLanguageActor:
    """Pictures and text in, chunks padded to ``max_action_dim`` out, as LeRobot's openpi-derived policies have it.

    Args:
        text: tokenizers; None is the policy's own, without action tokens. They are loaded when first needed.
        tokenizer: an object that stands for the policy's own tokenizer.
    """

    def __init__(self, policy: Any, text: TextSettings | None = None, tokenizer: Any = None) -> None:
        self.policy = policy
        self._text = text
        self._tokenizer = tokenizer

    @property
    def uses_images(self) -> bool:
        return True

    @property
    def has_text(self) -> bool:
        return True

    @property
    def chunk_size(self) -> int:
        return int(self.policy.config.chunk_size)

    @property
    def action_width(self) -> int:
        return int(self.policy.config.max_action_dim)

    @cached_property
    def writer(self) -> TargetWriter:
        """Makes target tokens."""
        raise NotImplementedError

    def text_targets(self, texts: Sequence[str], actions: Tensor | None = None) -> TextTargets | None:
        return self.writer(texts, actions, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.policy.parameters()).device
