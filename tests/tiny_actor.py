"""A policy of a few linear layers behind the Actor protocol: for tests of what is trained, not of who acts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from igrft.errors import IgrftError
from igrft.models.guidance import Guidance, integrate
from igrft.models.protocol import Batch, Features, Prefix, TextTargets
from igrft.training.module import ACTION, StepBatch

STATE = "observation.state"
WORDS = 5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Imported by test modules that compute with torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LinearPolicy(nn.Module):
    """Encoder layers side by side, a flow that looks at each action step alone, and a head of words."""

    def __init__(self, state: int, dim: int, chunk: int, width: int, depth: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(type="linear", chunk_size=chunk, action_dim=dim)
        self.encoder = nn.ModuleList(nn.Linear(state, width) for _ in range(depth))
        self.flow = nn.Linear(dim + 1 + width, dim)
        self.words = nn.Linear(width, WORDS)


class LinearActor:
    """Features: two tokens an observation, the second one half of the first; W is ``width``.

    ``seen`` lists the batches that :meth:`prefix` was given, ``graded`` whether gradients were kept then, and
    ``insulated`` what :meth:`flow_error` was told.
    """

    type: ClassVar[str] = "linear"

    def __init__(
        self, state: int = 3, dim: int = 2, chunk: int = 4, width: int = 6, depth: int = 3, seed: int = 0
    ) -> None:
        torch.manual_seed(seed)
        self.policy: Any = LinearPolicy(state, dim, chunk, width, depth)
        self.seen: list[Batch] = []
        self.graded: list[bool] = []
        self.insulated: list[bool] = []

    uses_images = False
    has_text = True

    @property
    def chunk_size(self) -> int:
        return int(self.policy.config.chunk_size)

    @property
    def action_width(self) -> int:
        return int(self.policy.config.action_dim)

    @property
    def feature_width(self) -> int:
        return int(self.policy.encoder[0].out_features)

    @property
    def depth(self) -> int:
        return len(self.policy.encoder)

    def text_targets(self, texts: Sequence[str], actions: Tensor | None = None) -> TextTargets | None:
        if not any(texts):
            return None
        mask = torch.tensor([[bool(t)] for t in texts])
        return TextTargets(torch.tensor([[len(t) % WORDS] for t in texts]), mask)

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        self.seen.append(batch)
        self.graded.append(torch.is_grad_enabled())
        outputs = [layer(batch[STATE]) for layer in self.policy.encoder]
        tokens = [torch.stack([outputs[i], outputs[i] / 2], dim=1) for i in layers]
        mask = torch.ones(batch[STATE].shape[0], 2, dtype=torch.bool)
        prefix = Prefix(Features(tokens, [2 * t for t in tokens], mask), outputs[-1])
        if targets is not None:
            scores = self.policy.words(outputs[-1]).log_softmax(dim=-1)[:, None].expand(-1, targets.mask.shape[1], -1)
            loss = -scores.gather(2, targets.tokens[..., None]).squeeze(-1) * targets.mask
            count = targets.mask.sum(dim=1).clamp_min(1)
            prefix.text_loss = loss.sum(dim=1) / count
            right = (scores.argmax(dim=-1) == targets.tokens) & targets.mask
            prefix.text_correct = right.float().sum(dim=1) / count
        return prefix

    def flow_error(
        self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor, *, insulated: bool = False
    ) -> Tensor:
        self.insulated.append(insulated)
        features = prefix.cache.detach() if insulated else prefix.cache
        target, at = actions[:, None], time[:, :, None, None]
        noisy = at * noise + (1 - at) * target
        known = features[:, None, None].expand(*noisy.shape[:3], -1)
        flow = self.policy.flow(torch.cat([noisy, at.expand_as(noisy[..., :1]), known], dim=-1))
        return (noise - target - flow).square()

    @torch.no_grad()
    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        """One Euler step."""
        known = prefix.cache[:, None].expand(-1, self.chunk_size, -1)
        return integrate(
            lambda x, t: self.policy.flow(torch.cat([x, t[:, None, None].expand_as(x[..., :1]), known], dim=-1)),
            noise,
            1,
            guidance,
        )

    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        size = batch[STATE].shape[0]
        noise = torch.randn(size, self.chunk_size, self.action_width) if noise is None else noise
        return self.denoise(self.prefix(batch, ()), noise)

    def generate_subtasks(self, batch: Batch, max_tokens: int = 32) -> list[str]:
        raise IgrftError("a linear policy writes no subtasks")


def step_batch(
    states: Tensor,
    later: Tensor | None = None,
    *,
    actor: LinearActor,
    samples: int = 2,
    padded: Tensor | None = None,
    targets: TextTargets | None = None,
    seed: int = 7,
    **labels: Any,
) -> StepBatch:
    """A step's inputs for states [B, d] and later ones; labels that are not given are random, masks are true."""
    random = torch.Generator().manual_seed(seed)
    size, chunk, dim = states.shape[0], actor.chunk_size, actor.action_width
    known: dict[str, Tensor] = {
        name: torch.rand(size, generator=random)
        for name in ("return_trajectory", "return_subtask", "reward_sum", "advantage")
    }
    known["bootstrap"] = torch.ones(size)
    known["interaction"] = torch.randint(0, 2, (size,), generator=random).float()
    known["intervention"] = torch.zeros(size, dtype=torch.bool)
    known["critic"] = torch.ones(size, dtype=torch.bool)
    unknown = set(labels) - set(known)
    assert not unknown, unknown
    known.update({n: torch.as_tensor(v) for n, v in labels.items()})
    return StepBatch(
        observation={STATE: states, ACTION: torch.randn(size, chunk, dim, generator=random)},
        next_observation=None if later is None else {STATE: later},
        targets=targets,
        labels=known,
        padded=torch.zeros(size, chunk, dtype=torch.bool) if padded is None else padded,
        noise=torch.randn(size, samples, chunk, dim, generator=random),
        time=torch.rand(size, samples, generator=random),
    )


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor | None]:
    """Of every parameter, None where there is none; leaves no gradient behind."""
    module.zero_grad(set_to_none=True)
    loss.backward()
    found = {n: None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    return found


def same_gradients(first: dict[str, Tensor | None], second: dict[str, Tensor | None]) -> bool:
    """Bit for bit."""
    assert first.keys() == second.keys()
    return all(
        (a is None) == (b is None) and (a is None or b is None or torch.equal(a, b))
        for a, b in zip(first.values(), second.values(), strict=True)
    )
