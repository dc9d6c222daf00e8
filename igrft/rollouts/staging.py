"""``ROOT.staging``: the sibling folder of the episode in progress, and the lock that keeps a second recorder out."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from igrft.errors import IgrftError

_LOCK = "lock"
#: Holds everything else; what lies beside it is not ours.
_WORK = "rollout"


class Staging:
    """Held by one recorder at a time; the lock is the kernel's, so it goes with the process, however it ends.

    Attributes:
        folder: for the episode in progress, on the file system of the dataset; empty at the start.
    """

    def __init__(self, root: Path) -> None:
        """Raises IgrftError where another recorder is at work, or the folder cannot be made or is not ours."""
        self.root = root
        self._base = root.with_name(root.name + ".staging")
        self.folder = self._base / _WORK
        self._lock: IO[str] | None = None
        try:
            self._base.mkdir(parents=True, exist_ok=True)
            strange = sorted({p.name for p in self._base.iterdir()} - {_LOCK, _WORK})
            if strange:
                raise IgrftError(
                    f"{self._base} is where the episode in progress goes, and holds {strange[0]!r}, which igrft "
                    "rollout did not put there; move it away, or give another folder"
                )
            self._lock = self._locked()
            self.clear()
        except OSError as error:
            raise IgrftError(
                f"{self._base} cannot be made ({error.strerror}); give a folder where you may write"
            ) from error

    def _locked(self) -> IO[str]:
        lock = (self._base / _LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it before may have removed the file that was just locked.
            if os.fstat(lock.fileno()).st_ino == (self._base / _LOCK).stat().st_ino:
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        lock.close()
        raise IgrftError(f"another recorder is at work on {self.root}; wait for it, or give another folder")

    def clear(self) -> None:
        """Remove everything but the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def close(self) -> None:
        """Remove the folder and let go. May be called twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self._base, ignore_errors=True)
            lock.close()


@contextmanager
def closed_on_error(staging: Staging) -> Iterator[Staging]:
    """Let go where the block fails."""
    try:
        yield staging
    except BaseException:
        staging.close()
        raise
