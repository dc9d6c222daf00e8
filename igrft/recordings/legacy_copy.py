"""Writes the copy of a LeRobot v2.x dataset on which LeRobot's converter then works.

The copy is what the converter wants: v2.1, episodes numbered without gaps, every declared file
there, statistics complete. Files that need no change are linked.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igrft.dataset.files import INFO
from igrft.dataset.links import link_or_copy
from igrft.dataset.parquet import write_json, write_table
from igrft.recordings.legacy_rows import Rows
from igrft.recordings.legacy_source import (
    EPISODES,
    EPISODES_STATS,
    STATS,
    TASKS,
    LegacySource,
    SourceEpisode,
    write_jsonl,
)
from igrft.recordings.statistics import EpisodeStatistics, as_json
from igrft.recordings.video_facts import VideoFacts

_CHUNK = 1000
_DATA = "data/chunk-{chunk:03d}/episode_{episode:06d}.parquet"
_VIDEO = "videos/chunk-{chunk:03d}/{camera}/episode_{episode:06d}.mp4"
#: Written anew in v3.0's form.
_REPLACED = {Path(p).name for p in (INFO, EPISODES, EPISODES_STATS, TASKS, STATS)}


class LegacyCopy:
    """The copy, growing an episode at a time; :meth:`finish` makes it complete."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: list[dict[str, Any]] = []
        self.statistics: list[dict[str, Any]] = []
        self.frames = 0
        (root / "meta").mkdir(parents=True)

    @property
    def episodes(self) -> int:
        return len(self.records)

    def add(
        self,
        episode: SourceEpisode,
        parquet: Path,
        rows: Rows,
        videos: Mapping[str, Path],
        tasks: list[str],
        statistics: EpisodeStatistics,
    ) -> None:
        """Append an episode: its rows (from ``parquet`` where unchanged), videos by camera, tasks, statistics."""
        index = self.episodes
        place = {"chunk": index // _CHUNK, "episode": index}
        target = self.root / _DATA.format(**place)
        if rows.changed:
            write_table(target, rows.table)
        else:
            link_or_copy(parquet, target)
        for camera, path in videos.items():
            link_or_copy(path, self.root / _VIDEO.format(camera=camera, **place))
        record = {**episode.record, "episode_index": index, "tasks": tasks, "length": rows.table.num_rows}
        self.records.append(record)
        self.frames += rows.table.num_rows
        self.statistics.append({"episode_index": index, "stats": as_json(statistics)})

    def finish(
        self,
        source: LegacySource,
        features: Mapping[str, dict[str, Any]],
        facts: Mapping[str, VideoFacts],
        tasks: list[str],
        splits: dict[str, str],
        robot_type: str | None,
    ) -> None:
        """Write the metadata, and take over what else the source keeps with its data."""
        # Keys that only some episodes have would be lost or refused: the converter makes columns of them.
        keys = list(dict.fromkeys(key for record in self.records for key in record))
        write_jsonl(self.root / EPISODES, ({key: record.get(key) for key in keys} for record in self.records))
        write_jsonl(self.root / EPISODES_STATS, self.statistics)
        write_jsonl(self.root / TASKS, ({"task_index": i, "task": t} for i, t in enumerate(tasks)))
        cameras = [k for k, f in features.items() if f["dtype"] == "video"]
        info = {
            **source.info,
            "codebase_version": "v2.1",
            "robot_type": robot_type or source.info.get("robot_type"),
            # The converter cuts the frame rate to a whole number; what is recorded is put back afterwards.
            "fps": max(int(source.fps), 1),
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(tasks),
            "total_videos": self.episodes * len(cameras),
            "total_chunks": (self.episodes + _CHUNK - 1) // _CHUNK,
            "chunks_size": _CHUNK,
            "splits": splits,
            "data_path": _DATA.replace("{chunk:", "{episode_chunk:").replace("{episode:", "{episode_index:"),
            "video_path": None,
            "features": {k: _described(f, facts.get(k), source.fps) for k, f in features.items()},
        }
        if cameras:
            info["video_path"] = _VIDEO.replace("{chunk:", "{episode_chunk:").replace("{camera}", "{video_key}")
            info["video_path"] = info["video_path"].replace("{episode:", "{episode_index:")
        write_json(self.root / INFO, info)


def _described(feature: dict[str, Any], facts: VideoFacts | None, fps: float) -> dict[str, Any]:
    """A video feature with what its files are; others as they stand."""
    if facts is None:
        return feature
    info = dict(feature.get("info") or {})
    info.update(
        {
            "video.height": facts.height,
            "video.width": facts.width,
            "video.codec": facts.codec,
            "video.pix_fmt": facts.pix_fmt,
        }
    )
    info.setdefault("video.fps", fps)
    info.setdefault("video.is_depth_map", False)
    info.setdefault("has_audio", False)
    shape, names = [facts.height, facts.width, 3], ["height", "width", "channels"]
    if sorted(feature["shape"]) == sorted(shape):
        shape, names = feature["shape"], feature["names"] or names
    return {**feature, "shape": shape, "names": names, "info": info}


def copy_extras(source: Path, target: Path) -> None:
    """Licences, and files in ``meta`` that other tools keep there (GR00T's modality.json)."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE", "COPYING")):
            shutil.copyfile(path, target / path.name)
    for path in sorted((source / "meta").iterdir()):
        if path.is_file() and path.name not in _REPLACED and not path.name.startswith("."):
            shutil.copyfile(path, target / "meta" / path.name)


def remapped_splits(declared: object, kept: list[int]) -> dict[str, str]:
    """Splits (``{"train": "0:90"}``) after episodes were left out; all of it is ``train`` where none make sense.

    Args:
        kept: source indices that were kept, ascending.
    """
    out: dict[str, str] = {}
    for name, window in (declared if isinstance(declared, Mapping) else {}).items():
        try:
            start, stop = (int(part) for part in str(window).split(":"))
        except ValueError:
            continue
        low = sum(i < start for i in kept)
        high = sum(i < stop for i in kept)
        if high > low:
            out[str(name)] = f"{low}:{high}"
    return out or {"train": f"0:{len(kept)}"}
