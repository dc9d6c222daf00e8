"""Blocks: a file that fetches reads as the file itself, whoever else reads it and whatever became of its blocks."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.remote import blocks
from igrft.remote.blocks import BlockFile
from igrft.remote.errors import StoreError

BLOCK = 64


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)


class Remote:
    """Bytes behind a store, and which of them were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []
        self.error: Exception | None = None

    def open(self) -> Callable[[int, int], bytes]:
        def read(start: int, end: int) -> bytes:
            if self.error is not None:
                raise self.error
            self.asked.append((start, end))
            return self.content[start:end]

        return read

    def file(self, blob: Path) -> BlockFile:
        return BlockFile("far", len(self.content), self.open, blob, lambda size: None)


CONTENT = os.urandom(10 * BLOCK + 17)


@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 5), st.integers(-1, 3 * BLOCK)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_reads_are_the_files(tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]]) -> None:
    remote, like = Remote(CONTENT), io.BytesIO(CONTENT)
    with remote.file(tmp_path_factory.mktemp("blocks") / "b") as file:
        for at, size in reads:
            file.seek(at), like.seek(at)
            assert file.read(size) == like.read(size)
            assert file.tell() == like.tell()
    fetched = [b for start, end in remote.asked for b in range(start // BLOCK, -(-end // BLOCK))]
    assert len(fetched) == len(set(fetched)), "a block was fetched twice"


def test_only_blocks_read_are_fetched_and_kept(tmp_path: Path) -> None:
    remote = Remote(CONTENT)
    with remote.file(tmp_path / "b") as file:
        file.seek(5 * BLOCK + 3)
        assert file.read(10) == CONTENT[5 * BLOCK + 3 :][:10]
    assert remote.asked == [(5 * BLOCK, 6 * BLOCK)]
    with remote.file(tmp_path / "b") as file:
        file.seek(5 * BLOCK)
        assert file.read(BLOCK) == CONTENT[5 * BLOCK : 6 * BLOCK]
    assert remote.asked == [(5 * BLOCK, 6 * BLOCK)]


def test_whoever_reads_on_is_read_ahead_for(tmp_path: Path) -> None:
    remote = Remote(CONTENT)
    with remote.file(tmp_path / "b") as file:
        while file.read(7):
            pass
    sizes = [-(-(end - start) // BLOCK) for start, end in remote.asked]
    assert sizes == [1, 2, 4, 4]
    assert sum(end - start for start, end in remote.asked) == len(CONTENT)


@pytest.mark.parametrize("damage", ["data", "map", "no data"])
def test_what_is_torn_is_fetched_again(tmp_path: Path, damage: str) -> None:
    remote = Remote(CONTENT)
    with remote.file(tmp_path / "b") as file:
        file.read()
    path = tmp_path / ("b.map" if damage == "map" else "b.blocks")
    if damage == "no data":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.seek(1)
            file.write(b"\xaa\x55")
    with remote.file(tmp_path / "b") as file:
        assert file.read() == CONTENT


def test_readers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    remote = Remote(os.urandom(200 * BLOCK))
    wrong: list[int] = []

    def work(seed: int) -> None:
        with remote.file(tmp_path / "b") as file:
            for i in range(200):
                at = (seed * 7919 + i * 104729) % len(remote.content)
                file.seek(at)
                if file.read(3 * BLOCK) != remote.content[at : at + 3 * BLOCK]:
                    wrong.append(at)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_failure_is_raised_and_remembered(tmp_path: Path) -> None:
    remote = Remote(CONTENT)
    remote.error = StoreError("the store is gone")
    with remote.file(tmp_path / "b") as file:
        with pytest.raises(StoreError, match="the store is gone"):
            file.read(1)
        assert file.failure is remote.error


def test_parquet_reads_what_it_needs(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(5000)), "b": [os.urandom(200) for _ in range(5000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=500)
    remote = Remote((tmp_path / "t.parquet").read_bytes())
    with pq.ParquetFile(remote.file(tmp_path / "b"), pre_buffer=False) as parquet:
        assert parquet.read_row_groups([3], columns=["b"]).column("b") == table.column("b")[1500:2000]
    assert sum(end - start for start, end in remote.asked) < len(remote.content) / 4
    remote.error = StoreError("the store is gone")
    with pytest.raises(StoreError, match="the store is gone"):
        pq.ParquetFile(remote.file(tmp_path / "c"))
