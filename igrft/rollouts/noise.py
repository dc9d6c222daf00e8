"""How wide the initial noise of the flow is: Eq. 2, one width for all, or the flow's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from igrft.errors import UsageError
from igrft.rewards.exploration import exploration_temperature, leaves_training_range
from igrft.rollouts.protocols import Judgement

if TYPE_CHECKING:
    from torch import Tensor

#: interaction: T(s); uniform: one standard deviation, whatever the critic says; off: that of training, 1.
NOISE_TYPES = ("interaction", "uniform", "off")


@dataclass(frozen=True)
class NoiseRule:
    """Standard deviation of the initial noise, chunk by chunk.

    Attributes:
        type: one of :data:`NOISE_TYPES`.
        sigma_base, alpha, sigma_min: of Eq. 2.
        uniform: where ``type`` is uniform.
    """

    type: str = "off"
    sigma_base: float = 1.5
    alpha: float = 0.9
    sigma_min: float = 0.2
    uniform: float = 1.0

    @classmethod
    def fixed(cls, temperature: float) -> NoiseRule:
        """The same everywhere. Raises UsageError: negative."""
        if not temperature >= 0:
            raise UsageError(f"a noise temperature must not be negative, got {temperature}")
        return cls(type="uniform", uniform=float(temperature))

    @property
    def needs_critic(self) -> bool:
        return self.type == "interaction"

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest standard deviation that it can give."""
        if self.type == "interaction":
            ends = exploration_temperature([0.0, 1.0], self.sigma_base, self.alpha, self.sigma_min)  # type: ignore[arg-type]
            return float(ends.min()), float(ends.max())
        one = self.uniform if self.type == "uniform" else 1.0
        return one, one

    def scale(self, judgement: Judgement | None) -> float:
        """For one observation.

        Raises:
            UsageError: Eq. 2 without a critic.
        """
        if self.type == "off":
            return 1.0
        if self.type == "uniform":
            return self.uniform
        if judgement is None:
            raise UsageError(
                "exploration.type is interaction, which asks a critic, and the checkpoint has none; train one "
                "(critic.enabled: true), or give --exploration.type=uniform"
            )
        return float(exploration_temperature(judgement.interaction, self.sigma_base, self.alpha, self.sigma_min))

    def of_logit(self, logit: Tensor) -> Tensor:
        """Eq. 2 from the critic's logits, where they are: of the same shape and device."""
        return self.sigma_base * (1.0 - self.alpha * logit.sigmoid()) + self.sigma_min

    def warning(self, trained: tuple[float, float]) -> str | None:
        """One line where noise leaves what the flow has seen; None where it does not.

        Args:
            trained: ``objective.noise_scale`` of the run. Noise narrower than its upper end lies inside what was seen.
        """
        low, high = self.spread
        if self.type == "interaction":
            leaves = leaves_training_range(self.sigma_base, self.alpha, self.sigma_min, (0.0, trained[1]))
        else:
            leaves = high > trained[1]
        if not leaves:
            return None
        told = f"T(s) reaches {high:g}" if self.type == "interaction" else f"the noise has standard deviation {high:g}"
        return (
            f"{told} and the flow was trained on noise up to {trained[1]:g}: actions may be wild. Lower "
            f"exploration.sigma_base, or train with objective.noise_scale=[{min(low, 1.0):g}, {high:g}]"
        )
