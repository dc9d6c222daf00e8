"""TARGET: absent or whole. Who may write there, and how it appears in one rename.

A TARGET on a store is a :class:`~igrft.pipeline.remote_target.RemoteTarget`; :func:`open_target` tells them apart.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.dataset.episode_entries import read_episode_entries
from igrft.dataset.files import IGRFT
from igrft.dataset.links import link_or_copy
from igrft.dataset.locks import locked
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.remote.urls import checked_url, is_url, local_path, refuse_collapsed

#: All that a staging folder of ours holds; it is removed when all is done, so nothing else may lie there.
_OWN = {"lock", "out", "replaced", "steps", "uploaded.jsonl"}


@dataclass(frozen=True)
class Target:
    """The folder to make, and the sibling in which it is prepared."""

    path: Path

    def __str__(self) -> str:
        """As the user may name it."""
        return str(self.path)

    @property
    def shown(self) -> Path | str:
        """For results: a path, or a URL."""
        return self.path

    @property
    def staging(self) -> Path:
        return self.path.with_name(self.path.name + ".staging")

    @property
    def workplace(self) -> str | None:
        """What :func:`open_target` was told of where work in progress lies; None for a folder."""
        return None

    @property
    def earlier(self) -> Path:
        """The folder in which a TARGET that is there can be read. May be absent."""
        return self.path

    def beside(self, ending: str) -> Path:
        """A folder for what is no part of TARGET: ``TARGET.preview``."""
        return self.path.with_name(self.path.name + ending)

    @property
    def out(self) -> Path:
        """Where the finished dataset is put together."""
        return self.staging / "out"

    @property
    def replaced(self) -> Path:
        """Where an older TARGET waits while the new one takes its name."""
        return self.staging / "replaced"

    @property
    def occupied(self) -> bool:
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def take_over(self, source: Path, target: Path) -> None:
        """Have a picture or video of the source in ``out``, as it is."""
        link_or_copy(source, target)

    def check_apart_from(self, source: Path) -> None:
        """Refuse a TARGET that is the source, lies in it, or holds it.

        Raises:
            UsageError: saying which.
        """
        a, b = source.resolve(), self.path.resolve()
        if a == b:
            raise UsageError(f"SOURCE and TARGET are the same folder ({source}); name another TARGET")
        if a in b.parents or b in a.parents:
            raise UsageError(
                f"SOURCE ({source}) and TARGET ({self.path}) lie one inside the other; name another TARGET"
            )
        if self.staging.resolve() == a or self.staging.resolve() in a.parents:
            raise UsageError(
                f"SOURCE lies in {self.staging}, the folder in which TARGET is prepared; name another TARGET"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold TARGET for this run; the lock goes with the process, however it ends.

        Raises:
            IgrftError: another run is at work on it, or somebody else's files lie in its staging folder.
        """

        if self.staging.exists():
            strange = sorted({p.name for p in self.staging.iterdir()} - _OWN)
            if strange:
                raise IgrftError(
                    f"{self.staging} is where work in progress goes, and holds {strange[0]!r}, which igrft annotate "
                    "did not put there; move it away, or name another TARGET"
                )
        self.staging.mkdir(parents=True, exist_ok=True)
        with locked(self.staging / "lock", f"another run is at work on {self}; wait for it, or name another TARGET"):
            yield

    def recover(self) -> None:
        """Undo a replacement that was killed between its two renames."""
        if self.replaced.exists() and not self.path.exists():
            os.replace(self.replaced, self.path)

    def record(self) -> dict[str, Any] | None:
        """``meta/igrft.json`` of the TARGET that is there, or None."""
        path = self.earlier / IGRFT
        if not path.is_file():
            return None
        try:
            value = read_episode_entries(path)
        except IgrftError:
            return None
        return value if isinstance(value, dict) else None

    def refuse_strangers(self, fingerprint: str, overwrite: bool) -> None:
        """Only what igrft made from the same source may be replaced without ``--overwrite``.

        Raises:
            IgrftError: something else is there.
        """
        if not self.occupied or overwrite:
            return
        made_from = ((self.record() or {}).get("source") or {}).get("fingerprint")
        if made_from is None:
            raise IgrftError(
                f"{self} exists and was not made by igrft annotate; name another TARGET or give --overwrite"
            )
        if made_from != fingerprint:
            raise IgrftError(
                f"{self} was made from another source, or the source has changed since; "
                "name another TARGET or give --overwrite"
            )

    def is_whole(self, source: DatasetReader) -> bool:
        """Whether every file of the finished TARGET is still there, tables with the rows they had."""
        try:
            made = DatasetReader.open(self.path)
            for path, rows in made.data_files:
                if made.parquet(path).metadata.num_rows != int(made.lengths[rows].sum()):
                    return False
        except IgrftError:
            return False
        videos = (p.relative_to(source.root) for p in (source.root / "videos").rglob("*.mp4"))
        return all((self.path / p).is_file() for p in videos)

    def publish(self, fingerprint: str, say: Callable[[str], None]) -> None:
        """Give ``out`` the name TARGET, in one rename where none is there, and remove the staging folder.

        Args:
            fingerprint: of the source.
            say: told what takes long.
        """
        if self.occupied:
            shutil.rmtree(self.replaced, ignore_errors=True)
            os.replace(self.path, self.replaced)
        elif self.path.exists():
            self.path.rmdir()
        os.replace(self.out, self.path)
        shutil.rmtree(self.staging, ignore_errors=True)


def open_target(target: str | Path, staging: str | Path | None = None) -> Target:
    """TARGET as the user names it: a folder or a URL. Nothing is looked at yet.

    Args:
        staging: for a URL, the folder in which work in progress lies; default: ``$IGRFT_STAGING``, else the cache.

    Raises:
        UsageError: a URL that cannot be, or ``staging`` for a folder.
    """
    refuse_collapsed(target, "TARGET")
    if is_url(target):
        url = checked_url(str(target), "TARGET")
        local = local_path(url)
        if local is None:
            from igrft.pipeline.remote_target import RemoteTarget

            return RemoteTarget.at(url, staging)
        target = local
    if staging is not None:
        raise UsageError("--staging is for a TARGET on a store; of a folder it is the folder TARGET.staging beside it")
    # Resolved, so that "." has a name and staging lies on the disk that a link leads to.
    return Target(Path(target).expanduser().resolve())
