"""Checkpoints as far as planning looks at them, and an actor and critic whose values follow from the frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igrft import columns as c

CRITIC_SETTINGS = {
    "critic": {"feature_width": 4},
    "layers": [0],
    "trajectory_weight": 0.25,
    "subtask_weight": 0.75,
    "discount": 0.9,
    "advantage_steps": 3,
    "reward_kind": "hybrid",
}


def write_checkpoint(
    folder: Path,
    *,
    kind: str = "state_flow",
    states: Mapping[str, int] | None = None,
    cameras: tuple[str, ...] = (),
    renames: Mapping[str, str] | None = None,
    critic: Mapping[str, Any] | None = CRITIC_SETTINGS,
    chunk: int = 5,
) -> Path:
    """A checkpoint's files with weights that are only bytes."""
    features: dict[str, Any] = {k: {"type": "STATE", "shape": [n]} for k, n in (states or {c.STATE: 3}).items()}
    features |= {k: {"type": "VISUAL", "shape": [3, 48, 64]} for k in cameras}
    pretrained = folder / "pretrained_model"
    _write(pretrained / "config.json", {"type": kind, "input_features": features, "chunk_size": chunk})
    steps = [{"registry_name": "rename_observations_processor", "config": {"rename_map": dict(renames or {})}}]
    _write(pretrained / "policy_preprocessor.json", {"steps": steps})
    (pretrained / "model.safetensors").write_bytes(b"weights of the policy")
    _write(folder / "training_state/state.json", {"step": 7})
    if critic is not None:
        _write(folder / "critic/config.json", critic)
        (folder / "critic/model.safetensors").write_bytes(b"weights of the critic")
    return folder


def write_run(root: Path, **options: Any) -> Path:
    """A run with one checkpoint, and ``last`` pointing to it."""
    write_checkpoint(root / "checkpoints/000007", **options)
    (root / "checkpoints/last").symlink_to("000007")
    return root


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def plain_loaded(see: Any) -> Any:
    """A loaded checkpoint that says ``see(batch)`` of a processed batch: float [n, 3], the two values and a logit.

    It keeps to the interface of :class:`igrft.models.load.Loaded`; ``seen`` lists what ``prefix`` was given.
    """
    import torch

    from igrft.models.critic import CriticOutput
    from igrft.models.load import Loaded
    from igrft.models.protocol import Features, Prefix

    class Actor:
        type = "plain"
        policy = torch.nn.Linear(1, 1)
        uses_images = True

        def __init__(self) -> None:
            self.seen: list[tuple[dict, tuple[int, ...]]] = []

        def prefix(self, batch: Any, layers: Any, targets: Any = None) -> Prefix:
            assert torch.is_inference_mode_enabled()
            self.seen.append((batch, tuple(layers)))
            what = see(batch)[:, None, :]
            return Prefix(Features([what], [what], torch.ones(what.shape[:2], dtype=torch.bool)), None)

    def critic(features: Features) -> CriticOutput:
        trajectory, subtask, logit = features.keys[0][:, 0].unbind(dim=1)
        return CriticOutput(trajectory, subtask, logit, features.keys[0][:, 0])

    def preprocess(batch: dict) -> dict:
        return {**batch, "prompt": [f"Task: {task}" for task in batch["task"]]}

    return Loaded(Actor(), preprocess, lambda x: x, critic, (2, 5), {})


def tiny_checkpoint(
    folder: Path,
    dataset: Any,
    *,
    kind: str = "pi05_tiny",
    cameras: tuple[str, ...] = (),
    seed: int = 0,
    settings: Mapping[str, Any] = CRITIC_SETTINGS,
) -> Path:
    """A real checkpoint with random weights, as `igrft train` leaves it, for a dataset's state and action."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from safetensors.torch import save_file

    from igrft.models.actors import build_policy, make_actor, register_policy
    from igrft.models.critic import Critic, CriticConfig
    from igrft.models.load import CONFIG, CRITIC, PRETRAINED, WEIGHTS
    from igrft.models.processors import make_processors, save_processors
    from igrft.models.protocol import at_fractions

    torch.manual_seed(seed)
    register_policy(kind)
    config = _policy_class(kind)(device="cpu")
    if cameras:
        config.max_state_dim = config.max_action_dim = 32
    vectors = {k: tuple(dataset.features[k]["shape"]) for k in (c.STATE, c.ACTION)}
    config.input_features = {c.STATE: PolicyFeature(FeatureType.STATE, vectors[c.STATE])} | {
        k: PolicyFeature(FeatureType.VISUAL, (3, *dataset.features[k]["shape"][:2])) for k in cameras
    }
    config.output_features = {c.ACTION: PolicyFeature(FeatureType.ACTION, vectors[c.ACTION])}
    policy = build_policy(config)
    actor = make_actor(policy)
    layers = at_fractions((11, 14, 17), actor.depth)
    sizes = CriticConfig(actor.feature_width, len(layers), queries=4, width=32, heads=4, hidden=16)
    critic = Critic(sizes)
    stats = {
        k: {s: torch.full(shape, v) for s, v in {"mean": 0, "std": 1, "min": -1, "max": 1, "q01": -1, "q99": 1}.items()}
        for k, shape in vectors.items()
    }
    pre, post, _ = make_processors(config, {k: {s: t.float() for s, t in v.items()} for k, v in stats.items()})
    policy.save_pretrained(folder / PRETRAINED)
    save_processors(pre, post, folder / PRETRAINED)
    (folder / CRITIC).mkdir(parents=True)
    save_file(critic.state_dict(), folder / CRITIC / WEIGHTS)
    _write(folder / CRITIC / CONFIG, {**settings, "critic": sizes.to_json(), "layers": list(layers)})
    return folder


def _policy_class(kind: str) -> Any:
    from lerobot.configs import PreTrainedConfig

    return PreTrainedConfig.get_choice_class(kind)
