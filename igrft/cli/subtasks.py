"""``igrft subtasks``: labels as files, and how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from igrft.cli.options import DatasetArg, Json, count, dump

subtasks_app = typer.Typer(help="Subtask labels: as files, and scored.", no_args_is_help=True, rich_markup_mode=None)


@subtasks_app.command("export")
def export(
    dataset: DatasetArg,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The subtask file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> int:
    """Write a dataset's subtasks as a file, to correct by hand and give back as 'overrides'."""
    from igrft.steps.subtasks.export import export_subtasks

    found = export_subtasks(dataset, file, overwrite=overwrite)
    typer.echo(f"{file}: {count(found, 'episode')}")
    return 0


@subtasks_app.command("score")
def score(
    dataset: DatasetArg,
    reference: Annotated[
        str,
        typer.Argument(metavar="REFERENCE", help="A subtask file, or a labelled dataset of the same episodes."),
    ],
    ignore_names: Annotated[
        bool, typer.Option("--ignore-names", help="Compare places alone, where the names differ.")
    ] = False,
    as_json: Json = False,
) -> int:
    """How good a dataset's subtasks are: segment F1 at IoU 0.5, frame accuracy, boundary and count error."""
    from igrft.steps.subtasks.compare import compare

    found = compare(dataset, reference, ignore_names=ignore_names)
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
    return 1 if found.left_out else 0


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(subtasks_app, name="subtasks")
