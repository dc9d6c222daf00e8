"""`igrft report RUN`: one self-contained HTML page that says whether a training run learnt, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igrft.dataset.parquet import write_text
from igrft.reports.render import page_path, render
from igrft.reports.run.diagnosis import TOTAL, Diagnosis
from igrft.reports.run.findings import find
from igrft.reports.run.read import Run, is_rounds, read_run
from igrft.reports.run.sections import sections
from igrft.reports.text import percent, plural

TEMPLATE = "run.html.j2"
#: Settings that the page shows; ``policy`` has dozens of its own.
_SHOWN = ("rewards", "objective", "advantage", "critic", "exploration", "optimizer", "lora")


def report_run(run: Path | str, output: Path | str | None = None) -> Path:
    """Write the page and return its path. A run made of rounds has a page over all of them, and one a round.

    Args:
        run: the folder of a training run, finished or not.
        output: a folder (the page is ``index.html`` in it) or a file ending in ``.html``; None is
            the folder ``report`` in the run.

    Raises:
        UsageError: the folder is no run. IgrftError: its recipe cannot be read.
    """
    root = Path(run)
    if is_rounds(root):
        from igrft.reports.rounds.page import report_rounds

        return report_rounds(root, output)
    path = page_path(root / "report" if output is None else Path(output))
    write_text(path, render_run(Diagnosis(read_run(root)), root.resolve().name))
    return path


def render_run(d: Diagnosis, name: str) -> str:
    """The page of a run, by the name that it shall have on it."""
    read = d.run
    found, fine = find(d)
    return render(
        TEMPLATE,
        name=name,
        state=_state(read),
        tiles=_tiles(d),
        findings=found,
        fine=fine,
        notes=read.notes,
        facts=_facts(read),
        settings=_settings(read),
        sections=sections(d),
    )


def _state(run: Run) -> str:
    """How far the run is, in words."""
    stage, objective = run.setting("stage", "?"), run.setting("objective.type", "?")
    planned = int(run.number("steps", 0))
    last = run.metrics.last_step
    done = "finished" if planned and last >= planned else "in progress, or stopped"
    return f"{stage}, objective {objective}: step {last:,}" + (f" of {planned:,}, {done}" if planned else "")


def _tiles(d: Diagnosis) -> list[tuple[str, str]]:
    """(figure, what it is) for the head of the page."""
    metrics = d.run.metrics
    out = [(f"{metrics.last_step:,}", f"of {d.run.number('steps', 0):,.0f} steps")]
    loss = d.recent("loss")
    if loss is not None:
        out.append((f"{loss:.3g}", "loss, over the last quarter"))
    ess = d.recent("ess")
    if ess is not None:
        out.append((percent(ess), "effective sample size"))
    if d.clipped is not None:
        out.append((percent(d.clipped), "of the weights clipped"))
    fit = d.fits[-1].heldout.get(TOTAL) if d.fits else None
    if fit is not None:
        out.append((f"{fit:.2f}".replace("-", "−"), "held-out R² of the critic"))
    rate, memory = d.recent("samples_per_second"), d.recent("memory_gb")
    if rate is not None:
        out.append((f"{rate:,.3g}", "samples/s"))
    if memory is not None:
        out.append((f"{memory:.3g} GB", "memory"))
    return out


def _facts(run: Run) -> list[tuple[str, str]]:
    """(name, value) of what was trained on what."""
    out = [("policy", str(run.setting("policy.type", "not named")))]
    entries = run.setting("datasets", [])
    for name, entry in zip(run.dataset_names, entries if isinstance(entries, list) else [], strict=False):
        held = entry if isinstance(entry, Mapping) else {}
        some = held.get("episodes")
        chosen = f", {plural(len(some), 'episode')} of it" if isinstance(some, list) else ""
        out.append((str(held.get("kind") or "dataset"), f"{name} (weight {held.get('weight', 1):g}{chosen})"))
    for key in ("init_from", "batch_size", "gradient_accumulation", "precision", "seed"):
        value = run.setting(key)
        if value is not None:
            # A path is somebody's folder: its last part names it well enough.
            out.append((key, str(value).rstrip("/").rsplit("/", 1)[-1]))
    seen = len(run.samples["step"])
    out.append(("samples recorded", f"{seen:,}" if seen else "none"))
    return out


def _settings(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """(group, its settings) of the recipe that bear on what the page shows."""
    out = []
    for group in _SHOWN:
        held = run.setting(group)
        if isinstance(held, Mapping):
            out.append((group, [(str(k), plain(v)) for k, v in held.items() if v is not None]))
    return out


def plain(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
