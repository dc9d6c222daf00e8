"""What a model's card says: everything its template may use, and which checkpoint of a run is sent."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft.dataset.files import read_json
from igrft.errors import IgrftError, UsageError
from igrft.publishing.machine_paths import clean, without_folders
from igrft.reports.run.read import METRICS, RECIPE, is_run, read_metrics, read_recipe, setting_of

if TYPE_CHECKING:
    from huggingface_hub import CardData

_STAGES = {
    "sft": "Stage I: supervised fine-tuning",
    "offline_rl": "Stage II: offline reinforcement learning, IG-AWR",
    "hil": "Stage III: with a human in the loop",
}
#: LeRobot's own classes, which load what igrft saves without igrft.
_LEROBOT = {
    "pi05": "lerobot.policies.pi05.modeling_pi05.PI05Policy",
    "smolvla": "lerobot.policies.smolvla.modeling_smolvla.SmolVLAPolicy",
}
#: Numbers of metrics that the card leaves out: how fast the machine was, and where the schedule stood.
_LEFT_OUT = frozenset(
    ("step", "seconds", "seconds_data", "samples_per_second", "memory_gb", "learning_rate", "critic_learning_rate")
)


@dataclass(frozen=True)
class RunCheckpoint:
    """A run and the checkpoint of it that is sent: ``run/checkpoints/STEP``."""

    run: Path
    checkpoint: Path

    @property
    def step(self) -> int:
        return int(self.checkpoint.name)


def find_checkpoint(path: Path) -> RunCheckpoint | None:
    """The newest checkpoint of the run at ``path``, or the one that ``path`` is; None where it is neither.

    Raises:
        UsageError: a run without a checkpoint. IgrftError: one without its recipe or metrics.
    """
    resolved = path.resolve()
    if resolved.parent.name == "checkpoints" and resolved.name.isdigit():
        run = resolved.parents[1]
        if not is_run(run):
            raise IgrftError(f"{run} has no {RECIPE} and {METRICS}, which the card is made of; restore them")
        return RunCheckpoint(run, resolved)
    if not is_run(path):
        return None
    last = path / "checkpoints" / "last"
    if not last.exists():
        raise UsageError(f"{path} is a run without a checkpoint yet; let it train to its first one")
    checkpoint = last.resolve()
    # The newest of a run made of rounds is that of its last round: recipe and metrics stand there.
    run = checkpoint.parents[1]
    return RunCheckpoint(run if is_run(run) else path, checkpoint)


def model_facts(found: RunCheckpoint, repo_id: str) -> dict[str, Any]:
    """Facts for ``model``; nothing in them names a folder of this machine."""
    recipe = read_recipe(found.run / RECIPE)
    config = read_json(found.checkpoint / "pretrained_model" / "config.json")
    stage = str(setting_of(recipe, "stage", ""))
    inputs, outputs = _features(config.get("input_features")), _features(config.get("output_features"))
    metrics_file = found.run / METRICS
    facts = {
        "policy": str(config.get("type", "unknown")),
        "parameters": _count(found.checkpoint / "pretrained_model" / "model.safetensors"),
        "stage": stage,
        "stage_text": _STAGES.get(stage, stage or "stage not recorded"),
        "step": found.step,
        "inputs": inputs,
        "outputs": outputs,
        "observation_example": _example(inputs),
        "action_shape": f"[B, {config.get('chunk_size', '?')}, {_width(outputs)}]",
        "lerobot_class": _LEROBOT.get(str(config.get("type"))),
        "critic": (found.checkpoint / "critic" / "model.safetensors").is_file(),
        "training": _training(recipe),
        "measured": _measured(metrics_file, found.step) if metrics_file.is_file() else [],
        "base_model": _hub_id(setting_of(recipe, "init_from")),
        "datasets": [d for d in (_hub_id(e.get("repo_id")) for e in _entries(recipe)) if d],
    }
    return clean(facts, every=True) | {"repo_id": repo_id}


def model_card_data(facts: Mapping[str, Any], *, title: str, license: str | None, tags: list[str]) -> CardData:
    """The front matter of a model, as LeRobot writes it for its policies."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        license=license,
        library_name="lerobot",
        pipeline_tag="robotics",
        model_name=title,
        base_model=facts["base_model"],
        datasets=facts["datasets"] or None,
        tags=["robotics", "lerobot", "igrft", str(facts["policy"]), *tags],
    )


def _training(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    if (start := setting_of(recipe, "init_from")) is not None:
        rows.append(("started from", without_folders(str(start), every=True)))
    for entry in _entries(recipe):
        name = without_folders(str(entry.get("repo_id") or entry.get("root") or "not named"), every=True)
        rows.append(
            (str(entry.get("kind") or "dataset"), name.rstrip("/").rsplit("/", 1)[-1] if entry.get("root") else name)
        )
    wanted = {
        "steps": "steps",
        "batch_size": "batch size",
        "optimizer.learning_rate": "learning rate",
        "optimizer.ema": "average of weights (decay)",
        "objective.type": "objective",
        "objective.beta": "β",
        "rewards.kind": "reward",
        "rewards.trajectory_weight": "weight of the trajectory reward",
        "rewards.subtask_weight": "weight of the subtask reward",
        "rewards.discount": "discount",
        "exploration.type": "noise of rollouts",
        "seed": "seed",
    }
    for key, words in wanted.items():
        value = setting_of(recipe, key)
        if key == "objective.beta" and setting_of(recipe, "objective.type") == "sft":
            continue  # a recipe of imitation has it, and nothing reads it
        if value is not None:
            rows.append((words, f"{value:g}" if isinstance(value, float) else value))
    return rows


def _measured(path: Path, upto: int) -> list[dict[str, Any]]:
    """Last value of each number that was logged, up to the checkpoint's step."""
    metrics = read_metrics(path)
    out: list[dict[str, Any]] = []
    for prefix, held in (("", metrics.lines), ("held out: ", metrics.heldout)):
        last: dict[str, tuple[float, int]] = {}
        for step in sorted(s for s in held if s <= upto):
            last |= {k: (v, step) for k, v in held[step].items() if k not in _LEFT_OUT}
        out += [{"name": prefix + k, "value": f"{v:.4g}", "step": step} for k, (v, step) in sorted(last.items())]
    return out


def _entries(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    entries = setting_of(recipe, "datasets", [])
    return [e for e in entries if isinstance(e, Mapping)] if isinstance(entries, list) else []


def _hub_id(value: Any) -> str | None:
    """``owner/name`` where a setting is one; a run's folder (``runs/sft``) is none."""
    text = str(value or "")
    owner = text.split("/", 1)[0]
    plain = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None
    return text if plain and owner not in ("runs", "outputs", "checkpoints") and not Path(owner).is_dir() else None


def _features(value: Any) -> list[dict[str, str]]:
    held = value if isinstance(value, Mapping) else {}
    return [
        {"name": str(k), "type": str(v.get("type", "")), "shape": str(list(v.get("shape", ())))}
        for k, v in held.items()
        if isinstance(v, Mapping)
    ]


def _width(outputs: list[dict[str, str]]) -> str:
    return outputs[0]["shape"].strip("[]") if outputs else "?"


def _example(inputs: list[dict[str, str]]) -> str:
    parts = [f'"{f["name"]}": …' for f in inputs]
    return "{" + ", ".join([*parts, '"task": ["…"]']) + "}"


def check_weights(path: Path) -> None:
    """Whether a safetensors file is as long as its header says.

    Raises:
        IgrftError: it is not.
    """
    header, start = _header(path)
    end = max((int(t["data_offsets"][1]) for n, t in header.items() if n != "__metadata__"), default=0)
    if path.stat().st_size != start + end:
        raise IgrftError(f"{path} is cut short; take another checkpoint")


def _count(path: Path) -> str:
    """Numbers of weights, from the header alone: ``3.6 B``, ``0.42 M``."""
    header, _ = _header(path)
    total = sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return f"{total / 1e9:.1f} B" if total >= 1e9 else f"{total / 1e6:.3g} M"


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What a safetensors file says of its tensors, and where they begin."""
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            return dict(json.loads(stream.read(min(length, 100_000_000)))), 8 + length
    except (OSError, ValueError, struct.error):
        raise IgrftError(f"{path} cannot be read; take another checkpoint") from None
