"""``igrft demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from igrft.cli.options import Quiet
from igrft.extras import require


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("out/demo"),
    task: Annotated[str, typer.Option(help="Of Meta-World; one that has a task file.")] = "shelf-place-v3",
    demonstrations: Annotated[int, typer.Option(min=4, help="Episodes to record.")] = 30,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of evaluation after each stage.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of recording and training.")] = 0,
    quiet: Quiet = False,
) -> int:
    """The whole way on an embedded simulation: record, label, train three stages, evaluate, one page."""
    from igrft.demo.run import DemoSettings
    from igrft.demo.run import demo as run

    require("igrft demo", "sim", "train", "eval")
    settings = DemoSettings(task=task, demonstrations=demonstrations, episodes=episodes, seed=seed)
    page = run(output, settings, say=(lambda line: None) if quiet else typer.echo)
    typer.echo("The story, to be opened in a browser:" if not quiet else "", nl=not quiet)
    typer.echo(str(page))
    return 0
