"""Cameras whose pictures stand in parquet (dtype ``image``): do they decode, are they black?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from igrft.errors import IgrftError
from igrft.remote.mirror import here, is_there
from igrft.reports.checks.findings import Context
from igrft.reports.checks.videos import SAMPLES, report_black


def check_pictures(context: Context, *, decode: bool, advance: Callable[[int, int], None]) -> None:
    """Decode every picture of such cameras once, or with ``decode=False`` a few of a few episodes."""
    dataset = context.dataset
    rows = np.arange(dataset.num_episodes)
    if not decode:
        rows = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int))
    for camera in dataset.cameras:
        if dataset.features[camera]["dtype"] != "image":
            continue
        brightest: dict[int, float] = {}
        for row in rows.tolist():
            episode = int(dataset.episode_indices[row])
            try:
                column = dataset.rows(row, [camera]).column(0)
            except IgrftError:
                continue  # counts or columns: already said
            frames = range(len(column)) if decode else sorted({0, len(column) // 2, len(column) - 1})
            light = [_brightness(context, column[f].as_py()) for f in frames]
            bad = next((f for f, value in zip(frames, light, strict=True) if value is None), None)
            if bad is not None:
                context.error(
                    "videos",
                    f"the picture of {camera} at frame {bad} does not decode; restore it from the source",
                    episode,
                )
            seen = [value for value in light if value is not None]
            if seen:
                brightest[episode] = max(seen)
            advance(1, len(frames))
        report_black(context, camera, brightest)


def _brightness(context: Context, value: Any) -> float | None:
    """The brightest pixel of a picture, 0 to 255, or None where it does not decode."""
    import cv2

    data = (value or {}).get("bytes") if isinstance(value, dict) else value
    if data is None and isinstance(value, dict) and value.get("path"):
        path = context.dataset.root / value["path"]
        data = here(path).read_bytes() if is_there(path) else None
    if not data:
        return None
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_4)
    return None if picture is None else float(picture.max())
