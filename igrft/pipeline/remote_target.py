"""A TARGET on a store: prepared in a folder of this machine, and uploaded when it is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from igrft.dataset.files import IGRFT, INFO
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.target import Target
from igrft.remote.cache import cache_folder
from igrft.remote.mirror import manifest_of, mirror
from igrft.remote.store import Entry, Store
from igrft.remote.upload import MARK, Mark, is_whole, read_mark, upload
from igrft.remote.urls import checked_url, is_url, url_name


@dataclass(frozen=True)
class RemoteTarget(Target):
    """A URL. ``path`` is never made: staging lies beside where it would be.

    Attributes:
        url: checked, without secrets.
    """

    url: str = ""
    _seen: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def at(cls, url: str, staging: str | Path | None = None) -> RemoteTarget:
        """The TARGET at ``url``, its work in progress in a folder of its own below ``staging``.

        Raises:
            UsageError: no URL that can be written to.
        """
        if is_url(str(staging or "")):
            raise UsageError(f"--staging must be a folder on this machine, got {staging!r}")
        url = checked_url(url, "TARGET")
        base = staging or os.environ.get("IGRFT_STAGING") or cache_folder() / "staging"
        own = f"{url_name(url)}-{hashlib.blake2b(url.encode(), digest_size=6).hexdigest()}"
        return cls(Path(base).expanduser().resolve() / own / url_name(url), url)

    def __str__(self) -> str:
        return self.url

    @property
    def shown(self) -> str:
        return self.url

    @property
    def workplace(self) -> str:
        return str(self.path.parent.parent)

    @cached_property
    def store(self) -> Store:
        """Opened when it is first needed."""
        return Store(self.url, "TARGET")

    # What is there.

    def _look(self) -> dict[str, Entry]:
        """List the store anew."""
        entries = self.store.entries()
        if "" in entries:
            raise UsageError(f"TARGET {self.url} is an object; name a folder")
        self._seen.clear()
        self._seen["entries"] = entries
        self._seen["mark"] = read_mark(self.store, entries)
        return entries

    @property
    def _entries(self) -> dict[str, Entry]:
        return self._seen["entries"] if "entries" in self._seen else self._look()

    @property
    def _mark(self) -> Mark | None:
        return self._seen["mark"] if self._entries or "mark" in self._seen else None

    @property
    def occupied(self) -> bool:
        return bool(self._entries)

    @property
    def earlier(self) -> Path:
        """A mirror of what is there. Nothing but metadata is fetched for it."""
        if not any(name != MARK for name in self._entries):
            return self.path
        if "earlier" not in self._seen:
            self._seen["earlier"] = mirror(self.url, what="TARGET", tables=False, store=self.store)
        return self._seen["earlier"]

    def refuse_strangers(self, fingerprint: str, overwrite: bool) -> None:
        """As of a folder. An upload that was interrupted is known by its mark."""
        self._look()
        if not overwrite and self._mark is not None and not self._is_dataset:
            if self._mark.fingerprint != fingerprint:
                raise IgrftError(
                    f"{self} holds an interrupted upload of another source, or the source has changed since; "
                    "name another TARGET or give --overwrite"
                )
            return
        super().refuse_strangers(fingerprint, overwrite)

    @property
    def _is_dataset(self) -> bool:
        return INFO in self._entries

    def record(self) -> dict[str, Any] | None:
        # Of an upload that was interrupted the record may be there, and is no word about the rest.
        return super().record() if IGRFT in self._entries and self._is_dataset else None

    def check_apart_from(self, source: Path) -> None:
        """Refuse a TARGET that is the source, lies in it, or holds it.

        Raises:
            UsageError: saying which.
        """
        found = manifest_of(source)
        if found is None:
            # Work in progress must not lie in a source that is a folder.
            Target(self.path).check_apart_from(source)
            return
        there = Store(found.url, "SOURCE")
        if not self.store.same_store(there):
            return
        a, b = f"{there.base}/", f"{self.store.base}/"
        if a == b:
            raise UsageError(f"SOURCE and TARGET are the same ({found.url}); name another TARGET")
        if a.startswith(b) or b.startswith(a):
            raise UsageError(f"SOURCE ({found.url}) and TARGET ({self}) lie one inside the other; name another TARGET")

    def is_whole(self, source: DatasetReader) -> bool:
        return is_whole(self._mark, self._entries)

    # Making it.

    def recover(self) -> None:
        """Nothing is renamed on a store."""

    def take_over(self, source: Path, target: Path) -> None:
        """A link that says where it comes from: nothing is fetched that the store can copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.absolute())

    def publish(self, fingerprint: str, say: Callable[[str], None]) -> None:
        """Upload ``out``, and remove the staging folder.

        Raises:
            StoreError: the store does not take it; run again, the upload goes on.
        """
        upload(
            self.out,
            self.store,
            fingerprint=fingerprint,
            journal=self.staging / "uploaded.jsonl",
            say=say,
        )
        shutil.rmtree(self.staging, ignore_errors=True)
        self._seen.clear()
