"""The page that tells a demo: what was recorded, what the labels say, what was learnt, how often it succeeds."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.dataset.parquet import write_text
from igrft.demo.run import STAGES
from igrft.reports import palette, svg
from igrft.reports.pictures import film_strip
from igrft.reports.render import render
from igrft.reports.run.axes import FOOT, LEFT, RIGHT, WIDTH, Axes
from igrft.reports.text import percent
from igrft.rollouts.facts import read_rounds

if TYPE_CHECKING:
    from igrft.demo.run import Demo
    from igrft.evaluation.summary import Row

#: Pictures of a strip.
_PICTURES = 8


@dataclass(frozen=True)
class Film:
    """An episode in pictures."""

    title: str
    pictures: list[str]


def write_page(told: Demo) -> Path:
    """Write ``index.html`` and return its path."""
    assert told.evaluation is not None
    # There is one task, so a stage has one row.
    rows = {row.name: row for row in told.evaluation.summary.rows}
    path = told.root / "index.html"
    page = render(
        "demo.html.j2",
        task=told.settings.task,
        settings=told.settings,
        tiles=[(percent(rows[name].success_rate), f"succeed after {name}") for name in STAGES],
        minutes=sum(told.seconds.values()) / 60,
        seconds=[(name, f"{value:.0f} s") for name, value in told.seconds.items()],
        recorded=_recorded(told),
        films=_films(told),
        labels=_labels(told),
        round=read_rounds(told.hil)[0],
        figures=_values(told),
        rates=_rates([rows[name] for name in STAGES]),
        table=_table(told, rows),
        pages=[(name, os.path.relpath(page, told.root)) for name, page in told.pages.items()],
        notices=told.evaluation.summary.notices,
    )
    write_text(path, page)
    return path


def _recorded(told: Demo) -> dict[str, Any]:
    dataset = open_dataset(told.recorded)
    success = _success(told.recorded)
    return {
        "episodes": dataset.num_episodes,
        "successes": int(success.sum()),
        "frames": int(dataset.lengths.sum()),
        "minutes": float(dataset.lengths.sum() / dataset.fps / 60),
        "fps": dataset.fps,
    }


def _success(root: Path) -> np.ndarray:
    """bool [episodes], as recorded."""
    dataset = open_dataset(root)
    labels = load_labels(dataset, [c.SUCCESS])
    return np.array([bool(labels.episode(int(e))[c.SUCCESS].any()) for e in dataset.episode_indices])


def _films(told: Demo) -> list[Film]:
    """One demonstration that succeeded and one that did not, in pictures."""
    dataset = open_dataset(told.recorded)
    success = _success(told.recorded)
    films = []
    for wanted, title in ((True, "a success"), (False, "a failure")):
        rows = np.flatnonzero(success == wanted)
        if len(rows):
            row = int(rows[0])
            frames = np.linspace(0, int(dataset.lengths[row]) - 1, _PICTURES).astype(int).tolist()
            strip = film_strip(dataset, row, dataset.cameras[0], frames)
            episode = int(dataset.episode_indices[row])
            films.append(Film(f"Episode {episode}, {title}", [picture for _, picture in strip.pictures]))
    return films


def _labels(told: Demo) -> dict[str, Any]:
    dataset = open_dataset(told.labelled)
    labels = load_labels(dataset, [c.INTERACTION, c.RETURN])
    moving = np.concatenate([labels.episode(int(e))[c.INTERACTION] for e in dataset.episode_indices])
    records = [labels.episode_record(int(e)) for e in dataset.episode_indices]
    return {
        "names": dataset.subtask_names,
        "interaction": float(moving.mean()),
        "set_aside": sum("set_aside" in record for record in records),
    }


def _values(told: Demo) -> list[str]:
    """Figure 7 of one rollout in which the human took over and of one in which nobody did, as data URIs."""
    from igrft.evaluation.traces import trace_of_dataset
    from igrft.evaluation.value_figure import figure_7

    dataset = open_dataset(told.rollouts)
    labels = load_labels(dataset, [c.INTERVENTION])
    helped = [bool(labels.episode(int(e))[c.INTERVENTION].any()) for e in dataset.episode_indices]
    chosen = [next((i for i, h in enumerate(helped) if h == wanted), None) for wanted in (True, False)]
    out = []
    for row in chosen:
        if row is None:
            continue
        figure = figure_7(trace_of_dataset(dataset, int(dataset.episode_indices[row])))
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        out.append("data:image/png;base64," + base64.b64encode(data.getvalue()).decode())
    return out


def _rates(rows: list[Row]) -> str:
    """Success rates with their intervals, as a drawing."""
    axes = Axes((0, 1), (0, 1), label="after each stage", name="success rate", names=[row.name for row in rows])
    part = (WIDTH - RIGHT - LEFT) / len(rows)
    for i, row in enumerate(rows):
        middle, top = LEFT + (i + 0.5) * part, axes.y(row.success_rate)
        low, high = axes.y(row.interval[0]), axes.y(row.interval[1])
        told = svg.title(f"{row.name}: {row.successes} of {row.n}")
        bar = {"x": middle - 0.28 * part, "y": top, "width": 0.56 * part, "height": FOOT - top}
        axes.add(svg.tag("rect", told, fill=palette.SERIES[0], **bar))
        axes.add(svg.tag("line", x1=middle, x2=middle, y1=low, y2=high, stroke=palette.INK, stroke_width=1.5))
        for end in (low, high):
            axes.add(svg.tag("line", x1=middle - 5, x2=middle + 5, y1=end, y2=end, stroke=palette.INK))
    return axes.finish()


def _table(told: Demo, rows: dict[str, Row]) -> list[list[str]]:
    assert told.evaluation is not None
    compared = {pair.first[0]: pair.comparison for pair in told.evaluation.summary.comparisons}
    out = [["", "succeeded", "95 % interval", "subtasks done", f"against {STAGES[0]}, same starts"]]
    for name in STAGES:
        row = rows[name]
        pair = compared.get(name)
        difference = ""
        if pair is not None:
            low, high = (f"{100 * v:+.0f}" for v in (pair.low, pair.high))
            difference = f"{100 * pair.difference:+.0f} points ({low} … {high})"
        out.append(
            [
                name,
                f"{row.successes} of {row.n}",
                f"{percent(row.interval[0])} … {percent(row.interval[1])}",
                "" if row.progress is None else percent(row.progress),
                difference,
            ]
        )
    return out
