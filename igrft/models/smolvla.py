"""LeRobot's SmolVLA as an actor: its training forward in two passes, subtask text beside it.

Both passes go through LeRobot's own ``SmolVLMWithExpertModel.forward``. The first fills a cache over the prefix
(pictures, prompt, state); the second runs the action expert over a copy of it, as the stock inference does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks, pad_vector
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor, nn
from transformers import DynamicCache

from igrft.errors import UsageError
from igrft.models.guidance import Guidance, integrate
from igrft.models.precision import without_autocast
from igrft.models.protocol import Batch, Features, Prefix, TextTargets
from igrft.models.smolvla_caches import Roomy, SmolVLACache, copied, suffix_mask, suffix_positions
from igrft.models.text import TargetWriter, make_writer
from igrft.models.text_loss import next_token_loss
from igrft.models.vision_language import VisionLanguageActor
from igrft.training.recipe import TextSettings


@dataclass
class _Prompt:
    """A stock prefix as the language model reads it: float [B, N, W], bool [B, N], and where attention breaks."""

    embedded: Tensor
    mask: Tensor
    breaks: Tensor


class SmolVLAActor(VisionLanguageActor):
    """SmolVLA for the trainer. Every parameter is the policy's, and trained or frozen as LeRobot left it.

    Target tokens stand behind the state token, where the stock prefix ends. Several draws of an observation go
    through the expert as one row of chunks that do not see each other, so that its keys and values of the prefix
    are computed once. Pictures of type uint8 are scaled to 0 … 1. Stand-ins for missing cameras are left out where
    nothing attends to them.

    Args:
        text: tokenizers; None is the policy's own, without action tokens. They are loaded when first needed.
        tokenizer: an object that stands for the policy's own tokenizer.

    Raises:
        UsageError: LeRobot cannot run this policy's action expert over a cache.
    """

    type: ClassVar[str] = "smolvla"

    policy: SmolVLAPolicy

    def __init__(self, policy: SmolVLAPolicy, text: TextSettings | None = None, tokenizer: Any = None) -> None:
        super().__init__(policy, text, tokenizer)
        _refuse_gaps(self._both)

    @property
    def feature_width(self) -> int:
        config = self._both.config.text_config
        return int(config.num_key_value_heads * config.head_dim)

    @property
    def depth(self) -> int:
        return int(self._both.num_vlm_layers)

    @cached_property
    def writer(self) -> TargetWriter:
        """Makes target tokens. Raises IgrftError: the tokenizer that ``text`` names cannot be had."""
        own = self._tokenizer if self._tokenizer is not None else self._both.processor.tokenizer
        vocabulary = int(self._both.config.text_config.vocab_size)
        return make_writer(self._text, vocabulary, self.policy.config.vlm_model_name, own)

    def prefix(self, batch: Batch, layers: Sequence[int], targets: TextTargets | None = None) -> Prefix:
        prompt = self._prompt(batch)
        length = prompt.mask.shape[1]
        whole = prompt if targets is None else self._with_targets(prompt, targets)
        states, filled = self._fill(whole)
        cache = SmolVLACache(
            [layer.keys[:, :, :length] for layer in filled.layers],
            [layer.values[:, :, :length] for layer in filled.layers],
            prompt.mask,
        )
        features = Features(
            [_merged(cache.keys[i]) for i in layers], [_merged(cache.values[i]) for i in layers], prompt.mask
        )
        if targets is None:
            return Prefix(features, cache)
        rows = torch.cat([_last(states, prompt.mask), states[:, length:]], dim=1)
        loss, correct = next_token_loss(rows, targets.tokens, targets.mask, self._both.vlm.lm_head)
        return Prefix(features, cache, loss, correct)

    def flow_error(
        self, prefix: Prefix, actions: Tensor, noise: Tensor, time: Tensor, *, insulated: bool = False
    ) -> Tensor:
        cache: SmolVLACache = prefix.cache
        model = self.policy.model
        target = pad_vector(self._actions(actions).to(noise.dtype), self.action_width)[:, None]
        at = time[:, :, None, None]
        draws, chunk = noise.shape[1:3]
        noisy = (at * noise + (1 - at) * target).flatten(0, 1)
        embedded, real, breaks = model.embed_suffix(noisy, time.flatten())
        out, _ = self._both.forward(
            attention_mask=suffix_mask(cache.mask, make_att_2d_masks(real[:1], breaks[:1])[0], draws),
            position_ids=suffix_positions(cache.mask, draws, chunk),
            past_key_values=copied(cache, insulated),
            inputs_embeds=[None, embedded.unflatten(0, noise.shape[:2]).flatten(1, 2)],
            use_cache=True,
        )
        # LeRobot upcasts before the last projection, whatever the rest is computed in.
        with without_autocast(noise.device):
            flow = model.action_out_proj(out[1].float().to(model.action_out_proj.weight.dtype))
        dim = self._action_dim
        flow = flow.unflatten(1, (draws, chunk))[..., :dim]
        return (noise[..., :dim] - target[..., :dim] - flow.float()).square()

    @torch.no_grad()
    def denoise(self, prefix: Prefix, noise: Tensor, *, guidance: Guidance | None = None) -> Tensor:
        cache: SmolVLACache = prefix.cache
        model, chunk = self.policy.model, noise.shape[1]
        _, real, breaks = model.embed_suffix(noise[:1], noise.new_ones(1))
        mask = suffix_mask(cache.mask, make_att_2d_masks(real, breaks)[0], 1)
        positions = suffix_positions(cache.mask, 1, chunk)
        roomy = Roomy(cache.keys, cache.values, chunk)

        def flow(x: Tensor, time: Tensor) -> Tensor:
            out, _ = self._both.forward(
                attention_mask=mask,
                position_ids=positions,
                past_key_values=roomy,
                inputs_embeds=[None, model.embed_suffix(x, time)[0]],
                use_cache=True,
            )
            velocity: Tensor = model.action_out_proj(out[1].float().to(model.action_out_proj.weight.dtype))
            return velocity.float()

        if guidance is not None:
            # What was left over was made here, and is led back to where the flow is.
            guidance = dataclasses.replace(guidance, left_over=self._actions(guidance.left_over))
        out = integrate(flow, noise, self.policy.config.num_steps, guidance)[..., : self._action_dim]
        return self.policy._pi_aloha_encode_actions(out) if self.policy.config.adapt_to_pi_aloha else out

    @torch.no_grad()
    def sample(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        # With adapt_to_pi_aloha LeRobot turns the batch's own state around in place.
        own = {**self._scaled(batch), OBS_STATE: batch[OBS_STATE].clone()}
        with _evaluating(self.policy):
            return self.policy.predict_action_chunk(own, noise=noise).float()

    @torch.no_grad()
    def generate_subtasks(self, batch: Batch, max_tokens: int = 32) -> list[str]:
        with _evaluating(self.policy):
            return [self.writer.read(row) for row in self._write(batch, max_tokens, self.writer.end).tolist()]

    def _write(self, batch: Batch, most: int, end: int) -> Tensor:
        """Greedy tokens after the prefix, int64 [B, up to ``most``]; what stands behind ``end`` has no meaning."""
        prompt, head = self._prompt(batch), self._both.vlm.lm_head
        states, cache = self._fill(prompt)
        seen, position = prompt.mask, prompt.mask.sum(dim=1, keepdim=True)
        written = [head(_last(states, prompt.mask)).argmax(dim=-1)]
        done = written[0] == end
        while len(written) < most and not bool(done.all()):
            seen = nn.functional.pad(seen, (0, 1), value=True)
            states = self._write_token(self._words(written[-1]), position, seen[:, None], cache)
            written.append(head(states).argmax(dim=-1))
            done |= written[-1] == end
            position = position + 1
        return torch.cat(written, dim=1)

    def _write_token(self, x: Tensor, position: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """One token more through the language model: float [B, 1, W]. LeRobot's forward goes on with the expert only.

        Args:
            mask: bool [B, 1, M], which of the cached tokens are real, this one (the last) included.
        """
        both, text = self._both, self._both.get_vlm_model().text_model
        for i, layer in enumerate(text.layers):
            (attended,), _ = both.forward_attn_layer(
                [text.layers],
                [x],
                i,
                position,
                mask,
                x.shape[0],
                both.config.text_config.head_dim,
                use_cache=True,
                past_key_values=cache,
            )
            project = layer.self_attn.o_proj
            x = project(attended.to(project.weight.dtype)) + x
            x = layer.mlp(layer.post_attention_layernorm(x)) + x
        out: Tensor = text.norm(x)
        return out

    def _fill(self, prompt: _Prompt) -> tuple[Tensor, Any]:
        """The language model over a prefix: its final states [B, N, W], and the cache of every layer."""
        out, cache = self._both.forward(
            attention_mask=make_att_2d_masks(prompt.mask, prompt.breaks),
            position_ids=torch.cumsum(prompt.mask, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[prompt.embedded, None],
            use_cache=True,
        )
        return out[0], cache

    def _prompt(self, batch: Batch) -> _Prompt:
        policy, config = self.policy, self.policy.config
        batch = self._scaled(batch)
        images, image_masks = policy.prepare_images(batch)
        if not config.add_image_special_tokens:  # those would be attended to
            present = sum(key in batch for key in config.image_features)
            images, image_masks = images[:present], image_masks[:present]
        state = policy.prepare_state(batch)
        if config.adapt_to_pi_aloha:
            state = policy._pi_aloha_decode_state(state.clone())
        words = batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK].bool()
        return _Prompt(*policy.model.embed_prefix(images, image_masks, *words, state=state))

    def _with_targets(self, prompt: _Prompt, targets: TextTargets) -> _Prompt:
        """The prefix followed by tokens that see it and the tokens before them; it does not see them."""
        words = self._words(targets.tokens)
        return _Prompt(
            torch.cat([prompt.embedded, words.to(prompt.embedded.dtype)], dim=1),
            torch.cat([prompt.mask, targets.mask], dim=1),
            torch.cat([prompt.breaks, torch.ones_like(targets.mask)], dim=1),
        )

    def _words(self, tokens: Tensor) -> Tensor:
        """Embeddings scaled as LeRobot scales the prompt's, [B, L, W]."""
        words: Tensor = self._both.embed_language_tokens(tokens)
        return words * words.shape[-1] ** 0.5

    def _actions(self, actions: Tensor) -> Tensor:
        if self.policy.config.adapt_to_pi_aloha:
            actions = self.policy._pi_aloha_encode_actions_inv(actions.clone())
        return actions

    def _scaled(self, batch: Batch) -> Batch:
        raw = [k for k in self.policy.config.image_features if k in batch and batch[k].dtype == torch.uint8]
        return {**batch, **{k: batch[k].to(self._device).float() / 255 for k in raw}}

    @property
    def _action_dim(self) -> int:
        return int(self.policy.config.action_feature.shape[0])

    @property
    def _both(self) -> Any:
        return self.policy.model.vlm_with_expert


def _refuse_gaps(both: Any) -> None:
    """Raises UsageError: a layer in which prefix and expert attend together has no expert layer that can.

    It is so with fewer expert layers than layers of the language model; LeRobot's inference stops in such a layer.
    """
    every = both.self_attn_every_n_layers
    _, experts = both.get_model_layers([both.get_vlm_model().text_model, both.lm_expert])
    for i, layer in enumerate(experts):
        together = "cross" not in both.attention_mode or (every > 0 and i % every == 0)
        if together and (layer is None or layer.self_attn.k_proj.in_features != both.expert_hidden_size):
            raise UsageError(
                f"SmolVLA with {both.num_expert_layers} expert layers of {both.num_vlm_layers} has none that attends "
                f"to itself in layer {i}; set policy.num_expert_layers=-1, or policy.attention_mode=cross_attn with "
                "policy.self_attn_every_n_layers=-1"
            )


def _last(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last real token of the prefix, [B, 1, W]; ``states`` may go on behind it."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
    return states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))


def _merged(x: Tensor) -> Tensor:
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
