"""``igrft rollout``."""

from __future__ import annotations

from typing import Annotated

import typer

from igrft.cli.options import Json, Quiet, count, dump, plain_overrides
from igrft.extras import require


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(rollout)


def rollout(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe that comes with igrft, or a YAML file.")
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Roll a policy out and record it, with a human who can take over: one round. Run again, it goes on.

    Settings of the recipe follow as options: --init_from=RUN --environment.task=shelf-place-v3 --rollout.episodes=10
    """
    require("igrft rollout", "train")
    from igrft.training.recipe_file import check_keys, load_recipe

    overrides = [*plain_overrides(ctx.args), *(ctx.obj or [])]
    check_keys(recipe, overrides)
    from igrft.rollouts.run import rollout as run

    loaded = load_recipe(recipe, overrides)
    result = run(loaded, say=(lambda line: None) if quiet else (lambda line: typer.echo(line, err=True)))
    if as_json:
        typer.echo(dump(result.to_json()))
    else:
        typer.echo(
            f"{result.root}: {count(len(result.episodes), 'episode')}, {result.successes} succeeded, "
            f"{count(result.interventions, 'takeover')}"
        )
    if not result.complete:
        typer.echo(f"stopped before episode {loaded.rollout.episodes}; run the same command to go on", err=True)
    return 0 if result.complete else 1
