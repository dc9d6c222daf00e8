"""Small LeRobot v3.0 datasets made of pictures given as arrays, and real ones under v3.0 metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft.dataset.parquet import write_json
from igrft.dataset.reader import DatasetReader

CAMERA = "observation.images.front"


def encode(
    path: Path, pictures: Sequence[np.ndarray], *, fps: int = 30, codec: str = "libx264", **options: Any
) -> Path:
    """Write uint8 [h, w] or [h, w, 3] pictures as a video. ``skip``: frames to leave out, a gap in time."""
    skip = options.pop("skip", ())
    pixels = options.pop("pixels", "yuv420p")
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {"libx264": {"crf": "12", "g": "8"}, "libsvtav1": {"crf": "20", "g": "2"}}.get(codec, {})
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=defaults | options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.time_base = Fraction(1, fps)
        for i, picture in enumerate(pictures):
            if i in skip:
                continue
            rgb = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture_set(
    root: Path,
    episodes: Sequence[Sequence[np.ndarray]],
    *,
    fps: int = 30,
    dtype: str = "video",
    codec: str = "libx264",
    camera: str = CAMERA,
    **options: Any,
) -> DatasetReader:
    """A dataset of one camera whose episodes share one mp4 (or hold PNG in parquet, ``dtype="image"``)."""
    lengths = [len(e) for e in episodes]
    flat = [p for e in episodes for p in e]
    feature: dict[str, Any] = {
        "dtype": dtype,
        "shape": [*flat[0].shape[:2], 3],
        "names": ["height", "width", "channels"],
    }
    if dtype == "video":
        name = {"libsvtav1": "av1", "libx264": "h264"}.get(codec, codec)
        feature["info"] = {"video.codec": name, "video.fps": fps, "video.is_depth_map": False}
        encode(root / f"videos/{camera}/chunk-000/file-000.mp4", flat, fps=fps, codec=codec, **options)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    table: dict[str, Any] = _plain_columns(lengths, fps)
    if dtype == "image":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table[camera] = pa.array([{"bytes": _png(p), "path": f"frame-{i:06d}.png"} for i, p in enumerate(flat)], kind)
    episode_rows: dict[str, Any] = {}
    if dtype == "video":
        episode_rows = {
            f"videos/{camera}/chunk_index": [0] * len(lengths),
            f"videos/{camera}/file_index": [0] * len(lengths),
            f"videos/{camera}/from_timestamp": [float(s) / fps for s in starts[:-1]],
            f"videos/{camera}/to_timestamp": [float(s) / fps for s in starts[1:]],
        }
    return write_set(root, table, lengths, {camera: feature}, fps, episode_rows)


def write_set(
    root: Path,
    table: dict[str, Any],
    lengths: Sequence[int],
    cameras: dict[str, Any],
    fps: float,
    episode_rows: dict[str, Any],
) -> DatasetReader:
    """Metadata and one data file."""
    features = {**cameras, "timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    for name in ("frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v3.0",
        "fps": fps,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    write_json(root / "meta/info.json", info)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = {
        "episode_index": list(range(len(lengths))),
        "tasks": [["move the square"]] * len(lengths),
        "length": list(lengths),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
        "dataset_from_index": starts[:-1].tolist(),
        "dataset_to_index": starts[1:].tolist(),
        **episode_rows,
    }
    for path, content in (
        ("meta/episodes/chunk-000/file-000.parquet", rows),
        ("data/chunk-000/file-000.parquet", table),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(content), root / path)
    pq.write_table(pa.table({"task_index": [0], "task": ["move the square"]}), root / "meta/tasks.parquet")
    return DatasetReader.open(root)


def real_set(shared: Path, name: str, root: Path, episodes: int | None = None) -> DatasetReader:
    """A v2.x set of ../shared/data under v3.0 metadata, its videos linked: no conversion, no copy."""
    source = shared / name
    info = json.loads((source / "meta/info.json").read_text())
    lines = (source / "meta/episodes.jsonl").read_text().splitlines()[:episodes]
    lengths = [json.loads(line)["length"] for line in lines]
    cameras: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for camera in sorted(p.name for p in (source / "videos/chunk-000").iterdir()):
        cameras[camera] = info["features"][camera]
        (root / f"videos/{camera}/chunk-000").mkdir(parents=True)
        for i in range(len(lengths)):
            link = root / f"videos/{camera}/chunk-000/file-{i:03d}.mp4"
            link.symlink_to(source / f"videos/chunk-000/{camera}/episode_{i:06d}.mp4")
        rows |= {
            f"videos/{camera}/chunk_index": [0] * len(lengths),
            f"videos/{camera}/file_index": list(range(len(lengths))),
            f"videos/{camera}/from_timestamp": [0.0] * len(lengths),
            f"videos/{camera}/to_timestamp": [n / info["fps"] for n in lengths],
        }
    return write_set(root, _plain_columns(lengths, info["fps"]), lengths, cameras, info["fps"], rows)


def _plain_columns(lengths: Sequence[int], fps: float) -> dict[str, Any]:
    frame = np.concatenate([np.arange(n) for n in lengths])
    return {
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(sum(lengths)),
        "task_index": np.zeros(sum(lengths), np.int64),
    }


def _png(picture: np.ndarray) -> bytes:
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr)[1].tobytes()


def texture(width: int, height: int, seed: int = 0, grain: int = 6) -> np.ndarray:
    """A random texture that optical flow can hold on to: uint8 [h, w]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // grain + 2, width // grain + 2), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def square_over_background(
    count: int,
    *,
    size: tuple[int, int] = (640, 480),
    side: int = 120,
    step: tuple[float, float] = (4, 0),
    pan: tuple[float, float] = (0, 0),
    start: tuple[int, int] = (200, 180),
) -> list[np.ndarray]:
    """A textured square moving by ``step`` pixels a frame over a background that moves by ``pan``."""
    width, height = size
    margin = 200
    wide = texture(width + 2 * margin, height + 2 * margin, seed=1)
    patch = texture(side, side, seed=2)
    pictures = []
    for f in range(count):
        x, y = round(margin - pan[0] * f), round(margin - pan[1] * f)
        picture = wide[y : y + height, x : x + width].copy()
        left, top = round(start[0] + step[0] * f), round(start[1] + step[1] * f)
        picture[top : top + side, left : left + side] = patch
        pictures.append(picture)
    return pictures
