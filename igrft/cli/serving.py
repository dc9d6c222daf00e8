"""``igrft serve``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from igrft.cli.options import Json, Quiet


def serve(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A run, a checkpoint of it, or a model's id on the Hub.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: an accelerator if there is one.")] = None,
    noise_temperature: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the flow's initial noise; default: that of training, 1."),
    ] = None,
    explore: Annotated[
        bool, typer.Option("--explore", help="Noise of rollouts: T(s) of Eq. 2, by what the critic says.")
    ] = False,
    sigma_base: Annotated[float, typer.Option(help="Of Eq. 2.")] = 1.5,
    alpha: Annotated[float, typer.Option(help="Of Eq. 2.")] = 0.9,
    sigma_min: Annotated[float, typer.Option(help="Of Eq. 2.")] = 0.2,
    horizon: Annotated[int, typer.Option(help="Real-time chunking: actions that a new chunk agrees with.")] = 10,
    task: Annotated[str | None, typer.Option(help="What the policy is told where a client sends no prompt.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the key clients must send.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other machines without a key.")] = False,
    max_message: Annotated[float, typer.Option(help="Largest request, in MiB.")] = 32.0,
    max_connections: Annotated[int, typer.Option(min=1, help="Clients at a time.")] = 16,
    inference_timeout: Annotated[float, typer.Option(help="Seconds until a request is given up.")] = 60.0,
    idle_timeout: Annotated[
        float, typer.Option(help="Seconds without a request until a client is sent away.")
    ] = 3600.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Serve a policy to robots, in openpi's protocol (msgpack over a websocket). Ends on Ctrl-C or SIGTERM.

    Each answer holds the chunk's actions and, where a critic stands beside the policy, its value and
    interaction_probability.
    """
    import sys

    from igrft.rollouts.noise import NoiseRule
    from igrft.serving.app import serve_checkpoint
    from igrft.serving.limits import Limits

    def ready(address: str) -> None:
        if as_json:
            typer.echo(json.dumps({"address": address, "checkpoint": checkpoint}))
        else:
            typer.echo(f"serving {checkpoint} at {address}")
        sys.stdout.flush()

    limits = Limits(
        message=int(max_message * 2**20),
        connections=max_connections,
        inference=inference_timeout,
        idle=idle_timeout,
        drain=inference_timeout + 30,
    )
    serve_checkpoint(
        checkpoint,
        host=host,
        port=port,
        device=device,
        noise_temperature=noise_temperature,
        exploration=NoiseRule("interaction", sigma_base, alpha, sigma_min) if explore else None,
        horizon=horizon,
        task=task,
        api_key_env=api_key_env,
        insecure=insecure,
        limits=limits,
        ready=ready,
        warn=lambda text: typer.echo(f"warning: {text}", err=True),
        log=None if quiet else lambda text: typer.echo(text, err=True),
    )
    return 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)
