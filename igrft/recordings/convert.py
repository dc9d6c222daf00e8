"""Recordings to a LeRobot v3.0 dataset: ``igrft convert``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft.dataset.files import IGRFT
from igrft.dataset.locate import locate
from igrft.dataset.parquet import write_json
from igrft.errors import UsageError
from igrft.pipeline.target import open_target
from igrft.recordings.detect import (
    ALOHA_BGR,
    LEROBOT_V1,
    LEROBOT_V20,
    LEROBOT_V21,
    METAWORLD,
    STREAMS,
    detect,
    is_simulation,
)
from igrft.recordings.options import Options, Outcome, Warnings
from igrft.recordings.quiet import one_line_errors
from igrft.recordings.staging import open_staging, refuse_overlap
from igrft.recordings.to_store import StoreGoal
from igrft.remote.urls import is_url

if TYPE_CHECKING:
    from igrft.recordings.streams.look import DryRun
    from igrft.simulation.record import SimulationOptions


@dataclass(frozen=True)
class ConvertResult:
    """What :func:`convert` did.

    Attributes:
        target: the dataset made.
        format: what the source was found to be.
        episodes, frames: how much was converted.
        set_aside: source episode (its index, or its file's name) to the reason it could not be.
        warnings: one line each.
    """

    target: Path | str
    format: str
    episodes: int
    frames: int
    set_aside: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    format: str | None = None,
    fps: float | None = None,
    task: str | None = None,
    robot_type: str | None = None,
    rebuild_timestamps: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    warn: Callable[[str], None] | None = None,
    simulation: SimulationOptions | None = None,
    mapping: str | Path | None = None,
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
) -> ConvertResult:
    """Convert recordings to a LeRobot v3.0 dataset. The source is only read.

    Args:
        source: a folder, one file (HDF5, MCAP, ROS bag, zipped zarr), a URL of either, the Hub id
            (``user/name[@revision]``) of an older LeRobot dataset, or ``metaworld:TASK``, of which demonstrations are
            recorded now.
        target: folder to make. It appears in one rename when all is done. Or a URL: it is uploaded when it is whole.
        format: ``lerobot-v1``, ``lerobot-v2.0``, ``lerobot-v2.1``, ``aloha-hdf5``, ``aloha-hdf5-bgr``,
            ``mcap``, ``rosbag``, ``zarr``, ``robomimic-hdf5`` or ``videos``; None looks.
        fps: frames a second, where the recordings do not say.
        task: what the robot does, in words, where the recordings do not say.
        robot_type: written to ``meta/info.json``; None keeps what the source says.
        rebuild_timestamps: replace timestamps by ``frame_index / fps``; else they are kept and reported.
        overwrite: replace a target that is there.
        progress: show a bar on standard error.
        warn: called with each warning as it comes.
        simulation: what of ``metaworld:TASK`` is recorded; None is 60 episodes with pictures.
        mapping: file, or name of one that comes with igrft: which stream becomes which feature. Bags need one.
        codec: of streams whose videos are encoded here, ``h264`` (the default), ``hevc`` or ``av1``.
        crf, preset: its quality (lower is better) and speed, in FFmpeg's terms; None takes what suits the codec.

    Returns:
        What was done. Episodes that cannot be converted are left out, renumbering the others.

    Raises:
        UsageError: source or target make no sense, target exists, unknown format.
        IgrftError: nothing could be converted, a damaged source, a full disk. Target is as before.
    """
    simulated = is_simulation(source)
    if simulated and format is not None:
        raise UsageError(f"{source} is simulated and has no format; leave out --format")
    if simulation is not None and not simulated:
        raise UsageError(
            f"{source} is a recording, not a simulation; leave out the options of simulated demonstrations"
        )
    place = None if simulated else locate(source, what="SOURCE", whole=True)
    where = open_target(target)
    goal = where.path
    how = [fps, task, robot_type, rebuild_timestamps, codec, crf, preset, format, repr(simulation)]
    store = StoreGoal.of(where, str(source) if place is None else place, mapping, how)
    if place is not None:
        refuse_overlap(place, goal)
    if store is not None:
        store.refuse_existing(overwrite=overwrite)
        if (known := store.converted()) is not None:
            store.send(show=progress)
            return ConvertResult(**{**known, "target": store.target.url})
    found = METAWORLD if place is None else detect(place, format)
    streams = found in STREAMS
    if mapping is not None and not streams:
        raise UsageError(f"{found} has features of its own and takes no mapping; leave out --mapping")
    if streams and rebuild_timestamps:
        raise UsageError(f"{found} is aligned to rows of its frame rate anyway; leave out --rebuild-timestamps")
    if not streams and (codec, crf, preset) != (None, None, None):
        raise UsageError(f"{found} does not choose its encoder; leave out --codec, --crf and --preset")
    named = None if mapping is None else str(mapping)
    options = Options(fps, task, robot_type, rebuild_timestamps, progress, named, codec, crf, preset)
    warnings = Warnings(warn)
    with (
        one_line_errors(goal, resumes=streams),
        open_staging(goal, overwrite=overwrite or store is not None, resumes=streams) as staging,
    ):
        if place is None:
            from igrft.simulation.record import SimulationOptions, simulate

            outcome = simulate(str(source), staging.work, options, simulation or SimulationOptions(), warnings)
        elif streams:
            from igrft.recordings.streams.convert import convert_streams
            from igrft.recordings.streams.sources import open_source

            recordings, mapped = open_source(found, place, options)
            outcome = convert_streams(recordings, mapped, staging.work, staging.kept, options, warnings)
        elif found == LEROBOT_V1:
            from igrft.recordings.lerobot_v1 import convert_v1

            outcome = convert_v1(place, staging.work, options, warnings)
        elif found in (LEROBOT_V20, LEROBOT_V21):
            from igrft.recordings.legacy import convert_lerobot

            outcome = convert_lerobot(place, staging.work, options, warnings)
        else:
            from igrft.recordings.aloha import convert_aloha

            outcome = convert_aloha(place, staging.work, options, warnings, bgr_jpeg=found == ALOHA_BGR)
        write_json(outcome.dataset / IGRFT, _record(found, str(source), place, outcome, warnings.said))
        staging.publish(outcome.dataset)
    result = ConvertResult(
        target=Path(target) if store is None else store.target.url,
        format=found,
        episodes=len(outcome.kept),
        frames=outcome.frames,
        set_aside=outcome.set_aside,
        warnings=warnings.said,
    )
    if store is not None:
        store.note(dataclasses.asdict(result))
        store.send(show=progress)
    return result


def dry_run(
    source: str | Path,
    target: str | Path,
    *,
    format: str | None = None,
    fps: float | None = None,
    task: str | None = None,
    robot_type: str | None = None,
    mapping: str | Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> DryRun:
    """Show what :func:`convert` would find and how it would map; arguments as there. Nothing is written.

    Raises:
        UsageError: source or target make no sense.
        IgrftError: nothing can be converted.
    """
    from igrft.recordings.streams.look import DryRun, look, topics
    from igrft.recordings.streams.sources import open_source, unmapped

    if is_simulation(source):
        raise UsageError("a simulation has nothing to look at before it runs; leave out --dry-run")
    place = locate(source, what="SOURCE", whole=True)
    refuse_overlap(place, open_target(target).path)
    found = detect(place, format)
    options = Options(fps, task, robot_type, mapping=None if mapping is None else str(mapping))
    if found not in STREAMS:
        from igrft.recordings.glance import glance

        if mapping is not None:
            raise UsageError(f"{found} has features of its own and takes no mapping; leave out --mapping")
        return glance(found, place, options, Warnings(warn))
    bare = unmapped(found, place, options)
    if bare is not None:
        return DryRun([f"{bare.name} is mapped to nothing yet; it holds:", *topics(bare), "give --mapping"])
    return look(*open_source(found, place, options), options, Warnings(warn))


def _record(found: str, source: str, place: Path | None, outcome: Outcome, warnings: list[str]) -> dict[str, Any]:
    """``meta/igrft.json``: how the dataset came about. No path of this machine goes into it."""
    from igrft import __version__

    # A dataset of the Hub lies in the cache under the name of its commit; its id says more.
    name = place.resolve().name if place is not None and Path(source).expanduser().exists() else source
    if place is not None and is_url(source):
        name = place.name
    convert: dict[str, Any] = {"format": found, "source": {"name": name}, "set_aside": outcome.set_aside}
    if outcome.kept != [str(i) for i in range(len(outcome.kept))]:
        convert["episode_map"] = {str(new): old for new, old in enumerate(outcome.kept)}
    convert["timestamps"] = {str(i): _finite(worst) for i, worst in outcome.timestamps.items()}
    if outcome.rebuilt:
        convert["timestamps_rebuilt"] = True
    if outcome.alignment:
        convert["alignment"] = outcome.alignment
    convert["warnings"] = warnings
    return {"igrft_version": __version__, "convert": convert}


def _finite(seconds: float) -> float | None:
    """JSON has no infinity, which stands for timestamps that were NaN."""
    return round(seconds, 9) if seconds < float("inf") else None
