"""Pictures of labelled episodes for a card: a film strip with the labels drawn under it, on the same time axis.

Subtasks are numbered, and the names stand in the card's text: a picture's font has no letters but Latin ones.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import Labels, load_labels
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import IgrftError
from igrft.reports import palette
from igrft.reports.pictures import fit
from igrft.reports.samples import choose_episodes, strip_frames
from igrft.reports.summary import EpisodeSummary

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_WIDTH, _LEFT, _RIGHT, _GAP = 1200, 108, 12, 4
_FRAMES, _MOST = 8, 3
_BAR, _CURVE = 24, 64


@dataclass(frozen=True)
class EpisodePicture:
    """One labelled episode.

    Attributes:
        summary: its facts.
        jpeg: the picture; 1200 wide.
        legend: subtask names as (number in the picture, name), in order of appearance.
        camera: whose pictures they are.
    """

    summary: EpisodeSummary
    jpeg: bytes
    legend: list[tuple[int, str]]
    camera: str


def episode_pictures(
    dataset: DatasetReader, summaries: list[EpisodeSummary], notes: list[str], most: int = _MOST
) -> list[EpisodePicture]:
    """Pictures of up to ``most`` episodes that show the set's range; what cannot be drawn is noted."""
    camera = _camera(dataset)
    if camera is None or most < 1:
        return []
    rows = list(choose_episodes(summaries, most))
    wanted = (c.SUBTASK_INDEX, c.INTERACTION, c.RETURN)
    names = [n for n in wanted if n in dataset.features]
    labels = load_labels(dataset, names, [summaries[r].episode for r in rows]) if rows else None
    out = []
    for row in rows:
        try:
            jpeg, legend = _draw(dataset, row, camera, summaries[row], labels)
        except IgrftError as error:
            notes.append(f"no picture of episode {summaries[row].episode}: {error}")
            continue
        out.append(EpisodePicture(summaries[row], jpeg, legend, camera))
    return out


def _camera(dataset: DatasetReader) -> str | None:
    """The camera that the interaction was found in, else the first that has pictures."""
    steps = ((dataset.igrft or {}).get("pipeline") or {}).get("steps") or []
    named = [s.get("camera") for s in steps if s.get("camera") in dataset.cameras]
    return next((k for k in [*named, *dataset.cameras] if k and dataset.camera_has_files(k)), None)


def _draw(
    dataset: DatasetReader, row: int, camera: str, summary: EpisodeSummary, labels: Labels | None
) -> tuple[bytes, list[tuple[int, str]]]:
    from PIL import Image, ImageDraw, ImageFont

    held = labels.episode(summary.episode) if labels is not None else {}
    room = _WIDTH - _LEFT - _RIGHT
    width = (room - _GAP * (_FRAMES - 1)) // _FRAMES
    at = strip_frames(summary.frames, _FRAMES)
    size = fit(picture_size(dataset, row, camera), width)
    pictures = frames_at(dataset, row, camera, at, size=size)
    height = round(width * size[1] / size[0])
    segments = _segments(held.get(c.SUBTASK_INDEX), labels)
    returns = held.get(c.RETURN)
    lanes = [bool(segments) * _BAR, (c.INTERACTION in held) * _BAR, (returns is not None) * _CURVE]
    total = 8 + height + sum(lane + 8 for lane in lanes if lane) + 26
    canvas = Image.new("RGB", (_WIDTH, total), palette.PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    for i, picture in enumerate(pictures):
        shown = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(shown, (_LEFT + i * (width + _GAP), 8))
    top = 8 + height + 8

    def x(frame: float) -> float:
        return _LEFT + room * frame / max(summary.frames, 1)

    if segments:
        _name(pen, font, "subtask", top, _BAR)
        for number, start, end in segments:
            box = (x(start), top, max(x(end) - 1, x(start) + 1), top + _BAR)
            pen.rectangle(box, fill=palette.subtask_fill(number - 1))
            if x(end) - x(start) > 18:
                middle = ((box[0] + box[2]) / 2, top + _BAR / 2)
                pen.text(middle, str(number), font=font, fill=palette.INK, anchor="mm")
        top += _BAR + 8
    if c.INTERACTION in held:
        _name(pen, font, "interaction", top, _BAR)
        pen.rectangle((_LEFT, top, _WIDTH - _RIGHT, top + _BAR), fill=palette.RULE)
        for start, end in _runs(held[c.INTERACTION].astype(bool)):
            pen.rectangle((x(start), top, max(x(end) - 1, x(start) + 1), top + _BAR), fill=palette.INTERACTION)
        top += _BAR + 8
    if returns is not None:
        _name(pen, font, "return-to-go", top, _CURVE)
        _curve(pen, font, returns, [x(f) for f in range(summary.frames)], top)
        top += _CURVE + 8
    for i in range(5):
        seconds = summary.seconds * i / 4
        anchor = "lt" if i == 0 else "rt" if i == 4 else "mt"
        pen.text((_LEFT + room * i / 4, top), f"{seconds:.1f} s", font=font, fill=palette.MUTED, anchor=anchor)
    stream = io.BytesIO()
    canvas.save(stream, "JPEG", quality=82, optimize=True)
    names = labels.subtask_names if labels is not None else []
    order = list(dict.fromkeys(number for number, _, _ in segments))
    return stream.getvalue(), [(n, names[n - 1]) for n in order]


def _segments(index: np.ndarray | None, labels: Labels | None) -> list[tuple[int, int, int]]:
    """(number from 1, start, end) of stretches of a subtask."""
    if index is None or labels is None or not len(index):
        return []
    edges = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(index)]
    return [
        (int(index[a]) + 1, a, b) for a, b in itertools.pairwise(edges) if 0 <= index[a] < len(labels.subtask_names)
    ]


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of True: (start, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _curve(pen: ImageDraw, font: FreeTypeFont | ImageFont, values: np.ndarray, xs: list[float], top: int) -> None:
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    span = high - low or 1.0
    bottom = top + _CURVE
    pen.line((_LEFT, bottom, _WIDTH - _RIGHT, bottom), fill=palette.RULE)
    scaled = bottom - (values.astype(np.float64) - low) / span * (_CURVE - 4)
    points: list[Any] = [(px, float(y)) for px, y in zip(xs, scaled, strict=True) if np.isfinite(y)]
    if len(points) > 1:
        pen.line(points, fill=palette.SUBTASK_REWARD, width=2)
    for value, y, anchor in ((high, top, "rt"), (low, bottom, "rb")):
        pen.text((_LEFT - 8, y), f"{value:.2g}", font=font.font_variant(size=11), fill=palette.MUTED, anchor=anchor)  # type: ignore[union-attr]


def _name(pen: ImageDraw, font: FreeTypeFont | ImageFont, text: str, top: int, height: int) -> None:
    pen.text((6, top + height / 2), text, font=font, fill=palette.INK, anchor="lm")
