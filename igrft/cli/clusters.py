"""``annotate`` on a cluster, ``status`` and ``cancel``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igrft.cli.options import Json, Quiet, count, dump

if TYPE_CHECKING:
    from igrft.pipeline.config import Pipeline

TargetOf = Annotated[Path, typer.Argument(metavar="TARGET", help="The TARGET of igrft annotate.")]


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(cancel)


def submit(
    source: str,
    target: Path,
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
    from igrft.pipeline.target import Target

    found = look(target)
    if found.ended:
        typer.echo(f"{found.target}: {found.state} already")
        return 0
    end(Jobs.of(Target(target.expanduser().resolve())))
    typer.echo(f"{found.target}: cancelled; igrft annotate goes on from what is done")
    return 0


def _follow(target: Path, *, as_json: bool, quiet: bool) -> int:
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

    found = follow(target, show)
    _print(found, as_json)
    return 0 if found.state == "done" and not _aside(target) else 1


def _aside(target: Path) -> dict[str, str]:
    """Episodes that were set aside, said as annotate says it."""
    from igrft.cluster.jobs import Jobs
    from igrft.dataset.files import read_json
    from igrft.pipeline.target import Target

    path = Jobs.of(Target(target.expanduser().resolve())).folder / "result.json"
    found: dict[str, str] = read_json(path).get("set_aside", {}) if path.is_file() else {}
    for reason in found.values():
        typer.echo(f"set aside: {reason}", err=True)
    return found


def _print(found: Any, as_json: bool) -> None:
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
