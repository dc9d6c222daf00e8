"""Integration of a flow from noise to actions, with real-time chunking's guidance where a chunk is still being done.

Both are LeRobot's own: its Euler steps, and its guidance around each of them (Black et al., Real-Time Execution of
Action Chunking Flow Policies, 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor

from igrft.errors import UsageError


@dataclass(frozen=True)
class Guidance:
    """What a new chunk is made to agree with.

    Attributes:
        left_over: what is left of the last chunk, as the actor made it: normalised, float [B, n, dim], n at most
            the chunk; its first action is the one that is next at the moment of the observation.
        delay: how many of them will have been done before the new chunk can start: they count in full.
        horizon: how many of them count at all, less and less towards the end.
        schedule: how the weight falls between delay and horizon, by LeRobot's names: ZEROS, ONES, LINEAR, EXP.
        max_weight: greatest weight of the guidance, positive.

    Raises:
        UsageError: values outside these ranges.
    """

    left_over: Tensor
    delay: int
    horizon: int = 10
    schedule: str = "LINEAR"
    max_weight: float = 10.0

    def __post_init__(self) -> None:
        if self.left_over.ndim != 3:
            raise UsageError(f"guidance: left_over must be [batch, n, dim], got shape {tuple(self.left_over.shape)}")
        if self.delay < 0 or self.horizon < 1 or not self.max_weight > 0:
            raise UsageError(
                "guidance: delay must be at least 0, horizon at least 1 and max_weight positive, got "
                f"{self.delay}, {self.horizon} and {self.max_weight}"
            )
        if self.schedule not in RTCAttentionSchedule.__members__:
            raise UsageError(
                f"guidance: unknown schedule {self.schedule!r}; one of {', '.join(RTCAttentionSchedule.__members__)}"
            )


def integrate(
    flow: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int, guidance: Guidance | None = None
) -> Tensor:
    """Euler steps from t = 1 (noise) to t = 0 (actions).

    ``flow`` is called without gradient, guided or not. LeRobot's guidance takes the derivative of
    x_t - t·v_t with v_t held fixed, so no gradient goes through the network, and nothing is kept for one.

    Args:
        flow: velocity of x float32 [B, chunk, W] at the time float32 [B]; like x.
        noise: float32 [B, chunk, W].
        steps: Euler steps, at least 1.

    Returns:
        float32 [B, chunk, W].

    Raises:
        UsageError: a left-over that is longer, wider or of another batch than the chunk.
    """
    if guidance is None or guidance.left_over.shape[1] == 0:
        return euler_integrate(flow, noise, steps)
    left_over = guidance.left_over.to(noise)
    if left_over.shape[0] != noise.shape[0] or any(
        a > b for a, b in zip(left_over.shape[1:], noise.shape[1:], strict=True)
    ):
        raise UsageError(
            f"guidance: left_over of shape {tuple(left_over.shape)} does not fit a chunk of {tuple(noise.shape)}"
        )
    processor = RTCProcessor(
        RTCConfig(
            prefix_attention_schedule=RTCAttentionSchedule[guidance.schedule],
            max_guidance_weight=guidance.max_weight,
            execution_horizon=guidance.horizon,
        )
    )
    # In inference mode LeRobot could take no derivative.
    with torch.inference_mode(False):
        out: Tensor = euler_integrate(
            torch.no_grad()(flow),
            noise,
            steps,
            rtc_processor=processor,
            rtc_enabled=True,
            inference_delay=guidance.delay,
            prev_chunk_left_over=left_over,
            execution_horizon=guidance.horizon,
        )
    return out.detach()
