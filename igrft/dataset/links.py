"""Takes a dataset's untouched files over into another folder: hard links where possible, else copies."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from igrft.remote.mirror import here, manifest_of
from igrft.remote.store import in_parallel

#: Pictures are never written by us, so a link is as good as a copy and costs no space.
_LINKED = (".mp4", ".mkv", ".webm", ".png", ".jpg", ".jpeg", ".tiff")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link ``source`` as ``target``; copy where the file system does not allow it.

    A link in the source (the Hub's cache is made of them) is followed to the file, which is fetched where it is of a
    mirror and not here.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    real = here(source).resolve()
    try:
        os.link(real, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EEXIST):
            raise
        shutil.copyfile(real, target)


def link_tree(
    source: Path,
    target: Path,
    *,
    skip: Sequence[str] = (),
    copy: bool = False,
    link: Callable[[Path, Path], None] = link_or_copy,
) -> None:
    """Take over every file under ``source`` but hidden ones and the top-level names in ``skip``.

    Pictures are linked by ``link``; everything else (and with ``copy`` everything) is copied, so that editing one
    dataset's README does not edit the other's. Of a mirror many files are fetched at a time.
    """
    linked: list[tuple[Path, Path]] = []
    for folder, folders, files in os.walk(source, followlinks=True):
        inside = Path(folder).relative_to(source)
        top = inside == Path()
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not (top and f in skip))
        for name in sorted(files):
            if name.startswith(".") or (top and name in skip):
                continue
            path, to = Path(folder) / name, target / inside / name
            if not copy and path.suffix.lower() in _LINKED:
                linked.append((path, to))
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(here(path), to)
    if manifest_of(source) is None:
        for path, to in linked:
            link(path, to)
    else:
        in_parallel(lambda pair: link(*pair), linked)
