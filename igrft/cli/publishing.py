"""``igrft push``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from igrft.cli.options import Json, Quiet, dump


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(push)


def push(
    dataset_or_run: Annotated[
        str,
        typer.Argument(
            metavar="DATASET_OR_RUN",
            help="A dataset (a folder, or its id on the Hub), the folder of a training run, or one of its checkpoints.",
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    card: Annotated[
        str | None,
        typer.Option(help="labelled, rollouts or model, a template FILE.md.j2, or a finished FILE.md; default: fits."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch to commit to; LeRobot's version tag moves with main.")] = "main",
    license: Annotated[
        str | None, typer.Option(help="As the Hub names it: apache-2.0, mit, cc-by-4.0 …; default: the dataset's own.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the card; default: the repository's name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="One more tag for the card; may be repeated.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Files sent at a time.")] = 4,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every video frame first, as validate does; default: a few.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card and list what would go; ask the Hub nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --dry-run: folder for the card; default: DATASET.card, or RUN/card.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """A dataset, or a run's newest checkpoint, with its card to the Hugging Face Hub.

    Run again, it sends what is missing. Log in with 'hf auth login', or set HF_TOKEN.
    """
    from huggingface_hub.utils import disable_progress_bars

    from igrft.publishing.push import push as run

    if quiet or as_json or not sys.stderr.isatty():
        disable_progress_bars()
    with _stops_at_once():
        result = run(
            dataset_or_run,
            repo_id,
            private=private,
            card=card,
            revision=revision,
            license=license,
            title=title,
            tags=tuple(tag or ()),
            workers=workers,
            decode=decode,
            dry_run=dry_run,
            output=output,
            progress=not quiet and sys.stderr.isatty(),
            say=(lambda line: None) if quiet else (lambda line: typer.echo(line, err=True)),
        )
    if as_json:
        typer.echo(dump(result.to_json()))
        return 0
    if result.card is not None:
        typer.echo(result.plan.to_text())
        for note in result.plan.notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"the card: {result.card}")
        return 0
    typer.echo(result.url)
    return 0


@contextmanager
def _stops_at_once() -> Iterator[None]:
    """Ctrl-C ends the process. The client's threads would first bring the files under way to their end, for hours."""

    def stop(number: int, frame: Any) -> None:
        # A commit is made whole or not at all, and nothing is half written on this machine.
        os.write(2, b"\nigrft: stopped; run the same command again to go on where it was\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
