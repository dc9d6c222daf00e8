"""`igrft report RUN` of a Stage III run made of rounds: a page over all of them, and one a round beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.parquet import write_text
from igrft.errors import IgrftError
from igrft.reports import palette
from igrft.reports.render import page_path, render
from igrft.reports.rounds.charts import round_charts
from igrft.reports.rounds.evaluations import Evaluation, read_evaluation
from igrft.reports.rounds.findings import find_rounds
from igrft.reports.rounds.read import Round, RoundsRun, read_rounds
from igrft.reports.run import charts
from igrft.reports.run.charts import Line
from igrft.reports.run.diagnosis import Diagnosis
from igrft.reports.run.finding import Finding
from igrft.reports.run.findings import find
from igrft.reports.run.page import plain, render_run
from igrft.reports.run.read import Run, read_run
from igrft.reports.run.section import Section, drawn
from igrft.reports.text import percent, plural

TEMPLATE = "rounds.html.j2"
#: Settings of the recipe that the page shows, by their dotted names.
_SHOWN = (
    "environment",
    "exploration",
    "rollout.monitor",
    "rollout.human",
    "rollout.inference",
    "rollout.safety",
    "rounds",
    "objective",
    "critic",
)
#: Findings of a round's own page that stand on this one.
_MOST_FINDINGS = 4


@dataclass
class RoundView:
    """A round as the template shows it.

    Attributes:
        page: the file of its update's page, beside this one; None where there is none yet.
        findings: of its update, worst first. fine: what is in order.
        more: findings that are left out here.
        rollouts: name of the folder whose page shows the rollouts, or None.
        why_not: why there is no page.
    """

    number: int
    state: str
    facts: list[tuple[str, str]]
    page: str | None = None
    findings: list[Finding] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    more: int = 0
    rollouts: str | None = None
    why_not: str = ""


def report_rounds(root: Path, output: Path | str | None = None) -> Path:
    """Write the page, and one for each round's update beside it; return the first.

    Args:
        root: folder of the run, finished or not.
        output: a folder (the page is ``index.html`` in it) or a file ending in ``.html``; None is the folder
            ``report`` in the run.

    Raises:
        IgrftError: its recipe cannot be read.
    """
    run = read_rounds(root)
    path = page_path(root / "report" if output is None else Path(output))
    views = [_view(run, one, path) for one in run.rounds]
    page = render(
        TEMPLATE,
        name=root.resolve().name,
        state=_state(run),
        tiles=_tiles(run),
        findings=find_rounds(run),
        notes=run.notes,
        table=_table(run),
        charts=round_charts(run.rounds),
        reasons=_reasons(run),
        views=views,
        training=_training(run),
        evaluations=_evaluations(run),
        settings=_settings(run),
    )
    write_text(path, page)
    return path


def _view(run: RoundsRun, one: Round, path: Path) -> RoundView:
    """A round, with its own page written."""
    shown = one.labelled or one.rollouts
    view = RoundView(one.number, _round_state(run, one), [], rollouts=shown.name if shown else None)
    if one.update is None:
        view.why_not = "Its update has not logged a step yet."
        return view
    beside = f"round_{one.number}.html" if path.stem == "index" else f"{path.stem}.round_{one.number}.html"
    try:
        read = read_run(one.update)
        d = Diagnosis(read)
        found, view.fine = find(d)
        write_text(path.with_name(beside), render_run(d, f"{run.root.resolve().name}, round {one.number}"))
    except IgrftError as error:
        view.why_not = f"Its update cannot be shown: {error}"
        return view
    view.page = beside
    view.findings, view.more = found[:_MOST_FINDINGS], max(0, len(found) - _MOST_FINDINGS)
    view.facts = _update_facts(read, d)
    return view


def _update_facts(read: Run, d: Diagnosis) -> list[tuple[str, str]]:
    planned = read.number("steps", 0)
    out = [("steps", f"{read.metrics.last_step:,}" + (f" of {planned:,.0f}" if planned else ""))]
    for name, key in (("loss, last quarter", "loss"), ("effective sample size", "ess")):
        value = d.recent(key)
        if value is not None:
            out.append((name, percent(value) if key == "ess" else f"{value:.3g}"))
    if d.interventions is not None:
        held = d.interventions[0]
        out.append(("corrections among the samples", percent(held.share)))
        if held.negative is not None:
            out.append(("corrections with a negative advantage", percent(held.negative)))
    return out


def _round_state(run: RoundsRun, one: Round) -> str:
    """How far a round is, in words."""
    if one.finished:
        return "finished"
    if one.update is not None:
        return "its update is in progress, or was stopped"
    asked, held = run.whole("rollout.episodes", 0), int(one.figure("episodes") or 0)
    if asked and held >= asked:
        return "labelled, its update has not begun" if one.labelled else "rolled out, not labelled yet"
    return f"{held} of {asked or '?'} rollouts recorded"


def _state(run: RoundsRun) -> str:
    done = "finished" if run.planned and run.finished >= run.planned else "in progress, or stopped"
    task = run.setting("environment.task") or run.setting("environment.type", "not named")
    return f"hil, {task}: {run.finished} of {plural(run.planned, 'round')}, {done}"


def _tiles(run: RoundsRun) -> list[tuple[str, str]]:
    """(figure, what it is) for the head of the page."""
    out = [(f"{run.finished}", f"of {plural(run.planned, 'round')} finished")]
    held = [r for r in run.rounds if r.success is not None]
    if held:
        first, last = held[0], held[-1]
        out.append((percent(last.success), f"success in round {last.number}"))
        if first is not last:
            out.append((percent(first.success), f"success in round {first.number}"))
        share = last.figure("human_share")
        if share is not None:
            out.append((percent(share), f"of round {last.number} driven by a human"))
        out.append((f"{sum(r.figures.get('interventions', 0) for r in held):,.0f}", "takeovers in all"))
        out.append((f"{sum(r.figures['episodes'] for r in held):,.0f}", "rollouts"))
    return out


def _table(run: RoundsRun) -> tuple[list[str], list[list[str]]]:
    header = [
        "round",
        "episodes",
        "success",
        "without takeover",
        "takeovers",
        "driven by a human",
        "progress",
        "mean steps",
        "updates",
        "state",
    ]
    rows = []
    for r in run.rounds:
        count, alone = r.figure("successes"), r.figure("successes_without_help")
        steps, updates = r.figure("mean_steps"), r.figure("steps")
        rows.append(
            [
                str(r.number),
                _whole(r.figure("episodes")),
                "-" if count is None else f"{count:.0f} ({percent(r.success)})",
                _whole(alone),
                _whole(r.figure("interventions")),
                percent(r.figure("human_share")),
                percent(r.figure("progress")),
                "-" if steps is None else f"{steps:,.0f}",
                "-" if updates is None else f"{updates:,.0f}",
                _round_state(run, r),
            ]
        )
    return header, rows


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _reasons(run: RoundsRun) -> tuple[list[str], list[list[str]]] | None:
    """Takeovers by who and why, a column a round; None where nobody took over."""
    kinds = sorted({kind for r in run.rounds for kind in r.reasons})
    if not kinds:
        return None
    header = ["who", "why", *(f"round {r.number}" for r in run.rounds)]
    return header, [[by, why, *(str(r.reasons[by, why]) for r in run.rounds)] for by, why in kinds]


def _training(run: RoundsRun) -> Section:
    """Losses of all updates, with a mark where one ends."""
    metrics = run.metrics
    steps, numbers = metrics.series("round")
    ends = steps[:-1][np.diff(numbers) > 0].tolist() if len(steps) > 1 else []

    def lines(*keys: str) -> list[Line]:
        found = []
        for i, key in enumerate(keys):
            at, values = metrics.series(key)
            if len(at):
                found.append(Line(key.removeprefix("loss_").replace("_", " "), at, values, palette.SERIES[i]))
        return found

    where = "Dashed: a round ends." if ends else ""
    found = drawn(
        charts.lines("Loss of the actor", lines("loss", "loss_flow", "loss_text"), note=where, marks=ends),
        charts.lines(
            "Losses of the critic",
            lines("loss_critic", "loss_value_trajectory", "loss_value_subtask", "loss_interaction"),
            note=where,
            marks=ends,
        ),
        charts.lines("Effective sample size", lines("ess"), low=0.0, high=1.0, note=where, marks=ends),
        charts.lines("Share of positive advantages", lines("positive_share"), low=0.0, high=1.0, marks=ends),
    )
    absent = "" if found else "No round is finished: each adds its losses here, and until then to its own page."
    return Section("training", "Updates of all rounds", found, absent=absent)


def _evaluations(run: RoundsRun) -> list[Evaluation]:
    return [read_evaluation(name, summary) for name, summary in run.evaluations]


def _settings(run: RoundsRun) -> list[tuple[str, list[tuple[str, str]]]]:
    out = []
    for key in _SHOWN:
        held = run.setting(key)
        if isinstance(held, Mapping):
            out.append((key, [(str(k), _shown(v)) for k, v in held.items() if _says(v)]))
    return [(key, held) for key, held in out if held]


def _says(value: Any) -> bool:
    return value is not None and value != {} and value != []


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items() if _says(v))
    # A path is somebody's folder: its last part names it well enough.
    return value.rstrip("/").rsplit("/", 1)[-1] if isinstance(value, str) else plain(value)
