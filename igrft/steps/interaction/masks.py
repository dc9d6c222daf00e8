"""Robot masks: where Eq. 1 does not look.

A folder of masks holds, for each episode, one of::

    episode_000000/000000.png …   one picture per frame (any 8-bit gray or color PNG)
    episode_000000.mp4            one picture per frame, in order
    episode_000000.npy            [T, h, w] bool, uint8 or float

A pixel is the robot's where the mask is above ``mask_threshold``, in the mask's own units. Unset, it
is half of what "robot" is in the file: 127 of 255 for pictures, video and uint8, 0.5 for floats and
bool; PNG pictures and uint8 arrays that hold nothing above 1 are taken as bool.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.fingerprint import digest_of
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import Backend, episode_frames, open_frames, probe
from igrft.errors import EpisodeError, IgrftError


def feature_masks(
    dataset: DatasetReader, row: int, key: str, *, backend: Backend = "auto", threads: int = 1
) -> Iterator[np.ndarray]:
    """Masks held in an image or video feature of the dataset: uint8 [h, w], one per frame."""
    yield from episode_frames(dataset, row, key, color="gray", backend=backend, threads=threads)


def folder_masks(folder: Path, episode: int, count: int) -> Iterator[np.ndarray]:
    """Masks of one episode from a folder: [h, w], one per frame.

    Raises:
        EpisodeError: there are none for the episode, or not one for each of its ``count`` frames.
    """
    place = _place(folder, episode)
    if place.is_dir():
        yield from (_picture(place, episode, count, frame) for frame in range(count))
    elif place.suffix == ".npy":
        yield from _array(place, episode, count)
    else:
        facts = probe(place)
        if facts.frames != count:
            raise _wrong_number(place, episode, facts.frames, count)
        yield from open_frames(place, start=0.0, fps=facts.fps, count=count, color="gray")


def _place(folder: Path, episode: int) -> Path:
    stem = f"episode_{episode:06d}"
    candidates = [folder / stem, folder / f"{stem}.npy", folder / f"{stem}.mp4"]
    found = [p for p in candidates if p.exists()]
    if not found:
        raise EpisodeError(
            f"episode {episode}: {folder} has no masks for it; expected {stem}/000000.png …, {stem}.mp4 or {stem}.npy"
        )
    return found[0]


def refuse_no_folder(path: str | None) -> None:
    """Raise IgrftError unless the folder is there."""
    if not Path(str(path)).is_dir():
        raise IgrftError(f"step 'interaction': mask_path {path} is not a folder")


def folder_mask_at(folder: Path, episode: int, count: int, frame: int) -> np.ndarray:
    """The mask of one frame, as :func:`folder_masks` gives it."""
    place = _place(folder, episode)
    if place.is_dir():
        return _picture(place, episode, count, frame)
    if place.suffix == ".npy":
        return _array(place, episode, count)[frame]
    fps = probe(place).fps
    return next(open_frames(place, start=frame / fps, fps=fps, count=1, color="gray"))


def _picture(place: Path, episode: int, count: int, frame: int) -> np.ndarray:
    import cv2

    path = place / f"{frame:06d}.png"
    if not path.is_file():
        have = sum(1 for _ in place.glob("*.png"))
        raise EpisodeError(f"episode {episode}: {path} is missing; {have} masks are there, {count} are needed")
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise EpisodeError(f"episode {episode}: {path} is not a picture; write the mask again")
    # PNG loses nothing: a picture without a value above 1 is one that codes the robot as 1.
    return mask.astype(bool) if mask.max() <= 1 else mask


def _array(place: Path, episode: int, count: int) -> np.ndarray:
    """[T, h, w], left on the disk until it is read; integers that are 0 and 1 as bool."""
    try:
        masks: np.ndarray = np.load(place, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise EpisodeError(f"episode {episode}: {place} is not an array of numbers ({error}); write it again") from None
    if masks.ndim != 3 or len(masks) != count:
        raise EpisodeError(f"episode {episode}: {place} is {list(masks.shape)}, expected [{count}, height, width]")
    if masks.dtype.kind not in "bf" and masks.dtype != np.uint8:
        raise EpisodeError(f"episode {episode}: {place} holds {masks.dtype}; save the masks as bool, uint8 or float")
    if masks.dtype == np.uint8 and masks.max(initial=0) <= 1:
        return masks.view(bool)
    return masks


def _wrong_number(place: Path, episode: int, found: int, count: int) -> EpisodeError:
    return EpisodeError(
        f"episode {episode}: {place} holds {found} masks, the episode has {count} frames; make one per frame"
    )


def folder_facts(folder: Path, episode: int) -> Any:
    """JSON that changes when the masks of an episode do: keys staged work."""
    try:
        place = _place(folder, episode)
    except EpisodeError:
        return None
    files = sorted(place.glob("*.png")) if place.is_dir() else [place]
    stats = [(p.name, p.stat()) for p in files]
    return digest_of([[name, s.st_size, s.st_mtime_ns, s.st_ino] for name, s in stats])


class Keep:
    """Turns masks into what the counting wants.

    Args:
        camera: name of the camera, for messages.
        frame_size: (width, height) of the camera's pictures.
        flow_size: (width, height) of the flow.
        allow_resize: whether masks of another size than the pictures are accepted.
        threshold: as the module says.
    """

    def __init__(
        self,
        camera: str,
        frame_size: tuple[int, int],
        flow_size: tuple[int, int],
        *,
        allow_resize: bool,
        threshold: float | None,
    ) -> None:
        self._camera, self._frame_size, self._flow_size = camera, frame_size, flow_size
        self._allow_resize, self._threshold = allow_resize, threshold

    def __call__(self, mask: np.ndarray, episode: int, frame: int) -> np.ndarray:
        """float32 [h, w] at the flow's size: 0 where at least half of a pixel is robot, else 1.

        Raises:
            EpisodeError: as :meth:`robot`.
        """
        return np.subtract(1.0, self.robot(mask, episode, frame), dtype=np.float32)

    def robot(self, mask: np.ndarray, episode: int, frame: int) -> np.ndarray:
        """uint8 [h, w] at the flow's size: 1 where at least half of a pixel is robot, else 0.

        Raises:
            EpisodeError: the mask has another size than the camera's pictures, or is no [h, w].
        """
        import cv2

        if mask.ndim != 2:
            raise EpisodeError(
                f"episode {episode}, frame {frame}: the robot mask is {list(mask.shape)}, expected [h, w]"
            )
        size = (mask.shape[1], mask.shape[0])
        if size != self._frame_size and not self._allow_resize:
            raise EpisodeError(
                f"episode {episode}, frame {frame}: the robot mask is {size[0]}x{size[1]} and {self._camera} is "
                f"{self._frame_size[0]}x{self._frame_size[1]}; make masks of that size, or set mask_resize: true"
            )
        robot: np.ndarray = (mask > self._limit(mask)).astype(np.uint8)
        if size != self._flow_size:
            shrinks = self._flow_size[0] <= size[0] and self._flow_size[1] <= size[1]
            share = cv2.resize(
                robot * np.uint8(255), self._flow_size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
            )
            robot = (share >= 128).astype(np.uint8)
        return robot

    def _limit(self, mask: np.ndarray) -> float:
        if self._threshold is not None:
            return self._threshold
        return 0.5 if mask.dtype.kind in "bf" else 127
