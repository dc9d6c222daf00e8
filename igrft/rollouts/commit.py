"""How an episode joins a dataset, and leaves it: at every instant LeRobot opens what is complete.

One episode is one file of each kind, numbered like the episode. LeRobot reads every parquet file that lies there,
but counts episodes by ``meta/info.json``: rows beyond are never asked for. So files come first, ``info.json``
last, each by one rename, and the episode is complete from that last rename on. Taking an episode back goes the
other way round. What a crash leaves beyond ``info.json`` is removed by :func:`trim`. A dataset of no episode is
none (LeRobot cannot open it): the first episode brings the folder, in one rename.

What a rename must not outrun is synced to the disk before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from igrft.dataset.files import DATA_PATH, INFO, STATS, VIDEO_PATH, read_json
from igrft.dataset.parquet import write_json
from igrft.rollouts.facts import ROLLOUT, RolloutRecord, read_rollout
from igrft.rollouts.statistics import EpisodeStatistics

EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
#: Files of a folder, LeRobot's number.
CHUNKS_SIZE = 1000


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


def publish(tree: Path, root: Path) -> None:
    """Put the files of one episode, prepared under ``tree`` by their names in the dataset, into the dataset.

    Args:
        tree: on the file system of ``root``; holds ``meta/info.json`` that counts the episode, ``meta/stats.json``
            and ``meta/igrft_rollout.json`` with it, and its own files. All of the dataset where ``root`` is absent.

    Raises:
        OSError: the episode is complete if ``meta/info.json`` at ``root`` counts it, and not otherwise.
    """
    files = [p for p in tree.rglob("*") if p.is_file()]
    for path in files:
        _sync(path)
    if not exists(root):
        for folder in [tree, *(p for p in tree.rglob("*") if p.is_dir())]:
            _sync(folder)
        root.parent.mkdir(parents=True, exist_ok=True)
        tree.rename(root)
        _sync(root.parent)
        return
    ordered = sorted((p.relative_to(tree) for p in files), key=_rank)
    _move(tree, root, [p for p in ordered if p != Path(INFO)])
    _move(tree, root, [Path(INFO)])


def _rank(relative: Path) -> tuple[int, str]:
    """Readers look from the end of this order to its beginning."""
    kinds = ("videos/", "data/", ROLLOUT, "meta/episodes/", STATS, INFO)
    name = relative.as_posix()
    return next((i for i, kind in enumerate(kinds) if name.startswith(kind)), 0), name


def _move(tree: Path, root: Path, files: Iterable[Path]) -> None:
    changed: dict[Path, None] = {}
    for relative in files:
        folder = (root / relative).parent
        if not folder.is_dir():
            folder.mkdir(parents=True)
            changed.update(dict.fromkeys(p for p in folder.parents if p == root or root in p.parents))
        os.replace(tree / relative, root / relative)
        changed[folder] = None
    for folder in changed:
        _sync(folder)


def take_back(root: Path, scratch: Path) -> None:
    """Take the last complete episode out of the dataset; with the only one the folder goes.

    Args:
        scratch: folder on the same file system, to prepare files in.
    """
    info = read_json(root / INFO)
    complete = int(info["total_episodes"]) - 1
    if complete < 1:
        root.rename(scratch / "dropped")
        _sync(root.parent)
        return
    last = read_json(root / ROLLOUT)["episodes"][complete]
    _replace_json(root / INFO, counted(info, complete, int(info["total_frames"]) - int(last["frames"])), scratch)
    trim(root, scratch)


def counted(info: dict[str, Any], episodes: int, frames: int) -> dict[str, Any]:
    """``meta/info.json`` for another number of episodes."""
    counts = {"total_episodes": episodes, "total_frames": frames, "splits": {"train": f"0:{episodes}"}}
    return {**info, **counts}


def trim(root: Path, scratch: Path) -> bool:
    """Remove all that lies beyond the complete episodes; True where there was anything."""
    complete = int(read_json(root / INFO)["total_episodes"])
    # Whoever finds an episode by its row must find its files.
    beyond = [p for folder in ("meta/episodes", "data", "videos") for p in _beyond(root / folder, complete)]
    for path in beyond:
        path.unlink()
    for folder in dict.fromkeys(p.parent for p in beyond):
        _sync(folder)
    changed = bool(beyond)
    record = read_json(root / ROLLOUT)
    if len(record["episodes"]) > complete:
        _replace_json(root / ROLLOUT, read_rollout(root).to_json(), scratch)
        changed = True
    statistics = EpisodeStatistics.read(root).totals()
    if not (root / STATS).is_file() or read_json(root / STATS) != statistics:
        _replace_json(root / STATS, statistics, scratch)
        changed = True
    return changed


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


def prepare(tree: Path, info: dict[str, Any], record: RolloutRecord, statistics: dict[str, Any]) -> None:
    """Write the three files that speak of all episodes into the tree of a commit."""
    write_json(tree / ROLLOUT, record.to_json())
    write_json(tree / STATS, statistics)
    write_json(tree / INFO, info)


def _replace_json(path: Path, value: Any, scratch: Path) -> None:
    prepared = scratch / path.name
    write_json(prepared, value)
    _sync(prepared)
    os.replace(prepared, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a pulled plug."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
