"""Where what was fetched is kept, and how it stays below a limit.

``$IGRFT_CACHE`` (default ``~/.cache/igrft``), and ``$IGRFT_CACHE_SIZE`` (``200GB``; default: half of what the disk has
left beside it). A fetched file is a *blob*, named by its name, size and tag, so that two versions of a source share
what did not change. Blobs that were not used for the longest time are removed first; whoever has one open keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from igrft.errors import IgrftError, UsageError

#: A whole file that was used within this time is not removed: somebody may be about to open it by its path.
_GRACE_S = 60.0
#: What a process that was killed left behind is removed after this time.
_STALE_S = 24 * 3600.0
#: Mirrors that nobody has looked at for this time are removed.
_OLD_S = 30 * _STALE_S
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)


def cache_folder() -> Path:
    """The cache's folder; it need not exist."""
    return _resolved(os.environ.get("IGRFT_CACHE"), os.environ.get("XDG_CACHE_HOME"))


@lru_cache(maxsize=8)
def _resolved(named: str | None, base: str | None) -> Path:
    # Resolved, so that a mirror is known by its path whoever has resolved that.
    folder = Path(named).expanduser() if named else (Path(base) if base else Path.home() / ".cache") / "igrft"
    return folder.resolve()


def mirrors_folder() -> Path:
    return cache_folder() / "remote"


def cache_limit(used: int) -> int:
    """Bytes that blobs may take, ``used`` of which they take now.

    Raises:
        UsageError: ``$IGRFT_CACHE_SIZE`` is no size.
    """
    text = os.environ.get("IGRFT_CACHE_SIZE", "").strip()
    if not text:
        return (shutil.disk_usage(mirrors_folder()).free + used) // 2
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"IGRFT_CACHE_SIZE must be a size like 200GB or 500MB, got {text!r}")
    return int(float(found["number"]) * _UNITS[found["unit"].upper()])


@dataclass(frozen=True)
class Blob:
    """What is kept of one file: bytes on the disk, when it was last used, and its files."""

    used: float
    size: int
    paths: tuple[Path, ...]

    @property
    def opened_by_path(self) -> bool:
        """Whether it is a whole file. Whoever reads blocks has them open, or fetches them again."""
        return any(not p.suffix for p in self.paths)


def blobs() -> list[Blob]:
    """Everything that is kept, of every source, the longest unused first."""
    found: dict[tuple[Path, str], list[tuple[Path, os.stat_result]]] = {}
    for path in mirrors_folder().glob("*/blobs/*"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if path.suffix == ".part":
                if time.time() - stat.st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)
                continue
            if path.suffix == ".lock":
                continue
            found.setdefault((path.parent, path.name.partition(".")[0]), []).append((path, stat))
    out = []
    for files in found.values():
        # Blocks are written into a sparse file: what it takes is not what it is long.
        size = sum(512 * stat.st_blocks for _, stat in files)
        out.append(Blob(max(stat.st_mtime for _, stat in files), size, tuple(p for p, _ in files)))
    return sorted(out, key=lambda b: b.used)


def granularity() -> int:
    """Bytes that a process may fetch before it looks again at how full the cache is: looking takes milliseconds."""
    return min(32 << 20, cache_limit(0) // 8) if os.environ.get("IGRFT_CACHE_SIZE") else 32 << 20


def make_room(needed: int, what: str) -> None:
    """Remove what was not used for the longest time until ``needed`` bytes fit below the limit.

    Raises:
        IgrftError: they do not fit even so.
    """
    kept = blobs()
    used = sum(b.size for b in kept)
    limit = cache_limit(used)
    if used + needed <= limit:
        return
    now = time.time()
    pinned: dict[Path, bool] = {}
    for blob in kept:
        folder = blob.paths[0].parent.parent
        if folder not in pinned:
            pinned[folder] = _is_pinned(folder)
        if pinned[folder] or (blob.opened_by_path and now - blob.used < _GRACE_S):
            continue
        for path in blob.paths:
            path.unlink(missing_ok=True)
        used -= blob.size
        if used + needed <= limit:
            return
    if needed > limit or shutil.disk_usage(mirrors_folder()).free < needed:
        raise IgrftError(
            f"{what} takes {needed / 1e6:.1f} MB, and the cache in {cache_folder()} may hold {limit / 1e6:.1f} MB "
            f"({used / 1e6:.1f} MB are in use); set IGRFT_CACHE_SIZE, or IGRFT_CACHE to a folder on a larger disk"
        )


def touch(path: Path) -> None:
    """Note that a blob is used."""
    with contextlib.suppress(OSError):
        os.utime(path)


# Folders whose files are opened by path, by programs that know nothing of the cache.

_PINS: dict[tuple[int, Path], IO[str]] = {}


def pin(folder: Path) -> None:
    """Keep everything of a source's folder until this process ends, however it ends."""
    key = (os.getpid(), folder)
    if key not in _PINS:
        stream = (folder / "pin").open("a")
        fcntl.flock(stream, fcntl.LOCK_SH)
        _PINS[key] = stream


def _is_pinned(folder: Path) -> bool:
    if (os.getpid(), folder) in _PINS:
        return True
    try:
        with (folder / "pin").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process of this machine fetches the blob ``path``. Elsewhere it may be fetched twice."""
    with path.with_name(path.name + ".lock").open("a") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_old_versions(folder: Path, current: Path) -> None:
    """Remove mirrors of a source that nobody has looked at for a long time: their files are links and metadata."""
    for version in (folder / "sets").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if version != current and time.time() - version.stat().st_mtime > _OLD_S and not _is_pinned(folder):
                shutil.rmtree(version, ignore_errors=True)
