"""``igrft record``."""

from __future__ import annotations

from typing import Annotated

import typer

from igrft.cli.options import Json, Quiet, count, dump, plain_overrides
from igrft.extras import require


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(record)


def record(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe that comes with igrft, or a YAML file.")
    ] = "record",
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Record demonstrations with a robot and a teleoperator, through LeRobot's recorder. Run again, it goes on.

    Settings of the recipe follow as options: --environment.robot.type=so101_follower --environment.robot.port=PORT
    --human.teleop.type=so101_leader --human.teleop.port=PORT --task_file=FILE --episodes=50
    """
    require("igrft record", "robot")
    from igrft.demonstrations.recipe import RecordRecipe
    from igrft.training.recipe_file import load_recipe

    words = ctx.args
    if recipe.startswith("--"):  # no recipe was named: what stood in its place is the first setting
        recipe, words = "record", [recipe, *words]
    loaded = load_recipe(recipe, [*plain_overrides(words), *(ctx.obj or [])], RecordRecipe)
    from igrft.demonstrations.run import record as run

    result = run(loaded, name=recipe, say=(lambda line: None) if quiet else (lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(dump(result.to_json()))
    else:
        good = sum(success for _, success in result.recorded)
        typer.echo(
            f"{result.root}: {count(result.episodes, 'episode')}, of which {len(result.recorded)} now, {good} succeeded"
        )
        told = f" --steps.subtasks.task={loaded.task_file}" if loaded.task_file else ""
        typer.echo(f"label it with: igrft annotate {result.root} labelled{told}")
    if not result.complete:
        typer.echo(f"stopped before episode {loaded.episodes}; run the same command to go on", err=True)
    return 0 if result.complete else 1
