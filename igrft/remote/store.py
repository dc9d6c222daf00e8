"""One folder of a store, behind fsspec: its objects are listed, read, written and copied under their names in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from igrft.errors import IgrftError, UsageError
from igrft.extras import require
from igrft.remote.errors import ChangedError, StoreError, told
from igrft.remote.urls import checked_url

#: Requests in flight at a time.
PARALLEL = 8
#: Files larger than this are fetched in parts of this size, several at a time.
_PART = 16 << 20
#: Of what a store says of an object: what tells its content, the surest first. Times come last.
_TAGS = ("ETag", "etag", "md5Hash", "md5", "crc32c", "blob_id", "generation")
_TIMES = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
#: What a bucket's own folder is called by: there must be a folder in it.
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: its name in the folder, its bytes, and what changes when its content does."""

    name: str
    size: int
    tag: str


class Store:
    """A URL's folder. May be used from several threads; every process opens its own.

    Attributes:
        url: as the user gave it, checked.
        fs: fsspec's file system. Credentials and endpoints come from the environment, as it takes them.
        base: the folder's path in it.
    """

    def __init__(self, url: str, what: str = "the URL") -> None:
        """Open no connection yet.

        Raises:
            UsageError: no such protocol, a package that is missing, a URL with secrets.
        """
        self.url = checked_url(url, what)
        protocol = self.url.partition("://")[0]
        _require(protocol, f"{what} {self.url}")
        from fsspec.core import url_to_fs

        with told(self.url, "opened"):
            # A listing that is remembered would hide that the source changes while it is read.
            self.fs, base = url_to_fs(self.url, use_listings_cache=False)
        self.base = str(base).rstrip("/")
        if protocol in _BUCKETS and "/" not in self.base:
            raise UsageError(f"{what} {self.url} is a whole bucket; name a folder in it: {self.url}/NAME")

    def path(self, name: str) -> str:
        """An object's path in the file system."""
        return f"{self.base}/{name}" if name else self.base

    @property
    def in_this_process(self) -> bool:
        """Whether no other process sees the store (``memory://``)."""
        return "memory" in _protocols(self.fs)

    @property
    def conditional(self) -> bool:
        """Whether the store itself refuses to hand out another content than the one listed."""
        return "s3" in _protocols(self.fs)

    def same_store(self, other: Store) -> bool:
        """Whether the store can copy from ``other`` by itself."""
        return self.fs is other.fs or (type(self.fs) is type(other.fs) and self.fs == other.fs)

    # Looking.

    def entries(self) -> dict[str, Entry]:
        """Every object by its name, sorted; empty where nothing is there. A single object has the name ``""``.

        Raises:
            StoreError: the store refuses, or cannot be reached.
            IgrftError: an object's name that cannot be a file's here.
        """
        with told(self.url, "listed"):
            try:
                found = self.fs.find(self.base, detail=True)
            except FileNotFoundError:
                return {}
        entries: dict[str, Entry] = {}
        for path, info in found.items():
            if info.get("type") == "directory" or str(path).endswith("/"):
                continue
            name = self._name(str(path))
            entries[name] = _entry(name, info if info.get("size") is not None else self._info(name))
        return dict(sorted(entries.items()))

    def entry(self, name: str) -> Entry | None:
        """One object as it is now, or None."""
        with told(self.url_of(name), "read"):
            try:
                info = self._info(name)
            except FileNotFoundError:
                return None
        return None if info.get("type") == "directory" else _entry(name, info)

    def _info(self, name: str) -> dict[str, Any]:
        return self.fs.info(self.path(name))

    def _name(self, path: str) -> str:
        if path.rstrip("/") == self.base:
            return ""
        name = path.removeprefix(self.base).removeprefix("/")
        parts = name.split("/")
        if not name or any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts):
            raise IgrftError(f"{self.url} holds an object {name!r}, which can be no file here; rename or remove it")
        return name

    def url_of(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    # Reading.

    def reader(self, entry: Entry) -> Callable[[int, int], bytes]:
        """A function that gives the bytes from one place to another of an object, as it was listed; for one thread.

        The function raises:
            ChangedError: the object is another one now, or gone.
            StoreError: the store refuses, or cannot be reached.
        """
        url = self.url_of(entry.name)
        path = self.path(entry.name)
        handle = None
        if self.conditional:
            with told(url, "read"):
                # With its size given, s3fs asks nothing to open it, and sends the condition with every read.
                handle = self.fs.open(path, "rb", cache_type="none", size=entry.size)
                handle.req_kw = {**handle.req_kw, "IfMatch": f'"{entry.tag}"'}

        def read(start: int, end: int) -> bytes:
            end = min(end, entry.size)
            if start >= end:
                return b""
            with told(url, "read"):
                try:
                    if handle is None:
                        found = self.fs.cat_file(path, start=start, end=end)
                    else:
                        handle.seek(start)
                        found = handle.read(end - start)
                except (FileNotFoundError, OSError) as error:
                    if isinstance(error, FileNotFoundError) or _is_expired(error):
                        raise _changed(url) from None
                    raise
            if len(found) != end - start or not (self.conditional or self.entry(entry.name) == entry):
                raise _changed(url)
            return bytes(found)

        return read

    def fetch(self, entry: Entry, to: Path) -> None:
        """Write an object to the file ``to``, which nobody else sees until this returns.

        Raises:
            ChangedError, StoreError: as of :meth:`reader`. OSError: the disk is full.
        """
        starts = range(0, entry.size, _PART)
        with to.open("wb") as file:
            read = self.reader(entry)

            def part(start: int) -> None:
                own = read if len(starts) == 1 else self.reader(entry)
                os.pwrite(file.fileno(), own(start, start + _PART), start)

            if len(starts) <= 1:
                for start in starts:
                    part(start)
            else:
                in_parallel(part, starts, threads=4)

    def read(self, entry: Entry) -> bytes:
        """A small object's bytes."""
        return self.reader(entry)(0, entry.size)

    # Writing.

    def put(self, path: Path, name: str) -> None:
        """Upload a file; stores of objects show it only when it is whole."""
        with told(self.url_of(name), "written"):
            self._make_parent(name)
            # Files under way at a time, times parts, times their size: what may be in memory.
            parts = {"chunksize": _PART, "max_concurrency": 4} if self.conditional else {}
            self.fs.put_file(str(path), self.path(name), **parts)

    def write(self, name: str, content: bytes) -> None:
        """Write a small object."""
        with told(self.url_of(name), "written"):
            self._make_parent(name)
            self.fs.pipe_file(self.path(name), content)

    def copy(self, source: Store, entry: Entry, name: str) -> None:
        """Have the store copy an object of ``source`` (the same store) by itself; no byte passes through here.

        Raises:
            ChangedError: it is not the one that was listed.
        """
        url = source.url_of(entry.name)
        condition = {"CopySourceIfMatch": f'"{entry.tag}"'} if self.conditional else {}
        with told(f"{self.url_of(name)}, a copy of {url},", "written"):
            self._make_parent(name)
            try:
                self.fs.cp_file(source.path(entry.name), self.path(name), **condition)
            except (FileNotFoundError, OSError) as error:
                if isinstance(error, FileNotFoundError) or _is_expired(error):
                    raise _changed(url) from None
                raise
        # Not every server that speaks S3 looks at the condition.
        if source.entry(entry.name) != entry:
            raise _changed(url)

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        if names:
            with told(self.url, "emptied of what does not belong there"):
                in_parallel(self._delete, names)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def _make_parent(self, name: str) -> None:
        # A store of objects has no folders, and asking for them costs a request (and rights) each.
        if _protocols(self.fs) & set(_BUCKETS):
            return
        self.fs.makedirs(self.path(name).rpartition("/")[0], exist_ok=True)


def in_parallel[T](work: Callable[[T], None], items: Iterable[T], threads: int = PARALLEL) -> None:
    """``work`` on every item, several at a time. The first error ends it; what was not begun is not done."""
    for _ in each_in_parallel(work, items, threads):
        pass


def each_in_parallel[T, R](work: Callable[[T], R], items: Iterable[T], threads: int = PARALLEL) -> Iterator[R]:
    """Results in the order of the items."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="igrft-store")
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _entry(name: str, info: dict[str, Any]) -> Entry:
    size = int(info["size"])
    for key in _TAGS:
        if info.get(key) not in (None, ""):
            return Entry(name, size, str(info[key]).strip('"'))
    times = (info[key] for key in _TIMES if info.get(key) not in (None, ""))
    return Entry(name, size, _second(next(times, "")))


def _second(value: Any) -> str:
    """A time to the second, however it is given: listings and single answers differ in that."""
    if isinstance(value, int | float):
        value = datetime.fromtimestamp(value, UTC)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text).replace(microsecond=0).isoformat()
    return text


def _is_expired(error: BaseException) -> bool:
    """Whether a store says that an object is not the one that was asked for (HTTP 412)."""
    return type(error).__name__ == "FileExpired" or "pre-condition" in str(error).lower()


def _changed(url: str) -> StoreError:
    return ChangedError(
        f"{url} changed, or was removed, while it was read; run the same command again when nobody writes there"
    )


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _require(protocol: str, what: str) -> None:
    """Raises UsageError: nobody knows the protocol, or its package is missing."""
    if protocol in ("s3", "s3a"):
        require(what, "s3")
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", protocol)).partition(".")[0]
        # fsspec's own classes need a package of another name; its message says which.
        hint = f"needs the package {package}; run: pip install {package}" if package != "fsspec" else str(error)
        raise UsageError(f"{what}: {protocol}:// {hint}") from None
    except ValueError:
        raise UsageError(f"{what}: {protocol}:// is no protocol that fsspec knows") from None
