"""The dataset that is recorded into: LeRobot's own, closed after every episode."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import INFO, read_json
from igrft.errors import IgrftError
from igrft.recordings.quiet import lerobot_quietly
from igrft.rollouts.encoder import encoder_settings, try_encoder
from igrft.rollouts.layout import FILLED

#: Threads that write the pictures of one camera until they are encoded; LeRobot's own choice.
_WRITERS = 4


class DemonstrationSet:
    """What LeRobot's ``record_loop`` sees of a dataset, with ``next.success`` and ``next.done`` added.

    LeRobot's files can be read only once they are closed. They are closed after every episode, and the next goes
    into new ones: what is complete stands, whatever happens.

    Attributes:
        root: its folder; absent until the first episode begins.
        fps: frames a second.
        features: LeRobot's, of all that is recorded.
    """

    def __init__(
        self,
        root: Path,
        features: Mapping[str, dict[str, Any]],
        *,
        fps: int,
        robot_type: str,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            features: of ``observation.*`` and ``action``.
            encoder: fields of LeRobot's ``RGBEncoderConfig``.

        Raises:
            UsageError: an encoder that is not there.
            IgrftError: something else lies at ``root``, or it was recorded otherwise.
        """
        self.root = root.expanduser().resolve()
        self.fps = fps
        self._robot_type = robot_type
        added = {name: {"dtype": "bool", "shape": (1,), "names": None} for name in FILLED}
        self.features: dict[str, dict[str, Any]] = {**features, **added}
        cameras = {k: f["shape"] for k, f in features.items() if f["dtype"] == "video"}
        self._cameras = len(cameras)
        self._scratch = self.root.with_name(f".{self.root.name}.recording")
        self._encoder = encoder_settings(encoder)
        self._dataset: Any = None
        self.episodes = self._found()
        self._scratch.mkdir(parents=True, exist_ok=True)
        try_encoder(cameras, fps, self._encoder, self._scratch)

    @property
    def frames(self) -> int:
        """Frames of the episode in progress."""
        return int(self._dataset.writer.episode_buffer["size"]) if self._pending() else 0

    @property
    def writer(self) -> Any:
        """LeRobot's, whose threads its loop stops on an error."""
        return self._dataset.writer if self._dataset is not None else None

    def begin(self) -> None:
        """Open the files of the next episode."""
        if self._dataset is not None:
            return
        from lerobot.datasets import LeRobotDataset

        threads = _WRITERS * self._cameras
        more = {"root": self.root, "rgb_encoder": self._encoder, "image_writer_threads": threads}
        name = f"local/{self.root.name}"
        with lerobot_quietly(self._scratch):
            if self.episodes:
                self._dataset = LeRobotDataset.resume(name, **more)
            else:
                self._dataset = LeRobotDataset.create(
                    name, self.fps, features=self.features, robot_type=self._robot_type, use_videos=True, **more
                )

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """One step, as LeRobot's loop gives it."""
        no = {name: np.zeros(1, bool) for name in FILLED}
        self._dataset.add_frame({**frame, **no})

    def save(self, success: bool) -> None:
        """The episode is over: write it, and close its files."""
        if not self.frames:
            self.discard()
            return
        rows = self._dataset.writer.episode_buffer
        rows[c.DONE][-1] = np.ones(1, bool)
        rows[c.SUCCESS][-1] = np.array([success])
        with lerobot_quietly(self._scratch):
            self._dataset.save_episode()
            self._dataset.finalize()
        self._dataset = None
        self.episodes += 1
        self._clear_pictures()

    def discard(self) -> None:
        """Forget the episode in progress."""
        if self._dataset is None:
            return
        dataset, self._dataset = self._dataset, None
        with lerobot_quietly(self._scratch):
            if dataset.writer.image_writer is not None:
                dataset.writer.image_writer.wait_until_done()
            if dataset.writer.episode_buffer is not None:
                dataset.writer.clear_episode_buffer()
            dataset.finalize()
        self._clear_pictures()
        if not self.episodes:
            # LeRobot opens no dataset without an episode.
            shutil.rmtree(self.root, ignore_errors=True)

    def close(self) -> None:
        """Forget an episode in progress, and what was only needed meanwhile."""
        self.discard()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _pending(self) -> bool:
        return self._dataset is not None and self._dataset.writer.episode_buffer is not None

    def _clear_pictures(self) -> None:
        shutil.rmtree(self.root / "images", ignore_errors=True)

    def _found(self) -> int:
        """Episodes that are there; what an interrupted first one left behind is cleared away."""
        if not self.root.exists() or not any(self.root.iterdir()):
            shutil.rmtree(self.root, ignore_errors=True)
            return 0
        if not (self.root / INFO).is_file():
            raise IgrftError(f"{self.root} holds something else than a dataset; give another --root=FOLDER")
        info = read_json(self.root / INFO)
        self._refuse_other(info)
        if not info["total_episodes"]:
            shutil.rmtree(self.root)
        self._clear_pictures()
        return int(info["total_episodes"])

    def _refuse_other(self, info: Mapping[str, Any]) -> None:
        told = f"{self.root} was recorded otherwise"
        if (info["fps"], info.get("robot_type")) != (self.fps, self._robot_type):
            raise IgrftError(
                f"{told}: {info.get('robot_type')} at {info['fps']} Hz, not {self._robot_type} at {self.fps}; give "
                "another --root=FOLDER"
            )
        for name, feature in self.features.items():
            there = info["features"].get(name)
            if there is None or list(there["shape"]) != list(feature["shape"]) or there["names"] != feature["names"]:
                raise IgrftError(f"{told}: {name} differs; give another --root=FOLDER")
