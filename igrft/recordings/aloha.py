"""ALOHA-style HDF5 episodes to LeRobot v3.0, written by LeRobot's own recorder."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.progress import progress
from igrft.recordings.aloha_file import (
    ACTION,
    EFFORT,
    QPOS,
    QVEL,
    AlohaEpisode,
    AlohaLayout,
    describe_difference,
    frames,
    look,
    require_h5py,
)
from igrft.recordings.detect import ALOHA_BGR, hdf5_files
from igrft.recordings.finish import correct_video_starts
from igrft.recordings.options import Options, Outcome, listing
from igrft.recordings.quiet import is_disk_full, lerobot_quietly

#: ACT records at this rate; its files do not say so.
DEFAULT_FPS = 50

#: With less room than this, in bytes, a failure to write is put down to the disk.
_NEARLY_FULL = 1 << 24

#: LeRobot's names of ALOHA's columns.
COLUMNS = {ACTION: c.ACTION, QPOS: c.STATE, QVEL: c.VELOCITY, EFFORT: c.EFFORT}

_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_ALOHA_MOTORS = [f"{side}_{joint}" for side in ("left", "right") for joint in _JOINTS]


def convert_aloha(
    root: Path, work: Path, options: Options, warn: Callable[[str], None], *, bgr_jpeg: bool = False
) -> Outcome:
    """Convert the HDF5 episodes at ``root`` (a folder, or one file) inside the folder ``work``.

    Raises:
        IgrftError: h5py is absent, or no episode can be converted.
        UsageError: no task, or a frame rate that cannot be encoded.
    """
    require_h5py()
    files = hdf5_files(root)
    set_aside: dict[str, str] = {}
    episodes = survey_files(files, set_aside)
    if not episodes:
        raise nothing_left(root, set_aside)
    layout = episodes[0].layout
    fps = frame_rate(options.fps, layout.fps, warn)
    tasks = [_task(e, options.task) for e in episodes]
    successes = _successes(episodes, warn)
    _warn_of(episodes, bgr_jpeg, warn)

    target = work / "dataset"
    kept: list[AlohaEpisode] = []
    with lerobot_quietly(work / "scratch"), ExitStack() as stack:
        dataset = _create(target, fps, layout, options.robot_type, success=successes is not None)
        # Ends LeRobot's threads when this fails; does nothing after finalize().
        stack.callback(_stop_writing, dataset)
        total = sum(e.length for e in episodes)
        with progress("convert", len(episodes), total, show=options.progress) as advance:
            for number, episode in enumerate(episodes):
                success = successes[number] if successes is not None else None
                try:
                    _add(dataset, episode, tasks[number], success, bgr_jpeg)
                    kept.append(episode)
                except EpisodeError as error:
                    dataset.clear_episode_buffer()
                    set_aside[episode.path.name] = str(error)
                advance(1, episode.length)
        if kept:
            dataset.finalize()
        else:
            raise nothing_left(root, set_aside)
    # LeRobot leaves the folders of the pictures that it encoded.
    shutil.rmtree(target / "images", ignore_errors=True)
    reader = DatasetReader.open(target)
    cameras = [c.IMAGE_PREFIX + name for name, _, _ in layout.cameras]
    correct_video_starts(reader, {(k, i): e.length for k in cameras for i, e in enumerate(kept)})
    return Outcome(
        dataset=target,
        kept=[e.path.name for e in kept],
        frames=sum(e.length for e in kept),
        set_aside={path.name: set_aside[path.name] for path in files if path.name in set_aside},
    )


def survey_files(files: list[Path], set_aside: dict[str, str]) -> list[AlohaEpisode]:
    """Episodes that can be read and are laid out as most are."""
    found: list[AlohaEpisode] = []
    for path in files:
        try:
            found.append(look(path))
        except EpisodeError as error:
            set_aside[path.name] = str(error)
    if not found:
        return []
    common = Counter(e.layout for e in found).most_common(1)[0][0]
    for episode in found:
        if episode.layout != common:
            set_aside[episode.path.name] = describe_difference(episode.layout, common)
    return [e for e in found if e.layout == common]


def frame_rate(given: float | None, recorded: float | None, warn: Callable[[str], None]) -> int:
    if given is None and recorded is None:
        warn(f"the files do not say their frame rate, so ACT's {DEFAULT_FPS} is taken; give --fps if that is wrong")
        return DEFAULT_FPS
    if given is not None and recorded is not None and given != recorded:
        warn(f"--fps {given:g} is taken, where the files say {recorded:g}")
    fps = given if given is not None else recorded
    assert fps is not None
    if fps != int(fps) or fps < 1:
        raise UsageError(f"LeRobot encodes videos at whole frame rates, and this is {fps:g}; give a whole --fps")
    return int(fps)


def _task(episode: AlohaEpisode, given: str | None) -> str:
    task = given or episode.task
    if not task:
        raise UsageError(f"{episode.path.name} does not say what its task is; give --task 'what the robot does'")
    return task


def _successes(episodes: list[AlohaEpisode], warn: Callable[[str], None]) -> list[bool] | None:
    """Success of each episode, or None where no file says."""
    if all(e.success is None for e in episodes):
        return None
    silent = [e.path.name for e in episodes if e.success is None]
    if silent:
        warn(f"without the attribute success, so taken for successes: {listing(silent)}")
    return [e.success is not False for e in episodes]


def _warn_of(episodes: list[AlohaEpisode], bgr_jpeg: bool, warn: Callable[[str], None]) -> None:
    if any(e.compressed for e in episodes) and not bgr_jpeg:
        warn(
            "JPEG pictures are read as ALOHA writes them (RGB given to cv2.imencode); if red and blue come out "
            f"swapped, convert again with --format {ALOHA_BGR}"
        )
    unread = sorted({name for e in episodes for name in e.unread})
    if unread:
        warn(f"not converted, being no part of ALOHA's layout: {listing(unread)}")


def _create(target: Path, fps: int, layout: AlohaLayout, robot_type: str | None, *, success: bool) -> Any:
    from lerobot.datasets import LeRobotDataset

    features: dict[str, dict[str, Any]] = {}
    for name, width in layout.widths:
        names = _ALOHA_MOTORS if width == len(_ALOHA_MOTORS) else [f"motor_{i}" for i in range(width)]
        features[COLUMNS[name]] = {"dtype": "float32", "shape": (width,), "names": list(names)}
    for name, height, width in layout.cameras:
        features[c.IMAGE_PREFIX + name] = {
            "dtype": "video",
            "shape": (height, width, 3),
            "names": ["height", "width", "channels"],
        }
    if success:
        features[c.SUCCESS] = {"dtype": "bool", "shape": (1,), "names": None}
    return LeRobotDataset.create(
        repo_id="igrft/convert",
        fps=fps,
        features=features,
        root=target,
        robot_type=robot_type or "aloha",
        image_writer_threads=4,
    )


def _stop_writing(dataset: Any) -> None:
    if dataset.writer is not None:
        dataset.writer.stop_image_writer()
        dataset.writer.close_writer()


def _add(dataset: Any, episode: AlohaEpisode, task: str, success: bool | None, bgr_jpeg: bool) -> None:
    for t, frame in enumerate(frames(episode, bgr_jpeg=bgr_jpeg)):
        row: dict[str, Any] = {COLUMNS[name]: values for name, values in frame.numbers.items()}
        row |= {c.IMAGE_PREFIX + name: picture for name, picture in frame.pictures.items()}
        if success is not None:
            row[c.SUCCESS] = np.array([success and t == episode.length - 1])
        dataset.add_frame({**row, "task": task})
    try:
        # One encoder at a time: it uses all cores itself.
        dataset.save_episode(parallel_encoding=False)
    except Exception as error:
        if is_disk_full(error) or shutil.disk_usage(dataset.root).free < _NEARLY_FULL:
            # LeRobot logs a picture that it could not write and goes on; it misses it only here.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise IgrftError(f"LeRobot could not write {episode.path.name} ({type(error).__name__}: {error})") from error


def nothing_left(root: Path, set_aside: dict[str, str]) -> IgrftError:
    name, reason = next(iter(set_aside.items()))
    return IgrftError(f"{root}: none of {len(set_aside)} episodes can be converted; {name}: {reason}")
