"""Masks that a finished dataset keeps, for whoever looks at a few frames of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError
from igrft.remote.mirror import here
from igrft.steps.interaction.robot_mask.step import ROBOT_MASK, RobotMask


def kept(dataset: DatasetReader, row: int, step_type: str) -> tuple[dict[str, np.ndarray], Mapping[str, Any]] | None:
    """What a heavy step staged for an episode of a finished dataset: arrays [T, ...] and its record.

    None where the dataset keeps nothing of it, or nothing that can be read.
    """
    from pyarrow import ArrowInvalid

    from igrft.pipeline.staging import read_entries

    path = here(dataset.root / "meta" / "igrft" / f"{step_type}.arrow")
    if not path.is_file():
        return None
    try:
        for entry in read_entries(path):
            if entry.row == row:
                return entry.labels().staged, entry.record
    except (ArrowInvalid, OSError, ValueError, KeyError):
        return None
    return None


def kept_masks(dataset: DatasetReader, row: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Packed masks, object [T] with None between, and their (width, height).

    Raises:
        EpisodeError: the dataset keeps none for the episode.
    """
    found = kept(dataset, row, RobotMask.type)
    if found is None or ROBOT_MASK not in found[0]:
        index = int(dataset.episode_indices[row])
        raise EpisodeError(f"episode {index}: {dataset.root} keeps no robot masks of it; label it again")
    arrays, record = found
    width, height = record[ROBOT_MASK]["size"]
    return arrays[ROBOT_MASK], (int(width), int(height))
