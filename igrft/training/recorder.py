"""What a run leaves for its report: metrics as JSON lines, and figures of every sample as parquet."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from igrft.dataset.parquet import write_table, write_text

if TYPE_CHECKING:
    from igrft.training.recipe import WandbSettings

METRICS = "metrics.jsonl"
WANDB_ID = "wandb_id"
SAMPLES = Path("diagnosis") / "samples"
HELDOUT = Path("diagnosis") / "heldout"

#: Figures of a sample that a step may give, and what they are written as where it does not.
FIGURES = ("advantage", "weight", "loss", "value_trajectory", "value_subtask", "interaction_probability")
LABELS = ("return_trajectory", "return_subtask", "interaction", "motion")
_INTEGERS = ("step", "dataset", "episode", "frame", "length")


class Metrics:
    """``metrics.jsonl`` of a run, and Weights & Biases where asked for."""

    def __init__(self, run: Path, settings: WandbSettings, config: Mapping[str, Any], resumed_at: int) -> None:
        self.path = run / METRICS
        _cut(self.path, resumed_at)
        self._wandb = _start_wandb(run, settings, config) if settings.enable else None

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; numbers that are not finite become null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
        if self._wandb is not None:
            flat = {k: v for k, v in line.items() if not isinstance(v, Mapping) and k != "step"}
            for group, values in line.items():
                if isinstance(values, Mapping):
                    flat.update({f"{group}/{k}": v for k, v in values.items()})
            self._wandb.log(flat, step=int(line["step"]))

    def close(self) -> None:
        if self._wandb is not None:
            self._wandb.finish()


class SampleRecorder:
    """Figures of every sample of every step, written at each checkpoint."""

    def __init__(self, run: Path, resumed_at: int) -> None:
        self.run = run
        self._held: list[Tensor] = []
        for folder in (run / SAMPLES, run / HELDOUT):
            for path in folder.glob("*.parquet"):
                if int(path.stem) > resumed_at:
                    path.unlink()

    @staticmethod
    def row(step: int, out: Mapping[str, Tensor], labels: Mapping[str, Tensor], dataset: Tensor) -> Tensor:
        """float64 [B, columns] of one batch, on its device; processes can gather it."""
        size, device = dataset.shape[0], dataset.device
        nan = torch.full((size,), math.nan, device=device)
        whole = {
            "step": torch.full((size,), float(step), device=device),
            "dataset": dataset,
            **{name: labels[name] for name in ("episode", "frame", "length", "intervention")},
            **{name: out.get(f"sample/{name}", nan) for name in FIGURES},
            **{name: labels.get(name, nan) for name in LABELS},
        }
        return torch.stack([whole[name].to(device, torch.float64) for name in COLUMNS], dim=1)

    def add(self, rows: Tensor) -> None:
        """Keep the rows of a step; they stay on their device until written."""
        self._held.append(rows)

    def flush(self, step: int) -> None:
        """Write what was kept."""
        if self._held:
            values = torch.cat(self._held).cpu().numpy()
            write_table(self.run / SAMPLES / f"{step:09d}.parquet", table_of(values, COLUMNS))
            self._held = []


COLUMNS = (*_INTEGERS, *FIGURES, *LABELS, "intervention")
HELDOUT_COLUMNS = (
    *_INTEGERS,
    "value_trajectory",
    "value_subtask",
    "interaction_probability",
    "return_trajectory",
    "return_subtask",
    "interaction",
)


def table_of(values: np.ndarray, columns: tuple[str, ...]) -> pa.Table:
    """float64 [N, columns] as a table of int32, float32 and, for ``intervention``, bool."""
    arrays = []
    for i, name in enumerate(columns):
        dtype: Any = np.int32 if name in _INTEGERS else np.bool_ if name == "intervention" else np.float32
        arrays.append(pa.array(values[:, i].astype(dtype)))
    return pa.table(dict(zip(columns, arrays, strict=True)))


def _cut(path: Path, step: int) -> None:
    """Drop lines after ``step``, and a half-written last one: the run goes on from there."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line.get("step", 0) <= step:
            kept.append(text + "\n")
    write_text(path, "".join(kept))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _start_wandb(run: Path, settings: WandbSettings, config: Mapping[str, Any]) -> Any:
    import wandb

    # Kept beside the run, so that a resumed one goes on in the same place.
    kept = run / WANDB_ID
    if not kept.is_file():
        write_text(kept, uuid.uuid4().hex[:12])
    return wandb.init(
        project=settings.project,
        entity=settings.entity,
        name=settings.name or run.name,
        mode=settings.mode,  # type: ignore[arg-type]
        dir=str(run),
        id=kept.read_text(encoding="utf-8"),
        config=dict(config),
        resume="allow",
    )
