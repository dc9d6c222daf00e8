"""``igrft eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from igrft.cli.options import Json, Quiet, dump, plain_overrides
from igrft.extras import require


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(evaluate)


def evaluate(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe that comes with igrft, or a YAML file.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where the folder holds results of other settings.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Success rates with intervals, and comparisons on the same seeds. Run again, it goes on where it was.

    Settings of the recipe follow as options: --checkpoint=RUN --environment.task=shelf-place-v3 --episodes=100
    --temperatures=[1.0,0.35] --videos=failures
    """
    overrides = [*plain_overrides(ctx.args), *(ctx.obj or [])]
    require("igrft eval", "train", "eval")
    from igrft.evaluation.run import evaluate as run

    def say(line: str) -> None:
        if not quiet:
            typer.echo(line, err=True)

    found = run(recipe, overrides, overwrite=overwrite, show_progress=not quiet, say=say)
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
    if not as_json:
        typer.echo(f"\n{found.folder}")
    return 0 if found.complete else 1
