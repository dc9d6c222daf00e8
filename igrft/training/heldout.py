"""How well the critic fits episodes that it never trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from igrft.columns import ACTION
from igrft.training.frames import ACTION_IS_PAD
from igrft.training.inputs import Inputs
from igrft.training.recorder import HELDOUT_COLUMNS
from igrft.training.sharding import let_go

if TYPE_CHECKING:
    from accelerate import Accelerator

    from igrft.training.module import TrainingModule


@torch.no_grad()
def look(
    module: TrainingModule,
    inputs: Inputs,
    step: int,
    batch_size: int,
    frames: int,
    accelerator: Accelerator | None = None,
) -> np.ndarray:
    """The critic's word on evenly spread frames of held-out episodes: float64 [N, HELDOUT_COLUMNS].

    Every process looks at its share, and gets the rows of all.
    """
    was_training = module.training
    module.eval()
    share = {} if accelerator is None else {"rank": accelerator.process_index, "world": accelerator.num_processes}
    data = inputs.built.data
    rows = []
    try:
        for raw in data.heldout_batches(batch_size, frames, **share):
            batch = inputs.processed({k: v for k, v in raw.observation.items() if k not in (ACTION, ACTION_IS_PAD)})
            output = module(batch)
            found: dict[str, Any] = {
                "step": torch.full_like(raw.dataset, step),
                "dataset": raw.dataset,
                **raw.labels,
                **{name.removeprefix("sample/"): values for name, values in output.items()},
            }
            rows.append(torch.stack([found[n].double().cpu() for n in HELDOUT_COLUMNS], dim=1))
    finally:
        module.train(was_training)
        # In one piece, weights would be older than the next change to them.
        let_go(module)
    mine = torch.cat(rows) if rows else torch.zeros((0, len(HELDOUT_COLUMNS)), dtype=torch.float64)
    if accelerator is None or accelerator.num_processes == 1:
        return mine.numpy()
    whole = accelerator.gather(mine.to(accelerator.device)).cpu().numpy()
    # Process by process; the frames were dealt out one after the other.
    dealt = whole.reshape(accelerator.num_processes, len(mine), -1).swapaxes(0, 1).reshape(len(whole), -1)
    return dealt[: data.heldout_count(frames)]


def fit(rows: np.ndarray, one_value: tuple[float, float] | None = None) -> dict[str, Any]:
    """R² of both values, precision and recall of the interaction at probability 1/2; NaN where undefined.

    Args:
        one_value: where the trajectory head alone holds V (IQL), the weights of its reward's components; the
            other head, which is not trained then, has no fit.
    """
    column = {name: rows[:, i] for i, name in enumerate(HELDOUT_COLUMNS)}
    if one_value is not None:
        trajectory, subtask = one_value
        column["return_trajectory"] = trajectory * column["return_trajectory"] + subtask * column["return_subtask"]
        column["return_subtask"] = np.zeros(len(rows))
    known = np.isfinite(column["interaction"])
    predicted, true = (column[n][known] > 0.5 for n in ("interaction_probability", "interaction"))
    hits = float((predicted & true).sum())
    keys = np.stack([column["dataset"], column["episode"]], axis=1)
    return {
        "r2_trajectory": r_squared(column["value_trajectory"], column["return_trajectory"]),
        "r2_subtask": r_squared(column["value_subtask"], column["return_subtask"]),
        "interaction_precision": hits / predicted.sum() if predicted.any() and len(true) else math.nan,
        "interaction_recall": hits / true.sum() if true.any() else math.nan,
        "frames": len(rows),
        "episodes": len(np.unique(keys, axis=0)) if len(rows) else 0,
    }


def r_squared(predicted: np.ndarray, true: np.ndarray) -> float:
    """1 - residual / total sum of squares; NaN where the truth does not vary."""
    # Compared, not summed: the mean of equal floats may differ from them by a rounding.
    if not len(true) or not true.min() < true.max():
        return math.nan
    total = float(((true - true.mean()) ** 2).sum())
    return 1.0 - float(((predicted - true) ** 2).sum()) / total


def score(found: dict[str, Any]) -> float:
    """What early stopping watches: the mean R² of the heads that have one; higher is better."""
    values = [found[k] for k in ("r2_trajectory", "r2_subtask") if not math.isnan(found[k])]
    return float(np.mean(values)) if values else -math.inf
