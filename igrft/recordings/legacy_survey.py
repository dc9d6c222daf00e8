"""A first look at every file of a LeRobot v2.x dataset: what there is, and what can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from igrft.errors import EpisodeError
from igrft.recordings.legacy_source import LegacySource
from igrft.recordings.options import listing
from igrft.recordings.video_facts import VideoFacts, unreadable, video_facts


@dataclass
class Survey:
    """What was found.

    Attributes:
        cameras: video features that have files, in the order declared.
        facts: of each camera, what (most of) its files are.
        schemas: by source episode, its parquet file and that file's schema.
        videos: by source episode and camera.
        set_aside: reason by source episode, so far.
    """

    cameras: list[str] = field(default_factory=list)
    facts: dict[str, VideoFacts] = field(default_factory=dict)
    schemas: dict[int, tuple[Path, pa.Schema]] = field(default_factory=dict)
    videos: dict[tuple[int, str], Path] = field(default_factory=dict)
    set_aside: dict[int, str] = field(default_factory=dict)


def survey(source: LegacySource, warn: Callable[[str], None]) -> Survey:
    """Find the files of every episode and open their headers; nothing is decoded."""
    found = Survey()
    for episode in source.episodes:
        path = source.data_path(episode.index)
        if path is None:
            found.set_aside[episode.index] = "it has no parquet file"
            continue
        try:
            found.schemas[episode.index] = (path, pq.read_schema(path))
        except (pa.ArrowException, OSError) as error:
            found.set_aside[episode.index] = str(unreadable(path, error))
    for camera in source.cameras:
        _find_videos(source, camera, found, warn)
    for camera in found.cameras:
        _compare_videos(source, camera, found, warn)
    return found


def _find_videos(source: LegacySource, camera: str, found: Survey, warn: Callable[[str], None]) -> None:
    paths = {e.index: source.video_path(e.index, camera) for e in source.episodes}
    if not any(paths.values()):
        warn(f"{camera} is declared and has no file in any episode, so it is dropped")
        return
    found.cameras.append(camera)
    for index, path in paths.items():
        if path is None:
            found.set_aside.setdefault(index, f"it has no video of {camera}, which other episodes have")
        else:
            found.videos[index, camera] = path


def _compare_videos(source: LegacySource, camera: str, found: Survey, warn: Callable[[str], None]) -> None:
    """Settle what the camera's files are, and set aside the odd ones: they cannot be joined as they are."""
    facts: dict[int, VideoFacts] = {}
    for episode in source.episodes:
        if (episode.index, camera) in found.videos:
            try:
                facts[episode.index] = video_facts(found.videos[episode.index, camera])
            except EpisodeError as error:
                found.set_aside.setdefault(episode.index, f"{camera}: {error}")
    if not facts:
        return
    common = Counter(facts.values()).most_common(1)[0][0]
    found.facts[camera] = common
    for index, fact in facts.items():
        if fact != common:
            found.set_aside.setdefault(
                index, f"{camera}: its video is {fact} where most are {common}; files that differ cannot be joined"
            )
    declared = source.features[camera].get("info") or source.features[camera].get("video_info") or {}
    pairs = {
        "codec": (_codec(declared.get("video.codec")), common.codec),
        "width": (declared.get("video.width"), common.width),
        "height": (declared.get("video.height"), common.height),
    }
    wrong = [f"{key} {said} (it is {real})" for key, (said, real) in pairs.items() if said is not None and said != real]
    if wrong:
        warn(f"{camera}: meta/info.json declares {listing(wrong)}; corrected")


#: Encoders' names, which older recorders wrote where the codec's belongs.
_ENCODERS = {
    "libsvtav1": "av1",
    "libaom-av1": "av1",
    "libx264": "h264",
    "avc1": "h264",
    "libx265": "hevc",
    "h265": "hevc",
}


def _codec(declared: object) -> object:
    return _ENCODERS.get(str(declared), declared)
