"""A conversion whose TARGET is a URL: made in a folder of this machine, and uploaded when it is whole.

The folder stays until the upload is done, so that the same command goes on with the upload alone.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.dataset.files import INFO, read_json
from igrft.dataset.fingerprint import digest_of
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError, UsageError
from igrft.pipeline.remote_target import RemoteTarget
from igrft.pipeline.target import Target
from igrft.remote.upload import Mark, read_mark, upload


@dataclass(frozen=True)
class StoreGoal:
    """Where on a store a conversion goes.

    Attributes:
        target: the URL, and the folder in which it is made first.
        key: digest of what is converted, and how.
    """

    target: RemoteTarget
    key: str

    @classmethod
    def of(
        cls, target: Target, source: Path | str, mapping: str | Path | None, settings: list[Any]
    ) -> StoreGoal | None:
        """The goal that ``target`` is; None for a folder.

        Args:
            source: the recordings' folder or file; text for a simulation, which has none.
            mapping: a file, or the name of one.
            settings: everything else that decides what is made.
        """
        if not isinstance(target, RemoteTarget):
            return None
        if isinstance(source, Path):
            target.check_apart_from(source)
        mapped = _state(Path(mapping)) if mapping is not None and Path(mapping).is_file() else str(mapping)
        return cls(target, digest_of([_state(source), mapped, settings]))

    @property
    def folder(self) -> Path:
        """Where it is made."""
        return self.target.path

    @property
    def _note(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.converted.json")

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise where the URL holds something that may not be overwritten.

        Raises:
            UsageError: it does.
        """
        entries = self.target.store.entries()
        if not entries or overwrite:
            return
        mark: Mark | None = read_mark(self.target.store, entries)
        if mark is not None and INFO not in entries and mark.fingerprint == self.key:
            return
        raise UsageError(f"TARGET {self.target} exists and is not empty; give another, or --overwrite to replace it")

    def converted(self) -> dict[str, Any] | None:
        """What an earlier run told of the same conversion, where that is done and was not uploaded; else None."""
        try:
            found = read_json(self._note)
        except IgrftError:
            return None
        if not isinstance(found, dict) or found.get("key") != self.key or not (self.folder / INFO).is_file():
            return None
        return dict(found["result"])

    def note(self, result: dict[str, Any]) -> None:
        """Note that the conversion is done."""
        write_json(self._note, {"key": self.key, "result": result})

    def send(self, *, show: bool) -> None:
        """Upload the dataset, and remove the folder.

        Raises:
            StoreError: the store does not take it; the same command goes on.
        """
        upload(
            self.folder,
            self.target.store,
            fingerprint=self.key,
            journal=self.folder.with_name("uploaded.jsonl"),
            say=lambda line: print(line, file=sys.stderr, flush=True) if show else None,
        )
        shutil.rmtree(self.folder.parent, ignore_errors=True)


def _state(source: Path | str) -> Any:
    """What changes when the recordings do: names, sizes and times of their files."""
    if isinstance(source, str):
        return source
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    stats = [(str(p), p.stat()) for p in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
