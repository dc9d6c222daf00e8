"""Which frames a person had best paint: few, and as unlike each other as can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at

#: Episodes that are looked at, frames of each, and the size to which they are shrunk before they are compared.
_EPISODES, _FRAMES, _SIZE = 8, 10, (32, 24)


def suggest_frames(
    dataset: DatasetReader, camera: str, count: int = 4, rows: Sequence[int] | None = None
) -> list[tuple[int, int]]:
    """Frames to paint, as (row of the episodes' table, frame), the most telling first.

    The first is the picture nearest to the mean of all, each other the one that is least like those before it. So a
    few first ones are a good choice too.

    Args:
        count: how many; fewer where there are no more.
        rows: episodes to choose from; None is all. Up to eight, evenly spread, are looked at.

    Raises:
        EpisodeError: pictures that are missing or damaged.
    """
    known = [r for r in (range(dataset.num_episodes) if rows is None else rows) if dataset.lengths[r] > 0]
    some = np.unique(np.linspace(0, len(known) - 1, min(_EPISODES, len(known))).astype(int)) if known else []
    places: list[tuple[int, int]] = []
    small: list[np.ndarray] = []
    for row in (known[i] for i in some):
        length = int(dataset.lengths[row])
        frames = sorted({int((i + 0.5) * length / _FRAMES) for i in range(_FRAMES)})
        places += [(row, f) for f in frames]
        small += frames_at(dataset, row, camera, frames, size=_SIZE, color="gray")
    if not places:
        return []
    pictures = np.stack(small).reshape(len(small), -1).astype(np.float32)
    chosen = [int(np.argmin(np.square(pictures - pictures.mean(axis=0)).sum(axis=1)))]
    distance = np.square(pictures - pictures[chosen[0]]).sum(axis=1)
    while len(chosen) < min(count, len(places)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.square(pictures - pictures[chosen[-1]]).sum(axis=1))
        distance[chosen] = -1
    return [places[i] for i in chosen]
