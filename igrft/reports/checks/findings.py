"""What a check says, and what every check is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from igrft.dataset.reader import DatasetReader
from igrft.reports.summary import pipeline_step

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: ``error`` makes validate fail, ``warning`` does not.
        check: name of the check, e.g. ``timestamps``.
        episode: ``episode_index``, or None where it concerns the whole set.
        message: one line: what is wrong, where, what to do.
    """

    level: Level
    check: str
    episode: int | None
    message: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Context:
    """The dataset under test, what its record says, and the findings so far."""

    dataset: DatasetReader
    record: Mapping[str, Any]
    aside: Mapping[int, str]
    findings: list[Finding] = field(default_factory=list)

    def error(self, check: str, message: str, episode: int | None = None) -> None:
        self._add("error", check, message, episode)

    def warn(self, check: str, message: str, episode: int | None = None) -> None:
        self._add("warning", check, message, episode)

    def _add(self, level: Level, check: str, message: str, episode: int | None) -> None:
        place = "" if episode is None else f"episode {episode}: "
        self.findings.append(Finding(level, check, episode, place + message))

    def errors_of(self, *checks: str) -> int:
        """Errors so far by the named checks."""
        counts = Counter(f.check for f in self.findings if f.level == "error")
        return sum(counts[check] for check in checks)

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The record's entries of episodes, by ``episode_index`` as text."""
        return self.record.get("episodes") or {}

    def entry(self, episode: int) -> Mapping[str, Any]:
        """The record's entry of one episode; empty where there is none."""
        return self.entries.get(str(episode)) or {}

    def step(self, kind: str) -> dict[str, Any] | None:
        """Settings of the last step of a type in the recorded pipeline, or None."""
        return pipeline_step(self.record, kind)

    def made(self, column: str) -> bool:
        """Whether the recorded run of igrft wrote this column (and did not find it in the source)."""
        return column in (self.record.get("columns") or ()) and column in self.dataset.features
