"""The episode in progress: a LeRobot dataset of its own."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets import LeRobotDataset

from igrft.rollouts.encoder import EpisodeEncoder


class _Dataset(LeRobotDataset):
    """LeRobot's dataset with an encoder that drops no picture."""

    @staticmethod
    def _build_streaming_encoder(
        fps: int, rgb_encoder: Any, depth_encoder: Any, encoder_queue_maxsize: int, encoder_threads: int | None
    ) -> Any:
        return EpisodeEncoder(fps, rgb_encoder, encoder_threads)


class StagedEpisode:
    """Frames of one episode, written by LeRobot's writer to ``folder``.

    Args:
        folder: to make.
        features: with shapes as tuples.
        encoder: of videos; None where there are none.
    """

    def __init__(
        self,
        folder: Path,
        features: dict[str, dict[str, Any]],
        fps: int,
        robot_type: str,
        encoder: RGBEncoderConfig | None,
    ) -> None:
        self.folder = folder
        self.frames = 0
        self._dataset = _Dataset.create(
            repo_id=folder.name,
            fps=fps,
            features=features,
            root=folder,
            robot_type=robot_type,
            rgb_encoder=encoder,
            streaming_encoding=encoder is not None,
            encoder_threads=1,
            video_backend="pyav",
        )

    def add(self, frame: dict[str, Any]) -> None:
        """Record one frame, ``task`` included."""
        self._dataset.add_frame(frame)
        self.frames += 1

    def clear(self) -> None:
        """Forget all frames."""
        self._dataset.clear_episode_buffer()
        self.frames = 0

    def finish(self) -> None:
        """Write the files; they can be read from now on."""
        self._dataset.save_episode(parallel_encoding=False)
        self._dataset.finalize()

    def close(self) -> None:
        """Remove the folder, whatever state it is in."""
        with contextlib.suppress(Exception):
            self._dataset.clear_episode_buffer()
        # LeRobot's writer would finalize when it is collected, and make folders again.
        with contextlib.suppress(Exception):
            self._dataset.finalize()
        shutil.rmtree(self.folder, ignore_errors=True)
