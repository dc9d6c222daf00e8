"""LeRobot v1 (arrow files below ``train``, one mp4 an episode and camera), laid out as v2.0 and then taken as that.

v1 kept ``meta_data/info.json`` (``fps``), the rows of all episodes as arrow files of `datasets`, pictures as ``{path,
timestamp}`` of a video or as embedded files, and no task: ``--task`` gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from igrft import columns as c
from igrft.dataset.files import INFO, read_json, to_numpy
from igrft.dataset.links import link_or_copy
from igrft.dataset.parquet import write_json, write_table
from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.detect import find_v1
from igrft.recordings.legacy import convert_lerobot
from igrft.recordings.legacy_source import EPISODES, TASKS, write_jsonl
from igrft.recordings.options import Options, Outcome
from igrft.recordings.video_facts import video_facts

_DATA = "data/chunk-000/episode_{:06d}.parquet"
_VIDEO = "videos/chunk-000/{}/episode_{:06d}.mp4"
#: Where v1 kept the bounds of an episode on each of its rows; they are those of the rows themselves.
_BOUNDS = ("episode_data_index_from", "episode_data_index_to")


def convert_v1(root: Path, work: Path, options: Options, warn: Callable[[str], None]) -> Outcome:
    """Convert the v1 dataset at ``root`` (or in a folder below) inside the folder ``work``.

    Raises:
        IgrftError: metadata or arrow files that cannot be read, or no episode that can be converted.
    """
    base = find_v1(root)
    assert base is not None, "detect() saw one"
    layout = work / "v1"
    _lay_out(base, layout, options)
    if options.task is None:
        warn("LeRobot v1 keeps no task; give it with --task='what the robot does', where policies are told one")
    return convert_lerobot(layout, work, options, warn)


def _lay_out(base: Path, layout: Path, options: Options) -> None:
    info = read_json(base / "meta_data/info.json")
    fps = info.get("fps") if isinstance(info, dict) else None
    if not isinstance(fps, int | float) or not fps > 0:
        raise IgrftError(f"{base / 'meta_data/info.json'} has no number under 'fps'; restore it")
    features: dict[str, Any] = {}
    episodes: list[dict[str, Any]] = []
    task = options.task or ""
    for index, table in read_episodes(base):
        table = _without(table, _BOUNDS)
        for name in [n for n in table.column_names if _is_video(table.schema.field(n).type)]:
            path = _video_of(table, name, base)
            if path is not None:
                features.setdefault(name, _video_feature(path))
                link_or_copy(path, layout / _VIDEO.format(name, index))
            table = _without(table, (name,))
        if c.TASK_INDEX not in table.column_names:
            table = table.append_column(c.TASK_INDEX, pa.array(np.zeros(table.num_rows, np.int64)))
        for field in table.schema:
            features.setdefault(field.name, _feature(field, table))
        path = layout / _DATA.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, table)
        episodes.append({"episode_index": index, "tasks": [task], "length": table.num_rows})
    (layout / "meta").mkdir(parents=True, exist_ok=True)
    write_jsonl(layout / EPISODES, episodes)
    write_jsonl(layout / TASKS, [{"task_index": 0, "task": task}])
    facts = {
        "codebase_version": "v2.0",
        "robot_type": options.robot_type or "unknown",
        "fps": fps,
        "total_episodes": len(episodes),
        "total_frames": sum(e["length"] for e in episodes),
        "total_tasks": 1,
        "chunks_size": max(len(episodes), 1000),
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    write_json(layout / INFO, facts)


def read_episodes(base: Path) -> Iterator[tuple[int, pa.Table]]:
    """(episode index, its rows), one after another; the arrow files are mapped, not read."""
    tables = []
    for path in _shards(base):
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(path))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise IgrftError(f"{path} cannot be read ({error}); restore it from where the dataset came from") from None
    rows = pa.concat_tables(tables)
    if c.EPISODE_INDEX not in rows.column_names or not rows.num_rows:
        raise IgrftError(f"{base / 'train'} holds no rows with an {c.EPISODE_INDEX}; there is nothing to convert")
    rows = rows.replace_schema_metadata(None)
    index = to_numpy(rows.column(c.EPISODE_INDEX))
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
    if len(np.unique(index[starts])) != len(starts):
        raise IgrftError(f"{base / 'train'}: the rows of an episode do not stand together; the dataset is damaged")
    for start, end in zip(starts, [*starts[1:], len(index)], strict=True):
        yield int(index[start]), rows.slice(int(start), int(end - start))


def _shards(base: Path) -> list[Path]:
    """The arrow files in the order that ``state.json`` gives them, else by name."""
    state = base / "train/state.json"
    listed = read_json(state).get("_data_files") if state.is_file() else None
    if listed:
        paths = [base / "train" / PurePosixPath(str(entry.get("filename"))).name for entry in listed]
        missing = next((p for p in paths if not p.is_file()), None)
        if missing is not None:
            raise IgrftError(f"{missing} is missing; restore it from where the dataset came from")
        return paths
    return sorted((base / "train").glob("*.arrow"))


def _is_video(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {f.name for f in kind} == {"path", "timestamp"}


def _video_of(table: pa.Table, name: str, base: Path) -> Path | None:
    """The episode's video; None where there is none, so that the episode is set aside with its reason."""
    named = {entry["path"] for entry in table.column(name).to_pylist() if entry}
    if len(named) != 1:
        return None
    path = base / "videos" / PurePosixPath(named.pop()).name
    return path if path.is_file() else None


def _video_feature(path: Path) -> dict[str, Any]:
    try:
        facts = video_facts(path)
    except EpisodeError as error:
        raise IgrftError(f"{path}: {error}; restore it from where the dataset came from") from None
    return {"dtype": "video", "shape": [facts.height, facts.width, 3], "names": ["height", "width", "channels"]}


def _feature(field: pa.Field, table: pa.Table) -> dict[str, Any]:
    """How v2 declares a column: its number of values a frame, and of what kind."""
    kind = field.type
    if pa.types.is_struct(kind):
        from igrft.recordings.pictures import embedded_pictures

        height, width, channels = next(iter(embedded_pictures(table.column(field.name), [0], field.name))).shape
        return {"dtype": "image", "shape": [height, width, channels], "names": ["height", "width", "channels"]}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        width = len(table.column(field.name)[0].as_py() or [])
        return {"dtype": _dtype(kind.value_type), "shape": [width], "names": None}
    return {"dtype": _dtype(kind), "shape": [1], "names": None}


def _dtype(kind: pa.DataType) -> str:
    names = {pa.float32(): "float32", pa.float64(): "float64", pa.bool_(): "bool", pa.string(): "string"}
    return names.get(kind) or str(kind)


def _without(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    return table.drop_columns([n for n in names if n in table.column_names])
