"""The folder ``TARGET.staging`` in which a conversion is put together before TARGET appears.

At any instant TARGET is absent (or what it was before) or whole. Whatever a killed run left behind is
removed by the next one; the lock that tells a killed run from one still at work is the kernel's, so
it goes with the process. Formats that resume keep their finished episodes (``kept``) past a run that
fails or is killed, for the next one to go on from.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from igrft.errors import IgrftError, UsageError

LOCK = "igrft-convert.lock"
_REPLACED = "replaced"
_KEPT = "kept"


@dataclass(frozen=True)
class Staging:
    """Where to work (``work``, removed at the end) and what to replace (``target``)."""

    target: Path
    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def kept(self) -> Path:
        """Finished episodes, where a format resumes; made by whoever writes some."""
        return self.folder / _KEPT

    def publish(self, finished: Path) -> None:
        """Make the folder ``finished`` (inside the staging folder) the target, in one rename."""
        replaced = self.folder / _REPLACED
        if self.target.exists():
            self.target.rename(replaced)
        try:
            finished.rename(self.target)
        except OSError:
            if replaced.exists():
                replaced.rename(self.target)
            raise


def staging_folder(target: Path) -> Path:
    return target.with_name(target.name + ".staging")


def refuse_overlap(source: Path, target: Path) -> None:
    """Raise UsageError where one of the two is, or lies in, the other."""
    one, other = source.resolve(), target.resolve()
    if one == other:
        raise UsageError(
            f"SOURCE and TARGET are the same folder, {source}; give another TARGET: the source stays as it is"
        )
    if one in other.parents or other in one.parents:
        raise UsageError(f"SOURCE {source} and TARGET {target} lie in one another; give a TARGET outside SOURCE")
    folder = staging_folder(other)
    if folder == one or folder in one.parents:
        raise UsageError(f"SOURCE {source} lies in {folder.name}, where TARGET is put together; give another TARGET")


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise where the target holds something that the user did not say to overwrite."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"TARGET {target} is a file; give the folder to make")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"TARGET {target} exists and is not empty; give another, or --overwrite to replace it")
    here = Path.cwd()
    if target in (here, Path.home()) or target in here.parents:
        raise UsageError(f"TARGET {target} holds the current folder or is the home folder, so it is not overwritten")


@contextmanager
def open_staging(target: Path, *, overwrite: bool, resumes: bool = False) -> Iterator[Staging]:
    """Make the staging folder of ``target`` for the block; it is gone afterwards, however the block ends.

    Args:
        target: absolute path of the dataset to make.
        overwrite: whether a target that is there may be replaced.
        resumes: whether finished episodes are left to the next run where the block fails, and taken from the last.

    Raises:
        UsageError: target taken. IgrftError: another run is at work, or the folder cannot be made.
    """
    folder = staging_folder(target)
    _remove_stale(folder, target, keep=resumes)
    refuse_existing(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=resumes)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise IgrftError(f"{folder} cannot be made ({error.strerror}); give a TARGET where you may write") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        staging = Staging(target, folder)
        try:
            staging.work.mkdir()
            yield staging
        except BaseException:
            _remove(folder, keep=resumes)
            raise
        _remove(folder)


def _remove(folder: Path, *, keep: bool = False) -> None:
    """Remove the folder, the lock last, so that a run killed here is still known as ours.

    With ``keep`` finished episodes stay, and the folder with them.
    """
    finished = keep and any((folder / _KEPT).glob("*/*/part.json"))
    for child in folder.iterdir():
        if child.name != LOCK and not (finished and child.name == _KEPT):
            shutil.rmtree(child, ignore_errors=True) if child.is_dir() else child.unlink(missing_ok=True)
    if not finished:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(folder: Path, target: Path, *, keep: bool = False) -> None:
    """Clean up after a run that was killed; put back a target that it was about to replace."""
    if not folder.exists():
        return
    if not any(folder.iterdir()):
        folder.rmdir()
        return
    if not (folder / LOCK).is_file():
        raise IgrftError(
            f"{folder} is there and was not made by igrft convert (igrft annotate keeps unfinished work under that "
            "name); finish or remove that work, or give another TARGET"
        )
    with (folder / LOCK).open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise IgrftError(
                f"another igrft convert is at work in {folder}; wait for it, or give another TARGET"
            ) from None
        if (folder / _REPLACED).exists() and not target.exists():
            (folder / _REPLACED).rename(target)
        _remove(folder, keep=keep)
