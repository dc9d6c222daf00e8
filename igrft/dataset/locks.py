"""Files that survive a pulled plug, and folders that one process at a time writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from igrft.errors import IgrftError


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file ``path`` for the block. It is the kernel's: it goes with the process, however that ends.

    Raises:
        IgrftError: another process holds it; says ``refusal``.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise IgrftError(refusal) from None
        yield


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
