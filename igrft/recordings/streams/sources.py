"""The recordings of a source, by its format, and how its streams become features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from igrft.errors import EpisodeError, UsageError
from igrft.extras import require
from igrft.recordings.detect import MCAP, ROBOMIMIC, ROSBAG, VIDEOS, ZARR, hdf5_files
from igrft.recordings.options import Options, listing
from igrft.recordings.streams.model import Mapping, Recording
from igrft.resources import find


def open_source(form: str, place: Path, options: Options) -> tuple[Sequence[Recording], Mapping]:
    """Recordings at ``place`` in the order in which they become episodes, and their mapping.

    Raises:
        UsageError: a package is missing, or a mapping, or it cannot be read.
    """
    from igrft.recordings.streams.mapping import load_mapping

    mapping = load_mapping(find("mappings", options.mapping)) if options.mapping else None
    fps = options.fps or (mapping.fps if mapping else None)
    if form == ZARR:
        from igrft.recordings.streams.zarr_source import zarr_path, zarr_recordings

        require(place.name, "zarr")
        path = zarr_path(place)
        assert path is not None, "detect() saw one"
        return zarr_recordings(path, mapping, fps)
    if form == ROBOMIMIC:
        from igrft.recordings.streams.robomimic_source import robomimic_recordings

        return robomimic_recordings(hdf5_files(place), mapping, fps)
    if form == VIDEOS:
        from igrft.recordings.streams.video_source import video_recordings

        return video_recordings(place, mapping)
    return _bags(form, place, mapping)


def unmapped(form: str, place: Path, options: Options) -> Recording | None:
    """The first readable recording where there should be a mapping and is none, else None.

    Raises:
        UsageError: a package is missing. EpisodeError: no recording can be read.
    """
    from igrft.recordings.streams.bag_source import BagRecording, bag_paths
    from igrft.recordings.streams.bags import open_bag

    if options.mapping or form not in (MCAP, ROSBAG):
        return None
    require(f"{place.name} ({form})", "mcap" if form == MCAP else "ros")
    paths = bag_paths(place)
    for number, path in enumerate(paths):
        try:
            with open_bag(path):
                return BagRecording(path, Mapping(features=()))
        except EpisodeError:
            if number == len(paths) - 1:
                raise
    return None


def _bags(form: str, place: Path, mapping: Mapping | None) -> tuple[Sequence[Recording], Mapping]:
    from igrft.recordings.streams.bag_source import BagRecording, bag_paths

    require(f"{place.name} ({form})", "mcap" if form == MCAP else "ros")
    paths = bag_paths(place)
    if mapping is None:
        raise UsageError(f"{place.name} holds topics, and which become what must be said: {_topics(paths)}")
    return [BagRecording(path, mapping) for path in paths], mapping


def _topics(paths: list[Path]) -> str:
    """What the first readable bag holds, and the mapping that fits it."""
    from igrft.recordings.streams.bags import open_bag

    for path in paths:
        try:
            with open_bag(path) as bag:
                topics = {name: topic.msgtype for name, topic in sorted(bag.topics.items())}
        except EpisodeError:
            continue
        fit = "galaxea" if any(name.startswith("/hdas/") for name in topics) else "FILE.yaml"
        return f"give --mapping {fit}; found {listing([f'{name} ({kind})' for name, kind in topics.items()], 12)}"
    return "give --mapping FILE.yaml"
