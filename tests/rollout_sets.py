"""Rollouts whose every number follows from a seed, so that what is read back can be told right or wrong."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.rollouts.recorder import Recorder

FPS = 20
TASK = "put the block on the shelf"
CAMERAS = ("observation.images.front", "observation.images.wrist")
HEIGHT, WIDTH = 48, 64
SETTINGS: dict[str, Any] = {"checkpoint": "last", "exploration": {"kind": "entropy", "sigma_base": 1.5}, "seed": 7}
#: H.264 at the recorder's settings, on the smooth pictures made here: mean and greatest error of a pixel.
PICTURE_MEAN, PICTURE_MOST = 3.0, 30


def features(pictures: bool) -> dict[str, dict[str, Any]]:
    video = {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    return {
        "observation.state": {"dtype": "float32", "shape": (5,), "names": [f"joint_{i}" for i in range(5)]},
        **({camera: dict(video) for camera in CAMERAS} if pictures else {}),
        "action": {"dtype": "float32", "shape": (3,), "names": None},
    }


def open_recorder(root: Path, *, pictures: bool = False, **changed: Any) -> Recorder:
    arguments: dict[str, Any] = {
        "features": features(pictures),
        "fps": FPS,
        "robot_type": "mock",
        "task": TASK,
        "settings": SETTINGS,
    }
    return Recorder.open(root, **arguments | changed)


def length(seed: int) -> int:
    """Frames of the episode of a seed."""
    return 6 + seed * 5 % 7


def success(seed: int) -> bool | None:
    return (True, False, None)[seed % 3]


def facts(seed: int) -> dict[str, Any]:
    return {"seed": seed, "ended": "time limit", "takeovers": [{"start": 3, "end": 5, "by": "expert", "why": "asked"}]}


def picture(seed: int, frame: int, camera: str) -> np.ndarray:
    """Smooth, and another one for every seed, frame and camera; uint8 [48, 64, 3]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    shift = 37 * seed + 11 * frame + 60 * CAMERAS.index(camera)
    red = 128 + 90 * np.sin((x + shift) / 15)
    green = 128 + 90 * np.cos((y + 2 * shift) / 13)
    blue = np.full_like(red, 40 + shift * 7 % 160)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def frame(seed: int, t: int, *, pictures: bool = False) -> dict[str, Any]:
    human = 3 <= t < 5
    rng = np.random.default_rng([seed, t])
    return {
        "observation.state": rng.normal(size=5).astype(np.float32),
        "action": rng.normal(size=3).astype(np.float32),
        "intervention": human,
        "takeover_reason": 2 if human else 0,
        "noise_scale": 1.25 - 0.01 * t,
        "value": 1 - t / length(seed),
        "interaction_probability": float(rng.random()),
        **({camera: picture(seed, t, camera) for camera in CAMERAS} if pictures else {}),
    }


def add_episode(recorder: Recorder, seed: int, *, pictures: bool = False) -> None:
    for t in range(length(seed)):
        recorder.add(frame(seed, t, pictures=pictures))


def record(recorder: Recorder, *seeds: int, pictures: bool = False) -> None:
    """Record whole episodes."""
    for seed in seeds:
        add_episode(recorder, seed, pictures=pictures)
        recorder.save(success=success(seed), facts=facts(seed))


@cache
def _known() -> dict[bytes, int]:
    return {frame(seed, 0)["observation.state"].tobytes(): seed for seed in range(2000)}


def seeds_in(root: Path) -> list[int]:
    """Seeds of the episodes at ``root``, each known by its first state; none where there is no dataset."""
    if not root.exists():
        return []
    reader = DatasetReader.open(root)
    known = _known()
    states = [reader.column(row, "observation.state").astype(np.float32) for row in range(reader.num_episodes)]
    return [known[np.ascontiguousarray(state[0]).tobytes()] for state in states]


def check_with_lerobot(root: Path, seeds: list[int], *, pictures: bool = False, every_frame: bool = True) -> None:
    """LeRobot opens the dataset and gives the frames of the episodes of ``seeds``, in their order."""
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset("rollout", root=root, video_backend="pyav")
    lengths = [length(seed) for seed in seeds]
    assert dataset.num_episodes == len(seeds)
    assert len(dataset) == sum(lengths)
    starts = np.cumsum([0, *lengths])
    for episode, seed in enumerate(seeds):
        frames = range(lengths[episode]) if every_frame else (0, lengths[episode] - 1)
        for t in frames:
            check_item(dataset[int(starts[episode]) + t], episode, seed, t, pictures=pictures)


def check_item(item: dict[str, Any], episode: int, seed: int, t: int, *, pictures: bool = False) -> None:
    """A frame as LeRobot gives it is the one that was recorded."""
    last = t == length(seed) - 1
    expected = frame(seed, t, pictures=False) | {
        "episode_index": episode,
        "frame_index": t,
        "task_index": 0,
        "next.done": last,
        "next.success": last and success(seed) is True,
    }
    for name, value in expected.items():
        np.testing.assert_array_equal(item[name].numpy(), np.asarray(value).astype(item[name].numpy().dtype), name)
    np.testing.assert_allclose(item["timestamp"].item(), t / FPS, rtol=1e-6)
    assert item["task"] == TASK
    for camera in CAMERAS if pictures else ():
        check_picture(item[camera].numpy(), picture(seed, t, camera))


def check_picture(found: np.ndarray, recorded: np.ndarray) -> None:
    """float [3, H, W] in [0, 1] against uint8 [H, W, 3], but for what the codec loses."""
    error = np.abs(found.transpose(1, 2, 0) * 255 - recorded.astype(float))
    assert error.mean() < PICTURE_MEAN and error.max() < PICTURE_MOST, (error.mean(), error.max())
