"""What a dataset's card says: everything its template may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import STATS, read_json
from igrft.dataset.reader import DatasetReader
from igrft.publishing.files import ASSETS
from igrft.publishing.machine_paths import clean
from igrft.publishing.pictures import EpisodePicture
from igrft.reports.inspect import Inspection
from igrft.reports.rollouts.record import Rollouts, read_rollouts

#: Settings of a step that the card's table shows; the others stand in the YAML below it.
_SHOWN = {
    "subtasks": ("source", "model", "task", "path", "snap"),
    "interaction": (
        "camera",
        "flow",
        "flow_threshold",
        "pixel_threshold",
        "robot_mask",
        "camera_motion",
        "close_gaps",
        "shortest_phase",
    ),
    "rewards": ("trajectory_weight", "subtask_weight", "weights", "normalise", "sharpness"),
    "returns": ("discount",),
    "values": ("checkpoint", "steps", "discount"),
}
_WORDS = {
    c.SUBTASK_INDEX: "subtasks",
    c.INTERACTION: "interaction",
    c.REWARD: "reward",
    c.RETURN: "return-to-go",
    c.VALUE: "value",
    c.ADVANTAGE: "advantage",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


def dataset_facts(dataset: DatasetReader, found: Inspection, pictures: Sequence[EpisodePicture]) -> dict[str, Any]:
    """Facts for ``labelled`` and ``rollouts``; nothing in them names a folder of this machine."""
    totals, record = found.totals, dataset.igrft or {}
    rows = [r for r in found.rows if r.set_aside is None]
    shares = [r.interaction_share for r in rows if r.interaction_share is not None]
    weights = [r.frames for r in rows if r.interaction_share is not None]
    steps = (record.get("pipeline") or {}).get("steps") or []
    labelled = [n for n in c.LABELS if n in dataset.features]
    known = int(totals["success_known"])
    facts: dict[str, Any] = {
        "codebase_version": str(dataset.info.get("codebase_version", "v3.0")),
        "robot": totals["robot_type"] or "a robot that is not named",
        "tasks": [t for t in totals["tasks"] if t],
        "cameras": [{"name": k, "size": _size(shape)} for k, shape in totals["cameras"].items()],
        "several_cameras": len(totals["cameras"]) > 1,
        "episodes": totals["episodes"],
        "frames": totals["frames"],
        "hours": totals["hours"],
        "fps": totals["fps"],
        "success_rate": totals["success_rate"],
        "success_known": known,
        "successes": round((totals["success_rate"] or 0.0) * known),
        "success_assumed": totals["success_assumed"],
        "vectors": _vectors(dataset),
        "columns": _columns(dataset, labelled),
        "what_labels": _listed([w for n, w in _WORDS.items() if n in labelled]) or "labels",
        "example": next((n for n in (c.RETURN, c.REWARD, c.INTERACTION, *labelled) if n in labelled), ""),
        "interaction_share": float(np.average(shares, weights=weights)) if shares and sum(weights) else None,
        "interaction_range": (min(shares), max(shares)) if len(shares) > 1 else None,
        "robot_counts": any(s.get("type") == "interaction" and s.get("robot_mask") == "none" for s in steps),
        "subtasks": totals["subtasks"],
        "pipeline": (record.get("pipeline") or {}).get("name") or "unnamed",
        "igrft_version": record.get("igrft_version") or "unknown",
        "packages": ", ".join(f"{k} {v}" for k, v in (record.get("packages") or {}).items()),
        "steps": [{"type": s.get("type", "?"), "shown": _shown(s)} for s in steps],
        "pipeline_yaml": _yaml({"steps": steps}),
        "set_aside": [{"episode": r.episode, "why": r.set_aside} for r in found.rows if r.set_aside is not None],
        "left_out": [{"name": k, "why": v} for k, v in totals["left_out"].items()],
        "rollouts": totals["rollouts"],
        "rollout_settings": _rollout_settings(read_rollouts(dataset)),
        "pictures": [_picture(p) for p in pictures],
    }
    return clean(facts)


def size_category(frames: int) -> str:
    """The Hub's word for a number of rows."""
    return next((word for most, word in (*_SIZES, *_LARGER) if frames < most), "n>1T" if frames > 1e12 else "1B<n<10B")


def picture_path(episode: int) -> str:
    """Where an episode's picture lies in the repository."""
    return f"{ASSETS}/episode_{episode:06d}.jpg"


def source_licence(root: Path) -> str | None:
    """The licence that the dataset's own card states, or None."""
    return (source_card_data(root) or {}).get("license")


def source_card_data(root: Path) -> dict[str, Any] | None:
    """The front matter of the README that lies in the dataset; None where there is none that can be read."""
    from huggingface_hub import DatasetCard

    path = root / "README.md"
    if not path.is_file():
        return None
    try:
        return DatasetCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception:  # the file is by whoever recorded the set, and nothing hangs on it
        return None


def _picture(p: EpisodePicture) -> dict[str, Any]:
    outcome = {True: "a success", False: "a failure", None: ""}[p.summary.success]
    return {
        "episode": p.summary.episode,
        "path": picture_path(p.summary.episode),
        "seconds": p.summary.seconds,
        "outcome": outcome,
        "legend": p.legend,
        "camera": p.camera.removeprefix(c.IMAGE_PREFIX),
    }


def _columns(dataset: DatasetReader, names: Sequence[str]) -> list[dict[str, str]]:
    stats = read_json(dataset.root / STATS) if (dataset.root / STATS).is_file() else {}
    out = []
    for name in names:
        held = stats.get(name) or {}
        numbers = {} if name in (c.SUBTASK_INDEX, c.LANGUAGE_PERSISTENT) else held
        out.append(
            {
                "name": name,
                "dtype": str(dataset.features[name].get("dtype", "")),
                "meaning": c.LABELS[name].meaning,
                **{k: _number(numbers.get(k)) for k in ("min", "mean", "max")},
            }
        )
    return out


def _number(value: Any) -> str:
    """A statistic of a [1]-shaped column, short."""
    while isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if value is None or not np.isfinite(value):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if 0 < abs(value) < 1e-6:
        return "&lt;1e-6" if value > 0 else "&gt;-1e-6"
    text = f"{float(value):.3g}"
    return text if "e" not in text else f"{float(value):,.0f}" if abs(value) >= 1 else text


def _vectors(dataset: DatasetReader) -> list[dict[str, str]]:
    """State and action: their widths, and the names of their parts where they are listed."""
    out = []
    for name in (c.STATE, c.ENVIRONMENT_STATE, c.ACTION):
        feature = dataset.features.get(name)
        if feature is None:
            continue
        names = feature.get("names")
        if isinstance(names, Mapping):
            names = next((v for v in names.values() if isinstance(v, list)), None)
        if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
            names = names[0]
        listed = [str(n) for n in names] if isinstance(names, list) else []
        text = ", ".join(listed) if len(listed) <= 32 else ", ".join(listed[:32]) + ", …"
        out.append({"name": name, "shape": str(list(feature.get("shape", ()))), "names": text})
    return out


def _shown(step: Mapping[str, Any]) -> dict[str, Any]:
    known = _SHOWN.get(str(step.get("type")))
    keys = known if known is not None else [k for k in step if k != "type"][:8]
    return {k: step[k] for k in keys if k in step and step[k] is not None}


def _rollout_settings(rollouts: Rollouts) -> list[dict[str, str]]:
    """Top-level settings in a line each."""
    out = []
    for name, value in (rollouts.settings or {}).items():
        if value in (None, {}, []):
            continue
        shown = ", ".join(f"{k} = {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        out.append({"name": str(name), "value": shown if len(shown) <= 300 else shown[:299] + "…"})
    return out


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else list(words))


def _size(shape: Any) -> str:
    return f"{shape[1]}×{shape[0]}" if shape and len(shape) == 3 else ""


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip()
