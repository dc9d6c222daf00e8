"""Contact sheets: frames in a grid, each with its time in its corner, as parts of a chat message."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from igrft.columns import IMAGE_PREFIX
from igrft.dataset.video import frames_at, picture_size
from igrft.steps.base import Episode
from igrft.steps.subtasks.vlm.settings import VlmSettings
from igrft.steps.subtasks.vlm.windows import Window

#: Pixels a side that a vision token stands for in the Qwen-VL family; others differ by a factor of two or so.
_TOKEN_SIDE = 28


@dataclass(frozen=True)
class Sheet:
    """One contact sheet: a JPEG, and the seconds of its first and last frame."""

    camera: str
    jpeg: bytes
    first: float
    last: float

    def part(self) -> dict[str, Any]:
        """The sheet as a part of a message: a data URL, which every server takes."""
        data = base64.b64encode(self.jpeg).decode("ascii")
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def token_count(width: int, height: int) -> int:
    """About how many tokens a model makes of a picture."""
    return math.ceil(width / _TOKEN_SIDE) * math.ceil(height / _TOKEN_SIDE)


def make_sheets(episode: Episode, window: Window, cameras: Sequence[str], settings: VlmSettings) -> list[Sheet]:
    """The contact sheets of a window, camera after camera, in order of time.

    Raises:
        EpisodeError: the pictures cannot be read.
    """
    sheets = []
    for camera in cameras:
        width, height = picture_size(episode.dataset, episode.row, camera)
        tile = (settings.tile_width, max(1, round(height * settings.tile_width / width)))
        # Scaled by the decoder: a window of full pictures would take a hundred megabytes a thread.
        pictures = frames_at(episode.dataset, episode.row, camera, window.frames, size=tile)
        times = [i / episode.fps for i in window.frames]
        most = settings.sheet_columns * settings.sheet_rows
        for start in range(0, len(pictures), most):
            chunk, when = pictures[start : start + most], times[start : start + most]
            sheets.append(Sheet(camera, _sheet(chunk, when, settings), when[0], when[-1]))
    return sheets


def load_lerobot() -> None:
    """Import LeRobot's contact sheets: several seconds, as torch and much else come with them."""
    import lerobot.annotations.steerable_pipeline.frames  # noqa: F401


def _sheet(pictures: Sequence[Any], times: Sequence[float], settings: VlmSettings) -> bytes:
    from lerobot.annotations.steerable_pipeline.frames import to_contact_sheet_blocks
    from PIL import Image

    # A grid no larger than its frames: LeRobot's fills the last sheet up with black, which costs tokens.
    columns = min(settings.sheet_columns, len(pictures))
    block = to_contact_sheet_blocks(
        [Image.fromarray(p) for p in pictures],
        times,
        columns=columns,
        frames_per_sheet=math.ceil(len(pictures) / columns) * columns,
        frame_width=settings.tile_width,
        quality=95,
    )[0]
    out = io.BytesIO()
    block["image"].save(out, format="JPEG", quality=settings.jpeg_quality)
    return out.getvalue()


def sheet_parts(sheets: Sequence[Sheet]) -> list[dict[str, Any]]:
    """Sheets as parts of a message, each announced by a line that says which camera and seconds it shows."""
    parts: list[dict[str, Any]] = []
    for number, sheet in enumerate(sheets, start=1):
        name = sheet.camera.removeprefix(IMAGE_PREFIX)
        text = f"Sheet {number} of {len(sheets)}, camera {name}: {sheet.first:.2f} s to {sheet.last:.2f} s."
        parts += [{"type": "text", "text": text}, sheet.part()]
    return parts
