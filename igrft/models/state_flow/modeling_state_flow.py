"""The state-based flow policy: an encoder of residual blocks, and a flow head over the whole chunk.

The flow's convention is π0.5's: x_t = t·noise + (1-t)·actions, the velocity is noise - actions, and
inference goes from t = 1 to 0.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from lerobot.policies.common.flow_matching import sample_noise, sample_time_beta
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor, nn
from torch.nn.functional import relu

from igrft.errors import IgrftError
from igrft.models.guidance import Guidance, integrate
from igrft.models.state_flow.configuration_state_flow import StateFlowConfig

ACTION_IS_PAD = "action_is_pad"


class StateFlowPolicy(PreTrainedPolicy):
    """Actions from low-dimensional state; pictures in a batch are not looked at."""

    config_class = StateFlowConfig  # type: ignore[assignment]
    name = "state_flow"  # type: ignore[assignment]

    def __init__(self, config: StateFlowConfig, **kwargs: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.config: StateFlowConfig = config
        self.model = StateFlow(config)
        self.reset()

    def get_optim_params(self) -> Any:
        return self.parameters()

    def reset(self) -> None:
        """Forget actions that were predicted and not yet taken."""
        self._queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)

    def state(self, batch: dict[str, Any]) -> Tensor:
        """What the encoder reads: normalised state features side by side, clipped, float [B, inputs].

        Raises:
            IgrftError: the batch lacks one of them.
        """
        parts = []
        for key, width in self.config.state_features.items():
            if key not in batch:
                raise IgrftError(f"the batch has no {key!r}, which this policy was made to read")
            x = batch[key]
            # [B, d], [B, 1, d] with a time axis, or [B] where d is 1.
            parts.append(x.reshape(x.shape[0], -1, width)[:, -1])
        weight = self.model.encoder.inputs.weight
        joined = torch.cat(parts, dim=-1).to(device=weight.device, dtype=weight.dtype)
        return joined.clamp(-self.config.input_limit, self.config.input_limit)

    def forward(
        self,
        batch: dict[str, Any],
        noise: Tensor | None = None,
        time: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, dict[str, float]]:
        """The training loss, over action steps that are not padding.

        Args:
            noise: [B, chunk, dim]; ``time``: [B]. None draws them.
            reduction: mean, or none for one loss a sample.

        Returns:
            The loss, a scalar or [B], and figures for a log.
        """
        actions = batch[ACTION]
        noise = sample_noise(actions.shape, actions.device) if noise is None else noise
        time = self._sample_time(actions.shape[0], actions.device) if time is None else time
        at = time[:, None, None]
        features = self.model.encoder(self.state(batch))[-1]
        flow = self.model.head((at * noise + (1 - at) * actions)[:, None], time[:, None], features)
        error = (noise - actions - flow.squeeze(1).float()).square()
        padded = batch.get(ACTION_IS_PAD)
        real = torch.ones_like(error[..., 0]) if padded is None else (~padded).to(error.dtype)
        error = (error * real[..., None]).mean(dim=-1)
        if reduction == "none":
            loss = error.sum(dim=1) / real.sum(dim=1).clamp_min(1)
        else:
            loss = error.sum() / real.sum().clamp_min(1)
        return loss, {"loss": loss.mean().item()}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Normalised actions, float32 [B, chunk, dim], from ``noise`` of that shape (None draws it)."""
        features = self.model.encoder(self.state(batch))[-1]
        if noise is None:
            shape = (features.shape[0], self.config.chunk_size, self.config.action_dim)
            noise = sample_noise(shape, features.device)
        return self.integrate(features, noise)

    @torch.no_grad()
    def integrate(self, features: Tensor, noise: Tensor, guidance: Guidance | None = None) -> Tensor:
        """Normalised actions, float32 [B, chunk, dim], from ``noise`` of that shape.

        Args:
            features: what the encoder's last block puts out, [B, width].
            guidance: the rest of the last chunk, for real-time chunking.
        """
        return integrate(
            lambda x, t: self.model.head(x[:, None], t[:, None], features).squeeze(1).float(),
            noise,
            self.config.num_inference_steps,
            guidance,
        )

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], noise: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The next action, [B, dim]; a chunk is predicted where none is left of the one before."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch, noise=noise)
            self._queue.extend(chunk.transpose(0, 1)[: self.config.n_action_steps])
        return self._queue.popleft()

    def _sample_time(self, batch: int, device: torch.device) -> Tensor:
        config = self.config
        return sample_time_beta(
            batch,
            device,
            alpha=config.time_sampling_beta_alpha,
            beta=config.time_sampling_beta_beta,
            scale=config.time_sampling_scale,
            offset=config.time_sampling_offset,
        )


class StateFlow(nn.Module):
    """Encoder and flow head."""

    def __init__(self, config: StateFlowConfig) -> None:
        super().__init__()
        self.encoder = Encoder(sum(config.state_features.values()), config.width, config.num_blocks)
        self.head = FlowHead(config)


class EncoderBlock(nn.Module):
    """x + W·relu(x). A norm here costs time and brought nothing; the head has its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.linear(relu(x))
        return out


class Encoder(nn.Module):
    """State to features."""

    def __init__(self, inputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(EncoderBlock(width) for _ in range(blocks))

    def forward(self, state: Tensor) -> list[Tensor]:
        """[B, inputs] to what each block puts out, [B, width]."""
        x, out = self.inputs(state), []
        for block in self.blocks:
            x = block(x)
            out.append(x)
        return out


class HeadBlock(nn.Module):
    """x + W·relu(V·norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(relu(self.up(self.norm(x))))
        return out


class FlowHead(nn.Module):
    """Velocity of a noisy chunk, given the encoder's features and the time."""

    def __init__(self, config: StateFlowConfig) -> None:
        super().__init__()
        flat = config.chunk_size * config.action_dim
        self.periods = (config.min_period, config.max_period)
        self.chunk = nn.Linear(flat, config.width)
        self.features_norm = nn.LayerNorm(config.width)
        self.features = nn.Linear(config.width, config.width)
        self.time = nn.Linear(config.time_width, config.width)
        self.blocks = nn.ModuleList(HeadBlock(config.width) for _ in range(config.head_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, flat)
        # The velocity holds the noise, of which a chunk may have more numbers than the layers are wide: it passes
        # them by, scaled by the time alone.
        self.past = nn.Linear(config.width, config.action_dim)
        # An untrained head predicts no velocity.
        for last in (self.out, self.past):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, noisy: Tensor, time: Tensor, features: Tensor) -> Tensor:
        """S draws an observation at once: noisy [B, S, chunk, dim], time [B, S], features [B, width] → like noisy."""
        embedded = create_sinusoidal_pos_embedding(
            time.flatten(), self.time.in_features, *self.periods, device=time.device
        )
        embedded = embedded.to(self.time.weight.dtype).unflatten(0, time.shape)
        at = self.time(embedded)
        x = self.chunk(noisy.flatten(-2)) + self.features(self.features_norm(features))[:, None] + at
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.out(relu(self.norm(x))).view(noisy.shape)
        return out + self.past(relu(at))[:, :, None] * noisy
