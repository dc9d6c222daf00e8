"""Rollouts a minute in simulation, against the bare environment and policy called in turn. In one run.

    python benchmarks/rollouts.py                     # a policy with random weights; what it does costs the same
    python benchmarks/rollouts.py --checkpoint RUN --pictures

The bare loop steps the same environment and calls the same policy (LeRobot's predict_action_chunk with its
processors) for the same number of steps: no critic, no monitor, no limits, no recording. Both render, or neither.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np


def random_checkpoint(folder: Path, features: dict[str, Any]) -> Path:
    """A state_flow policy of the recipes' size with a critic, untrained."""
    import json

    import torch
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
    from safetensors.torch import save_file

    from igrft.models.actors import build_policy, make_actor, register_policy
    from igrft.models.critic import Critic, CriticConfig
    from igrft.models.processors import make_processors, save_processors

    register_policy("state_flow")
    config = PreTrainedConfig.get_choice_class("state_flow")(device="cpu", chunk_size=16, n_action_steps=8)
    widths = {name: int(features[name]["shape"][0]) for name in features if "images" not in name}
    kinds = {"observation.state": FeatureType.STATE, "observation.environment_state": FeatureType.ENV}
    config.input_features = {name: PolicyFeature(kinds[name], (widths[name],)) for name in kinds}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (widths["action"],))}
    torch.manual_seed(0)
    policy = build_policy(config)
    actor = make_actor(policy)
    sizes = CriticConfig(actor.feature_width, 3, queries=2, width=64, heads=4, hidden=64)
    stats = {
        name: {"mean": torch.zeros(w), "std": torch.ones(w), "min": -torch.ones(w), "max": torch.ones(w)}
        for name, w in widths.items()
    }
    pre, post, _ = make_processors(config, stats)
    policy.save_pretrained(folder / "pretrained_model")
    save_processors(pre, post, folder / "pretrained_model")
    (folder / "critic").mkdir()
    save_file(Critic(sizes).state_dict(), folder / "critic" / "model.safetensors")
    settings = {"critic": sizes.to_json(), "layers": [0, 1, 2], "trajectory_weight": 0.4, "subtask_weight": 0.6}
    (folder / "critic" / "config.json").write_text(json.dumps(settings))
    return folder


def bare(world: Any, loaded: Any, steps: int, seed: int) -> None:
    """The environment and the policy, called in turn for ``steps`` steps."""
    import torch

    names = [n for n in world.features if n in (loaded.actor.policy.config.input_features or {})]
    world.reset(seed)
    queue: list[np.ndarray] = []
    for _ in range(steps):
        seen = world.observe()
        if not queue:
            batch: dict[str, Any] = {"task": [world.task]}
            for name in names:
                value = torch.from_numpy(np.asarray(seen[name]))
                batch[name] = value.permute(2, 0, 1).float()[None] / 255 if value.ndim == 3 else value[None]
            with torch.no_grad():
                chunk = loaded.postprocess(loaded.actor.policy.predict_action_chunk(loaded.preprocess(batch)))
            queue = list(chunk[0, :8].numpy())
        world.act(queue.pop(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="shelf-place-v3")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--pictures", action="store_true", help="render and record a 320x240 camera")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    import torch

    from igrft.models.load import load_checkpoint
    from igrft.rollouts.engine import ChunkEngine
    from igrft.rollouts.noise import NoiseRule
    from igrft.rollouts.policy import LocalPolicy
    from igrft.rollouts.recorder import Recorder
    from igrft.rollouts.run import _Collector
    from igrft.simulation.metaworld import MetaWorld
    from igrft.training.recipe_file import load_recipe

    torch.set_num_threads(1)
    cameras = ("corner2",) if arguments.pictures else ()
    # Success would end one loop early and not the other.
    world = MetaWorld(arguments.task, cameras=cameras, max_steps=arguments.steps, settle=10 * arguments.steps)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = arguments.checkpoint or random_checkpoint(folder / "checkpoint", dict(world.features))
        source = LocalPolicy.load(checkpoint, device="cpu", exploration=NoiseRule("interaction"))
        recipe = load_recipe("tiny/hil", ["rollout.human.type=none", f"rollout.episodes={arguments.episodes}"])
        recorder = Recorder.open(
            folder / "rollouts", features=world.features, fps=world.fps, robot_type=world.robot_type, task=world.task,
            settings={}, judged=True,
        )  # fmt: skip
        collector = _Collector(recipe, world, ChunkEngine(source, 8), None, recorder, lambda line: None)
        stock = load_checkpoint(checkpoint, device="cpu")
        bare(world, stock, 50, 0)
        ours, theirs = [], []
        for number in range(arguments.episodes):
            began = time.perf_counter()
            bare(world, stock, arguments.steps, number)
            theirs.append(time.perf_counter() - began)
            began = time.perf_counter()
            result = collector._episode(number)
            collector._keep(number, result)
            recorder.flush()
            ours.append(time.perf_counter() - began)
            assert result.steps == arguments.steps, result
        recorder.close()
    print(
        f"{arguments.task}, {arguments.steps} steps an episode, pictures: {arguments.pictures}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    a, b = statistics.median(ours), statistics.median(theirs)
    print(
        f"rollouts: {a:.3f} s an episode, {60 / a:.0f} a minute; bare loop: {b:.3f} s, {60 / b:.0f} a minute; "
        f"ratio {b / a:.2f}"
    )


if __name__ == "__main__":
    main()
