"""What is staged of one step: found again by episode and key."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from igrft.pipeline.staging import Staged, read_entries


class StageStore:
    """The staged results of one step in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found = _Index()

    def scan(self, *extra: Path, rows: Sequence[int] | None = None) -> None:
        """Find what earlier runs left, here and in ``extra`` files. What cannot be read is removed.

        Args:
            rows: look for these only; None is all. Files that hold none of them are not opened.
        """
        wanted = None if rows is None else frozenset(rows)
        for path in (*extra, *sorted(self.folder.glob("*.arrow"))):
            if path.parent == self.folder and wanted is not None and not _may_hold(path, wanted):
                continue
            try:
                self._found.put([s for s in read_entries(path) if wanted is None or s.row in wanted])
            except (pa.ArrowInvalid, OSError, ValueError, KeyError):
                if path.parent == self.folder:
                    path.unlink(missing_ok=True)

    def get(self, row: int, key: str) -> Staged | None:
        return self._found.get(row, key)

    def forget_set_aside(self, *, remove: bool = False) -> None:
        """A new run tries set-aside episodes again.

        Args:
            remove: their files too, so that other processes do not find them; what else lies in these is done again.
        """
        aside = self._found.set_aside
        if not aside:
            return
        gone = {s.path for s in aside if s.path.parent == self.folder} if remove else set()
        for path in gone:
            path.unlink(missing_ok=True)
        self._found = _Index(s for s in self._found if s.reason is None and s.path not in gone)

    def add(self, staged: Sequence[Staged]) -> None:
        """Take in results; those of one file together."""
        self._found.put(staged)


def _may_hold(path: Path, rows: frozenset[int]) -> bool:
    """Whether a staged file may hold one of these rows, by its name."""
    first, _, rest = path.name.partition("-")
    last = rest.partition("-")[0]
    if not (first.isdigit() and last.isdigit()):
        return True
    return not rows.isdisjoint(range(int(first), int(last) + 1))


class _Index:
    """Entries in columns: an object for each, and its text, would be ten times their size.

    Of several with one row and key, the last one put counts. Where a file holds many entries their texts stay in it.
    """

    def __init__(self, entries: Iterable[Staged] = ()) -> None:
        self._paths: list[Path] = []
        self._number: dict[Path, int] = {}
        #: By row, its newest entry; by entry, the one before it of the same row; -1 is none.
        self._newest, self._before = array("q"), array("q")
        self._rows, self._offsets = array("q"), array("q")
        self._files, self._batches, self._lengths = array("i"), array("i"), array("i")
        self._keys: list[str] = []
        self._texts: dict[int, str] = {}
        self._reasons: dict[int, str] = {}
        for s in entries:
            self.put([s])

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Staged]:
        return map(self._entry, range(len(self)))

    @property
    def set_aside(self) -> list[Staged]:
        """Entries that have a reason instead of a result."""
        return [self._entry(at) for at in self._reasons]

    def get(self, row: int, key: str) -> Staged | None:
        """The entry of an episode's result with this key."""
        at = self._newest[row] if row < len(self._newest) else -1
        while at >= 0:
            if self._keys[at] == key:
                return self._entry(at)
            at = self._before[at]
        return None

    def put(self, staged: Sequence[Staged]) -> None:
        """Take in entries; those of one file together."""
        for s in staged:
            at = len(self._keys)
            if s.row >= len(self._newest):
                self._newest.extend([-1] * (s.row + 1 - len(self._newest)))
            self._before.append(self._newest[s.row])
            self._newest[s.row] = at
            self._rows.append(s.row)
            self._offsets.append(s.offset)
            self._files.append(self._file(s.path))
            self._batches.append(s.batch)
            self._lengths.append(s.length)
            self._keys.append(s.key)
            if s.text is not None and (len(staged) == 1 or len(s.text) <= 2):
                self._texts[at] = s.text
            if s.reason is not None:
                self._reasons[at] = s.reason

    def _file(self, path: Path) -> int:
        if path not in self._number:
            self._number[path] = len(self._paths)
            self._paths.append(path)
        return self._number[path]

    def _entry(self, at: int) -> Staged:
        return Staged(
            row=self._rows[at],
            key=self._keys[at],
            path=self._paths[self._files[at]],
            batch=self._batches[at],
            offset=self._offsets[at],
            length=self._lengths[at],
            text=self._texts.get(at),
            reason=self._reasons.get(at),
        )
