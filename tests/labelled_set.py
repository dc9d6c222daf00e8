"""Makes a small labelled dataset from scratch, as `igrft annotate` would leave it.

Four episodes in two data files: a success, a failure with a subtask unfinished and one never begun,
one that was set aside, and a success with a retry. One camera, in two mp4 files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft import columns as c
from igrft.dataset.parquet import DataWriter, with_pandas_index, write_json
from igrft.rewards import combine, return_to_go, subtask_rewards, subtask_weights, trajectory_rewards

CAMERA = "observation.images.top"
FPS = 10
SIZE = (64, 48)
TASK = "put the cube into the box"
NAMES = ["reach", "grasp", "place"]
REASON = "episode 2: the video of observation.images.top ends at frame 7; restore it from the source"
PIXEL_THRESHOLD = 400.0

#: episode -> (frames, success, [(name, start, end, done)]); None where it was set aside.
EPISODES: dict[int, tuple[int, bool, list[tuple[str, int, int, bool]] | None]] = {
    0: (40, True, [("reach", 0, 12, True), ("grasp", 12, 25, True), ("place", 25, 40, True)]),
    1: (30, False, [("reach", 0, 10, True), ("grasp", 10, 30, False), ("place", 30, 30, False)]),
    2: (25, True, None),
    3: (50, True, [("reach", 0, 10, True), ("grasp", 10, 20, False), ("grasp", 20, 35, True), ("place", 35, 50, True)]),
}
DATA_FILES = ([0, 1], [2, 3])
VIDEO_FILES = ([0, 1, 2], [3])


def make_labelled_set(root: Path, *, discount: float = 1.0, labels: bool = True, videos: bool = True) -> Path:
    """Write the set to ``root`` and return it; ``labels=False`` leaves the label columns out."""
    features = _features(labels, videos)
    starts = np.concatenate([[0], np.cumsum([e[0] for e in EPISODES.values()])])
    frames = {i: _recording(i, int(starts[i])) for i in EPISODES}
    record: dict[str, Any] = {}
    if labels:
        for i in EPISODES:
            made, entry = _labels(i, discount)
            frames[i].update(made)
            record[str(i)] = entry
    names = [n for n in features if n != CAMERA]
    schema = pa.schema([pa.field(n, _arrow(features[n], n)) for n in names])
    for number, held in enumerate(DATA_FILES):
        with DataWriter(root / f"data/chunk-000/file-{number:03d}.parquet", schema) as writer:
            for i in held:
                arrays = [to_arrow(frames[i][n], schema.field(n).type) for n in names]
                writer.write(pa.Table.from_arrays(arrays, schema=schema), [EPISODES[i][0]])
    _write_meta(root, features, frames, starts, record, discount, labels, videos)
    if videos:
        for number, held in enumerate(VIDEO_FILES):
            pictures = [picture for i in held for picture in _pictures(i)]
            encode(root / f"videos/{CAMERA}/chunk-000/file-{number:03d}.mp4", pictures)
    return root


def to_arrow(values: Any, kind: pa.DataType) -> pa.Array:
    """An Arrow array; pyarrow builds no nested extension types from Python values by itself."""
    if kind != c.language_type():
        return pa.array(values, type=kind)
    leaves = [row for rows in values for row in rows]
    fields = [kind.value_type.field(i) for i in range(kind.value_type.num_fields)]
    children = [
        pa.nulls(len(leaves), f.type) if f.name == "tool_calls" else pa.array([r[f.name] for r in leaves], type=f.type)
        for f in fields
    ]
    offsets = np.concatenate([[0], np.cumsum([len(rows) for rows in values])])
    return pa.ListArray.from_arrays(
        offsets.astype(np.int32), pa.StructArray.from_arrays(children, fields=fields), type=kind
    )


def encode(path: Path, pictures: list[np.ndarray], codec: str = "libx264") -> None:
    """Write RGB pictures [H, W, 3] as an mp4 at FPS."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _pictures(episode: int) -> list[np.ndarray]:
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    out = []
    for f in range(EPISODES[episode][0]):
        picture = np.stack([60 + x, 90 + y, np.full_like(x, 120)], axis=-1).astype(np.uint8)
        left = 5 + (f * 40) // EPISODES[episode][0]
        picture[15:30, left : left + 14] = (230, 60 + 40 * episode, 40)
        out.append(picture)
    return out


def _features(labels: bool, videos: bool) -> dict[str, Any]:
    one = {"shape": [1], "names": None}
    features: dict[str, Any] = {
        c.STATE: {"dtype": "float32", "shape": [3], "names": ["x", "y", "gripper"]},
        c.ACTION: {"dtype": "float32", "shape": [3], "names": ["x", "y", "gripper"]},
    }
    if videos:
        features[CAMERA] = {
            "dtype": "video",
            "shape": [SIZE[1], SIZE[0], 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": SIZE[1],
                "video.width": SIZE[0],
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": FPS,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    features[c.TIMESTAMP] = {"dtype": "float32", **one}
    for name in (c.FRAME_INDEX, c.EPISODE_INDEX, c.INDEX, c.TASK_INDEX):
        features[name] = {"dtype": "int64", **one}
    if labels:
        made = [n for n in _LABEL_NAMES if videos or n not in (c.INTERACTION, c.INTERACTION_PIXELS)]
        features |= {name: c.LABELS[name].feature for name in made}
    return features


_LABEL_NAMES = (
    c.SUBTASK_INDEX,
    c.LANGUAGE_PERSISTENT,
    c.INTERACTION,
    c.INTERACTION_PIXELS,
    c.REWARD_TRAJECTORY,
    c.REWARD_SUBTASK,
    c.REWARD,
    c.RETURN_TRAJECTORY,
    c.RETURN_SUBTASK,
    c.RETURN,
    c.DONE,
    c.SUCCESS,
)


def _arrow(feature: dict[str, Any], name: str) -> pa.DataType:
    if name in c.LABELS:
        return c.arrow_type(name)
    kind = {"float32": pa.float32(), "int64": pa.int64()}[feature["dtype"]]
    return kind if feature["shape"] == [1] else pa.list_(kind)


def _recording(episode: int, start: int) -> dict[str, Any]:
    length = EPISODES[episode][0]
    f = np.arange(length)
    state = np.stack([np.sin(f / 7 + episode), np.cos(f / 9), (f > length // 2)], axis=1).astype(np.float32)
    return {
        c.STATE: list(state),
        c.ACTION: list(np.roll(state, -1, axis=0)),
        c.TIMESTAMP: (f / FPS).astype(np.float32),
        c.FRAME_INDEX: f,
        c.EPISODE_INDEX: np.full(length, episode),
        c.INDEX: f + start,
        c.TASK_INDEX: np.zeros(length, dtype=np.int64),
    }


def _labels(episode: int, discount: float) -> tuple[dict[str, Any], dict[str, Any]]:
    length, success, segments = EPISODES[episode]
    if segments is None:
        unset = {n: np.full(length, c.LABELS[n].unset) for n in _LABEL_NAMES if n != c.LANGUAGE_PERSISTENT}
        return {**unset, c.LANGUAGE_PERSISTENT: [[] for _ in range(length)]}, {"set_aside": REASON}
    names, starts, ends, done = (list(x) for x in zip(*segments, strict=True))
    weights = subtask_weights(names, done)
    trajectory = trajectory_rewards(length, success)
    subtask = subtask_rewards(length, ends, weights, done)
    reward = combine(trajectory, subtask)
    f = np.arange(length)
    pixels = np.round(2000 * np.exp(-(((f - length * 0.6) / (length * 0.15)) ** 2)) + 30 * (f % 7)).astype(np.float32)
    last = f == length - 1
    rows = [
        {
            "role": c.SUBTASK_ROLE,
            "content": n,
            "style": c.SUBTASK_STYLE,
            "timestamp": s / FPS,
            "camera": None,
            "tool_calls": None,
        }
        for n, s, e, _ in segments
        if e > s
    ]
    interaction = pixels > PIXEL_THRESHOLD
    made = {
        c.SUBTASK_INDEX: np.repeat([NAMES.index(n) for n in names], np.subtract(ends, starts)),
        c.LANGUAGE_PERSISTENT: [rows] * length,
        c.INTERACTION: interaction,
        c.INTERACTION_PIXELS: pixels,
        c.REWARD_TRAJECTORY: trajectory.astype(np.float32),
        c.REWARD_SUBTASK: subtask.astype(np.float32),
        c.REWARD: reward.astype(np.float32),
        c.RETURN_TRAJECTORY: return_to_go(trajectory, discount).astype(np.float32),
        c.RETURN_SUBTASK: return_to_go(subtask, discount).astype(np.float32),
        c.RETURN: return_to_go(reward, discount).astype(np.float32),
        c.DONE: last,
        c.SUCCESS: last & success,
    }
    listed = [
        {"name": n, "start": s, "end": e, "done": d, "weight": float(w)}
        for (n, s, e, d), w in zip(segments, weights, strict=True)
    ]
    entry = {
        "success": success,
        "success_from": "file",
        "subtasks": listed,
        "interaction": {
            "camera": CAMERA,
            "camera_motion": "static",
            "share": float(interaction.mean()),
            "inlier_share": 0.99,
        },
    }
    return made, entry


def _write_meta(
    root: Path,
    features: dict[str, Any],
    frames: dict[int, dict[str, Any]],
    starts: np.ndarray,
    record: dict[str, Any],
    discount: float,
    labels: bool,
    videos: bool,
) -> None:
    lengths = {i: e[0] for i, e in EPISODES.items()}
    write_json(
        root / "meta/info.json",
        {
            "codebase_version": "v3.0",
            "fps": FPS,
            "features": features,
            "total_episodes": len(lengths),
            "total_frames": sum(lengths.values()),
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "robot_type": "testbot",
            "splits": {"train": f"0:{len(lengths)}"},
        },
    )
    tasks = pa.table({"task_index": [0], "task": [TASK]})
    (root / "meta").mkdir(exist_ok=True)
    pq.write_table(with_pandas_index(tasks, "task"), root / "meta/tasks.parquet")
    table: dict[str, Any] = {
        "episode_index": list(lengths),
        "tasks": [[TASK]] * len(lengths),
        "length": list(lengths.values()),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [next(n for n, held in enumerate(DATA_FILES) if i in held) for i in lengths],
        "dataset_from_index": [int(starts[i]) for i in lengths],
        "dataset_to_index": [int(starts[i + 1]) for i in lengths],
    }
    if videos:
        table |= _video_columns(lengths)
    stats, columns = _statistics(features, frames, labels)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table | columns), path)
    write_json(root / "meta/stats.json", stats)
    if not labels:
        return
    subtasks = pa.table({c.SUBTASK_INDEX: list(range(len(NAMES))), "subtask": NAMES})
    pq.write_table(with_pandas_index(subtasks, "subtask"), root / "meta/subtasks.parquet")
    write_json(root / "meta/igrft.json", _igrft(record, discount, [n for n in features if n in c.LABELS]))


def _video_columns(lengths: dict[int, int]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {k: [] for k in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")}
    for number, held in enumerate(VIDEO_FILES):
        at = 0
        for i in held:
            out["chunk_index"].append(0)
            out["file_index"].append(number)
            out["from_timestamp"].append(at / FPS)
            out["to_timestamp"].append((at + lengths[i]) / FPS)
            at += lengths[i]
    return {f"videos/{CAMERA}/{k}": v for k, v in out.items()}


def _statistics(
    features: dict[str, Any], frames: dict[int, dict[str, Any]], labels: bool
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """meta/stats.json and the stats/ columns; an episode set aside counts in no statistic."""
    stats: dict[str, Any] = {}
    columns: dict[str, list[Any]] = {}
    for name, feature in features.items():
        if name == CAMERA:
            parts = {
                k: np.full((len(frames), 3, 1, 1), 0.5)
                for k in ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")
            }
            parts["count"] = np.full((len(frames), 1), 10)
            held = list(frames)
        elif feature["dtype"] == "language":
            continue
        else:
            held = [i for i in frames if not labels or EPISODES[i][2] is not None]
            each = []
            for i in held:
                values = np.asarray(frames[i][name], dtype=np.float64).reshape(EPISODES[i][0], -1)
                each.append(_summary(values))
            parts = {k: np.stack([e[k] for e in each]) for k in each[0]}
        stats[name] = {k: v.tolist() for k, v in _pooled(parts).items()}
        for k, values in parts.items():
            by_episode = dict(zip(held, values.tolist(), strict=True))
            columns[f"stats/{name}/{k}"] = [by_episode.get(i) for i in frames]
    return stats, columns


def _summary(values: np.ndarray) -> dict[str, np.ndarray]:
    quantiles = {f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
    basic = {k: getattr(np, k)(values, axis=0) for k in ("min", "max", "mean", "std")}
    return {**basic, "count": np.array([len(values)]), **quantiles}


def _pooled(parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = parts["count"].astype(float)
    share = (count / count.sum()).reshape(-1, *([1] * (parts["mean"].ndim - 1)))
    mean = (parts["mean"] * share).sum(axis=0)
    out = {k: (v * share).sum(axis=0) for k, v in parts.items() if k.startswith("q")}
    out |= {"min": parts["min"].min(axis=0), "max": parts["max"].max(axis=0), "mean": mean}
    out["std"] = np.sqrt(((parts["std"] ** 2 + (parts["mean"] - mean) ** 2) * share).sum(axis=0))
    return out | {"count": parts["count"].sum(axis=0)}


def _igrft(record: dict[str, Any], discount: float, columns: list[str]) -> dict[str, Any]:
    return {
        "igrft_version": "0.1.0",
        "packages": {"numpy": np.__version__},
        "source": {"name": "testset", "fingerprint": "0" * 16},
        "pipeline": {
            "name": "offline",
            "steps": [
                {"type": "subtasks", "source": "file"},
                {
                    "type": "interaction",
                    "camera": CAMERA,
                    "flow": "dis",
                    "flow_threshold": 2.0,
                    "pixel_threshold": PIXEL_THRESHOLD,
                },
                {
                    "type": "rewards",
                    "sharpness": 0.02,
                    "normalise": "joint",
                    "weights": "uniform",
                    "trajectory_weight": 0.4,
                    "subtask_weight": 0.6,
                },
                {"type": "returns", "discount": discount},
            ],
        },
        "columns": columns,
        "episodes": record,
        "convert": {},
    }
