"""Recording rollouts, against LeRobot's own recorder of the same frames by the same encoder settings, in turns.

    python benchmarks/recorder.py

Seconds of wall clock and of processor that an episode costs, and what the loop waits for: the whole of the time in
``add`` and ``save``. LeRobot's dataset cannot be read until it is finalized; ours can after every episode.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft.recordings.quiet import lerobot_quietly
from igrft.rollouts.encoder import DEFAULT_ENCODER
from igrft.rollouts.layout import recorded_columns
from igrft.rollouts.recorder import Recorder

TASK = "bench"


@dataclass
class Cost:
    """Seconds an episode: in the loop, until it is written, and of processor."""

    loop: float
    wall: float
    processor: float


def features(cameras: int, height: int, width: int) -> dict[str, Any]:
    video = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    return {
        "observation.state": {"dtype": "float32", "shape": (39,), "names": None},
        **{f"observation.images.{i}": video for i in range(cameras)},
        "action": {"dtype": "float32", "shape": (4,), "names": None},
    }


def episode(declared: dict[str, Any], frames: int) -> list[dict[str, Any]]:
    """Frames with a texture that drifts."""
    rng = np.random.default_rng(0)
    own = {"intervention": False, "takeover_reason": 0, "noise_scale": 1.0, "interaction_probability": 0.5}
    wide = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    found = []
    for t in range(frames):
        values: dict[str, Any] = {**own, "value": 1 - t / frames}
        for name, feature in declared.items():
            shape = feature["shape"]
            if feature["dtype"] == "video":
                picture = np.roll(np.kron(wide, np.ones((8, 8, 1), np.uint8)), 3 * t, axis=1)
                values[name] = np.ascontiguousarray(np.resize(picture, (shape[0], picture.shape[1], 3))[:, : shape[1]])
            else:
                values[name] = rng.normal(size=shape).astype(np.float32)
        found.append(values)
    return found


def timed(run: Callable[[], float], episodes: int) -> Cost:
    """Of ``run``, which returns the seconds that the loop waited."""
    wall, processor = time.perf_counter(), time.process_time()
    loop = run()
    return Cost(
        loop / episodes,
        (time.perf_counter() - wall) / episodes,
        (time.process_time() - processor) / episodes,
    )


def ours(root: Path, declared: dict[str, Any], frames: list[dict[str, Any]], episodes: int) -> Cost:
    with Recorder.open(root, features=declared, fps=30, robot_type="bench", task=TASK, settings={}) as recorder:

        def run() -> float:
            loop = 0.0
            for _ in range(episodes):
                began = time.perf_counter()
                for frame in frames:
                    recorder.add(frame)
                recorder.save(success=True, facts={})
                loop += time.perf_counter() - began
            recorder.flush()
            return loop

        return timed(run, episodes)


def lerobots(root: Path, declared: dict[str, Any], frames: list[dict[str, Any]], episodes: int) -> Cost:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    own = {n: {"dtype": d, "shape": (1,), "names": None} for n, d in recorded_columns(judged=True).items()}
    every = declared | own
    pictures = any(f["dtype"] == "video" for f in declared.values())
    dataset = LeRobotDataset.create(
        "bench",
        30,
        every,
        root=root,
        use_videos=pictures,
        rgb_encoder=RGBEncoderConfig(**DEFAULT_ENCODER),
        streaming_encoding=True,
        encoder_queue_maxsize=10_000,
        encoder_threads=1,
        video_backend="pyav",
    )

    def run() -> float:
        loop = 0.0
        for _ in range(episodes):
            began = time.perf_counter()
            for frame in frames:
                values = {**frame, "next.done": False, "next.success": False}
                for name, feature in every.items():
                    if feature["dtype"] != "video":
                        values[name] = np.asarray(values[name], dtype=feature["dtype"]).reshape(feature["shape"])
                dataset.add_frame({**values, "task": TASK})
            dataset.save_episode()
            loop += time.perf_counter() - began
        dataset.finalize()
        return loop

    return timed(run, episodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for cameras in (0, 2):
        declared = features(cameras, 240, 320)
        frames = episode(declared, args.frames)
        found: dict[str, list[Cost]] = {"ours": [], "LeRobot": []}
        for number in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder, lerobot_quietly(Path(folder) / "scratch"):
                for name, record in (("ours", ours), ("LeRobot", lerobots)):
                    root = Path(folder) / f"{name}-{number}"
                    found[name].append(record(root, declared, frames, args.episodes))
                    shutil.rmtree(root)
        print(f"{args.frames} frames, {cameras} cameras of 320x240 (best of {args.rounds} rounds, seconds an episode)")
        best = {}
        for name, costs in found.items():
            best[name] = Cost(*(min(getattr(c, k) for c in costs) for k in ("loop", "wall", "processor")))
            b = best[name]
            print(f"  {name:8} loop {b.loop:.3f}  until written {b.wall:.3f}  processor {b.processor:.3f}")
        a, b = best["ours"], best["LeRobot"]
        print(f"  of LeRobot's: loop {a.loop / b.loop:.2f}, processor {a.processor / b.processor:.2f}")


if __name__ == "__main__":
    main()
