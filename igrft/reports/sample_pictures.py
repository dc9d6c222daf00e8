"""The sample frames under an episode's chart: what Eq. 1 counted on them (the paper's Figure 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import IgrftError
from igrft.reports.pictures import data_uri, fit
from igrft.reports.samples import Sample
from igrft.steps.interaction.overlay import overlay

_WIDTH = 300
#: RGB of moving pixels that count, and of the robot, which does not.
_MOVING = (255, 120, 20)
_ROBOT = (40, 110, 230)
#: Counts made again may differ a little: decoders round, and seeking may take another way.
_SAME = 0.1


@dataclass(frozen=True)
class SamplePicture:
    """One sample frame.

    Attributes:
        number: as in the chart.
        frame, seconds: when.
        pictures: data URIs: the frame with what counts drawn over it, then the flow where it was computed.
        pixels, interaction: the labels.
        reason: why it was chosen.
    """

    number: int
    frame: int
    seconds: float
    pictures: list[str]
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
    """Pictures of ``samples``; where flow or mask cannot be had, ``notes`` says why and the frames stand alone.

    Args:
        columns: of the episode, each [T].
        settings: the interaction step, as ``meta/igrft.json`` records it; may be empty.
        facts: what that step recorded of the episode.
    """
    frames = [s.frame for s in samples]
    pixels = columns[c.INTERACTION_PIXELS]
    try:
        shown = _drawn(dataset, row, frames, settings, facts, pixels, notes) if settings else None
    except IgrftError as error:
        notes.append(f"No flow over the sample frames: {error}")
        shown = None
    if shown is None:
        try:
            size = fit(picture_size(dataset, row, camera), _WIDTH)
            shown = [[data_uri(p)] for p in frames_at(dataset, row, camera, frames, size=size)]
        except IgrftError as error:
            notes.append(f"No sample frames: {error}")
            return []
    return [
        SamplePicture(
            number=i,
            frame=s.frame,
            seconds=s.frame / dataset.fps,
            pictures=pictures,
            pixels=float(pixels[s.frame]),
            interaction=bool(columns[c.INTERACTION][s.frame]),
            reason=s.reason,
        )
        for i, (s, pictures) in enumerate(zip(samples, shown, strict=True), start=1)
    ]


def _drawn(
    dataset: DatasetReader,
    row: int,
    frames: Sequence[int],
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    pixels: np.ndarray,
    notes: list[str],
) -> list[list[str]]:
    """Frame and flow of each sample; a count that is no longer what the label says is noted."""
    found = overlay(dataset, row, frames, settings, facts or None)
    stale = [o for o in found if abs(o["pixels"] - pixels[o["frame"]]) > _SAME * max(o["pixels"], 100.0)]
    if stale:
        frame, count = stale[0]["frame"], stale[0]["pixels"]
        counts = f"frame {frame}: {count:,.0f} px, not {float(pixels[frame]):,.0f}"
        notes.append(
            f"Counted again here, {len(stale)} of {len(found)} sample frames differ from their label ({counts}): "
            "these are not the video or the masks that were labelled."
        )
    return [[data_uri(marked(o["rgb"], o["moving"], o["mask"])), data_uri(o["flow"], 70)] for o in found]


def marked(picture: np.ndarray, moving: np.ndarray, robot: np.ndarray) -> np.ndarray:
    """The picture with the moving pixels and the robot tinted and outlined: uint8 [h, w, 3].

    Args:
        picture: uint8 [h, w, 3] RGB.
        moving, robot: bool [h, w].
    """
    import cv2

    out = picture.copy()
    for mask, colour, share in ((robot, _ROBOT, 0.4), (moving, _MOVING, 0.38)):
        if not mask.any():
            continue
        tinted = out[mask].astype(np.float32) * (1 - share) + np.array(colour, dtype=np.float32) * share
        out[mask] = tinted.astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(out, outlines, -1, colour, 1)
    return out
