"""How an episode joins a dataset, and leaves it: at every instant LeRobot opens what is complete.

One episode is one file of each kind, numbered like the episode. LeRobot reads every parquet file that lies there,
but counts episodes by ``meta/info.json``: rows beyond are never asked for. So files come first, ``info.json``
last, each by one rename, and the episode is complete from that last rename on. Taking an episode back goes the
other way round. What a crash leaves beyond ``info.json`` is removed by :func:`trim`. A dataset of no episode is
none (LeRobot cannot open it): the first episode brings the folder, in one rename.

What a rename must not outrun is synced to the disk before it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from igrft.dataset.files import DATA_PATH, INFO, STATS, TASKS, VIDEO_PATH, read_json
from igrft.dataset.locks import sync
from igrft.dataset.parquet import write_json
from igrft.rollouts.facts import ROLLOUT, RolloutRecord, read_rollout
from igrft.rollouts.statistics import DatasetStatistics

EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
#: Files of a folder, LeRobot's number.
CHUNKS_SIZE = 1000
#: Where files lie now, by their places in the dataset.
Files = dict[str, Path]


def place(index: int) -> dict[str, int]:
    """Chunk and file of an episode."""
    return {"chunk_index": index // CHUNKS_SIZE, "file_index": index % CHUNKS_SIZE}


def data_path(index: int) -> str:
    return DATA_PATH.format(**place(index))


def episodes_path(index: int) -> str:
    return EPISODES_PATH.format(**place(index))


def video_path(camera: str, index: int) -> str:
    return VIDEO_PATH.format(video_key=camera, **place(index))


def exists(root: Path) -> bool:
    """Whether a dataset, or anything else, is at ``root``. An empty folder is nothing."""
    return root.exists() and (not root.is_dir() or any(root.iterdir()))


def publish(files: Files, root: Path, scratch: Path) -> None:
    """Put the files of one more episode into the dataset, or make the dataset of it where ``root`` is absent.

    Args:
        files: where each lies now, by its place in the dataset, on the file system of ``root``: the episode's own,
            and ``meta/info.json``, ``meta/stats.json`` and ``meta/igrft_rollout.json`` that count it.
        scratch: folder on the same file system.

    Raises:
        OSError: the episode is complete if ``meta/info.json`` at ``root`` counts it, and not otherwise.
    """
    for path in files.values():
        sync(path)
    ordered = sorted(files, key=_rank)
    if exists(root):
        _move(files, root, [name for name in ordered if name != INFO])
        _move(files, root, [INFO])
        return
    tree = scratch / "first"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    _move(files, tree, ordered)
    root.parent.mkdir(parents=True, exist_ok=True)
    tree.rename(root)
    # Its parents may be as new as it is.
    for folder in root.parents:
        with contextlib.suppress(PermissionError):
            sync(folder)


def _rank(name: str) -> tuple[int, str]:
    """Readers look from the end of this order to its beginning."""
    kinds = ("videos/", "data/", TASKS, ROLLOUT, "meta/episodes/", STATS, INFO)
    return next(i for i, kind in enumerate(kinds) if name.startswith(kind)), name


def _move(files: Files, root: Path, names: Iterable[str]) -> None:
    """Give files their places under ``root``, one by one, and make that last."""
    changed: dict[Path, None] = {}
    for name in names:
        folder = (root / name).parent
        if not folder.is_dir():
            folder.mkdir(parents=True)
            changed.update(dict.fromkeys(p for p in folder.parents if p == root or root in p.parents))
        os.replace(files[name], root / name)
        changed[folder] = None
    for folder in changed:
        sync(folder)


def take_back(root: Path, scratch: Path) -> DatasetStatistics:
    """Take the last complete episode out of the dataset; with the only one the folder goes.

    Args:
        scratch: folder on the same file system, to prepare files in.

    Returns:
        Statistics of the episodes that stay.
    """
    info = read_json(root / INFO)
    complete = int(info["total_episodes"]) - 1
    if complete < 1:
        root.rename(scratch / "dropped")
        sync(root.parent)
        return DatasetStatistics()
    last = read_json(root / ROLLOUT)["episodes"][complete]
    _replace_json(root / INFO, counted(info, complete, int(info["total_frames"]) - int(last["frames"])), scratch)
    return trim(root, scratch)


def counted(info: dict[str, Any], episodes: int, frames: int) -> dict[str, Any]:
    """``meta/info.json`` for another number of episodes."""
    counts = {"total_episodes": episodes, "total_frames": frames, "total_tasks": 1}
    return {**info, **counts, "splits": {"train": f"0:{episodes}"}}


def trim(root: Path, scratch: Path) -> DatasetStatistics:
    """Remove all that lies beyond the complete episodes; statistics of those that stay."""
    complete = int(read_json(root / INFO)["total_episodes"])
    # Whoever finds an episode by its row must find its files.
    beyond = [p for folder in ("meta/episodes", "data", "videos") for p in _beyond(root / folder, complete)]
    for path in beyond:
        path.unlink()
    for folder in dict.fromkeys(p.parent for p in beyond):
        sync(folder)
    record = read_json(root / ROLLOUT)
    if len(record["episodes"]) > complete:
        _replace_json(root / ROLLOUT, read_rollout(root).to_json(), scratch)
    statistics = DatasetStatistics.read(root)
    totals = statistics.totals()
    if not (root / STATS).is_file() or read_json(root / STATS) != totals:
        _replace_json(root / STATS, totals, scratch)
    return statistics


def _beyond(folder: Path, complete: int) -> Iterator[Path]:
    """Files under ``folder`` of episodes that do not count, the last first."""
    found = []
    for path in folder.rglob("chunk-*/file-*"):
        chunk, number = path.parent.name.removeprefix("chunk-"), path.stem.removeprefix("file-")
        if chunk.isdecimal() and number.isdecimal():
            index = int(chunk) * CHUNKS_SIZE + int(number)
            if index >= complete:
                found.append((index, path))
    yield from (path for _, path in sorted(found, reverse=True))


def prepare(folder: Path, info: dict[str, Any], record: RolloutRecord, statistics: dict[str, Any]) -> Files:
    """Write the three files that speak of all episodes to ``folder``."""
    values = {ROLLOUT: record.to_json(), STATS: statistics, INFO: info}
    for name, value in values.items():
        write_json(folder / Path(name).name, value)
    return {name: folder / Path(name).name for name in values}


def _replace_json(path: Path, value: Any, scratch: Path) -> None:
    prepared = scratch / path.name
    write_json(prepared, value)
    sync(prepared)
    os.replace(prepared, path)
    sync(path.parent)
