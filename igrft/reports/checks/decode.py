"""Decodes a video file to find out whether it decodes, and how bright its frames are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from igrft.recordings.video_facts import TOLERANCE_S

#: (seconds, brightness) of decoded frames; (seconds, reason) of what did not decode.
Shown = list[tuple[float, float]]
Damage = list[tuple[float, str]]


def decode_all(path: Path) -> tuple[Shown, Damage]:
    """Every sound frame in order of time, and the damage met on the way."""
    import av

    shown: Shown = []
    damage: Damage = []
    at = 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                at = at if packet.pts is None else float(packet.pts * packet.time_base)
                try:
                    frames: list[Any] = packet.decode()
                except av.FFmpegError as error:
                    damage.append((at, _reason(error)))
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        damage.append((float(frame.time or 0.0), "damaged frame"))
                    else:
                        shown.append((float(frame.time or 0.0), _brightness(frame)))
    except (av.FFmpegError, OSError) as error:
        damage.append((at, _reason(error)))
    return sorted(shown), damage


def decode_at(path: Path, times: list[float]) -> tuple[Shown, Damage]:
    """The frames shown at ``times`` (ascending), and the damage met."""
    import av

    shown: Shown = []
    damage: Damage = []
    for wanted in times:
        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                container.seek(int(wanted / float(stream.time_base or 1)), stream=stream)
                frame = next(
                    (f for f in container.decode(stream) if float(f.time or 0.0) >= wanted - TOLERANCE_S), None
                )
                if frame is None or frame.is_corrupt:
                    damage.append((wanted, "no sound frame there"))
                else:
                    shown.append((float(frame.time or 0.0), _brightness(frame)))
        except (av.FFmpegError, OSError) as error:
            damage.append((wanted, _reason(error)))
    return shown, damage


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _brightness(frame: Any) -> float:
    """The brightest of a grid of pixels, 0 to 255. Reads the luma plane where there is one: no conversion."""
    if frame.format.name in ("yuv420p", "yuv422p", "yuv444p", "nv12"):
        plane = frame.planes[0]
        luma = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: frame.height : 4, : frame.width : 4]
        return max(0.0, (float(luma.max()) - 16) * 255 / 219)
    return float(frame.reformat(width=64, height=48, format="gray").to_ndarray().max())
