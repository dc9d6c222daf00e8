"""One π0.5 chunk of ours, with critic and without, against LeRobot's ``predict_action_chunk``, in one run.

    python benchmarks/inference.py                 # a small π0.5 on the CPU
    python benchmarks/inference.py --full          # π0.5 at full size with random weights on a GPU, bf16
    python benchmarks/inference.py --shapes        # at full size without a GPU: what is computed, no times

Three cameras of 224×224, chunk 30, 10 steps, one observation that lies ready on the device. In turns, median of
``--rounds``:
- lerobot: as it comes (``compile_model`` off; aim: ours at most 0.5 of it);
- lerobot compiled: ``compile_model`` on, in its own mode (aim: ours not slower). At full size alone: it is LeRobot's
  constructor that compiles, and the small policy has another. ``--no-compiled`` leaves it out;
- ours with critic: prefix, critic, noise scaled by its p_int on the host, as a rollout does it (aim: the critic at
  most 3 % of it);
- ours, scaled on the device: the same without waiting for the critic before the steps are launched;
- ours without critic; the critic alone; ours guided (real-time chunking); the actor as the trainer has it.

``--shapes`` counts on tensors without data: FLOPs; operations, as many kernels where nothing is fused; bytes that
they read and write, which counts what lies in a cache of the device, too.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from training import ACTION, MASK, TOKENS, machine, observations, policy_config

from igrft.models.actors import build_policy
from igrft.models.critic import Critic, CriticConfig
from igrft.models.guidance import Guidance
from igrft.models.inference import for_inference
from igrft.models.pi05 import Pi05Actor
from igrft.models.pi05_inference import InferenceOptions, Pi05Inference
from igrft.models.protocol import at_fractions

#: Layers that the critic reads, of 18.
LAYERS = (11, 14, 17)
#: Of Eq. 2: from the critic's p_int to the scale of the noise.
SIGMA, ALPHA, SIGMA_MIN = 1.5, 0.9, 0.2


def lerobot_chunk(policy: Any, batch: dict[str, Tensor], noise: Tensor) -> Callable[[], Tensor]:
    def chunk() -> Tensor:
        out: Tensor = policy.predict_action_chunk(batch, noise=noise)
        return out

    return chunk


def our_chunk(
    actor: Any,
    judge: Any,
    layers: tuple[int, ...],
    batch: Any,
    noise: Tensor,
    *,
    guidance: Guidance | None = None,
    wait: bool = True,
) -> Callable[[], Tensor]:
    """As a rollout does it: the scale of the noise is known on the host before the steps begin, where ``wait``."""

    @torch.no_grad()
    def chunk() -> Tensor:
        prefix = actor.prefix(batch, layers if judge is not None else ())
        scale: Any = 1.0
        if judge is not None:
            p = judge(prefix.features).interaction_probability[0]
            scale = SIGMA * (1 - ALPHA * (float(p) if wait else p)) + SIGMA_MIN
            # Noise of scale 1 in the end, so that chunks can be compared.
            scale = scale * 0 + 1
        out: Tensor = actor.denoise(prefix, noise * scale, guidance=guidance)
        return out

    return chunk


def seconds(chunk: Callable[[], Tensor], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    chunk()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    device = arguments.device
    torch.manual_seed(0)
    config = policy_config(arguments, device)
    if not arguments.full:
        config.image_resolution = (224, 224)
        config = policy_config_again(config)
    policy = build_policy(config).eval()
    stir(policy)
    batch = observations(config, 1, arguments.prompt, device, 0)
    del batch["action"]
    noise = torch.randn(1, config.chunk_size, config.max_action_dim).to(device)
    actor = Pi05Actor(policy)
    layers = at_fractions(LAYERS, actor.depth)
    torch.manual_seed(1)
    critic = Critic(CriticConfig(actor.feature_width, len(layers))).to(device).eval()
    rest = Guidance(torch.zeros(1, 20, ACTION, device=device), 5)

    chunks: dict[str, Callable[[], Tensor]] = {"lerobot": lerobot_chunk(policy, batch, noise)}
    stock = chunks["lerobot"]()
    if arguments.compiled:
        chunks["lerobot compiled"] = lerobot_chunk(compiled_twin(policy, config), batch, noise)
    options = InferenceOptions(mode=arguments.mode, attention=arguments.attention)
    fast, judge = for_inference(actor, critic, options)
    assert isinstance(fast, Pi05Inference)
    began = time.perf_counter()
    fast.warm_up(batch, layers, judge, guided=True)
    ready = time.perf_counter() - began
    chunks["ours with critic"] = our_chunk(fast, judge, layers, batch, noise)
    chunks["ours without critic"] = our_chunk(fast, None, layers, batch, noise)
    chunks["ours, scaled on the device"] = our_chunk(fast, judge, layers, batch, noise, wait=False)
    features = fast.prefix(batch, layers).features
    assert judge is not None
    chunks["the critic alone"] = lambda: judge(features).interaction_logit
    chunks["ours guided"] = our_chunk(fast, judge, layers, batch, noise, guidance=rest)
    chunks["the trainer's actor"] = our_chunk(actor, critic, layers, batch, noise)
    apart = float((chunks["ours with critic"]() - stock).abs().max() / stock.abs().max())

    times: dict[str, list[float]] = {name: [] for name in chunks}
    failed: dict[str, str] = {}
    for turn in range(arguments.warmup + arguments.rounds):
        for name, chunk in chunks.items():
            if name in failed:
                continue
            try:
                took = seconds(chunk, device)
            except Exception as error:  # LeRobot's compiled form is not ours to mend
                if name != "lerobot compiled":
                    raise
                failed[name] = " ".join(str(error).split())[:200]
                continue
            if turn >= arguments.warmup:
                times[name].append(took)
    medians = {name: statistics.median(took) for name, took in times.items() if took}
    return {
        "machine": machine(device),
        "seconds": medians,
        "spread": {n: (min(t), max(t)) for n, t in times.items() if t},
        "failed": failed,
        "warm_up_seconds": ready,
        "attention": fast.attention,
        "largest_difference": apart,
    }


def policy_config_again(config: Any) -> Any:
    """The small policy with pictures of full size, in large patches."""
    from lerobot.configs import FeatureType, PolicyFeature

    config.patch = 28
    for name, feature in config.input_features.items():
        if feature.type is FeatureType.VISUAL:
            config.input_features[name] = PolicyFeature(FeatureType.VISUAL, (3, *config.image_resolution))
    return config


@torch.no_grad()
def stir(policy: Any) -> None:
    """Adaptive norms begin at zero, where a chunk says little: comparisons want them elsewhere."""
    for name, parameter in policy.named_parameters():
        if "layernorm.dense.weight" in name or "norm.dense.weight" in name:
            parameter.add_(0.6 / parameter.shape[1] ** 0.5 * torch.randn_like(parameter))


def compiled_twin(policy: Any, config: Any) -> Any:
    """The same weights in a policy that LeRobot compiles."""
    twin_config = copy.deepcopy(config)
    twin_config.compile_model = True
    twin = build_policy(twin_config).eval()
    twin.load_state_dict(policy.state_dict())
    gc.collect()
    return twin


class Traffic(TorchDispatchMode):
    """Operations that compute or copy, and the bytes of what they read and make."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and not func._schema.name.endswith(("empty", "detach", "empty_like", "_unsafe_view")):
            self.operations += 1
            made = out if isinstance(out, tuple | list) else (out,)
            # Of a table of words only the rows that come out are read.
            tensors = [*made, *made] if "embedding" in func._schema.name else [*args, *(kwargs or {}).values(), *made]
            flat = [y for x in tensors for y in (x if isinstance(x, tuple | list) else (x,))]
            self.bytes += sum(x.numel() * x.element_size() for x in flat if isinstance(x, Tensor))
        return out


def on_shapes(arguments: argparse.Namespace) -> dict[str, Any]:
    """FLOPs, operations and bytes of a chunk at full size on the meta device."""
    arguments.full = True
    config = policy_config(arguments, "meta")
    with torch.device("meta"):
        policy = build_policy(config).eval()
    batch = {k: v.to("meta") for k, v in observations(config, 1, arguments.prompt, "cpu", 0).items() if k != "action"}
    noise = torch.empty(1, config.chunk_size, config.max_action_dim, device="meta")
    fast = Pi05Inference(policy, InferenceOptions(compiled=False, recorded=False))
    layers = at_fractions(LAYERS, fast.depth)
    with torch.device("meta"):
        critic = Critic(CriticConfig(fast.feature_width, len(layers))).eval()
    policy.requires_grad_(False)
    critic.requires_grad_(False)
    # Lengths of prompts are not known of tensors without data: it is cut to where ours would pad it to.
    length = fast._bucket(arguments.prompt, config.tokenizer_max_length)
    ours = {**batch, TOKENS: batch[TOKENS][:, :length], MASK: batch[MASK][:, :length]}
    looked = fast.prefix(ours, layers)
    parts: dict[str, Callable[[], object]] = {
        "lerobot": lerobot_chunk(policy, batch, noise),
        "ours: prefix": lambda: fast.prefix(ours, layers),
        "ours: critic": torch.no_grad()(lambda: critic(looked.features)),
        "ours: steps": lambda: fast.denoise(looked, noise),
    }
    found: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        with FlopCounterMode(display=False) as flops:
            part()
        with Traffic() as traffic, torch.no_grad():
            part()
        found[name] = {
            "tflop": flops.get_total_flops() / 1e12,
            "operations": traffic.operations,
            "gigabytes": traffic.bytes / 1e9,
        }
    mine = ("ours: prefix", "ours: critic", "ours: steps")
    found["ours with critic"] = {k: sum(found[n][k] for n in mine) for k in found["lerobot"]}
    print("full size, bf16, on shapes alone: counts, no times; nothing here was measured on a GPU\n")
    for name, row in found.items():
        print(f"{name:20s} {row['tflop']:8.4f} TFLOP {row['operations']:8.0f} operations {row['gigabytes']:8.2f} GB")
    for label, a, b in (("ours / lerobot", "ours with critic", "lerobot"), ("critic / ours", mine[1], mine[0])):
        print(f"{label}: " + ", ".join(f"{k} {found[a][k] / found[b][k]:.4f}" for k in found[a]))
    return {"shapes": found}


def tell(found: dict[str, Any]) -> None:
    took = found["seconds"]
    print(f"\n{found['machine']}; warm-up {found['warm_up_seconds']:.1f} s; the expert attends by {found['attention']}")
    for name, median in took.items():
        low, high = found["spread"][name]
        print(f"{name:27s} {median * 1e3:9.2f} ms   ({low * 1e3:.2f} to {high * 1e3:.2f})")
    for name, why in found["failed"].items():
        print(f"{name:27s} failed: {why}")
    ours = took["ours with critic"]
    print(f"ours with critic / lerobot           {ours / took['lerobot']:.3f}   (aim: 0.5)")
    if "lerobot compiled" in took:
        print(f"ours with critic / lerobot compiled  {ours / took['lerobot compiled']:.3f}   (aim: 1)")
    print(f"critic alone / ours with critic      {took['the critic alone'] / ours:.3f}   (aim: 0.03)")
    print(f"with critic, less without, of with   {1 - took['ours without critic'] / ours:.3f}   (aim: 0.03)")
    print(f"largest difference from LeRobot's actions, of the largest action: {found['largest_difference']:.1e}")
    if not found["machine"] or "threads" in found["machine"]:
        print("On a CPU with a small policy: the aims are for full size on a GPU.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="π0.5 at full size, bf16, on a GPU")
    parser.add_argument("--shapes", action="store_true", help="full size on shapes alone: FLOPs, operations, bytes")
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=None, help="LeRobot's compile_model"
    )
    parser.add_argument("--mode", default=None, help="of torch.compile for ours: max-autotune-no-cudagraphs")
    parser.add_argument("--attention", default="auto", help="of the action expert: sdpa, matmul, auto")
    parser.add_argument("--prompt", type=int, default=70, help="real tokens of the prompt")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.checkpointing = False
    arguments.device = arguments.device or ("cuda" if arguments.full else "cpu")
    if arguments.compiled and not arguments.full:
        raise SystemExit("--compiled needs --full: LeRobot compiles no small policy")
    if arguments.compiled is None:
        arguments.compiled = arguments.full
    if arguments.shapes:
        found = on_shapes(arguments)
    else:
        if arguments.full and not torch.cuda.is_available():
            raise SystemExit("--full needs a GPU")
        found = run(arguments)
        tell(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
