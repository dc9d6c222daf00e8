"""What a dataset of rollouts consists of: its features, declared by LeRobot, and the columns of its files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import INFO, read_json
from igrft.errors import UsageError
from igrft.recordings.quiet import lerobot_quietly
from igrft.rollouts.encoder import encoder_settings, try_encoder

if TYPE_CHECKING:
    from lerobot.configs.video import RGBEncoderConfig

#: Columns that every LeRobot dataset has.
LEROBOT = (c.TIMESTAMP, c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX)
#: Filled in when an episode is saved.
FILLED = (c.DONE, c.SUCCESS)


def recorded_columns(*, judged: bool) -> dict[str, str]:
    """dtypes of the columns that the recorder adds, each of shape [1].

    Args:
        judged: whether there is a critic. Without one ``value`` and ``interaction_probability`` are left out:
            neither LeRobot's statistics nor training take NaN.
    """
    critic = {c.VALUE: "float32", c.INTERACTION_PROBABILITY: "float32"} if judged else {}
    return {
        c.INTERVENTION: "bool",
        c.TAKEOVER_REASON: "int64",
        c.NOISE_SCALE: "float32",
        **critic,
        **dict.fromkeys(FILLED, "bool"),
    }


@dataclass(frozen=True)
class Layout:
    """Attributes:
    features: LeRobot features of all that a frame brings, and :data:`FILLED`; shapes are tuples.
    info: ``meta/info.json`` of the dataset without an episode, as LeRobot writes it.
    schema: of the data files.
    fps: frames a second.
    task: the sentence that all episodes are about.
    encoder: of the videos; None where there are none.
    """

    features: dict[str, dict[str, Any]]
    info: dict[str, Any]
    schema: pa.Schema
    fps: int
    task: str
    encoder: RGBEncoderConfig | None

    @property
    def cameras(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature["dtype"] == "video"]

    def identity(self) -> dict[str, Any]:
        """What must be the same for episodes to stand in one dataset."""
        return identity(self.info, self.task)


def identity(info: Mapping[str, Any], task: str | None) -> dict[str, Any]:
    """What ``meta/info.json`` says that must be the same, without what LeRobot found out of the videos."""
    features = {
        name: {key: feature.get(key) for key in ("dtype", "shape", "names")}
        for name, feature in info["features"].items()
    }
    return {"robot_type": info.get("robot_type"), "fps": info["fps"], "task": task, "features": features}


def make_layout(
    features: Mapping[str, dict[str, Any]],
    *,
    fps: float,
    robot_type: str,
    task: str,
    judged: bool,
    encoder: Mapping[str, Any] | None,
    scratch: Path,
) -> Layout:
    """Have LeRobot declare the dataset, and try the encoder.

    Args:
        features: LeRobot dataset features of ``observation.*`` and ``action``: numbers and bools of shape [n],
            videos of shape [H, W, 3].
        scratch: folder for temporary files.

    Raises:
        UsageError: features or a rate that cannot be recorded.
        IgrftError: an encoder that refuses the pictures.
    """
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.datasets.feature_utils import get_hf_features_from_features
    from lerobot.datasets.video_utils import get_video_info

    if fps != int(fps) or fps < 1:
        raise UsageError(f"rollouts are recorded at a whole number of frames a second, got {fps:g}")
    declared = _with_own(features, recorded_columns(judged=judged))
    cameras = {name: f["shape"] for name, f in declared.items() if f["dtype"] == "video"}
    settings = encoder_settings(encoder) if cameras else None
    folder = scratch / "declared"
    shutil.rmtree(folder, ignore_errors=True)
    with lerobot_quietly(scratch):
        try:
            LeRobotDatasetMetadata.create(
                "rollout", int(fps), declared, robot_type, root=folder, use_videos=bool(cameras)
            )
        except ValueError as error:
            raise UsageError(f"the features: {' '.join(str(error).split())}") from None
        info = read_json(folder / INFO)
        if settings is not None:
            for name, path in zip(cameras, try_encoder(cameras, int(fps), settings, folder), strict=True):
                info["features"][name]["info"] = get_video_info(path, video_encoder=settings)
        shapes = {name: {**f, "shape": tuple(f["shape"])} for name, f in info["features"].items()}
        schema = get_hf_features_from_features(shapes).arrow_schema
    return Layout(declared, info, schema, int(fps), task, settings)


def _with_own(features: Mapping[str, dict[str, Any]], own: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The features that are recorded, as LeRobot wants them."""
    if c.ACTION not in features:
        raise UsageError(f"the features have no {c.ACTION!r}; they are {', '.join(features) or 'empty'}")
    for name, feature in features.items():
        if name in own or name in LEROBOT:
            raise UsageError(f"{name!r} is a column of the recorder's own; leave it out of the features")
        _check(name, str(feature.get("dtype")), tuple(feature.get("shape") or ()), feature.get("info") or {})
    mine = {name: {"dtype": dtype, "shape": (1,), "names": None} for name, dtype in own.items()}
    return {n: {**f, "shape": tuple(f["shape"])} for n, f in features.items()} | mine


def _check(name: str, dtype: str, shape: tuple[int, ...], info: Mapping[str, Any]) -> None:
    if dtype == "video":
        if len(shape) != 3 or shape[2] != 3 or info.get("is_depth_map"):
            raise UsageError(f"{name!r} has the shape {list(shape)}; videos are recorded of RGB pictures, [H, W, 3]")
    elif dtype == "image":
        raise UsageError(f"{name!r} is declared as image; rollouts are recorded as video: declare it so")
    elif not (dtype.startswith(("float", "int", "uint")) or dtype == "bool") or len(shape) != 1:
        raise UsageError(
            f"{name!r} is {dtype} {list(shape)}; rollouts record numbers and bools of shape [n], and video"
        )
