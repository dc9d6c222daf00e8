"""Packages that only some verbs need, and the line that installs them. Importing this costs nothing."""

from __future__ import annotations

import importlib.util

from igrft.errors import UsageError

#: What each extra is looked up by.
_PACKAGES = {
    "train": ("accelerate", "draccus", "peft", "transformers"),
    "sim": ("metaworld", "mujoco"),
    "robot": ("serial", "deepdiff", "dynamixel_sdk"),
    "eval": ("matplotlib",),
    "serve": ("msgpack", "websockets"),
    "vlm": ("openai",),
    "mcap": ("mcap", "lz4", "zstandard", "mcap_protobuf", "rosbags"),
    "ros": ("rosbags",),
    "zarr": ("zarr",),
    "s3": ("s3fs",),
    "slurm": ("datatrove",),
    "ray": ("datatrove", "ray"),
}


def require(what: str, *extras: str) -> None:
    """Raises UsageError: packages of an extra that ``what`` needs are missing."""
    for extra in extras:
        missing = [name for name in _PACKAGES[extra] if importlib.util.find_spec(name) is None]
        if missing:
            raise UsageError(f"{what} needs {', '.join(missing)}; run: pip install 'igrft[{extra}]'")
