"""LeRobot's π0.5 as an actor: its training forward in two passes, subtask text beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from lerobot.policies.common.vla_utils import pad_vector
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from torch import Tensor, nn

from igrft.models.compiled import compiling
from igrft.models.guidance import Guidance, integrate
from igrft.models.pi05_caches import Growing, Seen
from igrft.models.pi05_passes import How, prefix_pass, suffix_pass, write_token
from igrft.models.pi05_processors import default_tokenizer
from igrft.models.precision import without_autocast
from igrft.models.protocol import Batch, Features, Prefix, TextTargets
from igrft.models.text import TargetWriter, make_writer
from igrft.models.text_loss import next_token_loss
from igrft.models.vision_language import VisionLanguageActor

#: Prompts of different lengths are padded to the longest, rounded up to this: fused attention likes such masks.
_ROUND = 8


@dataclass
class Pi05Cache:
    """What the action expert reads of a prefix.

    Attributes:
        seen: keys and values of every layer, of the prompt's N tokens.
        mask: bool [B, N]; ``padded``: whether it has a false.
    """

    seen: Seen
    mask: Tensor
    padded: bool


@dataclass
class _Prompt:
    """Pictures and words as the language model reads them: float [B, N, W], bool [B, N]."""

    embedded: Tensor
    mask: Tensor
    padded: bool


class Pi05Actor(VisionLanguageActor):
    """π0.5 (``pi05``, ``pi05_tiny``) for the trainer. Every parameter is the policy's.

    Under autocast the layers' states are kept in its type, as openpi does; LeRobot's joint pass keeps float32.
    Cameras that a batch lacks, and columns in which no prompt has a word, are left out: nothing attends to them.
    Pictures of type uint8 are scaled to 0 … 1. ``policy.compile_model`` compiles the layers.

    Args:
        text: tokenizers; None is the policy's own, without action tokens. They are loaded when first needed.
        tokenizer: an object that stands for the policy's own tokenizer.
    """

    type: ClassVar[str] = "pi05"

    policy: PI05Policy

    @property
    def feature_width(self) -> int:
        config = self._language.config
        return int(config.num_key_value_heads * config.head_dim)

    @property
    def depth(self) -> int:
        return int(self._language.config.num_hidden_layers)

    @cached_property
    def writer(self) -> TargetWriter:
        """Makes target tokens. Raises IgrftError: its tokenizer cannot be had."""
        vocabulary = self._language.config.vocab_size
        return make_writer(self._text, vocabulary, default_tokenizer(self.policy.config), self._tokenizer)

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        prompt = self._prompt(batch)
        length = prompt.mask.shape[1]
        embedded = prompt.embedded
        if targets is not None:
            words = self._both.embed_language_tokens(targets.tokens)
            embedded = torch.cat([embedded, words.to(embedded.dtype)], dim=1)
        seen, states = prefix_pass(
            self._language,
            embedded,
            prompt.mask,
            None if targets is None else targets.mask,
            padded=prompt.padded,
            write=targets is not None,
            how=self._how,
        )
        seen = Seen([k[:, :, :length] for k in seen.keys], [v[:, :, :length] for v in seen.values])
        features = Features(
            [merged(seen.keys[i]) for i in layers], [merged(seen.values[i]) for i in layers], prompt.mask
        )
        cache = Pi05Cache(seen, prompt.mask, prompt.padded)
        if targets is None or states is None:
            return Prefix(features, cache)
        loss, correct = next_token_loss(states, targets.tokens, targets.mask, self._both.paligemma.lm_head)
        return Prefix(features, cache, loss, correct)

    def flow_error(
        self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor, *, insulated: bool = False
    ) -> Tensor:
        cache: Pi05Cache = prefix.cache
        seen = cache.seen
        if insulated:
            seen = Seen([k.detach() for k in seen.keys], [v.detach() for v in seen.values])
        wide = pad_vector(actions.to(noise.dtype), self.action_width)[:, None]
        at = time[:, :, None, None]
        flow = self._velocity((at * noise + (1 - at) * wide).flatten(0, 1), time.flatten(), seen, cache)
        dim = self._action_dim
        flow = flow.unflatten(0, noise.shape[:2])[..., :dim]
        return (noise[..., :dim] - wide[..., :dim] - flow).square()

    @torch.inference_mode(False)  # in it the cache could not be written again
    @torch.no_grad()
    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        cache: Pi05Cache = prefix.cache
        seen = cache.seen.with_room(noise.shape[1])
        steps = self.policy.config.num_inference_steps
        out = integrate(lambda x, t: self._velocity(x, t, seen, cache), noise, steps, guidance)
        return out[..., : self._action_dim]

    def _velocity(self, noisy: Tensor, time: Tensor, seen: Seen, cache: Pi05Cache) -> Tensor:
        """Predicted flow of noisy chunks [B·S, C, W] at the times [B·S]: like ``noisy``, float32."""
        model = self.policy.model
        embedded, _, _, cond = model.embed_suffix(noisy, time)
        states = suffix_pass(
            self._both.gemma_expert.model,
            self._language.rotary_emb,
            embedded,
            cond,
            seen,
            cache.mask,
            padded=cache.padded,
            how=self._how,
        )
        with without_autocast(states.device):
            flow: Tensor = model.action_out_proj(states.to(model.action_out_proj.weight.dtype))
        return flow.float()

    @torch.no_grad()
    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        with _evaluating(self.policy):
            # LeRobot's type of the keyword arguments does not name `noise`; the model takes it.
            out: Tensor = self.policy.predict_action_chunk(self._scaled(batch), noise=noise)  # type: ignore[call-arg]
        return out.float()

    @torch.no_grad()
    def generate_subtasks(self, batch: Batch, max_tokens: int = 32) -> list[str]:
        with _evaluating(self.policy):
            return [self.writer.read(row) for row in self._write(batch, max_tokens, self.writer.end).tolist()]

    def _write(self, batch: Batch, most: int, end: int) -> Tensor:
        """Greedy tokens after the prompt, int64 [B, up to ``most``]; what stands behind ``end`` has no meaning."""
        prompt = self._prompt(batch)
        head, model = self._both.paligemma.lm_head, self._language
        seen, states = prefix_pass(model, prompt.embedded, prompt.mask, None, padded=prompt.padded, write=True)
        assert states is not None
        caches = [Growing(k, v, most) for k, v in zip(seen.keys, seen.values, strict=True)]
        mask = nn.functional.pad(prompt.mask, (0, most), value=True)
        length, position = prompt.mask.shape[1], prompt.mask.sum(dim=1, keepdim=True)
        written = [head(states).argmax(dim=-1)]
        done = written[0] == end
        while len(written) < most and not bool(done.all()):
            words = self._both.embed_language_tokens(written[-1])
            room = mask[:, : length + len(written)]
            states = write_token(model, words, position + len(written) - 1, caches, room)
            written.append(head(states).argmax(dim=-1))
            done |= written[-1] == end
        return torch.cat(written, dim=1)

    def _prompt(self, batch: Batch) -> _Prompt:
        policy = self.policy
        images, image_masks = policy._preprocess_images(self._scaled(batch))
        # Those behind are LeRobot's stand-ins for missing cameras.
        present = sum(key in batch for key in policy.config.image_features)
        tokens, mask = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK].bool()
        length, padded = real_columns(mask)
        embedded, real, _ = policy.model.embed_prefix(
            images[:present], image_masks[:present], tokens[:, :length], mask[:, :length]
        )
        return _Prompt(embedded, real, padded)

    def _scaled(self, batch: Batch) -> Batch:
        raw = [k for k in self.policy.config.image_features if k in batch and batch[k].dtype == torch.uint8]
        return {**batch, **{k: batch[k].to(self._device).float() / 255 for k in raw}} if raw else batch

    @property
    def _action_dim(self) -> int:
        return int(self.policy.config.output_features[ACTION].shape[0])

    @property
    def _both(self) -> Any:
        return self.policy.model.paligemma_with_expert

    @property
    def _language(self) -> Any:
        return self._both.paligemma.model.language_model

    @property
    def _how(self) -> How:
        model = self.policy.model
        recompute = model.gradient_checkpointing_enabled and model.training and torch.is_grad_enabled()
        return How(bool(recompute), compiling() if self.policy.config.compile_model else None)


def real_columns(mask: Tensor) -> tuple[int, bool]:
    """How many columns of prompts to keep, and whether any of the kept places is padding. One wait for the device."""
    if mask.is_meta:
        # Shapes alone: a dry run.
        return mask.shape[1], True
    columns = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    longest, least = torch.stack([(mask * columns).max(), mask.sum(dim=1).min()]).tolist()
    if least == longest:
        return longest, False
    return min(mask.shape[1], -(-longest // _ROUND) * _ROUND), True


def merged(x: Tensor) -> Tensor:
    """[B, K, N, D] to [B, N, K·D]."""
    return x.transpose(1, 2).flatten(2)


@contextmanager
def _evaluating(policy: nn.Module) -> Iterator[None]:
    """The stock inference leaves a policy in evaluation mode; the trainer wants its mode back."""
    training = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(training)
