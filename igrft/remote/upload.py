"""Makes a finished folder the objects of a URL: they are absent or whole, however often that is interrupted.

A store renames nothing. So ``meta/info.json``, without which nobody sees a dataset, goes last, and of a TARGET that is
replaced it is removed first. The hidden object ``.igrft.json`` says whose upload it is and, once it is done, what every
object was made from: what is there as it should be is not sent again, from whichever machine. During the upload a
journal on this machine says the same.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from igrft.dataset.files import INFO
from igrft.dataset.fingerprint import sampled_digest, whole_digest
from igrft.errors import IgrftError
from igrft.remote.errors import StoreError
from igrft.remote.mirror import here, manifest_of, name_in, store_of
from igrft.remote.store import Entry, Store, in_parallel

#: The hidden object; no part of the dataset.
MARK = ".igrft.json"
#: Seconds after which it is asked again whether the upload is still ours.
_ASK_AGAIN_S = 10.0


@dataclass(frozen=True)
class Sent:
    """What an object was made from, and what it is there; ``tag`` is empty where that is not known yet."""

    made_from: str
    size: int
    tag: str = ""


@dataclass(frozen=True)
class Mark:
    """The hidden object.

    Attributes:
        fingerprint: of the source that TARGET was made from.
        upload: whose it is: a word drawn for every upload.
        complete: whether all of ``files`` were there in the end.
    """

    fingerprint: str
    upload: str
    complete: bool
    files: dict[str, Sent] = field(default_factory=dict)

    def write(self, store: Store) -> None:
        files = {name: [s.made_from, s.size, s.tag] for name, s in sorted(self.files.items())}
        value = {**self.__dict__, "files": files}
        store.write(MARK, json.dumps(value, indent=1).encode())


@dataclass(frozen=True)
class File:
    """A file to be there: a folder's own, or an object that another URL holds already."""

    name: str
    path: Path
    size: int
    made_from: str
    held: tuple[Store, Entry] | None = None


@dataclass(frozen=True)
class Uploaded:
    """What was done: files and bytes sent from here, files copied by the store, and files that were there."""

    sent: int
    bytes: int
    copied: int
    kept: int


def read_mark(store: Store, entries: Mapping[str, Entry]) -> Mark | None:
    """The hidden object, or None where there is none that can be read."""
    if MARK not in entries:
        return None
    try:
        value: Any = json.loads(store.read(entries[MARK]))
        files = {name: Sent(*parts) for name, parts in value["files"].items()}
        return Mark(str(value["fingerprint"]), str(value["upload"]), bool(value["complete"]), files)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def is_whole(mark: Mark | None, entries: Mapping[str, Entry]) -> bool:
    """Whether everything is there as it was when the upload ended."""
    if mark is None or not mark.complete or INFO not in entries:
        return False
    return all(name in entries and _same(sent, entries[name]) for name, sent in mark.files.items())


def upload(
    out: Path,
    store: Store,
    *,
    fingerprint: str,
    journal: Path,
    say: Callable[[str], None],
) -> Uploaded:
    """Make the files of ``out`` all that is at a URL.

    Args:
        out: the finished folder. Links in it lead to files of the source that are taken over as they are; of a mirror
            on the same store they are copied there, and pass nobody's network.
        fingerprint: of the source.
        journal: where it is noted what was sent, for a run that goes on from here.
        say: told what is about to be sent.

    Raises:
        StoreError: the store does not take it; the next call goes on. IgrftError: somebody else uploads to the URL.
    """
    files = [_file(out, path, store) for path in sorted(_files(out))]
    names = {f.name for f in files}
    entries = store.entries()
    mark = read_mark(store, entries)
    known = dict(mark.files) if mark is not None else {}
    noted = None if mark is None else _read_journal(journal, mark.upload)
    if noted is None:
        word = secrets.token_hex(8)
        journal.write_text(json.dumps([word]) + "\n", encoding="utf-8")
    else:
        word = mark.upload if mark is not None else ""
        known |= noted
    left = [f for f in files if f.name == INFO or not _is_there(f, known, entries)]
    copied = sum(f.held is not None for f in left)
    sent = [f for f in left if f.held is None]
    todo = Uploaded(len(sent), sum(f.size for f in sent), copied, len(files) - len(left))
    say(
        f"{store.url}: sending {todo.sent} files ({todo.bytes / 1e6:.1f} MB)"
        + (f", {copied} are copied by the store" if copied else "")
        + (f", {todo.kept} are there already" if todo.kept else "")
    )
    kept = {n: known[n] for n in names & set(known) if n not in {f.name for f in left}}
    own = Mark(fingerprint, word, False, kept)
    own.write(store)
    if INFO in entries:
        store.delete([INFO])
    owner = _Owner(store, word)
    with journal.open("a", encoding="utf-8") as notes:
        lock = threading.Lock()

        def put(file: File) -> None:
            owner.check()
            if file.held is not None:
                store.copy(*file.held, file.name)
            else:
                store.put(here(file.path), file.name)
            with lock:
                notes.write(json.dumps([file.name, file.made_from, file.size]) + "\n")
                notes.flush()

        in_parallel(put, sorted((f for f in left if f.name != INFO), key=lambda f: -f.size))
    owner.check(now=True)
    there = store.entries()
    for file in files:
        if file.name != INFO and (file.name not in there or there[file.name].size != file.size):
            raise StoreError(f"{store.url_of(file.name)} is not there as it was sent; run the same command again")
    store.delete([name for name in there if name not in names and name != MARK])
    info = next(f for f in files if f.name == INFO)
    complete = {f.name: Sent(f.made_from, f.size, "" if f is info else there[f.name].tag) for f in files}
    replace(own, complete=True, files=complete).write(store)
    store.put(info.path, INFO)
    return todo


class _Owner:
    """Asks now and then whether another upload to the same URL has begun."""

    def __init__(self, store: Store, word: str) -> None:
        self._store, self._word, self._asked = store, word, time.monotonic()
        self._lock = threading.Lock()

    def check(self, *, now: bool = False) -> None:
        with self._lock:
            if not now and time.monotonic() - self._asked < _ASK_AGAIN_S:
                return
            self._asked = time.monotonic()
        entry = self._store.entry(MARK)
        found = None if entry is None else read_mark(self._store, {MARK: entry})
        if found is None or found.upload != self._word:
            raise IgrftError(
                f"another run began to write to {self._store.url}; wait for it, and run the same command again"
            )


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or path.is_file():
            yield path


def _file(out: Path, path: Path, store: Store) -> File:
    name = path.relative_to(out).as_posix()
    if not path.is_symlink():
        return File(name, path, path.stat().st_size, f"content {whole_digest(path)}")
    source = path.readlink()
    mirror = manifest_of(source)
    if mirror is None:
        return File(name, source, source.stat().st_size, f"file {sampled_digest(source)}")
    entry = mirror.entries[name_in(mirror, source)]
    held = store_of(mirror)
    return File(name, source, entry.size, f"object {entry.tag}", (held, entry) if store.same_store(held) else None)


def _is_there(file: File, known: Mapping[str, Sent], entries: Mapping[str, Entry]) -> bool:
    sent = known.get(file.name)
    return (
        sent is not None
        and (sent.made_from, sent.size) == (file.made_from, file.size)
        and file.name in entries
        and _same(sent, entries[file.name])
    )


def _same(sent: Sent, entry: Entry) -> bool:
    return sent.size == entry.size and sent.tag in ("", entry.tag)


def _read_journal(path: Path, upload: str) -> dict[str, Sent] | None:
    """What was sent by an upload, or None where the journal is of another one. A line cut short counts as none."""
    if not path.is_file():
        return None
    values = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    if not values or values[0] != [upload]:
        return None
    return {name: Sent(made_from, size) for name, made_from, size in values[1:]}
