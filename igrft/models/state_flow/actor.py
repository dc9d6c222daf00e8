"""The state-based flow policy as an actor. Its encoder's features stand where a transformer's cache stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from igrft.errors import IgrftError
from igrft.models.guidance import Guidance
from igrft.models.protocol import Batch, Features, Prefix, TextTargets
from igrft.models.state_flow.modeling_state_flow import StateFlowPolicy
from igrft.training.recipe import TextSettings


class StateFlowActor:
    """``state_flow`` for the trainer.

    Features are one token an observation: layer i holds what the encoder's block i puts out, as key and as
    value. With ``insulated`` the flow trains the head alone, and the encoder learns nothing.

    Args:
        text, tokenizer: not used; there is no language model.
    """

    type: ClassVar[str] = "state_flow"

    def __init__(self, policy: StateFlowPolicy, text: TextSettings | None = None, tokenizer: Any = None) -> None:
        self.policy = policy

    @property
    def uses_images(self) -> bool:
        return False

    @property
    def has_text(self) -> bool:
        return False

    @property
    def chunk_size(self) -> int:
        return self.policy.config.chunk_size

    @property
    def action_width(self) -> int:
        return self.policy.config.action_dim

    @property
    def feature_width(self) -> int:
        return self.policy.config.width

    @property
    def depth(self) -> int:
        return self.policy.config.num_blocks

    def text_targets(self, texts: Sequence[str], actions: Tensor | None = None) -> TextTargets | None:
        return None

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        outputs = self.policy.model.encoder(self.policy.state(batch))
        tokens = [outputs[i][:, None] for i in layers]
        mask = torch.ones(outputs[-1].shape[0], 1, dtype=torch.bool, device=outputs[-1].device)
        return Prefix(Features(tokens, list(tokens), mask), outputs[-1])

    def flow_error(
        self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor, *, insulated: bool = False
    ) -> Tensor:
        features = prefix.cache.detach() if insulated else prefix.cache
        target, at = actions[:, None], time[:, :, None, None]
        flow = self.policy.model.head(at * noise + (1 - at) * target, time, features)
        return (noise - target - flow.float()).square()

    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        return self.policy.integrate(prefix.cache, noise, guidance)

    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        return self.policy.predict_action_chunk(batch, noise=noise)

    def generate_subtasks(self, batch: Batch, max_tokens: int = 32) -> list[str]:
        raise IgrftError("a state_flow policy has no language model, so it writes no subtasks")
