"""Pictures for the page: small JPEGs as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import IgrftError

STRIP_WIDTH = 200


@dataclass(frozen=True)
class Strip:
    """Pictures of an episode: (frame, data URI), and their height over width."""

    pictures: list[tuple[int, str]]
    aspect: float


def film_strip(dataset: DatasetReader, row: int, camera: str, frames: Sequence[int]) -> Strip:
    """Pictures of ``camera`` at ``frames``, about STRIP_WIDTH wide.

    Raises:
        EpisodeError: they cannot be read.
    """
    size = fit(picture_size(dataset, row, camera), STRIP_WIDTH)
    pictures = frames_at(dataset, row, camera, frames, size=size)
    return Strip([(f, data_uri(p)) for f, p in zip(frames, pictures, strict=True)], size[1] / size[0])


def fit(size: tuple[int, int], width: int) -> tuple[int, int]:
    """``size`` scaled down to ``width``, both even; what is smaller stays."""
    scale = min(1.0, width / size[0])
    return max(2, round(size[0] * scale / 2) * 2), max(2, round(size[1] * scale / 2) * 2)


def data_uri(picture: np.ndarray, quality: int = 78) -> str:
    """An RGB picture [h, w, 3] uint8 as a JPEG data URI."""
    import cv2

    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise IgrftError("a picture could not be encoded as JPEG; check the installation of opencv-python-headless")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
