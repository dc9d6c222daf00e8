"""The verbs of ``igrft``. Each only parses, calls the Python API and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from igrft.cli import clusters, demo, evaluation, publishing, record, rollouts, serving, simulation, subtasks
from igrft.cli.options import DatasetArg, Json, Overwrite, Quiet, Source, TargetArg, count, dump, plain_overrides
from igrft.errors import UsageError
from igrft.extras import require

app = typer.Typer(
    name="igrft",
    help="Teleoperation recordings in, labelled LeRobot datasets out. The source is never changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
subtasks.register(app)
clusters.register(app)


@app.callback(invoke_without_command=True)
def _global(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import igrft

        typer.echo(f"igrft {igrft.__version__}")
        raise typer.Exit
    takes_overrides = {"convert", "annotate", "plan", "record", "train", "rollout", "eval", "report"}
    if ctx.obj and ctx.invoked_subcommand not in takes_overrides:
        raise UsageError(f"'igrft {ctx.invoked_subcommand}' takes no dotted options, got --{ctx.obj[0]}")


@app.command()
def convert(
    ctx: typer.Context,
    source: Source,
    target: TargetArg,
    format: Annotated[
        str | None,
        typer.Option(
            help="lerobot-v1, lerobot-v2.0, lerobot-v2.1, aloha-hdf5, aloha-hdf5-bgr, mcap, rosbag, zarr, "
            "robomimic-hdf5 or videos; default: found out by looking."
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, where the recording does not say.")] = None,
    task: Annotated[str | None, typer.Option(help="Task string, where the recording does not say.")] = None,
    robot_type: Annotated[str | None, typer.Option(help="Robot type, where the recording does not say.")] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Which stream becomes which feature: a YAML file, or one that comes with igrft.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what was found and how it would map; nothing is written.")
    ] = False,
    rebuild_timestamps: Annotated[
        bool, typer.Option("--rebuild-timestamps", help="Replace timestamps by frame_index / fps.")
    ] = False,
    codec: Annotated[
        str | None, typer.Option(help="Of streams whose videos are encoded here: h264 (the default), hevc or av1.")
    ] = None,
    crf: Annotated[int | None, typer.Option(help="Its quality: lower is better and larger (h264 20).")] = None,
    preset: Annotated[str | None, typer.Option(help="Its speed, as FFmpeg calls it (h264 veryfast, av1 12).")] = None,
    episodes: simulation.Episodes = None,
    seed: simulation.Seed = None,
    pictures: simulation.Pictures = None,
    camera: simulation.Cameras = None,
    size: simulation.Size = None,
    max_steps: simulation.MaxSteps = None,
    settle: simulation.Settle = None,
    truth: simulation.Truth = False,
    masks: simulation.Masks = False,
    workers: simulation.Workers = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> int:
    """Recordings, or an older LeRobot version, to LeRobot v3.0. Encoded videos are kept as they are where they can be.

    SOURCE may also be metaworld:TASK (metaworld:shelf-place-v3): demonstrations are then simulated, as operators of
    different skill would give them. How bad they are is set by dotted options: --operators.tremble=0.2
    """
    from igrft.recordings.convert import convert as run
    from igrft.recordings.convert import dry_run as look

    def warn(text: str) -> None:
        typer.echo(f"warning: {text}", err=True)

    if dry_run:
        if rebuild_timestamps or ctx.obj:
            raise UsageError("--dry-run of convert takes no dotted options and no --rebuild-timestamps")
        found = look(
            source,
            target,
            format=format,
            fps=fps,
            task=task,
            robot_type=robot_type,
            mapping=mapping,
            warn=warn,
        )
        typer.echo("\n".join(found.lines))
        _list_set_aside(_named(found.set_aside))
        return 1 if found.set_aside else 0
    simulated = simulation.simulation_options(
        ctx.obj or [],
        size=size,
        episodes=episodes,
        seed=seed,
        pictures=pictures,
        cameras=camera,
        max_steps=max_steps,
        settle=settle,
        truth=truth,
        masks=masks,
        workers=workers,
    )
    result = run(
        source,
        target,
        format=format,
        fps=fps,
        task=task,
        robot_type=robot_type,
        rebuild_timestamps=rebuild_timestamps,
        overwrite=overwrite,
        progress=not quiet,
        warn=warn,
        simulation=simulated,
        mapping=mapping,
        codec=codec,
        crf=crf,
        preset=preset,
    )
    typer.echo(f"{result.target}: {count(result.episodes, 'episode')}, {result.frames} frames (from {result.format})")
    _list_set_aside(_named(result.set_aside))
    return 1 if result.set_aside else 0


def _named(reasons: dict[str, str]) -> dict[str, str]:
    """Reasons that say which recording they are about."""
    return {name: reason if name in reason else f"{name}: {reason}" for name, reason in reasons.items()}


@app.command()
def annotate(
    ctx: typer.Context,
    source: Source,
    target: TargetArg,
    pipeline: Annotated[
        str, typer.Option(help="Name of a pipeline that comes with igrft, or a YAML file.")
    ] = "offline",
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first episode that cannot be labelled.")
    ] = False,
    overwrite: Overwrite = False,
    staging: Annotated[
        Path | None,
        typer.Option(help="Where a TARGET that is a URL is prepared; default: $IGRFT_STAGING, or the cache."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done and sent (one prompt in full); do nothing.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --dry-run: folder for the pictures of the prompt; default: TARGET.preview")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="On a cluster: wait for the end. Ctrl-C leaves the jobs alone.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Label a LeRobot v3.0 dataset. Run again, it resumes; changed settings redo what depends on them.

    Settings of steps follow as dotted options: --steps.interaction.flow=raft_large. So does a cluster:
    --executor.type=slurm (docs/clusters.md)
    """
    overrides = ctx.obj or []
    if dry_run:
        from igrft.pipeline.dry_run import dry_run as look

        found = look(source, target, pipeline=pipeline, overrides=overrides, overwrite=overwrite, output=output)
        typer.echo(dump(found.to_json()) if as_json else found.to_text())
        return 0
    if output is not None:
        raise UsageError("--output is for --dry-run; the labelled dataset goes to TARGET")
    from igrft.pipeline.config import load_pipeline
    from igrft.pipeline.run import annotate as run

    loaded = load_pipeline(pipeline, overrides)
    if workers is not None and loaded.executor.in_jobs:
        raise UsageError(
            "--workers is for a run in one process; --executor.workers is how many jobs run at a time, and "
            "--executor.steps.STEP.cpus how many workers each has"
        )
    if loaded.executor.type != "local":
        if staging is not None:
            raise UsageError("on a cluster set IGRFT_STAGING instead of --staging: igrft status looks there, too")
        return clusters.submit(
            source, target, loaded, strict=strict, overwrite=overwrite, wait=wait, as_json=as_json, quiet=quiet
        )
    result = run(
        source,
        target,
        pipeline=loaded,
        workers=workers,
        strict=strict,
        overwrite=overwrite,
        show_progress=not quiet,
        staging=staging,
    )
    if as_json:
        typer.echo(dump(result.to_json()))
        return 1 if result.set_aside else 0
    done = "already as asked, nothing to do" if result.unchanged else "labelled"
    typer.echo(f"{result.target}: {count(result.episodes, 'episode')}, {result.frames} frames {done}")
    if result.assumed_successes:
        typer.echo(
            f"success was assumed for {count(result.assumed_successes, 'episode')}: neither a subtask file nor the "
            "dataset says"
        )
    for notice in result.notices:
        typer.echo(notice)
    _list_set_aside(result.set_aside)
    return 1 if result.set_aside else 0


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    ctx: typer.Context,
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe that comes with igrft, or a YAML file.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, data, parameters and memory; train nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where the folder holds a run with other settings.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Train any stage from a recipe. Run again, it goes on where it was.

    Settings of the recipe follow as options: --datasets.0.root=FOLDER --steps=1000 --policy.device=cuda
    """
    overrides = [*plain_overrides(ctx.args), *(ctx.obj or [])]
    require("igrft train", "train")
    from igrft.training.recipe_file import check_keys

    check_keys(recipe, overrides)  # a typo is told before PyTorch and LeRobot are imported
    if dry_run:
        from igrft.training.dry_run import dry_run as look

        found = look(recipe, overrides)
        typer.echo(dump(found.to_json()) if as_json else found.to_text())
        return 0
    from igrft.training.run import train as run

    say = (lambda line: None) if quiet else (lambda line: typer.echo(line, err=True))
    result = run(recipe, overrides, overwrite=overwrite, show_progress=not quiet, say=say)
    if not result.main:
        return 0
    for notice in result.notices:
        typer.echo(f"note: {notice}", err=True)
    if as_json:
        typer.echo(dump({"run": str(result.run), "steps": result.steps, "resumed_at": result.resumed_at}))
    else:
        typer.echo(f"{result.run}: {result.steps} steps; look at it with: igrft report {result.run}")
    return 0


@app.command()
def inspect(
    dataset: DatasetArg,
    every: Annotated[bool, typer.Option("--all", help="Every episode, however many.")] = False,
    as_json: Json = False,
) -> int:
    """A table of a dataset's episodes and labels."""
    from igrft.reports.inspect import inspect as run

    found = run(dataset)
    typer.echo(dump(found.to_json()) if as_json else found.to_table(limit=None if every else 30))
    return 0


@app.command()
def validate(
    dataset: DatasetArg,
    fast: Annotated[bool, typer.Option("--fast", help="Sample videos instead of decoding every frame.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check a dataset: files, counts, timestamps, videos, and labels against each other."""
    from igrft.reports.validate import validate as run

    found = run(dataset, videos=not fast, progress=not quiet)
    typer.echo(dump(found.to_json()) if as_json else found.to_text())
    return 0 if found.ok else 1


@app.command()
def report(
    ctx: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET_OR_RUN",
            help="A dataset (a folder, or its id on the Hub), or the folder of a training run.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the page; default: beside the dataset, or report/ in the run.")
    ] = None,
    episodes: Annotated[
        str | None, typer.Option(help="Episodes of a dataset to show, as 0,3,7-9; default: a spread of 12.")
    ] = None,
    max_episodes: Annotated[int, typer.Option(min=1, help="How many to show where --episodes is not given.")] = 12,
    quiet: Quiet = False,
) -> int:
    """One self-contained HTML page: are a dataset's labels right? Did a training run learn, and if not, why?

    The stagnation monitor is replayed over recorded values; its settings follow as options: --monitor.window=2.0
    --monitor.margin=0.02 --monitor.rise=0.1 --monitor.grace=2.0, and --monitor.within=5.0, seconds before a takeover.
    """
    from igrft.reports.run.read import is_run, refuse_neither

    folder = Path(dataset).expanduser()
    refuse_neither(folder)
    if is_run(folder):
        from igrft.reports.run.page import report_run

        if episodes:
            raise UsageError(f"--episodes is for datasets; {dataset} is a training run")
        if ctx.obj:
            raise UsageError(f"--{ctx.obj[0]} is for datasets of rollouts; {dataset} is a training run")
        path = report_run(folder, output)
    else:
        from igrft.reports.page import report as run

        chosen = _numbers(episodes) if episodes else None
        most, options = max_episodes, ctx.obj or []
        path = run(dataset, output, episodes=chosen, max_episodes=most, overrides=options, progress=not quiet)
    typer.echo(str(path))
    return 0


def _list_set_aside(reasons: dict[Any, str]) -> None:
    if reasons:
        typer.echo(f"{count(len(reasons), 'episode')} set aside:", err=True)
        for reason in list(reasons.values())[:20]:
            typer.echo(f"  {reason}", err=True)
        if len(reasons) > 20:
            typer.echo(f"  and {len(reasons) - 20} more, in meta/igrft.json", err=True)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--episodes must look like 0,3,7-9, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    return found


record.register(app)
rollouts.register(app)
evaluation.register(app)
serving.register(app)
publishing.register(app)
demo.register(app)
