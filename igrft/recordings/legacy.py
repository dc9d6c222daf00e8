"""LeRobot v2.0 and v2.1 to v3.0, through LeRobot's own converter, on a copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from igrft.dataset.files import to_numpy
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.progress import progress
from igrft.recordings.finish import finish_dataset
from igrft.recordings.legacy_columns import ColumnPlan, plan_columns
from igrft.recordings.legacy_copy import LegacyCopy, copy_extras, remapped_splits
from igrft.recordings.legacy_rows import Rows, mend_rows, off_the_frame_rate, read_rows
from igrft.recordings.legacy_source import TASKS, LegacySource, SourceEpisode
from igrft.recordings.legacy_survey import Survey, survey
from igrft.recordings.lerobot_converter import run_converter
from igrft.recordings.options import Options, Outcome, listing
from igrft.recordings.pictures import embedded_pictures, video_pictures
from igrft.recordings.statistics import EpisodeStatistics, numeric_statistics, picture_statistics, sampled_rows
from igrft.recordings.video_facts import frame_times, time_deviation

_WITHOUT_STATISTICS = ("string", "language")


@dataclass
class _Findings:
    """What is worth a warning once all episodes were seen."""

    mended: dict[str, list[int]] = field(default_factory=dict)
    surplus: dict[int, int] = field(default_factory=dict)
    uneven: dict[int, float] = field(default_factory=dict)
    pictures: dict[tuple[str, int], int] = field(default_factory=dict)
    timestamps: dict[int, float] = field(default_factory=dict)


def convert_lerobot(root: Path, work: Path, options: Options, warn: Callable[[str], None]) -> Outcome:
    """Convert the v2.x dataset at ``root`` inside the folder ``work``.

    Raises:
        IgrftError: metadata that cannot be read, or no episode that can be converted.
    """
    source = LegacySource.open(root)
    if options.fps is not None and abs(options.fps - source.fps) > 1e-6:
        raise UsageError(
            f"--fps {options.fps:g}: {root} is recorded at {source.fps:g} frames a second, as its meta/info.json and "
            "videos say; leave --fps out"
        )
    tasks = _tasks(source, options.task, warn)
    found = survey(source, warn)
    if not found.schemas:
        raise nothing_left(root, found.set_aside)
    plan = plan_columns(source, found.schemas, found.cameras, warn)
    for index, reason in plan.lacking.items():
        found.set_aside.setdefault(index, reason)

    copy = LegacyCopy(work / "dataset")
    findings = _Findings()
    kept: list[int] = []
    frames = sum(e.length or 0 for e in source.episodes)
    with progress("convert", len(source.episodes), frames, show=options.progress) as advance:
        for episode in source.episodes:
            if episode.index not in found.set_aside:
                try:
                    _take_over(source, episode, plan, found, copy, tasks, findings, options)
                    kept.append(episode.index)
                except EpisodeError as error:
                    found.set_aside[episode.index] = str(error)
            advance(1, episode.length or 0)
    if not kept:
        raise nothing_left(root, found.set_aside)
    _warn_of(findings, source.fps, options.rebuild_timestamps, warn)

    splits = remapped_splits(source.info.get("splits"), kept)
    copy.finish(source, plan.features, found.facts, tasks, splits, options.robot_type)
    run_converter(copy.root, work / "scratch")
    finish_dataset(copy.root, source.fps, plan.types, findings.pictures)
    copy_extras(root, copy.root)
    return Outcome(
        dataset=copy.root,
        kept=[str(i) for i in kept],
        frames=copy.frames,
        set_aside={str(i): _without_path(reason, root) for i, reason in sorted(found.set_aside.items())},
        timestamps={kept.index(i): worst for i, worst in findings.timestamps.items()},
        rebuilt=options.rebuild_timestamps and bool(findings.timestamps),
    )


def _tasks(source: LegacySource, given: str | None, warn: Callable[[str], None]) -> list[str]:
    """Task strings by index. LeRobot looks them up by position, so there may be no gap."""
    tasks = dict(source.tasks)
    if not tasks:
        named = list(dict.fromkeys(t for e in source.episodes for t in e.tasks)) or ([given] if given else [])
        tasks = dict(enumerate(named))
        if named:
            origin = "--task" if named == [given] else "meta/episodes.jsonl"
            warn(f"{TASKS} names no task, so it was written from {origin}")
    if given and given not in tasks.values():
        if all(e.tasks for e in source.episodes):
            warn(f"--task is not used: every episode of the source names its task ({listing(list(tasks.values()), 2)})")
        else:
            tasks[max(tasks, default=-1) + 1] = given
    gaps = [i for i in range(max(tasks, default=-1)) if i not in tasks]
    if gaps:
        warn(f"{TASKS} has no task {listing(gaps)}; the gap is filled, since LeRobot counts tasks by position")
    return [tasks.get(i, f"(no task {i})") for i in range(max(tasks, default=-1) + 1)]


def _take_over(
    source: LegacySource,
    episode: SourceEpisode,
    plan: ColumnPlan,
    found: Survey,
    copy: LegacyCopy,
    tasks: list[str],
    findings: _Findings,
    options: Options,
) -> None:
    """Check one episode to the last frame and append it to the copy. Raises EpisodeError."""
    parquet, _ = found.schemas[episode.index]
    table = read_rows(parquet)
    if episode.length is not None and episode.length != table.num_rows:
        raise EpisodeError(
            f"meta/episodes.jsonl says {episode.length} frames and its parquet file has {table.num_rows}"
        )
    own = episode.tasks or ([options.task] if options.task else [])
    rows = mend_rows(
        table,
        plan,
        episode=copy.episodes,
        first_index=copy.frames,
        fps=source.fps,
        task_index=tasks.index(own[0]) if own and own[0] in tasks else None,
        tasks=len(tasks),
        rebuild_timestamps=options.rebuild_timestamps,
    )
    own = own or [tasks[i] for i in dict.fromkeys(to_numpy(rows.table.column("task_index")).tolist())]
    videos = {camera: found.videos[episode.index, camera] for camera in found.cameras}
    surplus, uneven = 0, 0.0
    counts: dict[str, int] = {}
    starts: dict[str, float] = {}
    for camera, path in videos.items():
        times = frame_times(path)
        if len(times) < table.num_rows:
            raise EpisodeError(f"{camera}: its video has {len(times)} frames for {table.num_rows} rows")
        counts[camera], starts[camera] = len(times), float(times[0])
        surplus = max(surplus, len(times) - table.num_rows)
        uneven = max(uneven, time_deviation(times[: table.num_rows], source.fps))
    statistics = _statistics(rows, plan, videos, starts, source.fps)

    # Nothing below raises EpisodeError: an episode is taken over whole or not at all.
    if surplus:
        findings.surplus[episode.index] = surplus
    if off_the_frame_rate(uneven):
        findings.uneven[episode.index] = uneven
    if off_the_frame_rate(rows.deviation):
        findings.timestamps[episode.index] = rows.deviation
    for name in rows.mended:
        findings.mended.setdefault(name, []).append(episode.index)
    for camera, count in counts.items():
        findings.pictures[camera, copy.episodes] = count
    copy.add(episode, parquet, rows, videos, own, statistics)


def _statistics(
    rows: Rows, plan: ColumnPlan, videos: dict[str, Path], starts: dict[str, float], fps: float
) -> EpisodeStatistics:
    """Statistics of every column but text; decodes each video to its last row."""
    out: EpisodeStatistics = {}
    wanted = sampled_rows(rows.table.num_rows)
    for name, feature in plan.features.items():
        if feature["dtype"] in _WITHOUT_STATISTICS:
            continue
        try:
            if feature["dtype"] == "video":
                pictures = video_pictures(videos[name], wanted, start=starts[name], fps=fps)
                out[name] = picture_statistics(pictures)
            elif feature["dtype"] == "image":
                out[name] = picture_statistics(embedded_pictures(rows.table.column(name), wanted, name))
            else:
                out[name] = numeric_statistics(to_numpy(rows.table.column(name)))
        except EpisodeError as error:
            raise EpisodeError(f"{name}: {error}") from None
    return out


#: LeRobot finds pictures by their time, within 0.1 ms.
_KEPT = "kept, but LeRobot finds no picture for them, or another: --rebuild-timestamps sets them to frame / fps"


def _warn_of(findings: _Findings, fps: float, rebuilt: bool, warn: Callable[[str], None]) -> None:
    for name, episodes in findings.mended.items():
        warn(f"{name} did not count the frames in episode {listing(episodes)}; rebuilt")
    for index, worst in findings.timestamps.items():
        done = "rebuilt" if rebuilt else _KEPT
        warn(f"episode {index}: timestamps are up to {worst:.4g} s off the frame rate of {fps:g} ({done})")
    for index, worst in findings.uneven.items():
        warn(
            f"episode {index}: the pictures in its video are up to {worst:.4g} s off the frame rate of {fps:g}, "
            "so LeRobot will not find some of them by their time"
        )
    if findings.surplus:
        most = max(findings.surplus.values())
        warn(f"up to {most} pictures more than rows, never shown, in episode {listing(list(findings.surplus))}")


def _without_path(reason: str, root: Path) -> str:
    """Reasons end up in the dataset, where no path of this machine has any business."""
    return reason.replace(f"{root}/", "")


def nothing_left(root: Path, set_aside: dict[int, str]) -> IgrftError:
    index = min(set_aside)
    reason = _without_path(set_aside[index], root)
    return IgrftError(f"{root}: none of {len(set_aside)} episodes can be converted; episode {index}: {reason}")
