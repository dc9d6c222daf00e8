"""What steps made of all episodes together and paid for: kept with the dataset, so that it is paid for once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.dataset.files import read_json
from igrft.dataset.fingerprint import digest_of
from igrft.dataset.parquet import write_json
from igrft.errors import IgrftError
from igrft.steps.base import Provisional, Step

_FILE = Path("meta") / "igrft" / "reductions.json"
_STAGED = Path("steps") / "reductions.json"

#: Gives (episode index, record) of every episode, from the start each time: they are too many to hold.
Records = Callable[[], Iterable[tuple[int, Mapping[str, Any]]]]


@dataclass
class Reductions:
    """Results of :meth:`Step.reduce` by what they were made from.

    Attributes:
        kept: those that are final; they go into the dataset.
        staging: where they are kept until the dataset is written; None for nowhere.
    """

    kept: dict[str, Any] = field(default_factory=dict)
    staging: Path | None = None
    #: Of this run alone, so that a model that cannot be asked is not asked twice.
    _provisional: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, target: Path, staging: Path) -> Reductions:
        """Those of a finished TARGET and of a run that was killed; damaged files count as none."""
        found: dict[str, Any] = {}
        for path in (target / _FILE, staging / _STAGED):
            try:
                value = read_json(path) if path.is_file() else {}
            except IgrftError:
                value = {}
            found |= value if isinstance(value, dict) else {}
        return cls(found, staging)

    def of(self, step: Step, records: Records) -> Any:
        """The reduction of a step; made where it is not known."""
        made_from = step.reduced_from(records())
        if made_from is None:
            return step.reduce(records())
        key = digest_of([step.type, step.version, made_from])
        if key in self.kept:
            return self.kept[key]
        if key not in self._provisional:
            found = step.reduce(records())
            if isinstance(found, Provisional):
                self._provisional[key] = found.value
            else:
                self.kept[key] = found
                if self.staging is not None and self.staging.is_dir():
                    path = self.staging / _STAGED
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_json(path, self.kept, indent=None)
                return found
        return self._provisional[key]

    def costs_nothing(self, step: Step, records: Records) -> bool:
        """Whether :meth:`of` would ask nobody."""
        made_from = step.reduced_from(records())
        return made_from is None or digest_of([step.type, step.version, made_from]) in self.kept

    def write(self, dataset: Path) -> None:
        """Keep them with a dataset."""
        if self.kept:
            path = dataset / _FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, self.kept, indent=None)
