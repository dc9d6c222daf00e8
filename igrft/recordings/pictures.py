"""Pictures of an episode for its statistics: from its mp4, or embedded in its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from igrft.dataset import decoders
from igrft.errors import EpisodeError

#: FFmpeg's way to say: as many threads as the machine has cores.
_ALL_CORES = 0


def video_pictures(path: Path, wanted: Sequence[int], *, start: float, fps: float) -> Iterator[np.ndarray]:
    """The frames ``wanted`` of an mp4, RGB uint8 [H, W, 3].

    Every frame up to the last one wanted is decoded, so that damage anywhere is found; only the
    wanted ones are converted to RGB.

    Args:
        start: when the first frame is shown, seconds. fps: frames a second.

    Raises:
        EpisodeError: a frame cannot be decoded, or there are fewer.
    """
    chosen, last = set(wanted), max(wanted)
    for number, (_, make) in enumerate(decoders.pyav(path, start, fps, None, "rgb", _ALL_CORES)):
        if number in chosen:
            yield make()
        if number == last:
            return
    raise EpisodeError(f"{path.name} ends before frame {last}: truncated or damaged; restore it from the source")


def embedded_pictures(column: pa.ChunkedArray, wanted: Sequence[int], name: str) -> Iterator[np.ndarray]:
    """Pictures ``wanted`` of a column of encoded images, RGB uint8 [H, W, 3].

    Raises:
        EpisodeError: the bytes are not there, or are no picture.
    """
    import cv2

    for row in wanted:
        cell = column[row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise EpisodeError(f"{name} holds no picture at frame {row}, only the path of a file")
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise EpisodeError(f"{name} holds bytes at frame {row} that are no picture")
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
