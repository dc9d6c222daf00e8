"""Parts of a remote file, fetched when they are read and kept in blocks.

The blocks of a file lie in a sparse file at their own places; beside it a map holds a checksum of every block that is
there. Processes need not agree about who fetches what: a block that two of them fetch is the same block, and one that
is torn (a pulled plug) does not fit its checksum and is fetched again.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Bytes of a block: about what the pictures of some seconds take.
BLOCK = 1 << 20
#: Blocks that one request fetches at most. Whoever reads on is read ahead for: 1, 2, 4, … blocks.
_AHEAD = 8
#: Blocks held in memory, besides.
_IN_MEMORY = _AHEAD + 2
_ENTRY = 4

Read = Callable[[int, int], bytes]


class BlockFile(io.RawIOBase):
    """A remote file, open for reading by one thread at a time.

    Attributes:
        name: what messages call it.
        size: its bytes.
        failure: the error that a read ended in. A decoder takes a failing read for the end of the file: whoever
            handed it this file must look here.
        decoded: whether a decoder reads it, to which Ctrl-C is told as an error: it can raise nothing else.
    """

    def __init__(self, name: str, size: int, read: Callable[[], Read], blob: Path, room: Callable[[int], None]) -> None:
        """Open it; nothing is fetched.

        Args:
            read: opens the remote file: gives a function that gives its bytes from one place to another.
            blob: where blocks are kept, without suffix.
            room: called with the bytes that are about to be kept.
        """
        super().__init__()
        self.name = name
        self.size = size
        self.failure: BaseException | None = None
        self.decoded = False
        self._open_remote = read
        self._remote: Read | None = None
        self._room = room
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._map = os.open(blob.with_suffix(".map"), flags, 0o644)
        self._data = os.open(blob.with_suffix(".blocks"), flags, 0o644)
        self._memory: dict[int, bytes] = {}
        self._at = 0
        self._next, self._ahead = -1, 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """As of a file: fewer than ``size`` bytes only at the end.

        Raises:
            StoreError: the store does not give them; kept as ``failure``, too.
        """
        end = self.size if size is None or size < 0 else min(self._at + size, self.size)
        parts = []
        try:
            while self._at < end:
                block, offset = divmod(self._at, BLOCK)
                part = self._block(block)[offset : offset + end - self._at]
                parts.append(part)
                self._at += len(part)
        except BaseException as error:
            self.failure = error
            if self.decoded and not isinstance(error, Exception):
                raise OSError(f"reading {self.name} was interrupted") from error
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        if not self.closed:
            os.close(self._map)
            os.close(self._data)
        super().close()

    # Blocks.

    def _block(self, number: int) -> bytes:
        found = self._memory.get(number)
        if found is None:
            found = self._kept(number)
            if found is None:
                found = self._fetch(number)
            self._remember(number, found)
        return found

    def _remember(self, number: int, content: bytes) -> None:
        self._memory.pop(number, None)
        self._memory[number] = content
        while len(self._memory) > _IN_MEMORY:
            self._memory.pop(next(iter(self._memory)))

    def _kept(self, number: int) -> bytes | None:
        """A block as it lies on the disk, or None where it does not, or is not sound."""
        mark = os.pread(self._map, _ENTRY, number * _ENTRY)
        if len(mark) < _ENTRY or mark == bytes(_ENTRY):
            return None
        content = os.pread(self._data, min(BLOCK, self.size - number * BLOCK), number * BLOCK)
        return content if _mark(content) == mark else None

    def _fetch(self, number: int) -> bytes:
        """Fetch a block, and some after it for a reader that reads on; those that are there end the run."""
        self._ahead = min(2 * self._ahead, _AHEAD) if number == self._next else 1
        last = (self.size - 1) // BLOCK
        count = 1
        while count < self._ahead and number + count <= last and not self._is_marked(number + count):
            count += 1
        start, end = number * BLOCK, min((number + count) * BLOCK, self.size)
        self._room(end - start)
        if self._remote is None:
            self._remote = self._open_remote()
        content = self._remote(start, end)
        for i in range(count):
            part = content[i * BLOCK : (i + 1) * BLOCK]
            os.pwrite(self._data, part, (number + i) * BLOCK)
            os.pwrite(self._map, _mark(part), (number + i) * _ENTRY)
            self._remember(number + i, part)
        self._next = number + count
        return content[:BLOCK]

    def _is_marked(self, number: int) -> bool:
        return os.pread(self._map, _ENTRY, number * _ENTRY) not in (b"", bytes(_ENTRY))


def _mark(content: bytes) -> bytes:
    """A block's checksum; never four zeros, which stand for a block that is not there."""
    return (zlib.crc32(content) or 1).to_bytes(_ENTRY, "little")
