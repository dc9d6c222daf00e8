"""The masks that a person painted: which frames, and what is in them.

A folder holds a picture for each of a few frames, of the camera's size, the robot white and all else black, or the
robot opaque and all else transparent::

    episode_000000/000123.png
    episode_000004/000010.png

``igrft report`` suggests frames and shows the pictures to be painted over.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import picture_size
from igrft.errors import EpisodeError, IgrftError

_EPISODE = re.compile(r"episode_(\d{6,})")
_FRAME = re.compile(r"(\d{6,})")
_HOW = "paint the robot white and all else black, as episode_000000/000123.png, one picture a frame"
#: Values that are neither black nor white, and the share of a picture that may have them: soft outlines do.
_GRAY = (16, 239)
_MOST_GRAY = 0.05


@dataclass(frozen=True)
class Exemplar:
    """One painted frame: where it is, and of which frame of which episode (``episode_index``)."""

    path: Path
    episode: int
    frame: int


def find_exemplars(folder: Path) -> list[Exemplar]:
    """All painted frames of a folder, in order.

    Raises:
        IgrftError: there is none, or one under a name that says no frame.
    """
    found = []
    for path in sorted(folder.glob("*/*.png")) if folder.is_dir() else ():
        episode, frame = _EPISODE.fullmatch(path.parent.name), _FRAME.fullmatch(path.stem)
        if episode is None or frame is None:
            raise IgrftError(f"robot_mask: exemplar: {path} names no frame; {_HOW}")
        found.append(Exemplar(path, int(episode[1]), int(frame[1])))
    if not found:
        raise IgrftError(f"robot_mask: exemplar: {folder} holds no painted frame; {_HOW} (igrft report suggests some)")
    return found


def exemplars_digest(folder: Path) -> str:
    """Changes when a painted frame does: keys staged work. Times and places of files do not count."""
    total = hashlib.blake2b(digest_size=12)
    for exemplar in find_exemplars(folder):
        total.update(f"{exemplar.episode}/{exemplar.frame}\0".encode())
        total.update(hashlib.blake2b(exemplar.path.read_bytes(), digest_size=12).digest())
    return total.hexdigest()


def read_exemplar(exemplar: Exemplar, camera: str, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool [h, w]. Of a picture that is transparent somewhere, robot is what is opaque, whatever its colour.

    Args:
        camera: its name, for messages.
        size: (width, height) of the camera's pictures.

    Raises:
        IgrftError: not a picture, of another size, or with so much between black and white that it is a photograph.
    """
    import cv2

    whole = cv2.imread(str(exemplar.path), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(exemplar.path), cv2.IMREAD_GRAYSCALE)
    if whole is None or mask is None:
        raise IgrftError(f"robot_mask: exemplar: {exemplar.path} is not a picture; paint it again")
    if whole.ndim == 3 and whole.shape[2] == 4:
        most = 255 if whole.dtype == np.uint8 else 65535
        opaque = whole[..., 3]
        if opaque.min() < most:
            mask = (opaque // (most // 255)).astype(np.uint8)
    if mask.shape != size[::-1]:
        raise IgrftError(
            f"robot_mask: exemplar: {exemplar.path} is {mask.shape[1]}x{mask.shape[0]} and {camera} is "
            f"{size[0]}x{size[1]}; paint over the picture as the report gives it"
        )
    gray = float(np.mean((mask >= _GRAY[0]) & (mask <= _GRAY[1])))
    if gray > _MOST_GRAY:
        raise IgrftError(
            f"robot_mask: exemplar: {exemplar.path}: a mask is black and white: {gray:.0%} of this picture is neither; "
            "paint the robot white and all else black (or transparent), not the photograph itself"
        )
    # A picture without a value above 1 is one that codes the robot as 1.
    return np.asarray(mask > (127 if mask.max() > 1 else 0))


def refuse_bad_exemplars(dataset: DatasetReader, camera: str, folder: Path) -> None:
    """Look at all painted frames, which are few, before any work.

    Raises:
        IgrftError: there is none, or one that is damaged, of another size, of no frame of the dataset, or no black
            and white mask; or all of them show no robot, or nothing else.
    """
    seen: set[bool] = set()
    for exemplar in find_exemplars(folder):
        try:
            size = picture_size(dataset, row_of(dataset, exemplar), camera)
        except EpisodeError as error:
            raise IgrftError(f"robot_mask: exemplar: {exemplar.path} cannot be learned from: {error}") from None
        seen.update(np.unique(read_exemplar(exemplar, camera, size)).tolist())
    refuse_one_sided(seen, folder)


def refuse_one_sided(seen: set[bool], folder: Path) -> None:
    """Raise IgrftError where the painted frames of ``folder`` hold only one of robot (true) and all else (false)."""
    if len(seen) < 2:
        what = "nothing but robot" if True in seen else "no robot"
        raise IgrftError(f"robot_mask: exemplar: {folder} shows {what}; paint the robot white, the rest black")


def row_of(dataset: DatasetReader, exemplar: Exemplar) -> int:
    """The episode's row in the episodes' table.

    Raises:
        IgrftError: the dataset has no such episode or frame.
    """
    rows = np.flatnonzero(dataset.episode_indices == exemplar.episode)
    if not len(rows):
        raise IgrftError(f"robot_mask: exemplar: {exemplar.path}: there is no episode {exemplar.episode}; rename it")
    row = int(rows[0])
    length = int(dataset.lengths[row])
    if exemplar.frame >= length:
        raise IgrftError(
            f"robot_mask: exemplar: {exemplar.path}: episode {exemplar.episode} has {length} frames, the first is 0; "
            "rename it"
        )
    return row
