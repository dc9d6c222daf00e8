"""Pictures held in parquet: image features, a struct of ``bytes`` and ``path`` per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from igrft.dataset.decoders import Color, resize
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError
from igrft.remote.mirror import here, is_there

#: Rows of an image column that are held in memory at a time.
_ROWS = 32


def image_values(dataset: DatasetReader, row: int, camera: str, first: int, count: int) -> Iterator[dict[str, Any]]:
    """``{"bytes", "path"}`` of ``count`` rows of an episode from ``first`` on, a few in memory at a time."""
    relative, before = dataset.place(row)
    start, stop = before + first, before + first + count
    parquet = dataset.parquet(relative)
    if camera not in parquet.schema_arrow.names:
        raise EpisodeError(f"{relative} has no column {camera!r}, which meta/info.json declares; convert it again")
    bounds = dataset.row_group_bounds(relative)
    if stop > bounds[-1]:
        raise EpisodeError(f"{relative} holds {bounds[-1]} rows, too few for the episodes' table; run: igrft validate")
    groups = [i for i in range(parquet.num_row_groups) if bounds[i] < stop and bounds[i + 1] > start]
    at = int(bounds[groups[0]]) if groups else 0
    for batch in parquet.iter_batches(batch_size=_ROWS, row_groups=groups, columns=[camera]):
        low, high = max(start - at, 0), min(stop - at, batch.num_rows)
        at += batch.num_rows
        if low < high:
            yield from batch.column(0).slice(low, high - low).to_pylist()
        if at >= stop:
            return


def decode_image(
    dataset: DatasetReader, camera: str, value: dict[str, Any] | None, size: tuple[int, int] | None, color: Color
) -> np.ndarray:
    """One picture from its struct: uint8 [h, w] or [h, w, 3].

    Raises:
        EpisodeError: it is missing or does not decode.
    """
    import cv2

    data = (value or {}).get("bytes")
    name = (value or {}).get("path")
    if data is None and name and is_there(dataset.root / name):
        data = here(dataset.root / name).read_bytes()
    which = f" ({name})" if name else ""
    if not data:
        raise EpisodeError(f"{camera}: a picture{which} is missing; convert the source again")
    flag = cv2.IMREAD_GRAYSCALE if color == "gray" else cv2.IMREAD_COLOR
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if picture is None:
        raise EpisodeError(f"{camera}: a picture{which} does not decode; convert the source again")
    if color == "rgb":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return resize(np.asarray(picture, np.uint8), size)
