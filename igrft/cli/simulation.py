"""Options of ``igrft convert metaworld:TASK``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from igrft.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from igrft.simulation.record import SimulationOptions

Episodes = Annotated[int | None, typer.Option(help="metaworld: demonstrations to record (60).")]
Seed = Annotated[int | None, typer.Option(help="metaworld: of starts and operators (0).")]
Pictures = Annotated[
    bool | None,
    typer.Option("--pictures/--no-pictures", help="metaworld: record cameras, or state alone."),
]
Cameras = Annotated[
    list[str] | None, typer.Option("--camera", help="metaworld: one of MuJoCo's, repeatable (corner2).")
]
Size = Annotated[str | None, typer.Option(help="metaworld: of pictures (320x240).")]
MaxSteps = Annotated[int | None, typer.Option(help="metaworld: steps after which a demonstration has failed.")]
Settle = Annotated[int | None, typer.Option(help="metaworld: steps that success must hold in a row (1).")]
Truth = Annotated[
    bool,
    typer.Option("--truth", help="metaworld: columns with true subtasks, contacts, motion of things."),
]
Masks = Annotated[bool, typer.Option("--masks", help="metaworld: exact masks of the robot, as videos.")]
Workers = Annotated[int | None, typer.Option(min=1, help="metaworld: processes; default: one a core.")]


def simulation_options(overrides: list[str], *, size: str | None, **given: Any) -> SimulationOptions | None:
    """What was asked of a simulation; None where nothing was.

    Args:
        overrides: dotted options, ``operators.NAME=VALUE``.
        size: ``WIDTHxHEIGHT``.
        given: fields of :class:`SimulationOptions`; None or False is as by default.

    Raises:
        UsageError: an option that does not exist, or makes no sense.
    """
    chosen = {name: value for name, value in given.items() if value is not None and value is not False}
    if given.get("pictures") is False:
        chosen["pictures"] = False
    if chosen.get("cameras") == []:
        del chosen["cameras"]
    if "cameras" in chosen:
        chosen["cameras"] = tuple(chosen["cameras"])
    if size is not None:
        chosen |= _size(size)
    operators = _operators(overrides)
    if not chosen and not operators:
        return None
    from igrft.simulation.operators import settings_from
    from igrft.simulation.record import SimulationOptions

    return SimulationOptions(**chosen, operators=settings_from(operators))


def _size(size: str) -> dict[str, int]:
    width, by, height = size.lower().partition("x")
    if not by or not width.isdigit() or not height.isdigit():
        raise UsageError(f"--size must be WIDTHxHEIGHT, as 320x240, got {size!r}")
    if int(width) % 2 or int(height) % 2:
        raise UsageError(f"--size must be even in both, or it cannot be encoded as a video, got {size!r}")
    return {"width": int(width), "height": int(height)}


def _operators(overrides: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        group, _, name = key.partition(".")
        if group != "operators":
            raise UsageError(f"'igrft convert' takes no option --{key}{did_you_mean(group, ('operators',))}")
        number = yaml.safe_load(value)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise UsageError(f"--{key} must be a number, got {value!r}")
        found[name] = number
    return found
