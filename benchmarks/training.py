"""A training step of ours against LeRobot's own, on the same policy, batch and precision; and what RL adds.

    python benchmarks/training.py                  # a small π0.5 on the CPU
    python benchmarks/training.py --full           # π0.5 at full size with random weights on a GPU, bf16
    python benchmarks/training.py --full --batch 64 --checkpointing
    python benchmarks/training.py --shapes         # at full size without a GPU: FLOPs and kept bytes, no times

In one run, in turns, best of ``--rounds``:
- lerobot: ``policy.forward`` (joint pass), backward, clip, its AdamW, as LeRobot's trainer does a step;
- ours, equal work: two passes, no text, no insulation, no critic, no averages;
- sft: ours as in recipes/sft.yaml (insulation, subtask text), critic off;
- ig_awr: the same with critic and weights from the value columns (aim: at most 1.05 of sft in time and memory);
- ig_awr judged in the loop: V of the N-th next observation costs a second prefix pass;
- flow_samples 2, 4, 8 of sft: time of a step.

Memory is the accelerator's peak; on a CPU what autograd keeps for the backward pass. Model FLOPs are those of
LeRobot's joint pass, forward and backward without recomputation, counted on shapes alone; utilisation is against
``--peak`` (bf16 dense, TFLOP/s).
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from igrft.models.actors import build_policy, make_actor, register_policy
from igrft.models.critic import Critic, CriticConfig
from igrft.models.protocol import Actor, TextTargets, at_fractions
from igrft.models.text import byte_tokenizer
from igrft.training.draws import flow_draws
from igrft.training.memory import kept_by_autograd
from igrft.training.module import StepBatch, TrainingModule
from igrft.training.recipe import Recipe

CAMERAS = tuple(f"observation.images.{name}" for name in ("base", "left_wrist", "right_wrist"))
STATE, ACTION = 14, 14
TOKENS, MASK = "observation.language.tokens", "observation.language.attention_mask"


def policy_config(arguments: argparse.Namespace, device: str) -> Any:
    """π0.5 with three cameras and a chunk of 30."""
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig

    kind = "pi05" if arguments.full else "pi05_tiny"
    register_policy(kind)
    sizes = {"dtype": "bfloat16"} if arguments.full else {"dtype": "float32"}
    config = PreTrainedConfig.get_choice_class(kind)(
        device="cpu" if device == "meta" else device,
        chunk_size=30,
        n_action_steps=30,
        gradient_checkpointing=arguments.checkpointing,
        **sizes,
    )
    config.device = device
    size = config.image_resolution
    config.input_features = {n: PolicyFeature(FeatureType.VISUAL, (3, *size)) for n in CAMERAS}
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}
    return config


def observations(config: Any, batch: int, real: int, device: str, seed: int) -> dict[str, Tensor]:
    """Random pictures, prompts of ``real`` tokens padded as LeRobot pads them, and actions."""
    generator = torch.Generator().manual_seed(seed)
    length = config.tokenizer_max_length
    vocabulary = 250 if config.type == "pi05_tiny" else 250_000
    out: dict[str, Tensor] = {n: torch.rand(batch, 3, *config.image_resolution, generator=generator) for n in CAMERAS}
    out["observation.state"] = torch.rand(batch, STATE, generator=generator) * 2 - 1
    out["action"] = torch.rand(batch, config.chunk_size, ACTION, generator=generator) * 2 - 1
    out[TOKENS] = torch.randint(3, vocabulary, (batch, length), generator=generator)
    out[MASK] = (torch.arange(length) < min(real, length)).expand(batch, -1)
    return {k: v.to(device) for k, v in out.items()}


def step_batch(actor: Actor, config: Any, arguments: argparse.Namespace, recipe: Recipe, device: str) -> StepBatch:
    """A step's inputs, on the device."""
    size = arguments.batch
    noise, moment = flow_draws(
        config,
        0,
        0,
        batch=size,
        samples=recipe.objective.flow_samples,
        chunk=config.chunk_size,
        width=actor.action_width,
    )
    rng = np.random.default_rng(0)
    targets = None
    if recipe.objective.text_weight > 0:
        tokens = torch.from_numpy(rng.integers(3, 250, (size, 12)))
        targets = TextTargets(tokens.to(device), torch.ones(size, 12, dtype=torch.bool, device=device))
    names = ("return_trajectory", "return_subtask", "reward_sum", "advantage")
    labels = {n: torch.from_numpy(rng.uniform(0, 0.1, size).astype(np.float32)) for n in names}
    labels["bootstrap"] = torch.ones(size)
    labels["interaction"] = torch.from_numpy((rng.uniform(size=size) < 0.5).astype(np.float32))
    labels["critic"] = torch.ones(size, dtype=torch.bool)
    labels["intervention"] = torch.zeros(size, dtype=torch.bool)
    now = observations(config, size, arguments.prompt, device, 0)
    later = observations(config, size, arguments.prompt, device, 1)
    later.pop("action")
    return StepBatch(
        observation=now,
        next_observation=later if recipe.advantage.source == "critic" and recipe.objective.type != "sft" else None,
        targets=targets,
        labels={k: v.to(device) for k, v in labels.items()},
        padded=torch.zeros(size, config.chunk_size, dtype=torch.bool, device=device),
        noise=noise.to(device),
        time=moment.to(device),
    )


def recipe_of(kind: str, samples: int = 1) -> Recipe:
    """The settings that a variant differs in."""
    recipe = Recipe()
    recipe.objective.flow_samples = samples
    recipe.critic.enabled = kind.startswith("ig_awr")
    recipe.objective.type = "ig_awr" if recipe.critic.enabled else "sft"
    recipe.advantage.source = "critic" if kind == "ig_awr in the loop" else "columns"
    if kind == "equal":
        recipe.objective.insulate, recipe.objective.text_weight = False, 0.0
    return recipe


def autocast(device: str, full: bool) -> Any:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=full)


def lerobot_step(policy: Any, config: Any, arguments: argparse.Namespace, device: str) -> Callable[[], None]:
    """A step as LeRobot's ``update_policy`` does it."""
    optimizer = config.get_optimizer_preset().build(policy.parameters())
    batch = observations(config, arguments.batch, arguments.prompt, device, 0)

    def step() -> None:
        with autocast(device, arguments.full):
            loss, _ = policy.forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(
    actor: Actor, config: Any, arguments: argparse.Namespace, recipe: Recipe, device: str
) -> tuple[Callable[[], None], TrainingModule, StepBatch]:
    """A step as :class:`igrft.training.loop.Loop` does it, without records and averages."""
    layers = at_fractions(recipe.critic.layers, actor.depth)
    critic = Critic(CriticConfig(actor.feature_width, len(layers))).to(device) if recipe.critic.enabled else None
    module = TrainingModule(actor, critic, layers, recipe)
    module.train()
    batch = step_batch(actor, config, arguments, recipe, device)
    groups = [module.policy, *([critic] if critic is not None else [])]
    trained = [[p for p in g.parameters() if p.requires_grad] for g in groups]
    optimizers = [torch.optim.AdamW(p, lr=5e-5, betas=(0.9, 0.95), weight_decay=0.01, fused=True) for p in trained]

    def step() -> None:
        with autocast(device, arguments.full):
            out = module(batch)
        out["loss"].backward()
        for parameters, optimizer in zip(trained, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step, module, batch


def timed(step: Callable[[], None], device: str, steps: int) -> float:
    """Seconds a step."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def measure(make: Callable[[], Callable[[], None]], device: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Best seconds a step and peak memory of one variant, which is made and dropped here."""
    gc.collect()
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = make()
    for _ in range(arguments.warmup):
        step()
    best = min(timed(step, device, arguments.steps) for _ in range(arguments.rounds))
    found = {"seconds": best, "samples_per_second": arguments.batch / best}
    if cuda:
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def model_flops(arguments: argparse.Namespace) -> float:
    """FLOPs of LeRobot's joint pass, forward and backward, for one sample; counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    plain = copy.copy(arguments)
    plain.checkpointing = False
    config = policy_config(plain, "meta")
    with torch.device("meta"):
        policy = build_policy(config)
    policy.train()
    batch = {k: v.to("meta") for k, v in observations(config, 1, arguments.prompt, "cpu", 0).items()}
    images = [batch[n] for n in CAMERAS]
    masks = [torch.ones(1, dtype=torch.bool, device="meta")] * 3
    actions = torch.empty(1, config.chunk_size, config.max_action_dim, device="meta")
    moment = torch.empty(1, device="meta")
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", enabled=False):
        losses = policy.model.forward(images, masks, batch[TOKENS], batch[MASK], actions, actions, moment)
        losses.mean().backward()
    return float(counter.get_total_flops())


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device = arguments.device
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    config = policy_config(arguments, device)
    policy = build_policy(config)
    policy.train()
    actor = make_actor(policy, None, byte_tokenizer())
    results: dict[str, Any] = {}
    variants = [
        ("lerobot", None),
        ("equal", recipe_of("equal")),
        ("sft", recipe_of("sft")),
        ("ig_awr", recipe_of("ig_awr")),
        ("ig_awr in the loop", recipe_of("ig_awr in the loop")),
        *[(f"sft, {n} flow samples", recipe_of("sft", n)) for n in (2, 4, 8)],
    ]
    for name, recipe in variants:
        if recipe is None:
            results[name] = measure(lambda: lerobot_step(policy, config, arguments, device), device, arguments)
        else:
            results[name] = measure(
                lambda recipe=recipe: our_step(actor, config, arguments, recipe, device)[0],  # type: ignore[misc]
                device,
                arguments,
            )
        if not device.startswith("cuda"):
            results[name]["kept_mb"] = kept(policy, actor, config, arguments, recipe, device) / 1e6
        print(name, results[name], flush=True)
    return results


def kept(
    policy: Any, actor: Actor, config: Any, arguments: argparse.Namespace, recipe: Recipe | None, device: str
) -> int:
    """Bytes that autograd keeps between forward and backward."""
    if recipe is not None:
        _, module, batch = our_step(actor, config, arguments, recipe, device)
        return kept_by_autograd(module, batch)

    batch: Any = observations(config, arguments.batch, arguments.prompt, device, 0)
    return kept_by_autograd(_Joint(policy), batch)  # type: ignore[arg-type]


def on_shapes(arguments: argparse.Namespace) -> None:
    """FLOPs of a forward and backward pass, and bytes kept between them, at full size on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    arguments.full, arguments.checkpointing = True, False
    config = policy_config(arguments, "meta")
    with torch.device("meta"):
        policy = build_policy(config)
    policy.train()
    actor = make_actor(policy, None, byte_tokenizer())
    found: dict[str, tuple[float, float]] = {}
    for name, recipe in (("lerobot", None), *((k, recipe_of(k)) for k in ("equal", "sft", "ig_awr"))):
        policy.zero_grad(set_to_none=True)
        if recipe is None:
            module: Any = _Joint(policy)
            batch: Any = observations(config, arguments.batch, arguments.prompt, "meta", 0)
        else:
            _, module, batch = our_step(actor, config, arguments, recipe, "meta")
        kept_bytes = kept_by_autograd(module, batch)
        with FlopCounterMode(display=False) as counter:
            out = module(batch)
            (out["loss"] if isinstance(out, dict) else out).backward()
        found[name] = (float(counter.get_total_flops()), float(kept_bytes))
        print(f"{name:8s} {found[name][0] / 1e12:8.2f} TFLOP  {found[name][1] / 1e9:7.2f} GB kept", flush=True)
    for a, b in (("equal", "lerobot"), ("sft", "lerobot"), ("ig_awr", "sft")):
        ratios = [x / y for x, y in zip(found[a], found[b], strict=True)]
        print(f"{a} / {b}: FLOPs {ratios[0]:.3f}, kept {ratios[1]:.3f}")


class _Joint(torch.nn.Module):
    """LeRobot's training forward, apart from the figures that it reads off its losses."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Any) -> Tensor:
        policy, config = self.policy, self.policy.config
        images, masks = policy._preprocess_images(batch)
        actions = policy.prepare_action(batch)
        noise, moment = torch.zeros_like(actions), torch.zeros(len(actions), device=actions.device)
        losses = policy.model.forward(images, masks, batch[TOKENS], batch[MASK], actions, noise, moment)
        out: Tensor = losses[..., : config.output_features["action"].shape[0]].mean()
        return out


def machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="π0.5 at full size, bf16, on a GPU")
    parser.add_argument("--shapes", action="store_true", help="full size on shapes alone: FLOPs and kept bytes")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--prompt", type=int, default=70, help="real tokens of a prompt")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the device, bf16 dense (H200: 989)")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cuda" if arguments.full else "cpu")
    arguments.batch = arguments.batch or (16 if arguments.full else 8)
    if arguments.full and not torch.cuda.is_available():
        raise SystemExit("--full needs a GPU")
    if arguments.shapes:
        on_shapes(arguments)
        return
    results = run(arguments)
    flops = model_flops(arguments) * arguments.batch
    ratios = {
        "equal work / lerobot": ("equal", "lerobot"),
        "ig_awr / sft": ("ig_awr", "sft"),
        "ig_awr in the loop / sft": ("ig_awr in the loop", "sft"),
    }
    print(f"\n{machine(arguments.device)}; batch {arguments.batch}, model FLOPs a step {flops / 1e12:.3f} T")
    for name, (a, b) in ratios.items():
        memory = "memory_gb" if "memory_gb" in results[a] else "kept_mb"
        print(
            f"{name:28s} time {results[a]['seconds'] / results[b]['seconds']:.3f}  "
            f"memory {results[a][memory] / results[b][memory]:.3f}"
        )
    if arguments.device.startswith("cuda"):
        for name in ("lerobot", "equal", "sft"):
            share = flops / results[name]["seconds"] / (arguments.peak * 1e12)
            results[name]["mfu"] = share
            print(f"model FLOP utilisation, {name}: {share:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(arguments.device), "results": results}, indent=2))


if __name__ == "__main__":
    main()
