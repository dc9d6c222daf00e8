"""Settings of the state-based flow policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, CosineDecayWithWarmupSchedulerConfig

from igrft.errors import UsageError


@PreTrainedConfig.register_subclass("state_flow")
@dataclass
class StateFlowConfig(PreTrainedConfig):
    """Sizes and presets; the defaults learn small tasks in seconds on one core.

    Attributes:
        width: of the encoder, of its features and of the flow head.
        num_blocks: residual blocks of the encoder, the layers that a critic can read.
        head_blocks: residual blocks of the flow head.
        time_width: of the time's sine-cosine embedding; even.
        input_limit: normalised inputs are clipped to plus and minus this: dimensions that the dataset hardly
            moves would else be blown up without bound.
        num_inference_steps: Euler steps from noise to actions.
        min_period, max_period: range of the time embedding's periods.
        time_sampling_beta_alpha, ...: flow times of training, Beta(alpha, beta)·scale + offset, as LeRobot's π0.5.
    """

    n_obs_steps: int = 1
    chunk_size: int = 8
    n_action_steps: int = 4

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )

    width: int = 96
    num_blocks: int = 3
    head_blocks: int = 2
    time_width: int = 32
    input_limit: float = 10.0

    num_inference_steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0
    time_sampling_beta_alpha: float = 1.5
    time_sampling_beta_beta: float = 1.0
    time_sampling_scale: float = 0.999
    time_sampling_offset: float = 0.001

    optimizer_lr: float = 2e-3
    optimizer_betas: tuple[float, float] = (0.9, 0.95)
    optimizer_eps: float = 1e-8
    optimizer_weight_decay: float = 0.01
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = 100
    scheduler_decay_steps: int = 5_000
    scheduler_decay_lr: float = 2e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_obs_steps != 1:
            raise ValueError(f"state_flow looks at one observation: n_obs_steps must be 1, got {self.n_obs_steps}")
        for name in ("chunk_size", "n_action_steps", "width", "num_blocks", "head_blocks", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"state_flow: {name} must be at least 1, got {getattr(self, name)}")
        if self.n_action_steps > self.chunk_size:
            raise ValueError(
                f"state_flow: n_action_steps ({self.n_action_steps}) cannot be more than chunk_size ({self.chunk_size})"
            )
        if self.time_width < 4 or self.time_width % 2:
            raise ValueError(f"state_flow: time_width must be even and at least 4, got {self.time_width}")
        if not self.input_limit > 0:
            raise ValueError(f"state_flow: input_limit must be positive, got {self.input_limit}")
        if not 0 < self.min_period < self.max_period:
            raise ValueError(
                f"state_flow: 0 < min_period < max_period must hold, got {self.min_period} and {self.max_period}"
            )

    @property
    def state_features(self) -> dict[str, int]:
        """Width of each input that the policy reads, in the order in which they are joined."""
        kinds = (FeatureType.STATE, FeatureType.ENV)
        found = {key: f.shape for key, f in (self.input_features or {}).items() if f.type in kinds}
        return {key: int(found[key][0]) for key in sorted(found)}

    @property
    def action_dim(self) -> int:
        """Width of the robot's actions."""
        assert self.action_feature is not None
        return int(self.action_feature.shape[0])

    def validate_features(self) -> None:
        """Raises UsageError: no state to read, no action to predict, or one that is no vector."""
        read = {k: f for k, f in (self.input_features or {}).items() if f.type in (FeatureType.STATE, FeatureType.ENV)}
        if not read:
            raise UsageError(
                "state_flow reads low-dimensional state, and the dataset has no 'observation.state' and no "
                "'observation.environment_state'; take a policy that looks at pictures"
            )
        if self.action_feature is None:
            raise UsageError("state_flow predicts actions, and the dataset has no 'action'")
        for key, feature in {**read, "action": self.action_feature}.items():
            if len(feature.shape) != 1 or feature.shape[0] < 1:
                raise UsageError(f"state_flow takes vectors, and {key!r} has the shape {tuple(feature.shape)}")

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            eps=self.optimizer_eps,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        return CosineDecayWithWarmupSchedulerConfig(
            peak_lr=self.optimizer_lr,
            decay_lr=self.scheduler_decay_lr,
            num_warmup_steps=self.scheduler_warmup_steps,
            num_decay_steps=self.scheduler_decay_steps,
        )

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None
