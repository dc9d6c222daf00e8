"""`igrft validate`: is a dataset whole, and do its labels agree with each other?

Rows are walked file by file, vectorised over the episodes of a batch, so memory depends on the
length of an episode and not on the size of the set. Each check lives in ``igrft.reports.checks``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igrft.dataset.labels import open_dataset
from igrft.dataset.reader import DatasetReader
from igrft.progress import progress as progress_bar
from igrft.reports.checks.findings import Context, Finding
from igrft.reports.checks.frames import check_frames
from igrft.reports.checks.labels import check_labels
from igrft.reports.checks.masks import check_masks
from igrft.reports.checks.metadata import check_metadata
from igrft.reports.checks.part import Part
from igrft.reports.checks.pictures import check_pictures
from igrft.reports.checks.rollouts import check_rollouts
from igrft.reports.checks.schema import check_files, row_columns
from igrft.reports.checks.statistics import StatisticsCheck
from igrft.reports.checks.subtasks import check_subtasks
from igrft.reports.checks.videos import check_videos
from igrft.reports.summary import set_aside_reasons
from igrft.reports.text import plural

__all__ = ["Finding", "Validation", "validate"]

#: Frames looked at together: with their text, and what checks make of them, they take some KB each.
_BATCH_FRAMES = 32768


@dataclass
class Validation:
    """What :func:`validate` found.

    Attributes:
        findings: errors first, in the order of the checks.
        episodes, frames: how much was looked at.
        videos: whether every frame of every video was decoded.
    """

    findings: list[Finding]
    episodes: int
    frames: int
    videos: bool

    @property
    def errors(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [f for f in self.findings if f.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "episodes": self.episodes,
            "frames": self.frames,
            "videos_decoded": self.videos,
            "findings": [f.to_json() for f in self.findings],
        }

    def to_text(self, limit: int | None = 10) -> str:
        """Lines to print; ``limit`` findings of each check, None for all."""
        lines = []
        shown: Counter[tuple[str, str]] = Counter()
        totals = Counter((f.level, f.check) for f in self.findings)
        for finding in self.findings:
            key = (finding.level, finding.check)
            shown[key] += 1
            if limit is None or shown[key] <= limit:
                lines.append(f"{finding.level}: [{finding.check}] {finding.message}")
            elif shown[key] == totals[key]:
                lines.append(f"{finding.level}: [{finding.check}] … and {totals[key] - limit} more (--json lists all)")
        size = f"{plural(self.episodes, 'episode')}, {plural(self.frames, 'frame')}"
        looked = "every video frame decoded" if self.videos else "videos sampled"
        verdict = f"{plural(len(self.errors), 'error')}, {plural(len(self.warnings), 'warning')}"
        return "\n".join([*lines, f"{verdict} in {size} ({looked})"])


def validate(dataset: DatasetReader | Path | str, *, videos: bool = True, progress: bool = False) -> Validation:
    """Check a LeRobot v3.0 dataset, labelled or not.

    Args:
        dataset: its folder, or an open reader.
        videos: decode every frame of every video once; False opens each and samples a few frames.
        progress: draw progress bars on standard error.

    Raises:
        IgrftError: no v3.0 dataset is there, or its metadata cannot be read at all.
    """
    dataset = open_dataset(dataset)
    context = Context(dataset, dataset.igrft or {}, set_aside_reasons(dataset))
    usable = check_metadata(context)
    if usable:
        check_rollouts(context)
        check_masks(context)
        _check_rows(context, progress)
        _check_pictures(context, videos, progress)
    findings = sorted(context.findings, key=lambda f: f.level != "error")
    return Validation(findings, dataset.table.num_rows, dataset.num_frames if usable else 0, videos)


def _check_rows(context: Context, progress: bool) -> None:
    dataset = context.dataset
    files = check_files(context)
    statistics = StatisticsCheck(context)
    with progress_bar("rows", dataset.num_episodes, dataset.num_frames, show=progress) as advance:
        for relative, rows in files:
            names = row_columns(dataset.features, dataset.parquet(relative).schema_arrow)
            for taken, table in dataset.iter_file(relative, rows, frames=_BATCH_FRAMES, names=names):
                part = Part(dataset, taken, table)
                check_frames(context, part)
                check_labels(context, part)
                check_subtasks(context, part)
                statistics.add(part)
                advance(len(taken), table.num_rows)
    if len(files) == len(dataset.data_files):
        statistics.finish()


def _check_pictures(context: Context, decode: bool, progress: bool) -> None:
    dataset = context.dataset
    cameras = len(set(dataset.cameras) | set(dataset.video_keys))
    episodes, frames = dataset.num_episodes * cameras, dataset.num_frames * cameras
    with progress_bar("videos", episodes, frames, show=progress) as advance:
        check_videos(context, decode=decode, advance=advance)
        check_pictures(context, decode=decode, advance=advance)
