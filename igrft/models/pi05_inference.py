"""π0.5 for inference alone: the same actions as the actor's, in a fraction of the time.

The observation is looked at in a layout of a few fixed shapes (prompts padded to a multiple of ``bucket``, all cameras
through the picture encoder together), layers are compiled, the kernels of prefix and of all Euler steps are recorded
once a shape and replayed, the steps read one static cache, and what depends on their times alone is computed
beforehand (:mod:`igrft.models.pi05_expert`).
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor, nn

from igrft.errors import UsageError
from igrft.models.compiled import as_they_are, compiling
from igrft.models.graphs import Capture, Recorded, cuda_capture
from igrft.models.guidance import Guidance, integrate
from igrft.models.pi05 import Pi05Actor, Pi05Cache, merged, real_columns
from igrft.models.pi05_caches import Seen
from igrft.models.pi05_expert import ATTENTIONS, FixedExpert, room_for
from igrft.models.pi05_passes import How, compute_dtype, prefix_pass, run_layer
from igrft.models.precision import without_autocast
from igrft.models.protocol import Batch, Features, Prefix, TextTargets

#: Chunks that are timed where ways to attend are compared.
_TRIES = 5


@dataclass(frozen=True)
class InferenceOptions:
    """How inference is made fast.

    Attributes:
        compiled: compile the layers; None does so on an accelerator. What cannot be compiled is run as it is.
        recorded: record and replay kernels (CUDA graphs); None does so on CUDA.
        mode: of torch.compile: None, or "max-autotune-no-cudagraphs", which takes minutes to search for kernels.
        backend: of torch.compile.
        bucket: prompts are padded to a multiple of so many tokens. Each length is compiled and recorded by itself.
        attention: of the action expert: sdpa, matmul, or auto: :meth:`Pi05Inference.warm_up` tries which is faster.
        half_vision: where the language model is bfloat16, run the picture encoder in it, too, as openpi does; LeRobot
            keeps it in float32. It is copied (0.8 GB at full size).

    Raises:
        UsageError: values outside these ranges.
    """

    compiled: bool | None = None
    recorded: bool | None = None
    mode: str | None = None
    backend: str = "inductor"
    bucket: int = 32
    attention: str = "auto"
    half_vision: bool = True

    def __post_init__(self) -> None:
        if self.bucket < 1:
            raise UsageError(f"inference: bucket must be at least 1, got {self.bucket}")
        if self.attention not in ("auto", *ATTENTIONS):
            raise UsageError(f"inference: unknown attention {self.attention!r}; one of auto, {', '.join(ATTENTIONS)}")
        if self.mode is not None and "autotune" in self.mode and not self.mode.endswith("-no-cudagraphs"):
            raise UsageError(f"inference: mode {self.mode!r} makes graphs of its own; take {self.mode}-no-cudagraphs")
        if self.mode == "reduce-overhead":
            raise UsageError("inference: mode reduce-overhead is what recorded does; leave mode out")


@dataclass
class StaticCache(Pi05Cache):
    """A prefix in fixed shapes.

    Attributes:
        whole: keys and values of every layer with room for a chunk, [layers, 2, B, K, N + R, D].
    """

    whole: Tensor


class Pi05Inference(Pi05Actor):
    """π0.5 that acts. What it makes is what :class:`Pi05Actor` makes, up to rounding; with targets it is that class.

    It takes the policy's weights as they are now: after training make another one.

    Args:
        policy: in evaluation mode from now on.
        capture: how kernels are recorded; None is CUDA's graphs, where ``options`` wants them.

    Raises:
        UsageError: a policy with adapters in its action expert.
    """

    def __init__(
        self,
        policy: PI05Policy,
        options: InferenceOptions | None = None,
        text: Any = None,
        tokenizer: Any = None,
        capture: Capture | None = None,
    ) -> None:
        super().__init__(policy, text, tokenizer)
        policy.eval()
        self.options = options or InferenceOptions()
        device = self._device.type
        fast = self.options.compiled if self.options.compiled is not None else device not in ("cpu", "meta")
        backend, mode = self.options.backend, self.options.mode
        self._layers_how = How(compiled=compiling(backend, mode, must=False) if fast else None)
        whole = compiling(backend, mode, whole=True, must=False) if fast else None
        if capture is None and (self.options.recorded if self.options.recorded is not None else device == "cuda"):
            capture = cuda_capture
        self._capture = capture
        self._dtype = compute_dtype(self._language)
        self._eyes = _Eyes(self._both.paligemma.model, self._dtype if self.options.half_vision else None)
        self._lookers: dict[tuple[str, ...], Recorded] = {}
        steps = policy.config.num_inference_steps
        self._expert = FixedExpert(policy.model, self._language.rotary_emb, steps, whole or as_they_are)
        self._changes = self._expert.table.unbind()
        self.attend_by(ATTENTIONS[0] if self.options.attention == "auto" else self.options.attention)

    @classmethod
    def of(cls, actor: Pi05Actor, options: InferenceOptions | None = None) -> Pi05Inference:
        """What acts with an actor's policy, and writes with its tokenizers."""
        return cls(actor.policy, options, actor._text, actor._tokenizer)

    @property
    def attention(self) -> str:
        """How the action expert attends."""
        return self._expert.attention

    def attend_by(self, attention: str) -> None:
        """Change how the action expert attends: sdpa or matmul."""
        self._expert.attention = attention
        self._integrate = Recorded(self._expert.integrate, self._device, self._capture)
        self._flow = Recorded(self._expert.flow, self._device, self._capture)

    def lengths(self, total: int) -> list[int]:
        """Lengths that prompts of up to ``total`` tokens are padded to."""
        return sorted({self._bucket(n, total) for n in range(1, total + 1)})

    def warm_up(
        self,
        batch: Batch,
        layers: Sequence[int] = (),
        judge: Callable[[Features], object] | None = None,
        *,
        guided: bool = False,
    ) -> None:
        """Compile and record all that batches like this one will need, whatever the length of their prompts.

        Args:
            layers: as for :meth:`prefix`.
            judge: a critic that is recorded, too.
            guided: whether chunks will be guided.
        """
        tokens = batch[OBS_LANGUAGE_TOKENS]
        rows, total = tokens.shape
        noise = torch.zeros(rows, self.chunk_size, self.action_width, device=self._device)
        guidance = Guidance(noise[:, :1, : self._action_dim], 0, 1)
        if self.options.attention == "auto" and self._capture is not None:
            prefix = self.prefix(batch, layers)
            took = {name: self._seconds(name, prefix, noise) for name in ATTENTIONS}
            self.attend_by(min(took, key=lambda name: took[name]))
        for length in self.lengths(total):
            mask = (torch.arange(total, device=tokens.device) < length).expand(rows, -1)
            prefix = self.prefix({**batch, OBS_LANGUAGE_ATTENTION_MASK: mask}, layers)
            if judge is not None:
                judge(prefix.features)
            self.denoise(prefix, noise)
            if guided:
                self.denoise(prefix, noise, guidance=guidance)

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        if targets is not None:
            return super().prefix(batch, layers, targets)
        names = tuple(key for key in self.policy.config.image_features if key in batch)
        tokens, mask = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK].bool()
        length = self._bucket(real_columns(mask)[0], mask.shape[1])
        if names not in self._lookers:
            self._lookers[names] = Recorded(functools.partial(self._look, names), self._device, self._capture)
        with without_autocast(self._device):
            whole, real = self._lookers[names](tokens[:, :length], mask[:, :length], *(batch[name] for name in names))
        kept = whole[..., : real.shape[1], :]
        keys, values = list(kept[:, 0].unbind()), list(kept[:, 1].unbind())
        features = Features([merged(keys[i]) for i in layers], [merged(values[i]) for i in layers], real)
        return Prefix(features, StaticCache(Seen(keys, values), real, True, whole))

    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        cache = prefix.cache
        if not isinstance(cache, StaticCache):
            return super().denoise(prefix, noise, guidance=guidance)
        noise = noise.to(self._device, torch.float32)
        with without_autocast(self._device):
            if guidance is None:
                (out,) = self._integrate(noise, cache.whole, cache.mask)
                return out[..., : self._action_dim]
            # Guidance asks for the flow once a step, in their order.
            changes = iter(self._changes)

            def flow(x: Tensor, _: Tensor) -> Tensor:
                return self._flow(x, next(changes), cache.whole, cache.mask)[0]

            return integrate(flow, noise, len(self._changes), guidance)[..., : self._action_dim]

    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            rows = batch[OBS_LANGUAGE_TOKENS].shape[0]
            noise = self.policy.model.sample_noise((rows, self.chunk_size, self.action_width), self._device)
        return self.denoise(self.prefix(batch, ()), noise)

    def _look(self, names: tuple[str, ...], tokens: Tensor, mask: Tensor, *pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix pass over pictures of the cameras ``names``: ``StaticCache.whole`` and its mask."""
        images, _ = self.policy._preprocess_images(self._scaled(dict(zip(names, pictures, strict=True))))
        seen = self._eyes(torch.cat(images[: len(names)]), self._layers_how)
        seen = seen.unflatten(0, (len(names), -1)).transpose(0, 1).flatten(1, 2)
        words = self._both.embed_language_tokens(tokens)
        embedded = torch.cat([seen.to(self._dtype), words.to(self._dtype)], dim=1)
        real = torch.cat([mask.new_ones(seen.shape[:2]), mask], dim=1)
        found, _ = prefix_pass(self._language, embedded, real, None, how=self._layers_how)
        kept = torch.stack([x for pair in zip(found.keys, found.values, strict=True) for x in pair])
        room = room_for(self.chunk_size, real.shape[1])
        return nn.functional.pad(kept, (0, 0, 0, room)).unflatten(0, (-1, 2)), real

    def _bucket(self, length: int, total: int) -> int:
        return min(total, max(1, -(-length // self.options.bucket)) * self.options.bucket)

    def _seconds(self, attention: str, prefix: Prefix, noise: Tensor) -> float:
        """Of a chunk whose expert attends so, the best of a few."""
        self.attend_by(attention)
        self.denoise(prefix, noise)
        took = []
        for _ in range(_TRIES):
            self._wait()
            start = time.perf_counter()
            self.denoise(prefix, noise)
            self._wait()
            took.append(time.perf_counter() - start)
        return min(took)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Eyes:
    """Pictures to what the language model reads of them. Patches are embedded in float32, the rest in ``dtype``."""

    def __init__(self, model: Any, dtype: torch.dtype | None) -> None:
        vision = model.vision_tower.vision_model
        self._embed = vision.embeddings
        parts = nn.ModuleList([vision.encoder.layers, vision.post_layernorm, model.multi_modal_projector])
        if dtype is not None and dtype != vision.post_layernorm.weight.dtype:
            parts = copy.deepcopy(parts).to(dtype).requires_grad_(False)
        self._layers: Any = parts[0]
        self._norm: Any = parts[1]
        self._project: Any = parts[2]

    def __call__(self, pixels: Tensor, how: How) -> Tensor:
        """float32 [M, 3, H, W] in -1 … 1 to [M, P, W]."""
        x = self._embed(pixels).to(self._norm.weight.dtype)
        for layer in self._layers:
            x = run_layer(_seeing, how, layer, x)
        out: Tensor = self._project(self._norm(x))
        return out


def _seeing(layer: Any, x: Tensor) -> Tensor:
    out: Tensor = layer(x, None)
    return out
