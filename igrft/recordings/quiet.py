"""Runs LeRobot's code offline, without its noise, and with its temporary files where we want them."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from igrft.errors import IgrftError


@contextmanager
def lerobot_quietly(scratch: Path) -> Iterator[None]:
    """For the block: no network, no progress bars, no log lines but errors; caches under ``scratch``.

    LeRobot joins videos in the system's temporary folder and ``datasets`` keeps a copy of every table
    it writes in ``~/.cache``: both go to ``scratch``, on TARGET's own file system, and are removed with it.

    The libraries are imported before anything is changed, since they read their settings on import
    and would keep ours for the rest of the process.
    """
    import datasets
    import huggingface_hub.constants

    with ExitStack() as stack:
        scratch.mkdir(parents=True, exist_ok=True)
        _set(stack, huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        _set(stack, datasets.config, "HF_HUB_OFFLINE", True)
        _set(stack, datasets.config, "HF_DATASETS_CACHE", scratch / "datasets")
        _set(stack, tempfile, "tempdir", str(scratch))
        stack.enter_context(ffmpeg_quietly())
        if not datasets.are_progress_bars_disabled():
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        for name in ("lerobot", "datasets"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        # LeRobot calls logging.info(), which installs a handler on the root logger where there is none.
        root = logging.getLogger()
        if not root.handlers:
            nothing = logging.NullHandler()
            root.addHandler(nothing)
            stack.callback(root.removeHandler, nothing)
        yield


@contextmanager
def ffmpeg_quietly() -> Iterator[None]:
    """For the block: FFmpeg and its encoders say nothing but errors."""
    import av.logging

    with ExitStack() as stack:
        if "SVT_LOG" not in os.environ:
            os.environ["SVT_LOG"] = "1"  # SVT-AV1 prints its banner from C; 1 is errors only
            stack.callback(os.environ.pop, "SVT_LOG", None)
        # LeRobot undoes PyAV's silence, upon which FFmpeg says how it writes each file.
        stack.callback(av.logging.set_level, av.logging.get_level())
        stack.callback(av.logging.set_libav_level, av.logging.INFO)
        av.logging.set_libav_level(av.logging.ERROR)
        yield


def _set(stack: ExitStack, where: Any, name: str, value: Any) -> None:
    """Set an attribute until the stack unwinds."""
    stack.callback(setattr, where, name, getattr(where, name))
    setattr(where, name, value)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_disk_full(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, is a full disk. Libraries wrap it, some as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def one_line_errors(target: Path, *, resumes: bool = False) -> Iterator[None]:
    """Turn a full disk, or any other failure to write, into an error of one line that says so.

    Args:
        resumes: whether finished episodes stay for the next run.
    """
    left = f"finished episodes are kept in {target.name}.staging" if resumes else "nothing was left behind"
    try:
        yield
    except IgrftError as error:
        if is_disk_full(error):
            raise _disk_full(target, left) from error
        raise
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(target, left) from error
        if isinstance(error, OSError):
            raise IgrftError(f"{target} could not be written ({first_line(error)}); {left}") from error
        raise


def _disk_full(target: Path, left: str) -> IgrftError:
    return IgrftError(
        f"the disk of {target.parent} is full; {left}: make room (the dataset needs about as much "
        "as SOURCE) or give a TARGET elsewhere, and run again"
    )
