"""What trainer and rollouts ask of a policy.

An actor wraps one of LeRobot's policies without changing it. It splits the policy's forward pass
in two: :meth:`Actor.prefix` looks at the observation once, and what it leaves (for a transformer:
the key/value cache) serves the subtask text loss, the critic and the action expert;
:meth:`Actor.flow_error` runs the action expert over that. Both passes together equal the policy's
own training forward. :meth:`Actor.denoise` makes actions of the same prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from lerobot.policies.pretrained import PreTrainedPolicy

    from igrft.models.guidance import Guidance

#: A batch as LeRobot's processors leave it: normalised, tokenised, on the policy's device.
Batch = dict[str, Any]


@dataclass
class Features:
    """What a critic reads of a prefix: keys and values of a few layers.

    Attributes:
        keys: per layer, float [B, N, W]; heads lie side by side in W.
        values: per layer, float [B, N, W].
        mask: bool [B, N], true where a token is real.
    """

    keys: list[Tensor]
    values: list[Tensor]
    mask: Tensor

    def detached(self) -> Features:
        """The same behind a stop-gradient."""
        return Features([k.detach() for k in self.keys], [v.detach() for v in self.values], self.mask)


@dataclass
class TextTargets:
    """Tokens that the language model learns to write after the prompt.

    Attributes:
        tokens: int64 [B, L], right-padded.
        mask: bool [B, L], true where a token is real; a row may have none.
    """

    tokens: Tensor
    mask: Tensor


@dataclass
class Prefix:
    """One pass over the observation.

    Attributes:
        features: for the critic; not yet behind a stop-gradient.
        cache: the actor's own, for its expert.
        text_loss: mean next-token cross-entropy of each sample's target tokens, float32 [B]; 0 where
            a sample has none, None where no targets were given.
        text_correct: share of each sample's target tokens that were predicted, float32 [B], without
            gradient; None where no targets were given.
    """

    features: Features
    cache: Any
    text_loss: Tensor | None = None
    text_correct: Tensor | None = None


@runtime_checkable
class Actor(Protocol):
    """A policy as the trainer sees it. Not a module: ``policy`` is, and holds every parameter."""

    type: ClassVar[str]
    policy: PreTrainedPolicy

    @property
    def uses_images(self) -> bool:
        """Whether batches must hold pictures."""
        ...

    @property
    def has_text(self) -> bool:
        """Whether there is a language model that can learn to write subtasks."""
        ...

    @property
    def chunk_size(self) -> int:
        """Actions that one call predicts."""
        ...

    @property
    def action_width(self) -> int:
        """Width of the noise and of padded actions; the robot's own actions may be narrower."""
        ...

    @property
    def feature_width(self) -> int:
        """W of :class:`Features`."""
        ...

    @property
    def depth(self) -> int:
        """Layers that :class:`Features` can be taken from."""
        ...

    def text_targets(self, texts: Sequence[str], actions: Tensor | None = None) -> TextTargets | None:
        """Target tokens on the policy's device.

        Args:
            texts: subtask of each sample; "" where there is none.
            actions: normalised [B, chunk, dim], for action tokens where the actor has their tokenizer.

        Returns:
            None where the actor has no language model, or there is no target in the batch.
        """
        ...

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        """Look at the observations of ``batch`` once.

        Args:
            layers: numbers of the layers, from 0, whose keys and values ``features`` holds.
        """
        ...

    def flow_error(
        self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor, *, insulated: bool = False
    ) -> Tensor:
        """Squared error of the predicted flow, in the policy's own convention: x_t = t·noise + (1-t)·actions.

        Args:
            actions: normalised, float [B, chunk, dim].
            noise: float32 [B, S, chunk, action_width], S draws an observation.
            time: float32 [B, S], in (0, 1].
            insulated: keep gradients from flowing into the prefix (knowledge insulation).

        Returns:
            float32 [B, S, chunk, dim]: dim is the robot's, without padding.
        """
        ...

    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        """Actions by integrating the flow over a prefix that was made before; what :meth:`sample` makes of the same
        observations and noise. Without gradient. The prefix can be used again.

        Args:
            noise: float32 [B, chunk, action_width].
            guidance: the rest of the last chunk, for real-time chunking.

        Returns:
            Normalised, float32 [B, chunk, dim].

        Raises:
            UsageError: a guidance that does not fit the chunk.
        """
        ...

    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        """Actions by integrating the flow from ``noise`` [B, chunk, action_width] (None draws standard
        normal noise): normalised, float32 [B, chunk, dim]. Without gradient. The policy's own inference.
        """
        ...

    def generate_subtasks(self, batch: Batch, max_tokens: int = 32) -> list[str]:
        """The subtask that the language model writes for each observation, greedily.

        Raises:
            IgrftError: the actor has no language model.
        """
        ...


def at_fractions(layers: Sequence[int], depth: int, of: int = 18) -> tuple[int, ...]:
    """Layers at the same fractions of another depth: 11, 14, 17 of 18 are 7, 9, 11 of 12.

    Layer i ends at (i + 1)/of of the depth. Layers that fall together are counted once.
    """
    found = {min(depth - 1, max(0, round((i + 1) / of * depth) - 1)) for i in layers}
    return tuple(sorted(found))
