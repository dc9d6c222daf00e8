"""A remote dataset as a folder on this machine.

``$IGRFT_CACHE/remote/NAME-HASH/`` is one URL. In it::

    sets/VERSION/manifest.json   every object: name, size, tag; VERSION is their digest
    sets/VERSION/NAME/…          the mirror: metadata as files, everything else as links into blobs/
    blobs/KEY                    a whole file;  KEY.blocks, KEY.map: parts of one

A link leads nowhere until :func:`here` has fetched its file. Listings of folders, and so all that asks which files
there are, need nothing fetched. A mirror appears in one rename, files in it as well, so any number of processes and
machines may share one cache. An object that changes makes another VERSION; what did not change is not fetched again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from igrft.errors import IgrftError, UsageError
from igrft.remote import cache
from igrft.remote.blocks import BlockFile, Read
from igrft.remote.store import Entry, Store, in_parallel
from igrft.remote.urls import url_name

_MANIFEST = "manifest.json"
#: Parts of a labelled set that few look at, and that may be large: what heavy steps found.
_KEPT = "meta/igrft/"
#: Tables are fetched at once, many at a time, where they take less than this share of the cache. Else as they are read.
_SHARE = 0.5

Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class Manifest:
    """What a mirror shows.

    Attributes:
        url: of the source.
        entries: its objects by name.
        root: the mirror.
    """

    url: str
    entries: dict[str, Entry]
    root: Path

    @property
    def folder(self) -> Path:
        """Of the URL, with its blobs."""
        return self.root.parents[2]

    def blob(self, entry: Entry) -> Path:
        """Where a file is kept."""
        return self.folder / "blobs" / _digest([entry.name, entry.size, entry.tag])

    def fingerprint(self, folders: Sequence[str]) -> str:
        """Digest of what lies in ``folders``, by names, sizes and tags: nothing need be fetched for it."""
        tops = tuple(f"{folder}/" for folder in folders)
        wanted = [e for e in self.entries.values() if e.name.startswith(tops) and not is_hidden(e.name)]
        return _digest(["remote", [[e.name, e.size, e.tag] for e in wanted]])


def is_metadata(name: str) -> bool:
    """What every look at a dataset needs."""
    return name.startswith("meta/") and not (name.startswith(_KEPT) and name.endswith(".arrow"))


def is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def mirror(url: str, *, what: str, whole: bool = False, tables: bool = True, store: Store | None = None) -> Path:
    """The folder (or file) that shows what is at a URL, as it is now.

    Args:
        what: how the command line calls the URL, for messages.
        whole: fetch everything, and keep it until this process ends: for programs that open files by their paths.
        tables: fetch the tables, too, many at a time; else they are fetched as they are read.
        store: the URL's, where it is open already.

    Raises:
        UsageError: a URL that cannot be, a package that is missing, or nothing at it.
        IgrftError: the store does not answer, or the cache is too small.
    """
    store = store or Store(url, what)
    entries = {name: e for name, e in store.entries().items() if not is_hidden(name)}
    if not entries:
        raise UsageError(f"{what} {store.url} holds nothing; check the URL")
    found = _made(store, entries)
    _STORES[os.getpid(), found.url] = store
    # What no other process sees cannot be fetched by one; and of a single file there is no reading in part.
    whole = whole or store.in_this_process or "" in found.entries
    cache.touch(found.root.parent)
    _put_in_place(found, [e for e in found.entries.values() if is_metadata(e.name)])
    if whole:
        cache.pin(found.folder)
        _fetch_all(found, found.entries.values())
    elif tables:
        wanted = [e for e in found.entries.values() if e.name.startswith("data/") and e.name.endswith(".parquet")]
        room = cache.cache_limit(sum(b.size for b in cache.blobs()))
        if sum(e.size for e in wanted) <= _SHARE * room:
            _fetch_all(found, wanted)
    return found.root


def manifest_of(path: Path) -> Manifest | None:
    """Of the mirror that ``path`` is or lies in; None for every other path. Asks nobody."""
    path = path.absolute()
    base = cache.mirrors_folder()
    if base not in path.parents:
        return None
    inside = path.relative_to(base).parts
    if len(inside) < 4 or inside[1] != "sets":
        return None
    return _read_manifest(base.joinpath(*inside[:4]))


def name_in(found: Manifest, path: Path) -> str:
    """A mirrored path as its object's name."""
    inside = path.absolute().relative_to(found.root).as_posix()
    return "" if inside == "." else inside


def here(path: Path) -> Path:
    """``path``, fetched whole where it is of a mirror and not here yet. For whoever opens it by its path at once.

    Raises:
        StoreError: it cannot be fetched.
    """
    if path.exists() or (entry := _entry_of(path)) is None:
        if path.is_symlink():
            cache.touch(path)
        return path
    _fetch(entry[0], entry[1])
    return path


def is_there(path: Path) -> bool:
    """Whether ``path`` is a file, here or at the source of its mirror."""
    return path.is_file() or _entry_of(path) is not None


def size_of(path: Path) -> int:
    """Bytes of a file, here or at the source of its mirror."""
    if path.exists() or (entry := _entry_of(path)) is None:
        return path.stat().st_size
    return entry[1].size


@contextlib.contextmanager
def reading(path: Path) -> Iterator[str | BlockFile]:
    """What to hand to whoever reads ``path``: its name, or, where it is of a mirror and not here, a file that fetches.

    Raises:
        StoreError: on leaving, whatever else was raised: the store did not give what was read. (A decoder takes that
            for a damaged file.)
    """
    file = block_file(path)
    if file is None:
        yield str(path)
        return
    file.decoded = True
    try:
        yield file
    except Exception as error:
        if file.failure is not None:
            raise file.failure from error
        raise
    else:
        if file.failure is not None:
            raise file.failure
    finally:
        file.close()


def block_file(path: Path) -> BlockFile | None:
    """A file that fetches what is read of it; None where ``path`` is here, or of no mirror."""
    if path.exists() or (held := _entry_of(path)) is None:
        return None
    found, entry = held
    blob = found.blob(entry)
    cache.touch(blob.with_suffix(".blocks"))

    def remote() -> Read:
        return store_of(found).reader(entry)

    return BlockFile(str(path), entry.size, remote, blob, lambda size: _check_room(size, str(path)))


def fetch(root: Path, wanted: Wanted) -> None:
    """Fetch what is wanted of a mirror, whole, and keep it until this process ends. Of no mirror: nothing is done.

    Args:
        wanted: says of every name (``videos/…``) whether it is.
    """
    found = manifest_of(root)
    if found is not None:
        cache.pin(found.folder)
        _fetch_all(found, [e for e in found.entries.values() if wanted(e.name)])


# Making one.


def _made(store: Store, entries: dict[str, Entry]) -> Manifest:
    name = url_name(store.url)
    folder = cache.mirrors_folder() / f"{name}-{_digest(store.url)[:12]}"
    version = folder / "sets" / _digest([[e.name, e.size, e.tag] for e in entries.values()])
    found = Manifest(store.url, entries, version / name)
    try:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        if version.is_dir():
            return found
        (folder / "sets").mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder / "sets", prefix=".making-"))
    except OSError as error:
        raise IgrftError(
            f"the cache {folder} cannot be made ({error.strerror}); set IGRFT_CACHE to a folder where you may write"
        ) from None
    try:
        _link(made / name, found)
        lines = [json.dumps([e.name, e.size, e.tag]) for e in entries.values()]
        text = json.dumps({"url": store.url})[:-1] + ', "files": [\n' + ",\n".join(lines) + "\n]}\n"
        (made / _MANIFEST).write_text(text, encoding="utf-8")
        made.chmod(0o755)
        # Where another process was quicker, its mirror is the same.
        with contextlib.suppress(OSError):
            made.rename(version)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    cache.remove_old_versions(folder, version)
    return found


def _link(root: Path, found: Manifest) -> None:
    made: set[Path] = set()
    for entry in found.entries.values():
        path = root / entry.name if entry.name else root
        if path.parent not in made:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise IgrftError(
                    f"{found.url} holds {entry.name!r} and an object with the name of one of its folders, which cannot "
                    "both be files here; remove one"
                ) from None
            made.add(path.parent)
        if path.is_dir():
            raise IgrftError(f"{found.url} holds {entry.name!r} as an object and as a folder; remove one of them")
        blob = found.blob(entry)
        depth = len(Path(entry.name).parts) + 2
        path.symlink_to(Path(*[".."] * depth, "blobs", blob.name))


@lru_cache(maxsize=64)
def _read_manifest(root: Path) -> Manifest | None:
    path = root.parent / _MANIFEST
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    entries = {name: Entry(name, size, tag) for name, size, tag in value["files"]}
    return Manifest(value["url"], entries, root)


def _entry_of(path: Path) -> tuple[Manifest, Entry] | None:
    found = manifest_of(path)
    if found is None:
        return None
    entry = found.entries.get(name_in(found, path))
    return None if entry is None else (found, entry)


# Fetching.

_STORES: dict[tuple[int, str], Store] = {}
#: Bytes that may be fetched before the cache is looked at again.
_ALLOWANCE = [0]


def store_of(found: Manifest) -> Store:
    """This process's own: a client's connections and threads are of no use to its children."""
    key = (os.getpid(), found.url)
    if key not in _STORES:
        _STORES[key] = Store(found.url)
    return _STORES[key]


def _check_room(size: int, what: str) -> None:
    """Look now and then whether the cache is full; the first time at once."""
    _ALLOWANCE[0] -= size
    if _ALLOWANCE[0] < 0:
        _ALLOWANCE[0] = max(cache.granularity(), size)
        cache.make_room(_ALLOWANCE[0], what)


def _fetch_all(found: Manifest, entries: Iterable[Entry]) -> None:
    """Fetch files whole, many at a time, smallest last so that no large one is waited for alone."""
    missing = sorted((e for e in entries if not found.blob(e).exists()), key=lambda e: -e.size)
    if missing:
        cache.make_room(sum(e.size for e in missing), found.url)
        in_parallel(lambda e: _fetch(found, e, room=False), missing)


def _fetch(found: Manifest, entry: Entry, *, room: bool = True) -> None:
    """Fetch a file whole. It appears under its name when it is, whoever else fetches it at the same time."""
    blob = found.blob(entry)
    with cache.one_at_a_time(blob):
        if blob.exists():
            return
        if room:
            cache.make_room(entry.size, f"{found.url}/{entry.name}")
        handle, name = tempfile.mkstemp(dir=blob.parent, prefix=f"{blob.name}.", suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            store_of(found).fetch(entry, part)
            part.chmod(0o444)
            os.replace(part, blob)
        finally:
            part.unlink(missing_ok=True)
    for suffix in (".blocks", ".map", ".lock"):
        blob.with_suffix(suffix).unlink(missing_ok=True)


def _put_in_place(found: Manifest, entries: Iterable[Entry]) -> None:
    """Metadata become files of the mirror: they are opened by path, at any time, and are never removed."""
    missing = [e for e in entries if (found.root / e.name).is_symlink()]
    if not missing:
        return
    _fetch_all(found, missing)
    for entry in missing:
        path, blob = found.root / entry.name, found.blob(entry)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            os.link(blob, temporary)
        except OSError:
            shutil.copyfile(blob, temporary)
        os.replace(temporary, path)


def called(root: Path) -> str:
    """A dataset's folder as the user knows it: a mirror by its URL."""
    found = manifest_of(root)
    return str(root) if found is None else found.url


def beside(root: Path, ending: str) -> Path:
    """A folder for what is made of a dataset: beside it, or, of a mirror, in the working directory."""
    root = root.resolve()
    return (root if manifest_of(root) is None else Path.cwd() / root.name).with_name(f"{root.name}{ending}")


def _digest(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def shown(text: str) -> str:
    """A message in which mirrors are called by their URLs."""
    base = str(cache.mirrors_folder())
    if base not in text:
        return text
    for root in sorted(cache.mirrors_folder().glob("*/sets/*/*"), key=lambda p: -len(str(p))):
        if str(root) in text and (found := _read_manifest(root)) is not None:
            text = text.replace(str(root), found.url)
    return text
