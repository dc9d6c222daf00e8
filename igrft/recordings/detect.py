"""Finds out by looking what a folder of recordings is."""

from __future__ import annotations

from pathlib import Path

from igrft.dataset.files import INFO, dataset_version
from igrft.errors import IgrftError, UsageError, did_you_mean

LEROBOT_V20 = "lerobot-v2.0"
LEROBOT_V21 = "lerobot-v2.1"
LEROBOT_V30 = "lerobot-v3.0"
LEROBOT_V1 = "lerobot-v1"
ALOHA = "aloha-hdf5"
#: As ALOHA, but the JPEGs were made from BGR arrays, so that any viewer shows them in true colours.
ALOHA_BGR = "aloha-hdf5-bgr"

#: One or many bags; the topics are given by a mapping.
MCAP = "mcap"
ROSBAG = "rosbag"
#: A replay buffer of diffusion policy or UMI.
ZARR = "zarr"
ROBOMIMIC = "robomimic-hdf5"
#: A folder of videos with tables of states and actions.
VIDEOS = "videos"

#: Not found by looking: a source that is written as ``metaworld:TASK``.
METAWORLD = "metaworld"

#: What ``--format`` may be.
FORMATS = (LEROBOT_V1, LEROBOT_V20, LEROBOT_V21, ALOHA, ALOHA_BGR, MCAP, ROSBAG, ZARR, ROBOMIMIC, VIDEOS)

#: Those of timed streams, which are aligned and can be mapped.
STREAMS = (MCAP, ROSBAG, ZARR, ROBOMIMIC, VIDEOS)

HDF5_SUFFIXES = (".hdf5", ".h5")


def is_simulation(source: str | Path) -> bool:
    """Whether ``source`` names a simulation instead of a place."""
    return str(source).startswith(f"{METAWORLD}:")


def hdf5_files(source: Path) -> list[Path]:
    """HDF5 files of ``source`` (a folder, or one file), ``episode_2`` before ``episode_10``."""
    if source.is_file():
        return [source] if source.suffix.lower() in HDF5_SUFFIXES else []
    found = [p for p in source.iterdir() if p.suffix.lower() in HDF5_SUFFIXES and p.is_file()]
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[int, str]:
    digits = "".join(ch if ch.isdigit() else " " for ch in path.stem).split()
    return (int(digits[-1]) if digits else -1, path.name)


def detect(source: Path, insisted: str | None = None) -> str:
    """The format of the recordings at ``source``: one of :data:`FORMATS`.

    Args:
        source: an existing folder or file.
        insisted: ``--format``; what is found there must then be readable as that.

    Raises:
        UsageError: ``insisted`` is no format.
        IgrftError: nothing that can be converted; the message says what it is and what to do.
    """
    if insisted is not None:
        return _insist(source, insisted)
    found = _look(source)
    if found == LEROBOT_V30:
        raise IgrftError(f"{source} is a LeRobot v3.0 dataset already; run: igrft annotate {source} TARGET")
    if found is None:
        raise IgrftError(
            f"{source} holds no recording that igrft knows (looked for {INFO} of LeRobot, *.hdf5 "
            f"of ALOHA and robomimic, replay buffers in zarr, MCAP files, ROS bags, "
            f"and videos with CSV or parquet tables){_deeper(source)}"
        )
    return found


def _insist(source: Path, insisted: str) -> str:
    if insisted not in FORMATS:
        raise UsageError(f"unknown format {insisted!r}{did_you_mean(insisted, FORMATS)}")
    lerobot = insisted in (LEROBOT_V20, LEROBOT_V21)
    if lerobot and not (source / INFO).is_file():
        raise IgrftError(f"{source} has no {INFO}, so it is not {insisted}; leave --format out to see what it is")
    if insisted in STREAMS:
        if (_hdf5(source) if insisted == ROBOMIMIC else _other(source)) != insisted:
            raise IgrftError(f"{source} holds nothing of the kind {insisted}; leave --format out to see what it is")
        return insisted
    if insisted == LEROBOT_V1:
        if find_v1(source) is None:
            raise IgrftError(f"{source} has no train/*.arrow beside meta_data, so it is not {insisted}")
        return insisted
    if not lerobot and not hdf5_files(source):
        raise IgrftError(f"{source} holds no *.hdf5, so it is not {insisted}; leave --format out to see what it is")
    return insisted


def _look(source: Path) -> str | None:
    if source.is_file():
        return _hdf5(source) or _other(source)
    version = dataset_version(source)
    if version is not None:
        by_version = {"v2.0": LEROBOT_V20, "v2.1": LEROBOT_V21}
        if version.startswith("v3."):
            return LEROBOT_V30
        if version not in by_version:
            raise IgrftError(
                f"{source / INFO} says codebase_version {version!r}, which igrft cannot convert; "
                f"known: {', '.join(by_version)} (--format insists on one of them)"
            )
        return by_version[version]
    if find_v1(source):
        return LEROBOT_V1
    return _hdf5(source) or _other(source)


def _hdf5(source: Path) -> str | None:
    """robomimic keeps many demonstrations in a file, ALOHA one."""
    from igrft.recordings.streams.robomimic_source import is_robomimic

    files = hdf5_files(source)
    if not files:
        return None
    return ROBOMIMIC if any(is_robomimic(path) for path in files[:10]) else ALOHA


def _other(source: Path) -> str | None:
    """A replay buffer, bags, or videos with tables."""
    from igrft.recordings.streams.video_source import tables_of
    from igrft.recordings.streams.zarr_source import zarr_path

    if zarr_path(source) is not None:
        return ZARR
    return _bags(source) or (VIDEOS if tables_of(source) else None)


def _bags(source: Path) -> str | None:
    """MCAP where there are MCAP files only, ROSBAG where there is any bag of ROS's own."""
    from igrft.recordings.streams.bag_source import bag_paths

    kinds = {path.suffix.lower() == ".mcap" and path.is_file() for path in bag_paths(source)}
    return None if not kinds else MCAP if kinds == {True} else ROSBAG


def find_v1(folder: Path) -> Path | None:
    """The LeRobot v1 dataset at ``folder`` or one below it, else None: arrow files in ``train``, and ``meta_data``."""
    if not folder.is_dir():
        return None
    for base in (folder, *(p for p in sorted(folder.iterdir())[:20] if p.is_dir())):
        if (base / "meta_data").is_dir() and any((base / "train").glob("*.arrow")):
            return base
    return None


def _deeper(source: Path) -> str:
    """A hint where the recordings lie one folder below."""
    if not source.is_dir():
        return ""
    for below in sorted(source.iterdir())[:100]:
        if below.is_dir() and ((below / INFO).is_file() or hdf5_files(below) or _bags(below)):
            return f"; did you mean {below}?"
    return "; give the folder that holds them"
