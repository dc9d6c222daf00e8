"""A LeRobot v3.0 dataset of one episode around a video file, which is linked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CAMERA = "observation.images.front"


def video_set(root: Path, video: Path, frames: int | None = None) -> Path:
    """Write it; ``frames`` cuts the episode."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from igrft.dataset.parquet import write_json
    from igrft.dataset.video import probe

    facts = probe(video)
    count = frames or facts.frames
    frame = np.arange(count)
    table = {
        "timestamp": (frame / facts.fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.zeros(count, np.int64),
        "index": frame,
        "task_index": np.zeros(count, np.int64),
    }
    episodes: dict[str, Any] = {
        "episode_index": [0],
        "tasks": [["move things"]],
        "length": [count],
        "data/chunk_index": [0],
        "data/file_index": [0],
        "dataset_from_index": [0],
        "dataset_to_index": [count],
        f"videos/{CAMERA}/chunk_index": [0],
        f"videos/{CAMERA}/file_index": [0],
        f"videos/{CAMERA}/from_timestamp": [0.0],
        f"videos/{CAMERA}/to_timestamp": [count / facts.fps],
    }
    for name, content in (
        ("data/chunk-000/file-000.parquet", table),
        ("meta/episodes/chunk-000/file-000.parquet", episodes),
        ("meta/tasks.parquet", {"task_index": [0], "task": ["move things"]}),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(content), root / name)
    camera = {"dtype": "video", "shape": [facts.height, facts.width, 3], "names": ["height", "width", "channels"]}
    plain = {n: {"dtype": str(v.dtype), "shape": [1], "names": None} for n, v in table.items()}
    info = {
        "codebase_version": "v3.0",
        "fps": facts.fps,
        "total_episodes": 1,
        "total_frames": count,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {CAMERA: camera, **plain},
    }
    write_json(root / "meta/info.json", info)
    link = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(video.resolve())
    return root
