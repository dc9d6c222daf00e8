"""``annotate`` on a cluster, ``status`` and ``cancel``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igrft.cli.options import Json, Quiet, Source, count, dump

if TYPE_CHECKING:
    from igrft.pipeline.config import Pipeline

TargetOf = Annotated[str, typer.Argument(metavar="TARGET", help="The TARGET of igrft annotate.")]


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(status)
    app.command()(cancel)


def submit(
    source: str,
    target: str,
    pipeline: Pipeline,
    *,
    strict: bool,
    overwrite: bool,
    wait: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Hand a run to a cluster, and wait for it where that is asked for."""
    from igrft.cluster.submit import submit as run

    submitted = run(source, target, pipeline, strict=strict, overwrite=overwrite)
    if not wait:
        if as_json:
            typer.echo(dump(submitted.to_json()))
            return 0
        tasks = sum(submitted.tasks.values())
        typer.echo(f"{submitted.target}: {count(tasks, 'job')} submitted in {count(len(submitted.tasks), 'stage')}")
        typer.echo(f"how far it is: igrft status {target}; to end it: igrft cancel {target}")
        return 0
    return _follow(target, as_json=as_json, quiet=quiet)


def plan(
    ctx: typer.Context,
    source: Source,
    pipeline: Annotated[
        str, typer.Option(help="Name of a pipeline that comes with igrft, or a YAML file.")
    ] = "offline",
    nodes: Annotated[int | None, typer.Option(min=1, help="For so many nodes; default: this machine alone.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of a node; default: as many as here.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a node.")] = 0,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to measure, spread over their lengths.")] = 8,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes to measure with; default: one a core.")] = None,
    as_json: Json = False,
) -> int:
    """What igrft annotate would take: hours, GPU hours, tokens, storage, and the step that is the bottleneck.

    A few episodes are labelled to find out, and nothing is kept of them; a model that is asked costs what it costs.
    """
    from igrft.cluster.forecast import Nodes, forecast
    from igrft.pipeline.config import load_pipeline
    from igrft.pipeline.workers import default_workers

    loaded = load_pipeline(pipeline, ctx.obj or [])
    machines = Nodes(nodes or 1, cores or default_workers(), gpus) if nodes or cores or gpus else None
    found = forecast(source, loaded, nodes=machines, episodes=episodes, workers=workers)
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
    return 0


def status(
    target: TargetOf,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until it has ended.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """How far the jobs of igrft annotate on a cluster are. Exit status 1 where they failed or were cancelled."""
    if watch:
        return _follow(target, as_json=as_json, quiet=quiet)
    from igrft.cluster.status import status as look

    found = look(target)
    _print(found, as_json)
    return 1 if found.state in ("failed", "cancelled") else 0


def cancel(target: TargetOf) -> int:
    """End the jobs of igrft annotate on a cluster. What is done stays, and the same command goes on from it."""
    from igrft.cluster.jobs import Jobs
    from igrft.cluster.schedulers import cancel as end
    from igrft.cluster.status import status as look
    from igrft.pipeline.target import open_target

    found = look(target)
    if found.ended:
        typer.echo(f"{found.target}: {found.state} already")
        return 0
    end(Jobs.of(open_target(target)))
    typer.echo(f"{found.target}: cancelled; igrft annotate goes on from what is done")
    return 0


def _follow(target: str, *, as_json: bool, quiet: bool) -> int:
    from igrft.cluster.status import follow

    last = ""

    def show(found: Any) -> None:
        nonlocal last
        text = found.to_text()
        if quiet or text == last:
            return
        if last and sys.stderr.isatty():
            # Over the table before.
            print(f"\x1b[{len(last.splitlines())}F\x1b[J", end="", file=sys.stderr)
        print(text, file=sys.stderr, flush=True)
        last = text

    try:
        found = follow(target, show)
    except KeyboardInterrupt:
        typer.echo(f"igrft: the jobs go on; see: igrft status {target}", err=True)
        # What Ctrl-C is to all others, "stopped", it is not here.
        raise SystemExit(130) from None
    _print(found, as_json)
    return 0 if found.state == "done" and not _aside(target, as_json) else 1


def _aside(target: str, as_json: bool) -> dict[str, str]:
    """Episodes that were set aside; said, with what else the user should know, as annotate says it."""
    from igrft.cluster.jobs import Jobs
    from igrft.dataset.files import read_json
    from igrft.pipeline.target import open_target

    path = Jobs.of(open_target(target)).folder / "result.json"
    result = read_json(path) if path.is_file() else {}
    if not as_json:
        if assumed := result.get("assumed_successes"):
            typer.echo(
                f"success was assumed for {count(assumed, 'episode')}: neither a subtask file nor the dataset says"
            )
        for notice in result.get("notices", []):
            typer.echo(notice)
    found: dict[str, str] = result.get("set_aside", {})
    for reason in found.values():
        typer.echo(f"set aside: {reason}", err=True)
    return found


def _print(found: Any, as_json: bool) -> None:
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
