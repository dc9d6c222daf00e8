"""Encodes the pictures of an episode while it goes on: no picture is dropped, none waits on the disk.

LeRobot's streaming encoder drops pictures when it falls behind, and spends nine tenths of its time, most of it
holding Python's lock, on histograms for the statistics. This one makes the same files by the same settings, with
exact statistics by counting, at an eighth of the time a picture.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.dataset.priority import usual_priority
from igrft.errors import IgrftError, UsageError
from igrft.recordings.statistics import picture_statistics

if TYPE_CHECKING:
    from lerobot.configs.video import RGBEncoderConfig

#: H.264 at its fastest: half a millisecond a picture of 320x240, every decoder reads it, and a key frame every
#: two pictures (LeRobot's choice) keeps random access quick. AV1, LeRobot's default, takes several times as long.
DEFAULT_ENCODER: dict[str, Any] = {"vcodec": "h264", "preset": "ultrafast", "crf": 20, "g": 2}
#: Pictures that wait for one camera's encoder, in bytes; then the caller waits.
_MOST_BYTES = 64 << 20
#: How often a waiting caller looks whether the encoder is still there, in seconds.
_LOOK = 0.1


def encoder_settings(fields: Mapping[str, Any] | None) -> RGBEncoderConfig:
    """LeRobot's encoder settings.

    Args:
        fields: of LeRobot's ``RGBEncoderConfig`` (vcodec, preset, crf, g, pix_fmt …); None is
            :data:`DEFAULT_ENCODER`.

    Raises:
        UsageError: an unknown field, or a codec that is not there.
    """
    from lerobot.configs.video import RGBEncoderConfig

    try:
        return RGBEncoderConfig(**(DEFAULT_ENCODER if fields is None else fields))
    except (TypeError, ValueError) as error:
        raise UsageError(f"the video encoder's settings: {' '.join(str(error).split())}") from None


class EpisodeEncoder:
    """The videos of one episode, one thread a camera; PyAV leaves Python's lock to the others.

    Args:
        paths: mp4 file to write by camera.
        fps: pictures a second.
        settings: codec and quality.
        threads: of one camera's codec; 1 leaves the other cores to the policy.
    """

    def __init__(
        self, paths: Mapping[str, Path], fps: int, settings: RGBEncoderConfig, threads: int | None = 1
    ) -> None:
        options = settings.get_codec_options(threads, as_strings=True)
        if settings.vcodec == "h264":
            # x264 writes to the terminal by itself.
            options.setdefault("x264-params", "log=-1")
        self._cameras = {key: _Camera(key, path, fps, settings, options) for key, path in paths.items()}

    def add(self, camera: str, picture: np.ndarray) -> None:
        """Hand over a picture, uint8 [H, W, 3] RGB; it is copied. Waits while too many are waiting.

        Raises:
            IgrftError: the encoder failed.
        """
        self._cameras[camera].put(picture.copy())

    def finish(self) -> dict[str, dict[str, np.ndarray]]:
        """Wait until all files are whole. Statistics by camera, as LeRobot has them: [3, 1, 1], ``count`` [1].

        Raises:
            IgrftError: an encoder failed.
        """
        for camera in self._cameras.values():
            camera.end()
        return {key: camera.result() for key, camera in self._cameras.items()}

    def cancel(self) -> None:
        """Stop, and remove the files."""
        for camera in self._cameras.values():
            camera.cancel()


def try_encoder(cameras: Mapping[str, Sequence[int]], fps: int, settings: RGBEncoderConfig, folder: Path) -> list[Path]:
    """Two black pictures of each camera, so that what an encoder refuses is known before anything moves.

    Args:
        cameras: shapes [H, W, 3] by camera.
        folder: to write to.

    Raises:
        IgrftError: it refuses.
    """
    paths = {key: folder / f"try-{i}.mp4" for i, key in enumerate(cameras)}
    # One after the other: where all are refused, it is the first that is named.
    for key, shape in cameras.items():
        encoder = EpisodeEncoder({key: paths[key]}, fps, settings)
        try:
            for _ in range(2):
                encoder.add(key, np.zeros(shape, dtype=np.uint8))
            encoder.finish()
        except BaseException:
            encoder.cancel()
            raise
    return list(paths.values())


class _Cancelled(Exception):
    """Nobody wants the file any more."""


class _Camera:
    def __init__(self, key: str, path: Path, fps: int, settings: RGBEncoderConfig, options: Mapping[str, str]) -> None:
        self.key = key
        self.path = path
        self._fps = fps
        self._settings = settings
        self._options = dict(options)
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue()
        self._room: threading.Semaphore | None = None
        self._cancelled = False
        self._error: BaseException | None = None
        self._statistics: dict[str, np.ndarray] = {}
        self._thread = threading.Thread(target=self._run, name=f"encode {key}", daemon=True)
        self._thread.start()

    def put(self, picture: np.ndarray) -> None:
        if self._room is None:
            self._room = threading.Semaphore(max(2, _MOST_BYTES // picture.nbytes))
        while self._thread.is_alive() and not self._room.acquire(timeout=_LOOK):
            pass
        if not self._thread.is_alive():
            raise self._failure()
        self._waiting.put(picture)

    def end(self) -> None:
        self._waiting.put(None)

    def result(self) -> dict[str, np.ndarray]:
        self._thread.join()
        if self._error is not None:
            raise self._failure()
        return self._statistics

    def cancel(self) -> None:
        self._cancelled = True
        self.end()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _failure(self) -> IgrftError:
        text = " ".join(str(self._error).split()) or type(self._error).__name__
        error = IgrftError(f"pictures of {self.key} could not be encoded ({text})")
        error.__cause__ = self._error
        return error

    def _run(self) -> None:
        try:
            self._statistics = picture_statistics(self._encoded())
        except BaseException as error:
            self._error = error

    def _pictures(self) -> Iterator[np.ndarray]:
        while (picture := self._waiting.get()) is not None:
            if self._cancelled:
                break
            yield picture
            assert self._room is not None
            self._room.release()
        if self._cancelled:
            raise _Cancelled

    def _encoded(self) -> Iterator[np.ndarray]:
        """Every picture, once it is encoded; the file is whole when they end."""
        import av

        with av.open(str(self.path), "w") as container:
            stream: Any = None
            for number, picture in enumerate(self._pictures()):
                if stream is None:
                    stream = container.add_stream(self._settings.vcodec, self._fps, options=self._options)
                    stream.pix_fmt = self._settings.pix_fmt
                    stream.height, stream.width = picture.shape[:2]
                    stream.time_base = Fraction(1, self._fps)
                    with usual_priority():
                        stream.codec_context.open()
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, self._fps)
                container.mux(stream.encode(frame))
                yield picture
            if stream is not None:
                container.mux(stream.encode())
