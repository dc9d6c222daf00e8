"""Makes small recordings to convert, whole ones and broken ones, and looks at what came of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TASK = "put the cube into the box"
CAMERAS = ("observation.images.top", "observation.images.side")
QUANTILES = {"q01", "q10", "q50", "q90", "q99"}
SHAPE = (48, 64)


def picture(episode: int, frame: int, camera: int = 0) -> np.ndarray:
    """A picture, uint8 [H, W, 3], that tells episode, frame and camera apart after lossy encoding."""
    out = np.zeros((*SHAPE, 3), np.uint8)
    out[:16] = 40 + 50 * (episode % 5)
    out[16:32] = 5 * (frame % 50)
    out[32:] = 200 if camera else 60
    out[:, :8] = (220, 20, 20)
    return out


def write_video(path: Path, pictures: list[np.ndarray], fps: float = 10, codec: str = "libx264") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "4", "crf": "10"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, array in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_legacy(
    root: Path,
    *,
    lengths: tuple[int, ...] = (12, 9, 15),
    fps: float = 10,
    version: str = "v2.1",
    cameras: tuple[str, ...] = CAMERAS,
    columns: Callable[[int, dict[str, Any]], dict[str, Any]] = lambda episode, columns: columns,
    info: Callable[[dict[str, Any]], None] = lambda info: None,
) -> Path:
    """Write a LeRobot v2.x dataset.

    Args:
        columns: changes the columns of an episode before they are written.
        info: changes ``meta/info.json`` before it is written.
    """
    (root / "meta").mkdir(parents=True)
    rng = np.random.default_rng(0)
    first = 0
    for episode, length in enumerate(lengths):
        frame = np.arange(length)
        values = {
            "observation.state": list(rng.normal(size=(length, 3)).astype(np.float32)),
            "action": list(rng.normal(size=(length, 2)).astype(np.float32)),
            "timestamp": (frame / fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, episode),
            "index": first + frame,
            "task_index": np.zeros(length, np.int64),
        }
        path = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(episode, values)), path)
        for number, camera in enumerate(cameras):
            shots = [picture(episode, t, number) for t in range(max(length, 1))]
            write_video(video_file(root, camera, episode), shots, fps)
        first += length
    scalar = {"shape": [1], "names": None}
    described = {
        "codebase_version": version,
        "robot_type": "toy",
        "total_episodes": len(lengths),
        "total_frames": first,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            "observation.state": {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]},
            "action": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
            **{
                camera: {"dtype": "video", "shape": [*SHAPE, 3], "names": ["height", "width", "channels"]}
                for camera in cameras
            },
            "timestamp": {"dtype": "float32", **scalar},
            **{k: {"dtype": "int64", **scalar} for k in ("frame_index", "episode_index", "index", "task_index")},
        },
    }
    info(described)
    (root / "meta/info.json").write_text(json.dumps(described))
    records = [{"episode_index": i, "tasks": [TASK], "length": n} for i, n in enumerate(lengths)]
    write_lines(root / "meta/episodes.jsonl", records)
    write_lines(root / "meta/tasks.jsonl", [{"task_index": 0, "task": TASK}])
    return root


def write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def video_file(root: Path, camera: str, episode: int) -> Path:
    return root / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"


def data_file(root: Path, episode: int) -> Path:
    return root / f"data/chunk-000/episode_{episode:06d}.parquet"


def write_aloha(path: Path, length: int = 6, *, episode: int = 0, compress: bool = False, **attributes: Any) -> Path:
    """Write an ALOHA episode with two cameras; ``compress`` makes JPEGs as ALOHA does, RGB and all."""
    import cv2
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        rng = np.random.default_rng(episode)
        for name in ("action", "observations/qpos", "observations/qvel"):
            file[name] = rng.normal(size=(length, 14)).astype(np.float32)
        for number, camera in enumerate(("top", "wrist")):
            shots = [picture(episode, t, number) for t in range(length)]
            if compress:
                coded = [cv2.imencode(".jpg", s, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].ravel() for s in shots]
                longest = max((len(row) for row in coded), default=0)
                shots = [np.pad(row, (0, longest - len(row))) for row in coded]
            file[f"observations/images/{camera}"] = np.array(shots, dtype=np.uint8)
        file.attrs.update({"sim": False, "compress": compress, **attributes})
    return path


def tree_digest(root: Path) -> dict[str, str]:
    """SHA-256 of every file under ``root``, by its name."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def decoded(path: Path) -> list[np.ndarray]:
    """Every picture of a video, RGB uint8 [H, W, 3], by PyAV alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(container.streams.video[0])]


def igrft_json(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/igrft.json").read_text())["convert"]


def info_json(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/info.json").read_text())


def stats_json(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/stats.json").read_text())


def rows(root: Path) -> pa.Table:
    """All rows of a converted dataset."""
    return pa.concat_tables([pq.read_table(p) for p in sorted((root / "data").glob("*/*.parquet"))])


def row_groups(root: Path) -> list[int]:
    """Rows of every row group of a converted dataset."""
    out: list[int] = []
    for path in sorted((root / "data").glob("*/*.parquet")):
        with pq.ParquetFile(path) as file:
            out += [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    return out


def open_in_lerobot(root: Path, **options: Any) -> Any:
    """The dataset as LeRobot reads it, with PyAV."""
    from lerobot.datasets import LeRobotDataset

    return LeRobotDataset("igrft/test", root=root, video_backend="pyav", **options)


def shown(item: dict[str, Any], camera: str) -> np.ndarray:
    """The picture in an item of LeRobot's dataset as uint8 [H, W, 3]."""
    return (item[camera].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def convert_safely(source: Path, target: Path, **options: Any) -> Any:
    """Convert, and hold that the source keeps every byte and no staging folder is left."""
    from igrft.recordings.convert import convert

    before = tree_digest(source)
    try:
        return convert(source, target, progress=False, **options)
    finally:
        assert tree_digest(source) == before
        assert not target.with_name(target.name + ".staging").exists()


def check_episodes(target: Path, kept: list[int], lengths: list[int]) -> None:
    """The target holds the source's episodes ``kept``, numbered anew, each with its own pictures and rows."""
    table = rows(target)
    total = sum(lengths)
    assert row_groups(target) == lengths
    assert table["index"].to_pylist() == list(range(total))
    assert table["episode_index"].to_pylist() == list(np.repeat(np.arange(len(kept)), lengths))
    assert table["frame_index"].to_pylist() == [t for n in lengths for t in range(n)]
    info = info_json(target)
    assert (info["total_episodes"], info["total_frames"]) == (len(kept), total)
    dataset = open_in_lerobot(target)
    first = 0
    for source_index, length in zip(kept, lengths, strict=True):
        for camera in dataset.meta.camera_keys:
            for frame in (0, length - 1):
                found = shown(dataset[first + frame], camera).astype(int)
                expected = picture(source_index, frame, CAMERAS.index(camera))
                assert np.abs(found - expected)[4:-4:8, 16:].max() < 14
        first += length


def without(*names: str) -> Any:
    """For :func:`write_legacy`: leaves columns out."""
    return lambda episode, columns: {k: v for k, v in columns.items() if k not in names}
