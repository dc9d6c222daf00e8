"""The one place that opens video and pictures.

:func:`episode_frames` streams a camera over an episode, :func:`frames_at` fetches a few pictures of
it, :func:`open_frames` reads any video file. What they stand on: :mod:`~igrft.dataset.clips` (video
files), :mod:`~igrft.dataset.decoders` (PyAV, torchcodec, decord), :mod:`~igrft.dataset.pictures`
(images in parquet).

Gray means full-range luma, 0 black to 255 white, whichever decoder is used and whatever range the
file has: what cv2.cvtColor makes of the RGB picture. PyAV gets there without making RGB at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from igrft.dataset.clips import VideoFacts, open_frames, probe, refuse_decord, walk
from igrft.dataset.decoders import BACKENDS, Backend, Color
from igrft.dataset.pictures import decode_image, image_values
from igrft.dataset.reader import DatasetReader, VideoWindow
from igrft.errors import EpisodeError

__all__ = [
    "BACKENDS",
    "Backend",
    "Color",
    "VideoFacts",
    "episode_frames",
    "frames_at",
    "open_frames",
    "picture_size",
    "probe",
    "refuse_decord",
    "stream_at",
]

#: Indices closer than this are reached by decoding on, others by seeking.
_NEAR = 24
# Names under which info.json may give the codecs that FFmpeg calls otherwise.
_CODEC_NAMES = {"h265": "hevc", "avc": "h264", "avc1": "h264", "libx264": "h264", "libx265": "hevc", "libsvtav1": "av1"}


def episode_frames(
    dataset: DatasetReader,
    row: int,
    camera: str,
    *,
    size: tuple[int, int] | None = None,
    color: Color = "rgb",
    backend: Backend = "auto",
    threads: int = 1,
) -> Iterator[np.ndarray]:
    """Stream the pictures of one camera over one episode: picture i belongs to row i of the table.

    Pictures and rows are aligned by their order, so time stamps of the table that deviate from the
    rate do no harm.

    Args:
        dataset: where from.
        row: row of the episodes' table.
        camera: key of an image or video feature.
        size, color, backend, threads: as in :func:`open_frames`.

    Yields:
        uint8 [h, w] or [h, w, 3], as many as the episode has frames.

    Raises:
        EpisodeError: as in :func:`open_frames`, and where info.json names another codec than the
            file has, or the episode's pictures run into those of the next episode.
    """
    yield from _in_episode(dataset, row, _episode_frames(dataset, row, camera, size, color, backend, threads))


def _episode_frames(
    dataset: DatasetReader,
    row: int,
    camera: str,
    size: tuple[int, int] | None,
    color: Color,
    backend: Backend,
    threads: int,
) -> Iterator[np.ndarray]:
    count = int(dataset.lengths[row])
    if dataset.features[camera]["dtype"] == "image":
        for value in image_values(dataset, row, camera, 0, count):
            yield decode_image(dataset, camera, value, size, color)
        return
    window = _window(dataset, row, camera)
    for make in walk(window.path, window.start, dataset.fps, count, size, color, backend, threads):
        yield make()


def frames_at(
    dataset: DatasetReader,
    row: int,
    camera: str,
    indices: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    color: Color = "rgb",
) -> list[np.ndarray]:
    """A few pictures of an episode, by frame index, in the order asked for: uint8 [h, w] or [h, w, 3].

    Seeks, so it is quick where ``indices`` are few; :func:`episode_frames` is for all of them.

    Raises:
        EpisodeError: as :func:`episode_frames`, and for an index outside the episode.
    """
    count = int(dataset.lengths[row])
    wanted = sorted({int(i) for i in indices})
    if wanted and not 0 <= wanted[0] <= wanted[-1] < count:
        bad = wanted[0] if wanted[0] < 0 else wanted[-1]
        index = int(dataset.episode_indices[row])
        raise EpisodeError(f"episode {index} has no frame {bad}: its frames are 0 to {count - 1}")
    found = dict(stream_at(dataset, row, camera, wanted, size=size, color=color))
    return [found[int(i)] for i in indices]


def stream_at(
    dataset: DatasetReader,
    row: int,
    camera: str,
    indices: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    color: Color = "rgb",
) -> Iterator[tuple[int, np.ndarray]]:
    """Some pictures of an episode as (frame index, picture), in order and one at a time: every n-th, say.

    Those between are decoded as far as the codec needs them, and not converted.

    Raises:
        EpisodeError: as :func:`episode_frames`.
    """
    wanted = sorted({int(i) for i in indices})
    yield from _in_episode(dataset, row, _frames_at(dataset, row, camera, wanted, size, color))


def _frames_at(
    dataset: DatasetReader, row: int, camera: str, wanted: list[int], size: tuple[int, int] | None, color: Color
) -> Iterator[tuple[int, np.ndarray]]:
    # Pictures in parquet cannot be skipped: their rows are read from the start of the episode either way.
    image = dataset.features[camera]["dtype"] == "image"
    for run in ([wanted] if wanted else []) if image else _runs(wanted):
        first, count, keep = run[0], run[-1] - run[0] + 1, set(run)
        made: Iterator[Callable[[], np.ndarray]]
        if image:
            values = image_values(dataset, row, camera, first, count)
            made = (partial(decode_image, dataset, camera, value, size, color) for value in values)
        else:
            window = _window(dataset, row, camera)
            made = walk(window.path, window.start + first / dataset.fps, dataset.fps, count, size, color, "auto", 1)
        for index, make in enumerate(made, start=first):
            if index in keep:
                yield index, make()


def _runs(wanted: list[int]) -> list[list[int]]:
    """Sorted indices in runs without a wide gap."""
    runs: list[list[int]] = []
    for index in wanted:
        if runs and index - runs[-1][-1] <= _NEAR:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def picture_size(dataset: DatasetReader, row: int, camera: str) -> tuple[int, int]:
    """(width, height) of a camera's pictures in one episode, as the file has them."""
    try:
        if dataset.features[camera]["dtype"] == "image":
            value = next(image_values(dataset, row, camera, 0, 1))
            height, width = decode_image(dataset, camera, value, None, "gray").shape
            return int(width), int(height)
        facts = probe(dataset.video(row, camera).path)
    except EpisodeError as error:
        raise _named(dataset, row, error) from None
    return facts.width, facts.height


def _in_episode[T](dataset: DatasetReader, row: int, items: Iterator[T]) -> Iterator[T]:
    """``items``, with the episode named in their errors."""
    try:
        yield from items
    except EpisodeError as error:
        raise _named(dataset, row, error) from None


def _named(dataset: DatasetReader, row: int, error: EpisodeError) -> EpisodeError:
    prefix = f"episode {int(dataset.episode_indices[row])}: "
    return error if str(error).startswith(prefix) else EpisodeError(prefix + str(error))


def _window(dataset: DatasetReader, row: int, camera: str) -> VideoWindow:
    """Where the episode's pictures lie, checked against what the metadata say."""
    window = dataset.video(row, camera)
    _check_codec(dataset, camera, window.path)
    _check_room(dataset, row, camera, window.start)
    return window


def _check_codec(dataset: DatasetReader, camera: str, path: Path) -> None:
    feature = dataset.features[camera]
    declared = (feature.get("info") or feature.get("video_info") or {}).get("video.codec")
    if not declared:
        return
    name = _CODEC_NAMES.get(str(declared).lower(), str(declared).lower())
    found = probe(path).codec
    if name != found:
        raise EpisodeError(
            f"{path} is {found}, but meta/info.json says {declared!r} for {camera}; correct 'video.codec' there"
        )


def _check_room(dataset: DatasetReader, row: int, camera: str, start: float) -> None:
    """Refuse an episode with fewer pictures than rows: it would show the next episode's pictures."""
    prefix = f"videos/{camera}/"
    table = dataset.table
    same = np.ones(table.num_rows, dtype=bool)
    for name in ("chunk_index", "file_index"):
        values = table.column(prefix + name).to_numpy()
        same &= values == values[row]
    starts = table.column(prefix + "from_timestamp").to_numpy()[same]
    after = starts[starts > start]
    room = (after.min() - start) * dataset.fps if len(after) else np.inf
    count = int(dataset.lengths[row])
    if count > room + 0.5:
        raise EpisodeError(
            f"{camera} has {round(room)} pictures before the next episode's begin, and the table has {count} rows; "
            "convert the source again"
        )
