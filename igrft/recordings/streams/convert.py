"""The path that all recordings of timed streams share: align, encode, and hand to LeRobot's writer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.recordings.options import Options, Outcome, listing
from igrft.recordings.quiet import ffmpeg_quietly, lerobot_quietly
from igrft.recordings.streams import align
from igrft.recordings.streams.encode import encoder
from igrft.recordings.streams.episodes import make_episodes
from igrft.recordings.streams.model import Mapping, Recording
from igrft.recordings.streams.parts import Episode
from igrft.recordings.streams.plan import clock_times
from igrft.recordings.streams.write import assemble, import_ahead

#: The frame rate is measured on so many recordings, spread over all.
_MEASURED = 5


def convert_streams(
    recordings: Sequence[Recording],
    mapping: Mapping,
    work: Path,
    kept: Path,
    options: Options,
    warn: Callable[[str], None],
) -> Outcome:
    """Convert recordings inside the folder ``work``.

    Args:
        kept: folder of finished episodes, which a run that was cut off leaves to the next.

    Raises:
        UsageError: no task, or a frame rate or settings that cannot be encoded.
        IgrftError: nothing can be converted.
    """
    settings = encoder(options.codec, options.crf, options.preset)
    mapping = given(mapping, options)
    _refuse_without_task(recordings, mapping)
    fps = frame_rate(recordings, mapping, warn)
    with ffmpeg_quietly(), import_ahead():
        make = partial(make_episodes, recordings, mapping, fps, kept, settings, show=options.progress)
        parts, set_aside = make(frozenset())
        again = _mixed(parts)
        if again:
            parts, set_aside = make(again)
    parts = _alike(parts, set_aside)
    if not parts:
        raise nothing_left(set_aside)
    tasks = [mapping.task or part.task or "" for part in parts]
    _warn_of(parts, mapping, fps, warn)
    target = work / "dataset"
    with lerobot_quietly(work / "scratch"):
        assemble(target, parts, fps, tasks, mapping.robot_type, settings)
    return Outcome(
        dataset=target,
        kept=[part.name for part in parts],
        frames=sum(part.length for part in parts),
        set_aside=set_aside,
        alignment={str(i): part.facts for i, part in enumerate(parts)},
    )


def given(mapping: Mapping, options: Options) -> Mapping:
    """The mapping, with what the command line says in its place."""
    said = {"fps": options.fps, "task": options.task, "robot_type": options.robot_type}
    return replace(mapping, **{k: v for k, v in said.items() if v is not None})  # type: ignore[arg-type]


def _refuse_without_task(recordings: Sequence[Recording], mapping: Mapping) -> None:
    """Before hours of work, not after."""
    for recording in recordings if mapping.task is None else ():
        try:
            task = recording.facts().task
        except EpisodeError:
            continue
        if not task:
            raise UsageError(f"{recording.name} does not say what its task is; give --task 'what the robot does'")


def frame_rate(recordings: Sequence[Recording], mapping: Mapping, warn: Callable[[str], None]) -> int:
    """Rows a second: as asked for, as the recordings say, or as their clock runs.

    Raises:
        UsageError: asked for one that cannot be encoded. IgrftError: no recording has a usable clock.
    """
    if mapping.fps is not None:
        return align.check_fps(mapping.fps)
    chosen = sorted({int(i) for i in np.linspace(0, len(recordings) - 1, _MEASURED)})
    rates: list[int] = []
    reasons: dict[str, str] = {}
    for number in [*chosen, *range(len(recordings))]:
        recording = recordings[number]
        try:
            said = recording.facts().fps
            if said is not None:
                rates.append(align.check_fps(said))
            else:
                with recording.open() as streams:
                    rates.append(align.whole_rate(align.measured_rate(clock_times(streams, mapping))))
        except EpisodeError as error:
            reasons[recording.name] = str(error)
        if rates and number == chosen[-1]:
            break
    if not rates:
        raise nothing_left(reasons)
    if len(set(rates)) > 1:
        warn(f"the recordings run at different rates ({listing(sorted(set(rates)))} a second); give --fps to choose")
    return Counter(rates).most_common(1)[0][0]


def _mixed(parts: list[Episode]) -> frozenset[str]:
    """Cameras whose videos cannot be joined as they are: kept in some episodes and not in others, or unlike."""
    cameras = {camera for part in parts for camera in part.kept}
    return frozenset(k for k in cameras if len({part.kept.get(k, "") for part in parts if k in part.cameras}) > 1)


def _alike(parts: list[Episode], set_aside: dict[str, str]) -> list[Episode]:
    """Parts that are laid out as most are; the others are set aside."""
    if not parts:
        return []
    common = Counter(part.layout for part in parts).most_common(1)[0][0]
    for part in parts:
        if part.layout != common:
            mine, theirs = set(part.layout.split(", ")), set(common.split(", "))
            set_aside[part.name] = (
                f"it has {listing(sorted(mine - theirs)) or 'nothing more'} where most have "
                f"{listing(sorted(theirs - mine)) or 'nothing more'}"
            )
    return [part for part in parts if part.layout == common]


def _warn_of(episodes: list[Episode], mapping: Mapping, fps: int, warn: Callable[[str], None]) -> None:
    """Skew, gaps, thinned clocks, missing streams and silent successes: one line each, over all episodes."""
    off: dict[str, list[tuple[float, int, str]]] = {}
    for episode in episodes:
        for stream, facts in episode.facts["skew"].items():
            if facts["over_half_a_row"]:
                off.setdefault(stream, []).append((facts["max"], facts["over_half_a_row"], episode.name))
    for stream, found in off.items():
        worst = max(found)
        warn(
            f"{stream} is off by more than half a row ({500 / fps:.1f} ms) in {sum(n for _, n, _ in found)} rows of "
            f"{listing([name for _, _, name in found], 4)}; worst {worst[0] * 1000:.1f} ms in {worst[2]}"
        )
    gaps = [episode for episode in episodes if episode.facts.get("dropped")]
    if gaps:
        dropped = sum(episode.facts["dropped"] for episode in gaps)
        warn(f"the clock dropped {dropped} rows in {listing([episode.name for episode in gaps], 4)}; time jumps there")
    thinned = [episode for episode in episodes if episode.facts["rate"] > fps * (1 + align.RATE_TOLERANCE)]
    if thinned:
        warn(f"the clock runs at {thinned[0].facts['rate']:.1f} a second, thinned to {fps} ({thinned[0].name} first)")
    late = [episode.name for episode in episodes if episode.facts.get("late")]
    if late:
        warn(f"samples stamped no later than the one before were left out in {listing(late, 4)}")
    # What the common layout has, the first episode has.
    here = episodes[0].facts["skew"]
    for feature in mapping.features:
        for part in feature.parts:
            if part.optional and not any(s in here or f"{s}.{part.field}" in here for s in part.streams):
                warn(f"{feature.name} goes without {' or '.join(part.streams)}, which is in no recording")
    silent = [episode.name for episode in episodes if episode.success is None]
    if silent and len(silent) < len(episodes):
        warn(f"without a success of their own, so taken for successes: {listing(silent)}")


def nothing_left(set_aside: dict[str, str]) -> IgrftError:
    """The error where no episode is left."""
    if not set_aside:
        return IgrftError("no recording was found")
    name, reason = next(iter(set_aside.items()))
    return IgrftError(f"none of {len(set_aside)} episodes can be converted; {name}: {reason}")
