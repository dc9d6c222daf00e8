"""What the page says of the whole dataset: figures, settings, warnings, distributions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.recordings.video_facts import TOLERANCE_S
from igrft.reports.robot_masks import mask_fact, mask_warnings
from igrft.reports.run.figures import r_squared
from igrft.reports.summary import EpisodeSummary, pipeline_step
from igrft.reports.text import duration, number, percent, plural
from igrft.reports.value_events import RISE
from igrft.reports.value_panels import Judgement

#: A share of repeated pictures above which a label flickers visibly.
_MANY_REPEATS = 0.1


@dataclass(frozen=True)
class Chart:
    """A distribution: its heading, the SVG, and what to look for."""

    heading: str
    picture: str
    note: str


def main_camera(dataset: DatasetReader) -> str | None:
    """The first camera with pictures, or None."""
    return next((k for k in dataset.cameras if dataset.camera_has_files(k)), None)


def tiles(
    dataset: DatasetReader, summaries: Sequence[EpisodeSummary], human: float | None = None
) -> list[tuple[str, str]]:
    """(figure, what it is) for the head of the page.

    Args:
        human: share of the frames that a human drove, of rollouts.
    """
    known = [s.success for s in summaries if s.success is not None and s.set_aside is None]
    aside = sum(s.set_aside is not None for s in summaries)
    shares = [s.interaction_share for s in summaries if s.interaction_share is not None]
    out = [
        (f"{len(summaries):,}", "episode" if len(summaries) == 1 else "episodes"),
        (duration(dataset.num_frames / dataset.fps), f"{dataset.num_frames:,} frames at {dataset.fps:g} frames/s"),
    ]
    if known:
        out.append((percent(float(np.mean(known))), f"success, {sum(known):,} of {len(known):,}"))
    if shares:
        out.append((percent(float(np.mean(shares))), "of an episode is interaction, on average"))
    if human is not None:
        takeovers = sum(len(s.takeovers or ()) for s in summaries if s.set_aside is None)
        out.append((f"{takeovers:,}", "takeover" if takeovers == 1 else "takeovers"))
        out.append((percent(human), "of the frames driven by a human"))
    if aside:
        out.append((f"{aside:,}", "set aside"))
    return out


def facts(dataset: DatasetReader) -> list[tuple[str, str]]:
    """(name, value) of what the set is."""
    record = dataset.igrft or {}
    cameras = ", ".join(dataset.cameras) or "none"
    labels = ", ".join(n for n in c.LABELS if n in dataset.features) or "none"
    out = [
        ("robot", str(dataset.info.get("robot_type") or "not named")),
        ("cameras", cameras),
        (
            "tasks",
            "; ".join(dataset.tasks[:5]) + (f"; and {len(dataset.tasks) - 5} more" if len(dataset.tasks) > 5 else ""),
        ),
        ("label columns", labels),
    ]
    if record.get("source"):
        out.append(("source", f"{record['source'].get('name')} (fingerprint {record['source'].get('fingerprint')})"))
    if record.get("igrft_version"):
        packages = ", ".join(f"{k} {v}" for k, v in (record.get("packages") or {}).items())
        out.append(("made by", f"igrft {record['igrft_version']}" + (f" with {packages}" if packages else "")))
    return out


def steps(dataset: DatasetReader) -> list[tuple[str, list[tuple[str, str]]]]:
    """(type of step, its settings) of the pipeline as run."""
    found = ((dataset.igrft or {}).get("pipeline") or {}).get("steps") or []
    return [(str(s.get("type")), [(k, _plain(v)) for k, v in s.items() if k != "type"]) for s in found]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def warnings(dataset: DatasetReader, summaries: Sequence[EpisodeSummary]) -> list[str]:
    """What a reader should know before trusting the labels."""
    record = dataset.igrft or {}
    found = [
        None if record.get("pipeline") else "igrft annotate did not label this dataset: it shows what there is.",
        _assumed(summaries),
        *_interaction_warnings(dataset, summaries),
        _timestamps(record.get("convert") or {}),
    ]
    said = (record.get("convert") or {}).get("warnings") or ()
    found += [f"convert: {line}" for line in said if "timestamps are up to" not in line]
    return [line for line in found if line]


def _assumed(summaries: Sequence[EpisodeSummary]) -> str | None:
    count = sum(s.success_from == "assumed" for s in summaries)
    if not count:
        return None
    return f"Success was assumed for {plural(count, 'episode')}: neither the source nor a subtask file says."


def _timestamps(convert: Mapping[str, Any]) -> str | None:
    off = {k: float(v) for k, v in (convert.get("timestamps") or {}).items() if float(v) > TOLERANCE_S}
    if not off:
        return None
    worst = max(off, key=lambda k: off[k])
    milliseconds = 1000 * off[worst]
    where = f"the worst by {milliseconds:.1f} ms (episode {worst})"
    if convert.get("timestamps_rebuilt"):
        return (
            f"As recorded, timestamps of {plural(len(off), 'episode')} disagreed with the frame rate, {where}; they "
            "were rebuilt. Were frames dropped in the recording, the labels' times are off by as much."
        )
    return (
        f"Timestamps of {plural(len(off), 'episode')} disagree with the frame rate, {where}; convert with "
        "--rebuild-timestamps sets them right."
    )


def _interaction_warnings(dataset: DatasetReader, summaries: Sequence[EpisodeSummary]) -> Iterator[str]:
    record = dataset.igrft or {}
    settings = pipeline_step(record, "interaction") or {}
    facts = [e.get("interaction") or {} for e in (record.get("episodes") or {}).values()]
    if settings.get("robot_mask") == "none":
        yield (
            "No robot mask was used, so the robot's own motion counts: interaction here means that something moves in "
            "view. A few painted frames give one: see below, before the episodes."
        )
    yield from mask_warnings(record)
    moving = sum(f.get("camera_motion") == "compensate" for f in facts)
    if moving:
        yield f"The camera moves in {plural(moving, 'episode')}; its motion was estimated and taken out of the flow."
    repeats = sum((f.get("repeated_share") or 0) > _MANY_REPEATS for f in facts)
    if repeats and not settings.get("close_gaps"):
        yield (
            f"In {plural(repeats, 'episode')} more than a tenth of the pictures repeat the one before (a camera slower "
            "than the recording): interaction flickers. Set close_gaps, e.g. --steps.interaction.close_gaps=2."
        )
    extreme = [s for s in summaries if s.interaction_share in (0.0, 1.0)]
    if extreme:
        yield (
            f"Interaction is on all frames or none in {plural(len(extreme), 'episode')} (e.g. episode "
            f"{extreme[0].episode}): the thresholds may not suit this camera."
        )


def episode_facts(summary: EpisodeSummary, interaction: Mapping[str, Any]) -> list[str]:
    """Short facts beside an episode's heading."""
    out = [f"{summary.seconds:.1f} s", f"{summary.frames:,} frames"]
    if summary.return_at_start is not None:
        out.append(f"return {number(summary.return_at_start)}")
    if summary.interaction_share is not None:
        out.append(f"{percent(summary.interaction_share)} interaction")
    motion = interaction.get("camera_motion")
    if motion == "compensate":
        fit = interaction.get("inlier_share")
        out.append("camera moves, compensated" + (f" ({percent(fit)} inliers)" if fit is not None else ""))
    elif motion:
        out.append(f"camera {motion}")
    return out + mask_fact(interaction)


def value_facts(columns: Mapping[str, np.ndarray], judgement: Judgement) -> list[str]:
    """Short facts about the critic's value of an episode."""
    if judgement.reference is None or c.VALUE not in columns:
        return []
    fit = r_squared(columns[c.VALUE], judgement.reference)
    rises = sum(e.kind == RISE for e in judgement.events)
    dips = len(judgement.events) - rises
    out = [f"value R² {number(fit)}".replace("-", "−")] if fit is not None else []
    if judgement.events:
        out.append(f"value: {plural(rises, 'unexpected rise')}, {plural(dips, 'dip')}")
    return out


def rollout_facts(summary: EpisodeSummary) -> list[str]:
    """Short facts about who drove, of an episode that a policy drove."""
    if not summary.takeovers:
        return [f"ended by {summary.ended}"] if summary.ended else []
    who = ", ".join(sorted({t["by"] for t in summary.takeovers if t["by"]}))
    out = [plural(len(summary.takeovers), "takeover") + (f" by {who}" if who else "")]
    out.append(f"a human drove {percent(summary.human_share)}")
    return out + ([f"ended by {summary.ended}"] if summary.ended else [])


def episode_notes(interaction: Mapping[str, Any]) -> list[str]:
    """Longer remarks under an episode's chart."""
    repeated = interaction.get("repeated_share") or 0
    return [f"{percent(repeated)} of the pictures repeat the one before."] if repeated > _MANY_REPEATS else []


def which(summaries: Sequence[EpisodeSummary], views: Sequence[Any], *, explicit: bool) -> str:
    """Which episodes are shown, in words."""
    usable = sum(s.set_aside is None for s in summaries)
    if explicit:
        return f"{plural(len(views), 'episode')} shown as asked for, of {len(summaries):,}."
    if len(views) == usable:
        return "All episodes are shown." if usable == len(summaries) else "All episodes that have labels are shown."
    return (
        f"{len(views)} of {plural(usable, 'episode')} are shown: failures, the extremes, and the rest evenly spread "
        "(--episodes names others)."
    )
