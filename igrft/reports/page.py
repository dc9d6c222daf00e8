"""`igrft report`: one self-contained HTML page by which a person judges whether the labels are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.dataset.parquet import write_text
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.progress import progress as progress_bar
from igrft.remote.mirror import beside
from igrft.reports import overview, palette
from igrft.reports.episode_chart import EpisodeChart
from igrft.reports.pictures import Strip, film_strip
from igrft.reports.render import page_path, render
from igrft.reports.robot_masks import coverage, frames_to_paint
from igrft.reports.rollouts.monitor_section import MonitorSection, monitor_section
from igrft.reports.rollouts.record import Rollouts, read_rollouts
from igrft.reports.rollouts.section import human_share, rollout_section, trained_noise
from igrft.reports.rollouts.settings import replay_settings
from igrft.reports.sample_pictures import SamplePicture, sample_pictures
from igrft.reports.samples import choose_episodes, sample_frames, strip_frames
from igrft.reports.set_charts import set_charts
from igrft.reports.summary import EpisodeSummary, left_out_reasons, pipeline_step, summarise
from igrft.reports.value_panels import Alarms, Event, judge

TEMPLATE = "report.html.j2"
#: Rises and dips of the value that are shown with a picture.
_MOST_EVENTS = 6


@dataclass(frozen=True)
class EventPicture:
    """A rise or dip of the critic's value, with the picture at its extreme (None where there is none)."""

    event: Event
    picture: str | None
    seconds: tuple[float, float]


@dataclass
class EpisodeView:
    """One episode as the template shows it."""

    summary: EpisodeSummary
    why: str
    chart: str = ""
    readout: str = ""
    samples: list[SamplePicture] = field(default_factory=list)
    events: list[EventPicture] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(
    dataset: DatasetReader | Path | str,
    output: Path | str | None = None,
    *,
    episodes: Sequence[int] | None = None,
    max_episodes: int = 12,
    overrides: Sequence[str] = (),
    progress: bool = False,
) -> Path:
    """Write the page and return its path.

    Args:
        dataset: a LeRobot v3.0 dataset, labelled or not; its folder, or an open reader.
        output: a folder (the page is ``index.html`` in it) or a file ending in ``.html``; None is
            the folder ``NAME.report`` beside the dataset, or in the working directory for one on a store.
        episodes: ``episode_index`` of those to show; None chooses up to ``max_episodes``.
        overrides: settings of the stagnation monitor that is replayed where there is a value, as
            ``monitor.window=2.0``; the others are those of the recording.
        progress: draw a progress bar on standard error.

    Raises:
        UsageError: an episode that the dataset has not, or settings that cannot be. IgrftError: files that cannot be
            read.
    """
    dataset = open_dataset(dataset)
    rollouts = read_rollouts(dataset)
    settings = replay_settings(rollouts.settings, overrides)
    if overrides and c.VALUE not in dataset.features:
        raise UsageError(
            f"--{overrides[0]}: {dataset.root} has no column {c.VALUE!r} to replay the monitor over; rollouts with a "
            "critic have one, and the step 'values' makes it"
        )
    path = _path(dataset, Path(output) if output is not None else None)
    summaries = summarise(dataset)
    monitor = monitor_section(dataset, summaries, settings)
    chosen = _chosen(dataset, summaries, episodes, max_episodes)
    fills = {name: palette.subtask_fill(i) for i, name in enumerate(_names(dataset, summaries))}
    views = []
    frames = sum(summaries[row].frames for row in chosen)
    with progress_bar("report", len(chosen), frames, show=progress) as advance:
        for row, why in chosen.items():
            views.append(_view(dataset, row, summaries[row], why, fills, rollouts, monitor))
            advance(1, summaries[row].frames)
    write_text(path, _render(dataset, summaries, views, fills, rollouts, monitor, explicit=episodes is not None))
    return path


def _path(dataset: DatasetReader, output: Path | None) -> Path:
    if output is None:
        output = beside(dataset.root, ".report")
    return page_path(output)


def _chosen(
    dataset: DatasetReader, summaries: Sequence[EpisodeSummary], episodes: Sequence[int] | None, most: int
) -> dict[int, str]:
    if episodes is None:
        return choose_episodes(summaries, most)
    row_of = {s.episode: row for row, s in enumerate(summaries)}
    for episode in episodes:
        if episode not in row_of:
            raise UsageError(f"{dataset.root} has no episode {episode}; it has {len(summaries)} episodes")
    return {row_of[e]: "" for e in episodes}


def _names(dataset: DatasetReader, summaries: Sequence[EpisodeSummary]) -> list[str]:
    """The vocabulary: as recorded, then what only segments name."""
    names = dict.fromkeys(dataset.subtask_names)
    for summary in summaries:
        names |= dict.fromkeys(s["name"] for s in summary.subtasks)
    return list(names)


def _view(
    dataset: DatasetReader,
    row: int,
    summary: EpisodeSummary,
    why: str,
    fills: Mapping[str, str],
    rollouts: Rollouts,
    monitor: MonitorSection | None,
) -> EpisodeView:
    view = EpisodeView(summary, why)
    record = dataset.igrft or {}
    entry = (record.get("episodes") or {}).get(str(summary.episode)) or {}
    interaction = entry.get("interaction") or {}
    settings = pipeline_step(record, "interaction") or {}
    rewards = pipeline_step(record, "rewards") or {}
    columns = {} if summary.set_aside else _columns(dataset, summary.episode)
    camera = interaction.get("camera") or settings.get("camera")
    if camera not in dataset.cameras:
        camera = overview.main_camera(dataset)
    strip = _strip(dataset, row, camera, view)
    marks = []
    if c.INTERACTION in columns and c.INTERACTION_PIXELS in columns:
        marks = sample_frames(columns[c.INTERACTION_PIXELS], columns[c.INTERACTION])
    judgement = judge(columns, pipeline_step(record, "values") or {}, dataset.fps)
    chart = EpisodeChart(
        length=summary.frames,
        fps=dataset.fps,
        columns=columns,
        subtasks=summary.subtasks,
        fills=fills,
        strip=strip.pictures if strip else (),
        strip_aspect=strip.aspect if strip else 0.75,
        marks=[m.frame for m in marks],
        pixel_threshold=settings.get("pixel_threshold"),
        weights=(float(rewards.get("trajectory_weight", 0.4)), float(rewards.get("subtask_weight", 0.6))),
        judgement=judgement,
        takeovers=summary.takeovers,
        alarms=None if monitor is None else _alarms(monitor, rollouts, summary.episode),
        trained_noise=trained_noise(rollouts.settings or {}),
        coverage=None if summary.set_aside else coverage(dataset, row),
    )
    view.chart, view.readout = chart.draw(), chart.readout()
    if marks and camera is not None:
        view.samples = sample_pictures(dataset, row, camera, marks, columns, settings, interaction, view.notes)
    view.events = _event_pictures(dataset, row, camera if strip else None, judgement.events, view)
    view.facts = overview.episode_facts(summary, interaction) + overview.value_facts(columns, judgement)
    view.facts += overview.rollout_facts(summary)
    view.notes += overview.episode_notes(interaction)
    if monitor is not None and summary.episode in monitor.fires:
        times = [f"{f / dataset.fps:.2f} s" for f in monitor.fires[summary.episode]]
        said = f"would fire at {', '.join(times)}" if times else "would not fire"
        view.notes.append(f"The stagnation monitor {said} ({monitor.settings.words}).")
    return view


def _columns(dataset: DatasetReader, episode: int) -> dict[str, np.ndarray]:
    """Labels of an episode, and the noise that its actions were drawn with; each [T]."""
    names = [n for n in (*c.LABELS, c.NOISE_SCALE) if n in dataset.features and n != c.LANGUAGE_PERSISTENT]
    return load_labels(dataset, names, [episode]).episode(episode)


def _alarms(monitor: MonitorSection, rollouts: Rollouts, episode: int) -> Alarms:
    return Alarms(monitor.fires.get(episode, []), rollouts.calls(episode))


def _event_pictures(
    dataset: DatasetReader, row: int, camera: str | None, events: Sequence[Event], view: EpisodeView
) -> list[EventPicture]:
    """The largest rises and dips, in order of time, each with the picture at its extreme."""
    shown = sorted(sorted(events, key=lambda e: -abs(e.size))[:_MOST_EVENTS], key=lambda e: e.start)
    pictures: list[str | None] = [None] * len(shown)
    if camera is not None and shown:
        try:
            frames = [e.extreme for e in shown]
            unique = sorted(set(frames))
            found = dict(film_strip(dataset, row, camera, unique).pictures)
            pictures = [found[f] for f in frames]
        except (EpisodeError, IgrftError) as error:
            view.notes.append(f"No pictures of the value's rises and dips: {error}")
    if len(events) > len(shown):
        view.notes.append(f"The {len(shown)} largest of {len(events)} rises and dips of the value are shown.")
    fps = dataset.fps
    return [EventPicture(e, p, (e.start / fps, e.end / fps)) for e, p in zip(shown, pictures, strict=True)]


def _strip(dataset: DatasetReader, row: int, camera: str | None, view: EpisodeView) -> Strip | None:
    """The strip of pictures; where it cannot be had, why goes to the notes."""
    length = int(dataset.lengths[row])
    if camera is None or not length:
        return None
    try:
        return film_strip(dataset, row, camera, strip_frames(length))
    except (EpisodeError, IgrftError) as error:
        view.notes.append(f"No pictures: {error}")
        return None


def _render(
    dataset: DatasetReader,
    summaries: Sequence[EpisodeSummary],
    views: Sequence[EpisodeView],
    fills: Mapping[str, str],
    rollouts: Rollouts,
    monitor: MonitorSection | None,
    *,
    explicit: bool,
) -> str:
    section = rollout_section(dataset, summaries, rollouts)
    return render(
        TEMPLATE,
        name=dataset.root.resolve().name,
        record=dataset.igrft or {},
        tiles=overview.tiles(dataset, summaries, human_share(summaries) if section else None),
        facts=overview.facts(dataset),
        grouped=len({s.success for s in summaries if s.success is not None}) > 1,
        steps=overview.steps(dataset),
        warnings=[*overview.warnings(dataset, summaries), *(section.warnings if section else ())],
        rollouts=section,
        monitor=monitor,
        set_aside=[s for s in summaries if s.set_aside is not None],
        left_out=left_out_reasons(dataset),
        charts=set_charts(dataset, summaries, fills),
        views=views,
        to_paint=frames_to_paint(dataset),
        shown=overview.which(summaries, views, explicit=explicit),
        masked=(pipeline_step(dataset.igrft or {}, "interaction") or {}).get("robot_mask", "none") != "none",
    )
