"""``convert --dry-run`` of recordings whose features are their own: what was found. Nothing is decoded or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from igrft.recordings.detect import ALOHA, ALOHA_BGR, LEROBOT_V1, find_v1, hdf5_files
from igrft.recordings.options import Options
from igrft.recordings.streams.look import DryRun


def glance(form: str, place: Path, options: Options, warn: Callable[[str], None]) -> DryRun:
    """What would be converted, as far as headers tell: pictures and rows may still be damaged.

    Raises:
        IgrftError: nothing can be converted.
    """
    if form in (ALOHA, ALOHA_BGR):
        return _aloha(place, options, warn)
    return _v1(place) if form == LEROBOT_V1 else _lerobot(place, warn)


def _aloha(place: Path, options: Options, warn: Callable[[str], None]) -> DryRun:
    from igrft.recordings.aloha import frame_rate, nothing_left, survey_files
    from igrft.recordings.aloha_file import require_h5py

    require_h5py()
    out = DryRun()
    found = survey_files(hdf5_files(place), out.set_aside)
    if not found:
        raise nothing_left(place, out.set_aside)
    fps = frame_rate(options.fps, found[0].layout.fps, warn)
    out.lines = [f"{one.path.name}: {one.length} frames, {one.length / fps:.1f} s" for one in found]
    out.lines.append(f"each holds {found[0].layout}")
    return _sum(out, len(found), sum(one.length for one in found), fps)


def _lerobot(place: Path, warn: Callable[[str], None]) -> DryRun:
    from igrft.recordings.legacy import nothing_left
    from igrft.recordings.legacy_columns import plan_columns
    from igrft.recordings.legacy_source import LegacySource
    from igrft.recordings.legacy_survey import survey

    source = LegacySource.open(place)
    found = survey(source, warn)
    if not found.schemas:
        raise nothing_left(place, found.set_aside)
    plan = plan_columns(source, found.schemas, found.cameras, warn)
    reasons = {**plan.lacking, **found.set_aside}
    out = DryRun([f"columns: {', '.join(plan.features)}"])
    out.lines += [f"{camera}: {facts}, kept as it is" for camera, facts in found.facts.items()]
    out.set_aside = {str(index): reasons[index] for index in sorted(reasons)}
    kept = [episode for episode in source.episodes if episode.index not in reasons]
    return _sum(out, len(kept), sum(episode.length or 0 for episode in kept), source.fps)


def _v1(place: Path) -> DryRun:
    from igrft.dataset.files import read_json
    from igrft.recordings.lerobot_v1 import read_episodes

    base = find_v1(place)
    assert base is not None, "detect() saw one"
    lengths, names = [], []
    for _, table in read_episodes(base):
        lengths.append(table.num_rows)
        names = table.column_names
    fps = read_json(base / "meta_data/info.json").get("fps") or 0
    return _sum(DryRun([f"columns: {', '.join(names)}"]), len(lengths), sum(lengths), fps)


def _sum(out: DryRun, episodes: int, frames: int, fps: float) -> DryRun:
    out.episodes, out.frames = episodes, frames
    out.lines.append(f"{episodes} episodes, {frames} frames at {fps:g} a second; nothing was written")
    return out
