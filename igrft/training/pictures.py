"""Frames with pictures, read by LeRobot. Importing this takes seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import datasets
import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_reader import DatasetReader as LeRobotReader
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import hf_transform_to_torch
from lerobot.datasets.video_utils import FrameTimestampError
from lerobot.utils.import_utils import get_safe_default_video_backend
from lerobot.utils.utils import SuppressProgressBars

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.recordings.video_facts import TOLERANCE_S
from igrft.remote.mirror import fetch
from igrft.training.frames import ACTION_IS_PAD, STATES, TASK, Observation, place_of

_INDICES = (c.TIMESTAMP, c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX)


class _NarrowReader(LeRobotReader):
    """LeRobot's reader over some of the columns.

    All of them would be copied into the cache of `datasets`, the rows of language_persistent once a frame.
    """

    def _load_hf_dataset(self) -> datasets.Dataset:
        features = get_hf_features_from_features(self._meta.features)
        paths = [str(p) for p in sorted((self.root / "data").glob("*/*.parquet"))]
        with SuppressProgressBars():
            table = datasets.Dataset.from_parquet(paths, columns=list(features), features=features)
        table.set_transform(hf_transform_to_torch)
        return table


class LeRobotFrames:
    """A dataset as LeRobot reads it, action chunks through ``delta_timestamps``.

    May be handed to the workers of a DataLoader; pictures must then not be read in the process that starts them,
    since the decoders' threads do not survive a fork.

    Args:
        cameras: those to read.
        chunk: actions of a sample.
        next_steps: N of the later observation; None gives none.

    Raises:
        IgrftError: LeRobot cannot open the dataset.
    """

    def __init__(
        self, dataset: DatasetReader, cameras: Sequence[str], chunk: int, next_steps: int | None = None
    ) -> None:
        self.dataset = dataset
        self.next_steps = next_steps
        self._ends = dataset.from_index + dataset.lengths
        self.observed = [n for n in STATES if n in dataset.features] + list(cameras)
        seen = tuple(f"videos/{camera}/" for camera in cameras)
        fetch(dataset.root, lambda name: name.startswith(("data/", "images/", *seen)))
        try:
            meta = self._metadata()
            self._now = self._reader(meta, {c.ACTION: [i / meta.fps for i in range(chunk)]})
            self._now.load_and_activate()
            # Asked for both pictures at once, LeRobot would decode every one between them.
            self._later = self._reader(meta, None)
            self._later.hf_dataset = self._now.hf_dataset
        except (ValueError, OSError, datasets.exceptions.DatasetGenerationError) as error:
            line = str(error.__cause__ or error).strip().splitlines()[0]
            raise IgrftError(
                f"LeRobot cannot open {dataset.root} ({line}); run: igrft validate {dataset.root}"
            ) from error

    def _metadata(self) -> LeRobotDatasetMetadata:
        meta = LeRobotDatasetMetadata(f"local/{self.dataset.root.name}", root=self.dataset.root)
        # The reader decodes every video that the metadata declares, depth maps and missing ones included.
        wanted = {*self.observed, c.ACTION, *_INDICES}
        for name in [n for n in meta.features if n not in wanted]:
            del meta.features[name]
        return meta

    def _reader(self, meta: LeRobotDatasetMetadata, ahead: dict[str, list[float]] | None) -> _NarrowReader:
        return _NarrowReader(
            meta=meta,
            root=self.dataset.root,
            episodes=None,
            tolerance_s=TOLERANCE_S,
            video_backend=backend(),
            delta_timestamps=ahead,
            image_transforms=None,
            return_uint8=True,
        )

    def gather(self, index: np.ndarray, *, next_too: bool = True) -> tuple[Observation, Observation | None]:
        """See :meth:`igrft.training.frames.Frames.gather`."""
        items = [self._item(self._now, i) for i in index.tolist()]
        observation = self._observation(items)
        actions = torch.stack([item[c.ACTION] for item in items]).float()
        observation[c.ACTION] = actions.reshape(len(items), actions.shape[1], -1)
        observation[ACTION_IS_PAD] = torch.stack([item[ACTION_IS_PAD] for item in items])
        if self.next_steps is None or not next_too:
            return observation, None
        last = self._ends[np.searchsorted(self._ends, index, side="right")] - 1
        later = np.minimum(index + self.next_steps, last)
        return observation, self._observation([self._item(self._later, i) for i in later.tolist()])

    def _observation(self, items: list[dict[str, Any]]) -> Observation:
        out: Observation = {TASK: [item[TASK] for item in items]}
        for name in self.observed:
            values = torch.stack([item[name] for item in items])
            if name in STATES:
                # LeRobot gives a column of shape [1] as a number.
                out[name] = values.float().reshape(len(items), -1)
            else:
                # Pictures that lie in the table come as floats in [0, 1].
                out[name] = values if values.dtype == torch.uint8 else (values * 255).round().to(torch.uint8)
        return out

    def _item(self, reader: _NarrowReader, index: int) -> dict[str, Any]:
        try:
            return reader.get_item(index)
        except FrameTimestampError:
            raise IgrftError(
                f"{self.dataset.root}: {place_of(self.dataset, index)}: no picture lies within "
                f"{1000 * TOLERANCE_S:g} ms of its timestamp; convert the source again: "
                "igrft convert SOURCE TARGET --rebuild-timestamps"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            line = str(error).strip().splitlines()[0]
            raise IgrftError(
                f"{self.dataset.root}: {place_of(self.dataset, index)} cannot be read ({line}); "
                f"run: igrft validate {self.dataset.root}"
            ) from error


@cache
def backend() -> Literal["torchcodec", "pyav"]:
    """LeRobot's choice of decoder. Its warning is a page long where torchcodec cannot be loaded; ours is a line."""
    noisy = logging.getLogger("lerobot.utils.import_utils")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        found = get_safe_default_video_backend()
    finally:
        noisy.setLevel(level)
    if found == "torchcodec":
        return "torchcodec"
    logging.getLogger(__name__).warning(
        "torchcodec cannot be loaded (it needs FFmpeg's libraries), so PyAV reads the pictures, which is slower"
    )
    return "pyav"
