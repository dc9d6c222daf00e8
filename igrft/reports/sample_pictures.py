"""The sample frames under an episode's chart, with flow and mask drawn over them (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import IgrftError
from igrft.reports.pictures import SAMPLE_WIDTH, data_uri, fit
from igrft.reports.samples import Sample


@dataclass(frozen=True)
class SamplePicture:
    """One sample frame: its number in the chart, picture, count of moving pixels and verdict."""

    number: int
    frame: int
    seconds: float
    picture: str
    pixels: float
    interaction: bool
    reason: str


def sample_pictures(
    dataset: DatasetReader,
    row: int,
    camera: str,
    samples: Sequence[Sample],
    columns: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    notes: list[str],
) -> list[SamplePicture]:
    """Pictures of ``samples``; what cannot be drawn over them is said in ``notes``."""
    frames = [s.frame for s in samples]
    try:
        size = fit(picture_size(dataset, row, camera), SAMPLE_WIDTH)
        pictures = frames_at(dataset, row, camera, frames, size=size)
    except IgrftError as error:
        notes.append(f"No sample frames: {error}")
        return []
    return [
        SamplePicture(
            number=i,
            frame=s.frame,
            seconds=s.frame / dataset.fps,
            picture=data_uri(picture),
            pixels=float(columns[c.INTERACTION_PIXELS][s.frame]),
            interaction=bool(columns[c.INTERACTION][s.frame]),
            reason=s.reason,
        )
        for i, (s, picture) in enumerate(zip(samples, pictures, strict=True), start=1)
    ]
