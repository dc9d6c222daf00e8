"""`igrft report`: one self-contained HTML page by which a person judges whether the labels are right."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.dataset.parquet import write_text
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, UsageError
from igrft.progress import progress as progress_bar
from igrft.reports import overview, palette
from igrft.reports.episode_chart import EpisodeChart
from igrft.reports.pictures import Strip, film_strip
from igrft.reports.sample_pictures import SamplePicture, sample_pictures
from igrft.reports.samples import choose_episodes, sample_frames, strip_frames
from igrft.reports.set_charts import set_charts
from igrft.reports.summary import EpisodeSummary, left_out_reasons, pipeline_step, summarise
from igrft.reports.text import duration, percent

TEMPLATE = "report.html.j2"


@dataclass
class EpisodeView:
    """One episode as the template shows it."""

    summary: EpisodeSummary
    why: str
    chart: str = ""
    readout: str = ""
    samples: list[SamplePicture] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(
    dataset: DatasetReader | Path | str,
    output: Path | str | None = None,
    *,
    episodes: Sequence[int] | None = None,
    max_episodes: int = 12,
    progress: bool = False,
) -> Path:
    """Write the page and return its path.

    Args:
        dataset: a LeRobot v3.0 dataset, labelled or not; its folder, or an open reader.
        output: a folder (the page is ``index.html`` in it) or a file ending in ``.html``; None is
            the folder ``NAME.report`` beside the dataset.
        episodes: ``episode_index`` of those to show; None chooses up to ``max_episodes``.
        progress: draw a progress bar on standard error.

    Raises:
        UsageError: an episode that the dataset has not. IgrftError: files that cannot be read.
    """
    dataset = open_dataset(dataset)
    path = _path(dataset, Path(output) if output is not None else None)
    summaries = summarise(dataset)
    chosen = _chosen(dataset, summaries, episodes, max_episodes)
    fills = {name: palette.subtask_fill(i) for i, name in enumerate(_names(dataset, summaries))}
    views = []
    frames = sum(summaries[row].frames for row in chosen)
    with progress_bar("report", len(chosen), frames, show=progress) as advance:
        for row, why in chosen.items():
            views.append(_view(dataset, row, summaries[row], why, fills))
            advance(1, summaries[row].frames)
    write_text(path, _render(dataset, summaries, views, fills, explicit=episodes is not None))
    return path


def _path(dataset: DatasetReader, output: Path | None) -> Path:
    if output is None:
        root = dataset.root.resolve()
        output = root.with_name(f"{root.name}.report")
    return output if output.suffix.lower() in (".html", ".htm") else output / "index.html"


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


def _view(dataset: DatasetReader, row: int, summary: EpisodeSummary, why: str, fills: Mapping[str, str]) -> EpisodeView:
    view = EpisodeView(summary, why)
    record = dataset.igrft or {}
    entry = (record.get("episodes") or {}).get(str(summary.episode)) or {}
    interaction = entry.get("interaction") or {}
    settings = pipeline_step(record, "interaction") or {}
    rewards = pipeline_step(record, "rewards") or {}
    columns = {} if summary.set_aside else load_labels(dataset, episodes=[summary.episode]).episode(summary.episode)
    camera = interaction.get("camera") or settings.get("camera")
    if camera not in dataset.cameras:
        camera = overview.main_camera(dataset)
    strip = _strip(dataset, row, camera, view)
    marks = []
    if c.INTERACTION in columns and c.INTERACTION_PIXELS in columns:
        marks = sample_frames(columns[c.INTERACTION_PIXELS], columns[c.INTERACTION])
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
    )
    view.chart, view.readout = chart.draw(), chart.readout()
    if marks and camera is not None:
        view.samples = sample_pictures(dataset, row, camera, marks, columns, settings, interaction, view.notes)
    view.facts = overview.episode_facts(summary, interaction)
    view.notes += overview.episode_notes(interaction)
    return view


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
    *,
    explicit: bool,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "percent": percent}
    return environment.get_template(TEMPLATE).render(
        name=dataset.root.resolve().name,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        record=dataset.igrft or {},
        tiles=overview.tiles(dataset, summaries),
        facts=overview.facts(dataset),
        grouped=len({s.success for s in summaries if s.success is not None}) > 1,
        steps=overview.steps(dataset),
        warnings=overview.warnings(dataset, summaries),
        set_aside=[s for s in summaries if s.set_aside is not None],
        left_out=left_out_reasons(dataset),
        charts=set_charts(dataset, summaries, fills),
        views=views,
        shown=overview.which(summaries, views, explicit=explicit),
        masked=(pipeline_step(dataset.igrft or {}, "interaction") or {}).get("robot_mask", "none") != "none",
        palette=palette,
    )
