"""Encodes the pictures of an episode while it goes on: no picture is dropped, none waits on the disk.

LeRobot's own streaming encoder drops pictures when it falls behind, and spends nine tenths of its time, most of
it holding Python's lock, on histograms for the statistics. This one takes its place in LeRobot's writer: the same
files by the same settings, with exact statistics by counting, at an eighth of the time a picture.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.recordings.statistics import picture_statistics

if TYPE_CHECKING:
    from lerobot.configs.video import RGBEncoderConfig

#: H.264 at its fastest: half a millisecond a picture of 320x240, every decoder reads it, and a key frame every
#: two pictures (LeRobot's choice) keeps random access quick. AV1, LeRobot's default, takes three times as long.
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
    """What LeRobot's writer asks of its streaming encoder, one thread a camera.

    Args:
        fps: pictures a second.
        settings: codec and quality.
        threads: of one camera's codec; 1 leaves the other cores to the policy.
    """

    def __init__(self, fps: int, settings: RGBEncoderConfig, threads: int | None = 1) -> None:
        self.fps = fps
        self.settings = settings
        self.threads = threads
        self._cameras: dict[str, _Camera] = {}

    def start_episode(self, video_keys: list[str], temp_dir: Path, depth_video_keys: list[str] | None = None) -> None:
        """Begin one file a camera, each in a folder of its own under ``temp_dir``."""
        if depth_video_keys:
            raise IgrftError(f"{depth_video_keys[0]} is a depth map, which rollouts do not record; leave it out")
        self.cancel_episode()
        for key in video_keys:
            folder = Path(tempfile.mkdtemp(dir=temp_dir))
            self._cameras[key] = _Camera(key, folder / "episode.mp4", self)

    def feed_frame(self, video_key: str, image: np.ndarray) -> None:
        """Hand over a picture, uint8 [H, W, 3] RGB; it is copied. Waits while too many are waiting.

        Raises:
            IgrftError: the encoder failed.
        """
        self._cameras[video_key].put(image.copy())

    def finish_episode(self) -> dict[str, tuple[Path, dict[str, np.ndarray]]]:
        """Wait for all cameras: by key, the file and statistics of its pixel values, each [3] (``count``: [1]).

        Raises:
            IgrftError: an encoder failed.
        """
        cameras, self._cameras = self._cameras, {}
        for camera in cameras.values():
            camera.end()
        return {key: (camera.path, camera.result()) for key, camera in cameras.items()}

    def cancel_episode(self) -> None:
        """Stop, and remove what was encoded."""
        cameras, self._cameras = self._cameras, {}
        for camera in cameras.values():
            camera.cancel()

    def close(self) -> None:
        self.cancel_episode()


class _Camera:
    """Encodes the pictures of one camera, on a thread of its own; PyAV leaves Python's lock to the others."""

    def __init__(self, key: str, path: Path, encoder: EpisodeEncoder) -> None:
        self.key = key
        self.path = path
        self._encoder = encoder
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue()
        self._room = threading.Semaphore(1)
        self._sized = False
        self._cancelled = False
        self._error: BaseException | None = None
        self._statistics: dict[str, np.ndarray] = {}
        self._thread = threading.Thread(target=self._run, name=f"encode {key}", daemon=True)
        self._thread.start()

    def put(self, picture: np.ndarray) -> None:
        if not self._sized:
            self._sized = True
            for _ in range(_MOST_BYTES // picture.nbytes):
                self._room.release()
        while not self._room.acquire(timeout=_LOOK):
            if not self._thread.is_alive():
                break
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
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _failure(self) -> IgrftError:
        text = " ".join(str(self._error).split()) or type(self._error).__name__
        error = IgrftError(f"pictures of {self.key} could not be encoded ({text})")
        error.__cause__ = self._error
        return error

    def _run(self) -> None:
        try:
            stats = picture_statistics(self._encoded())
            # LeRobot divides what a streaming encoder says by 255, and shapes it.
            self._statistics = {k: v if k == "count" else v.ravel() * 255.0 for k, v in stats.items()}
        except BaseException as error:
            self._error = error

    def _pictures(self) -> Iterator[np.ndarray]:
        while (picture := self._waiting.get()) is not None and not self._cancelled:
            yield picture
            self._room.release()

    def _encoded(self) -> Iterator[np.ndarray]:
        """Every picture, once it is encoded; the file is whole when they end."""
        import av

        settings, fps = self._encoder.settings, self._encoder.fps
        options = settings.get_codec_options(self._encoder.threads, as_strings=True)
        if settings.vcodec == "h264":
            # x264 writes to the terminal by itself.
            options.setdefault("x264-params", "log=-1")
        with av.open(str(self.path), "w") as container:
            stream: Any = None
            for number, picture in enumerate(self._pictures()):
                if stream is None:
                    stream = container.add_stream(settings.vcodec, fps, options=options)
                    stream.pix_fmt = settings.pix_fmt
                    stream.height, stream.width = picture.shape[:2]
                    stream.time_base = Fraction(1, fps)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
                yield picture
            if stream is not None and not self._cancelled:
                container.mux(stream.encode())
            with contextlib.suppress(Exception) if self._cancelled else contextlib.nullcontext():
                container.close()
