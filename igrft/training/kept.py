"""Labels of every frame in a file of records: made once, by one process, and read by all where frames need them.

A frame is a record, so that the labels of a sample are one short read: nothing of the file is held, and what a set
takes in memory does not grow with its frames.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from igrft.errors import IgrftError
from igrft.training.blocks import BLOCK
from igrft.training.episodes import Episodes
from igrft.training.labels import ARRAYS, DTYPES, FrameLabels, LabelSource, named

RECORD = np.dtype([(name, dtype) for name, dtype in DTYPES.items()])
_RECORDS, _EPISODES, _FACTS = "frames.records", "episodes.npz", "facts.json"


@dataclass
class KeptLabels:
    """Labels of every frame, in ``folder``. Made by :meth:`write`, opened by :meth:`open`."""

    folder: Path
    episodes: Episodes
    subtask_names: Sequence[str]

    def __post_init__(self) -> None:
        self._file = (self.folder / _RECORDS).open("rb", buffering=0)
        self._frames = os.fstat(self._file.fileno()).st_size // RECORD.itemsize

    @classmethod
    def write(
        cls,
        folder: Path,
        episodes: Episodes,
        names: Sequence[str],
        pieces: Iterable[tuple[np.ndarray, Mapping[str, np.ndarray]]],
    ) -> KeptLabels:
        """Write labels, a piece at a time: (absolute indices, arrays), in any order of whole episodes."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _RECORDS).open("wb") as file:
            for index, arrays in pieces:
                records = np.empty(len(index), RECORD)
                for name in DTYPES:
                    records[name] = arrays[name]
                for run in np.split(np.arange(len(index)), np.flatnonzero(np.diff(index) != 1) + 1):
                    if len(run):
                        file.seek(int(index[run[0]]) * RECORD.itemsize)
                        file.write(records[run].tobytes())
        arrays = {f.name: getattr(episodes, f.name) for f in fields(episodes) if f.type == "np.ndarray"}
        np.savez(folder / _EPISODES, allow_pickle=False, **arrays)
        reasons = {str(i): reason for i, reason in episodes.reasons.items()}
        facts = {"knows_success": episodes.knows_success, "reasons": reasons, "subtask_names": list(names)}
        (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
        return cls(folder, episodes, list(names))

    @classmethod
    def open(cls, folder: Path) -> KeptLabels:
        """Labels that another process wrote.

        Raises:
            IgrftError: they are not there.
        """
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            with np.load(folder / _EPISODES) as held:
                arrays = {name: held[name] for name in held.files}
            reasons = {int(i): str(reason) for i, reason in facts["reasons"].items()}
            episodes = Episodes(**arrays, knows_success=facts["knows_success"], reasons=reasons)
            return cls(folder, episodes, facts["subtask_names"])
        except OSError as error:
            raise IgrftError(
                f"{folder}, where the main process wrote what all need, cannot be read ({error.strerror}); the run's "
                "folder must lie where every machine of the run sees it: --output_dir=FOLDER"
            ) from None

    def __len__(self) -> int:
        return self._frames

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "episodes": self.episodes, "subtask_names": self.subtask_names}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """See :class:`igrft.training.labels.LabelSource`."""
        records = self._records(index)
        return {name: records[name].copy() for name in ARRAYS}

    def subtasks(self, index: np.ndarray) -> list[str]:
        """See :class:`igrft.training.labels.LabelSource`."""
        return named(self._records(index)["subtask"], self.subtask_names)

    def parts(self) -> Iterator[Mapping[str, np.ndarray]]:
        """See :class:`igrft.training.labels.LabelSource`."""
        for start in range(0, len(self), BLOCK):
            count = min(BLOCK, len(self) - start)
            records = self._read(start, count)
            yield {name: records[name] for name in DTYPES}

    def whole(self) -> FrameLabels:
        """All of them in memory."""
        records = self._read(0, len(self))
        arrays = {name: records[name].copy() for name in DTYPES}
        return FrameLabels(**arrays, episodes=self.episodes, subtask_names=self.subtask_names)

    def _records(self, index: np.ndarray) -> np.ndarray:
        size = RECORD.itemsize
        content = b"".join(os.pread(self._file.fileno(), size, i * size) for i in index.tolist())
        return np.frombuffer(content, RECORD)

    def _read(self, start: int, count: int) -> np.ndarray:
        out = np.empty(count, RECORD)
        view = memoryview(out).cast("B")
        done = 0
        while done < len(view):
            got = os.preadv(self._file.fileno(), [view[done:]], start * RECORD.itemsize + done)
            if got == 0:
                raise IgrftError(f"{self.folder / _RECORDS} was changed while it was read; run the same command again")
            done += got
        return out


def digest_of(labels: Sequence[LabelSource]) -> str:
    """Hex digest of which frames are trained on, and of their labels."""
    digest = hashlib.sha256()
    for held in labels:
        for name in ("episode", "return_trajectory", "return_subtask", "reward_sum"):
            for part in held.parts():
                digest.update(np.ascontiguousarray(part[name]).tobytes())
        start = 0
        for part in held.parts():
            digest.update((start + np.flatnonzero(part["trained"])).tobytes())
            start += len(part["trained"])
        for part in held.parts():
            digest.update(np.ascontiguousarray(part["interaction"]).tobytes())
    return digest.hexdigest()[:24]
