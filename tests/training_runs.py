"""Makes the folder of a training run with numpy, as `igrft train` would leave it.

Episodes with subtasks, pauses and corrections; a critic that learns its own episodes and, by choice, not
the held-out ones; advantages and weights by the method's own maths.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from igrft.rewards import (
    advantage_weights,
    combine,
    effective_sample_size,
    n_step_advantages,
    return_to_go,
    subtask_rewards,
    subtask_weights,
    trajectory_rewards,
)

FLOATS = (
    "advantage",
    "weight",
    "loss",
    "value_trajectory",
    "value_subtask",
    "interaction_probability",
    "return_trajectory",
    "return_subtask",
    "interaction",
    "motion",
)
HELDOUT_FLOATS = FLOATS[3:9]
INTEGERS = ("step", "dataset", "episode", "frame", "length")
CHUNK = 30


@dataclass
class Made:
    """A run to be made.

    Attributes:
        critic_noise: error of the values on episodes trained on; slow waves, of this size.
        heldout_noise: the same on held-out episodes.
        offset: added to the advantage of idle frames.
        correction: added to the advantage of interventions.
        overrides: settings of the recipe, by dotted name.
    """

    steps: int = 2000
    batch: int = 16
    log_every: int = 25
    episodes: int = 30
    seed: int = 0
    critic_start: int = 200
    critic_noise: float = 0.02
    heldout_noise: float = 0.06
    offset: float = 0.0
    correction: float = 0.0
    wait: float = 0.01
    overrides: dict[str, Any] = field(default_factory=dict)


def recipe(made: Made) -> dict[str, Any]:
    """The resolved recipe."""
    out: dict[str, Any] = {
        "stage": "offline_rl",
        "policy": {"type": "pi05"},
        "datasets": [
            {"root": "/data/cups", "kind": "demonstrations", "weight": 1.0, "episodes": None},
            {"root": "/data/rollout_cups_1", "kind": "rollouts", "weight": 1.0, "episodes": None},
        ],
        "init_from": "/runs/sft",
        "seed": made.seed,
        "steps": made.steps,
        "batch_size": made.batch,
        "gradient_accumulation": 1,
        "num_workers": 2,
        "precision": "bf16",
        "rewards": {
            "kind": "hybrid",
            "trajectory_weight": 0.4,
            "subtask_weight": 0.6,
            "discount": 1.0,
            "idle_credit": True,
            "idle_speed": 0.05,
        },
        "objective": {
            "type": "ig_awr",
            "frames": "all",
            "beta": 0.05,
            "weight_limit": 10.0,
            "intervention_floor": 0.0,
            "noise_scale": [1.0, 1.0],
        },
        "advantage": {"source": "critic", "steps": None, "refresh": 1},
        "critic": {
            "enabled": True,
            "start": made.critic_start,
            "holdout": 0.2,
            "evaluate_every": 200,
            "patience": None,
            "learning_rate": 5e-6,
        },
        "exploration": {"type": "interaction", "sigma_base": 0.8, "alpha": 0.9, "sigma_min": 0.1, "uniform": 1.0},
        "optimizer": {"learning_rate": 5e-5, "warmup_steps": 100, "clip": 1.0, "ema": 0.999},
    }
    for key, value in made.overrides.items():
        node = out
        *above, last = key.split(".")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return out


def write_run(root: Path, made: Made | None = None) -> Path:
    """Write a run to ``root`` and return it."""
    made = made or Made()
    settings = recipe(made)
    rng = np.random.default_rng(made.seed)
    frames = _frames(made, rng)
    root.mkdir(parents=True)
    (root / "recipe.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    lines: list[dict[str, Any]] = []
    evaluate = settings["critic"]["evaluate_every"]
    held: list[dict[str, np.ndarray]] = []
    for step in range(made.log_every, made.steps + 1, made.log_every):
        rows = _batch(made, settings, frames, step, rng)
        held.append(rows)
        lines.append(_line(made, settings, rows, step, rng))
        if step % evaluate == 0:
            write_rows(root / f"diagnosis/samples/{step:09d}.parquet", _concatenated(held))
            held = []
            if step > made.critic_start and settings["critic"]["enabled"]:
                write_rows(root / f"diagnosis/heldout/{step:09d}.parquet", _heldout(made, frames, step, rng))
                lines.append({"step": step, "heldout": {"r2_trajectory": 0.5, "r2_subtask": 0.5}})
    if held:
        write_rows(root / f"diagnosis/samples/{step:09d}.parquet", _concatenated(held))
    write_metrics(root, lines)
    (root / f"checkpoints/{made.steps:06d}/pretrained_model").mkdir(parents=True)
    return root


def write_metrics(root: Path, lines: list[dict[str, Any]]) -> None:
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_rows(path: Path, rows: dict[str, np.ndarray]) -> None:
    """A diagnosis file, with the columns' real types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {**dict.fromkeys(INTEGERS, np.int32), "intervention": np.bool_}
    pq.write_table(pa.table({n: v.astype(kinds.get(n, np.float32)) for n, v in rows.items()}), path)


def _frames(made: Made, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All frames of all episodes; the last fifth of the episodes is held out. Half are rollouts, with corrections."""
    parts = []
    for e in range(made.episodes):
        length = int(rng.integers(180, 320))
        success = bool(rng.random() < 0.7)
        ends = [*np.sort(rng.choice(np.arange(30, length - 20), 3, replace=False)).tolist(), length]
        done = [True, True, success, success]
        names = ["reach", "grasp", "carry", "place"]
        trajectory = trajectory_rewards(length, success)
        subtask = subtask_rewards(length, ends, subtask_weights(names, done), done)
        returns = [return_to_go(trajectory), return_to_go(subtask)]
        f = np.arange(length)
        speed = 1.0 + 0.5 * np.sin(f / 11.0 + e) + 0.1 * rng.random(length)
        pause = int(rng.integers(20, length - 60))
        speed[pause : pause + 24] = 0.004 * rng.random(24)
        probability = np.clip(np.where(f // 20 % 3 == 1, 0.85, 0.12) + 0.1 * rng.normal(size=length), 0, 1)
        interaction = rng.random(length) < probability
        rollout = e % 2 == 1
        human = rollout & (f > length * 0.4) & (f < length * 0.55)
        heldout = e >= made.episodes * 0.8
        size = made.heldout_noise if heldout else made.critic_noise
        errors = [
            size * np.sin(f / length * 6.0 * rng.random() + 6.0 * rng.random()) + size * rng.normal() for _ in "ab"
        ]
        values = [g + error for g, error in zip(returns, errors, strict=True)]
        reward, value = combine(trajectory, subtask), 0.4 * values[0] + 0.6 * values[1]
        idle = speed < 0.05
        # A pause earns no subtask and, by default here, nothing else either.
        final = n_step_advantages(reward, value, CHUNK) + np.where(idle, made.offset, 0.0) + made.correction * human
        parts.append(
            {
                "dataset": np.full(length, int(rollout)),
                "episode": np.full(length, e // 2),
                "frame": f,
                "length": np.full(length, length),
                "return_trajectory": returns[0],
                "return_subtask": returns[1],
                "value_trajectory": values[0],
                "value_subtask": values[1],
                "interaction": interaction.astype(float),
                "interaction_probability": probability,
                "intervention": human,
                "motion": speed,
                "heldout": np.full(length, heldout),
                "first": n_step_advantages(reward, np.full(length, 0.5), CHUNK),
                "final": final,
            }
        )
    return _concatenated(parts)


def _learnt(made: Made, step: int) -> float:
    """How much of what the critic will know it knows at a step."""
    return 1.0 - float(np.exp(-max(0, step - made.critic_start) / (0.15 * made.steps)))


def _batch(
    made: Made, settings: dict[str, Any], frames: dict[str, np.ndarray], step: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The samples of the steps since the last line."""
    count = made.batch * made.log_every
    at = rng.integers(0, len(frames["frame"]), count)
    rows = {n: v[at] for n, v in frames.items()}
    q = _learnt(made, step)
    known = settings["critic"]["enabled"] and step > made.critic_start
    for head in ("trajectory", "subtask"):
        mean = frames[f"return_{head}"].mean()
        rows[f"value_{head}"] = mean + q * (rows[f"value_{head}"] - mean) if known else np.full(count, np.nan)
    p = rows["interaction_probability"]
    rows["interaction_probability"] = 0.4 + q * (p - 0.4) if known else np.full(count, np.nan)
    advantage = (1 - q) * rows.pop("first") + q * rows.pop("final")
    sft = settings["objective"]["type"] == "sft"
    rows["advantage"] = np.full(count, np.nan) if sft or not known else advantage
    o = settings["objective"]
    weights = advantage_weights(
        advantage,
        o["beta"],
        o["weight_limit"],
        interventions=rows["intervention"],
        intervention_floor=o["intervention_floor"],
    )
    rows["weight"] = np.ones(count) if sft or not known else weights
    rows["loss"] = 0.1 + 0.9 * np.exp(-step / (0.3 * made.steps)) * (1 + 0.2 * rng.normal(size=count))
    rows["step"] = np.repeat(np.arange(step - made.log_every + 1, step + 1), made.batch)
    del rows["heldout"]
    return rows


def _line(
    made: Made, settings: dict[str, Any], rows: dict[str, np.ndarray], step: int, rng: np.random.Generator
) -> dict[str, Any]:
    total = float(rows["loss"].mean())
    warm = min(1.0, step / settings["optimizer"]["warmup_steps"])
    rate = settings["optimizer"]["learning_rate"] * warm * (0.55 + 0.45 * np.cos(np.pi * step / made.steps))
    seconds = 0.42 * (1 + 0.05 * rng.random())
    line: dict[str, Any] = {
        "step": step,
        "loss": total,
        "loss_flow": 0.8 * total,
        "loss_text": 0.2 * total,
        "text_correct": 0.95 - 0.5 * np.exp(-step / 500),
        "learning_rate": rate,
        "grad_norm": 0.4 + 2.0 * np.exp(-step / 200) + 0.2 * rng.random(),
        "seconds": seconds,
        "seconds_data": made.wait * seconds,
        "samples_per_second": made.batch / seconds,
        "memory_gb": 61.0,
    }
    if settings["critic"]["enabled"] and step > made.critic_start:
        error = (rows["value_trajectory"] - rows["return_trajectory"]) ** 2
        line |= {
            "loss_critic": float(2 * error.mean() + 0.3),
            "loss_value_trajectory": float(error.mean()),
            "loss_value_subtask": float(((rows["value_subtask"] - rows["return_subtask"]) ** 2).mean()),
            "loss_interaction": 0.3,
            "critic_learning_rate": 5e-6,
            "critic_grad_norm": 0.2 + 0.1 * rng.random(),
        }
        if settings["objective"]["type"] != "sft":
            a, w = rows["advantage"], rows["weight"]
            limit = settings["objective"]["weight_limit"]
            line |= {
                "advantage_mean": float(a.mean()),
                "advantage_std": float(a.std()),
                "weight_mean": float(w.mean()),
                "clipped_share": float((w >= limit * (1 - 1e-9)).mean()),
                "ess": effective_sample_size(w),
                "positive_share": float((a > 0).mean()),
            }
    return {k: float(v) if k != "step" else v for k, v in line.items()}


def _heldout(made: Made, frames: dict[str, np.ndarray], step: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    at = rng.choice(np.flatnonzero(frames["heldout"]), 512)
    rows = {n: frames[n][at] for n in (*INTEGERS[1:], *HELDOUT_FLOATS)}
    q = _learnt(made, step)
    for head in ("trajectory", "subtask"):
        mean = frames[f"return_{head}"].mean()
        rows[f"value_{head}"] = mean + q * (rows[f"value_{head}"] - mean)
    rows["interaction_probability"] = 0.4 + q * (rows["interaction_probability"] - 0.4)
    return {"step": np.full(len(at), step), **rows}


def _concatenated(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
