"""What a pulled plug may undo is on the disk before what counts on it; what lies beyond is cleared away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rollout_sets import CAMERAS, check_with_lerobot, open_recorder, record, seeds_in

from igrft.dataset.files import INFO
from igrft.reports.validate import validate


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Disk:
    """Follows what is synced: a file's content, and the entries of a folder, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.root = root
        self.content: dict[int, bytes] = {}
        self.entries: dict[int, set[str]] = {}
        self.checked = 0
        real_sync, real_replace, real_rename = os.fsync, os.replace, Path.rename

        def sync(descriptor: int) -> None:
            real_sync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_dir():
                self.entries[path.stat().st_ino] = names(path)
            else:
                self.content[path.stat().st_ino] = path.read_bytes()

        def replace(source: os.PathLike[str] | str, target: os.PathLike[str] | str) -> None:
            if Path(target) == root / INFO:
                self.check(Path(source))
            real_replace(source, target)

        def rename(source: Path, target: Path) -> Path:
            if Path(target) == root:
                self.check(source / INFO, source)
            return real_rename(source, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(Path, "rename", rename)

    def check(self, info: Path, tree: Path | None = None) -> None:
        """All that the new info.json counts on would survive, were the plug pulled now."""
        self.checked += 1
        assert self.content[info.stat().st_ino] == info.read_bytes()
        tree = tree or self.root
        for path in [tree, *tree.rglob("*")]:
            if path.is_dir():
                assert self.entries.get(path.stat().st_ino) == names(path), path
            elif path != tree / INFO:
                assert self.content.get(path.stat().st_ino) == path.read_bytes(), path


@pytest.mark.parametrize("pictures", [False, True])
def test_everything_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: bool) -> None:
    root = tmp_path / "rollout"
    disk = Disk(monkeypatch, root)
    with open_recorder(root, pictures=pictures) as recorder:
        record(recorder, 0, 1, 2, pictures=pictures)
        recorder.flush()
        assert disk.checked == 3
        assert "rollout" in disk.entries[tmp_path.stat().st_ino]
        assert disk.entries[(root / "meta").stat().st_ino] == names(root / "meta")
        assert disk.content[(root / INFO).stat().st_ino] == (root / INFO).read_bytes()


def test_files_beyond_are_cleared_away_and_others_stay(tmp_path: Path) -> None:
    root = tmp_path / "rollout"
    with open_recorder(root, pictures=True) as recorder:
        record(recorder, 0, 1, pictures=True)
    beyond = [
        "data/chunk-000/file-002.parquet",
        "data/chunk-001/file-000.parquet",
        "meta/episodes/chunk-000/file-007.parquet",
        f"videos/{CAMERAS[0]}/chunk-000/file-002.mp4",
    ]
    mine = ["data/notes.txt", "README.md", f"videos/{CAMERAS[0]}/chunk-000/file-000.mp4.txt"]
    for name in [*beyond, *mine]:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    with open_recorder(root, pictures=True) as recorder:
        assert recorder.episodes == 2
    assert not [name for name in beyond if (root / name).exists()]
    assert not [name for name in mine if not (root / name).exists()]
    assert seeds_in(root) == [0, 1]


def test_statistics_that_a_crash_left_behind_are_made_again(tmp_path: Path) -> None:
    root = tmp_path / "rollout"
    with open_recorder(root) as recorder:
        record(recorder, 0, 1)
        recorder.flush()
        before = (root / "meta/stats.json").read_bytes()
        record(recorder, 2)
        recorder.flush()
        after = (root / "meta/stats.json").read_bytes()
        recorder.drop_last()
    assert before != after and (root / "meta/stats.json").read_bytes() == before
    (root / "meta/stats.json").write_bytes(after)
    with open_recorder(root):
        pass
    assert (root / "meta/stats.json").read_bytes() == before
    check_with_lerobot(root, [0, 1])
    assert validate(root).findings == []
