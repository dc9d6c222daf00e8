"""`annotate --dry-run`: what would be done, and shown, before anything is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igrft.pipeline.config import Pipeline
from igrft.pipeline.run import Run


@dataclass
class DryRun:
    """Lines for people, and the same for programs: step by step, with the episodes that are not done yet."""

    lines: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)

    def to_text(self) -> str:
        return "\n".join(self.lines)

    def to_json(self) -> dict[str, Any]:
        return {"steps": self.steps}


def dry_run(
    source: str | Path,
    target: str | Path,
    *,
    pipeline: str | Path | Pipeline = "offline",
    overrides: tuple[str, ...] | list[str] = (),
    overwrite: bool = False,
    output: Path | None = None,
) -> DryRun:
    """Check a run and show what it would do. Nothing is labelled, asked or sent.

    Args:
        source, target, pipeline, overrides, overwrite: as of :func:`~igrft.annotate`; episodes that an earlier run
            into TARGET has done are not counted.
        output: folder for what steps show; default: ``TARGET.preview`` beside TARGET.

    Raises:
        UsageError, IgrftError: as a real run would, before its first episode.
    """
    run = Run.prepare(source, target, pipeline, overrides)
    run.target.refuse_strangers(run.plan.source, overwrite)
    run.find_earlier_work()
    folder = output or run.target.beside(".preview")
    found = DryRun([*run.plan.notices])
    reached = True
    for group in run.plan.groups:
        # Past a step that is not done, what later ones would start from is not known.
        reached = reached and run.known(group)
        rows = run.missing(group) if reached else sorted(set(range(run.dataset.num_episodes)) - set(run.set_aside))
        frames = int(run.dataset.lengths[rows].sum())
        for number in group:
            step = run.plan.steps[number]
            # Results of cheap steps are not kept with a dataset: they are made anew in moments.
            how = "to do" if step.heavy else "to do, in moments"
            found.lines.append(f"{step.type}: {len(rows)} episodes, {frames} frames {how}")
            entry: dict[str, Any] = {"step": step.type, "episodes": len(rows), "frames": frames, "heavy": step.heavy}
            shown = step.preview(run.dataset, rows, folder) if rows else None
            if shown is not None:
                found.lines.append(shown.text)
                entry |= shown.numbers
            found.steps.append(entry)
        reached = reached and not rows
    for row, reason in sorted(run.set_aside.items()):
        found.lines.append(f"set aside: {reason}")
        found.steps.append({"set_aside": int(run.dataset.episode_indices[row]), "reason": reason})
    return found
