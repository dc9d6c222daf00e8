"""robomimic's HDF5: ``/data/demo_N`` with ``actions`` and ``obs/NAME``, many demonstrations in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.errors import EpisodeError, UsageError
from igrft.recordings.aloha_file import require_h5py
from igrft.recordings.streams.array_source import ArrayRecording, arrays_of, is_pictures
from igrft.recordings.streams.model import Facts, Feature, Mapping, Part, file_identity

#: What robomimic's own policies see of a robot, in its order.
_STATE = ("eef_pos", "eef_quat", "gripper_qpos")
_OBJECT = "obs/object"


def is_robomimic(path: Path) -> bool:
    """Whether an HDF5 file holds robomimic's demonstrations; false also where it cannot be read."""
    try:
        import h5py

        with h5py.File(path, "r") as file:
            return "data" in file and any(name.startswith("demo") for name in file["data"])
    except (ImportError, OSError, RuntimeError, KeyError, AttributeError):
        return False


@contextmanager
def _arrays(path: Path, demo: str) -> Iterator[dict[str, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        group = file[f"data/{demo}"]

        def add(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim and not name.startswith("next_obs/"):
                found[name] = item

        group.visititems(add)
        yield found


def robomimic_recordings(
    paths: list[Path], mapping: Mapping | None, fps: float | None
) -> tuple[list[ArrayRecording], Mapping]:
    """Demonstrations of robomimic's files, and how their arrays become features.

    Files that cannot be read, and those without demonstrations, become recordings that say so when they are opened.

    Raises:
        UsageError: nobody says at which rate they were recorded. EpisodeError: no demonstration is readable.
    """
    require_h5py()
    found: list[ArrayRecording] = []
    mapped = mapping
    for path in paths:
        demos, said = _demos(path)
        rate = fps or said
        if rate is None and demos:
            raise UsageError(f"{path.name} does not say its control frequency; give --fps")
        for demo, success in demos:
            name = demo if len(paths) == 1 else f"{path.name}/{demo}"
            opened = partial(_arrays, path, demo)
            facts = Facts(fps=said, success=success)
            found.append(ArrayRecording(name, path, opened, facts, rate or 1.0, file_identity(path)))
            if mapped is None:
                mapped = _features(found[-1])
        if not demos:
            opened = partial(_arrays, path, "demo_0")
            found.append(ArrayRecording(path.name, path, opened, Facts(), rate or 1.0, file_identity(path)))
    if mapped is None:
        raise EpisodeError("no demonstration can be read")
    return found, mapped


def _demos(path: Path) -> tuple[list[tuple[str, bool | None]], float | None]:
    """Demonstrations in the order of their numbers with their success, and steps a second."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            data = file["data"]
            names = sorted((n for n in data if n.startswith("demo")), key=lambda n: (len(n), n))
            succeeded = {name: _success(data[name]) for name in names}
            said = _control_frequency(data.attrs.get("env_args"))
    except (OSError, RuntimeError, KeyError, AttributeError):
        return [], None
    # Where no demonstration has a reward, rewards were not recorded.
    known = any(succeeded.values())
    return [(name, succeeded[name] if known else None) for name in names], said


def _success(demo: Any) -> bool:
    """robomimic's tasks reward a success by 1 and nothing else."""
    try:
        return "rewards" in demo and bool(np.any(np.asarray(demo["rewards"][:]) >= 1))
    except (OSError, RuntimeError, AttributeError, TypeError):
        return False


def _control_frequency(env_args: Any) -> float | None:
    try:
        value = float(json.loads(env_args)["env_kwargs"]["control_freq"])
    except (TypeError, ValueError, KeyError):
        return None
    return value if value > 0 else None


def _features(recording: ArrayRecording) -> Mapping | None:
    """Cameras, the robots' state, objects and actions by robomimic's names; None where the file cannot be read."""
    try:
        with arrays_of(recording.path, recording.opened) as arrays:
            names = {name: is_pictures(array) for name, array in sorted(arrays.items())}
    except EpisodeError:
        return None
    features = [
        Feature(c.IMAGE_PREFIX + name.removeprefix("obs/").removesuffix("_image"), (Part((name,)),))
        for name, pictures in names.items()
        if pictures and name.startswith("obs/")
    ]
    robots = sorted({name.split("_")[0] for name in names if name.startswith("obs/robot")})
    state = [f"{robot}_{what}" for robot in robots for what in _STATE if f"{robot}_{what}" in names]
    # Nothing is interpolated: the rows are the steps that were recorded.
    for column, parts in ((c.STATE, state), (c.ENVIRONMENT_STATE, [_OBJECT]), (c.ACTION, ["actions"])):
        kept = tuple(Part((name,), align="nearest") for name in parts if name in names)
        if kept:
            features.append(Feature(column, kept))
    return Mapping(features=tuple(features)) if "actions" in names else None
