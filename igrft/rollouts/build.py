"""From settings to what is driven, where actions come from, and who can take over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from igrft.errors import UsageError, did_you_mean
from igrft.extras import require
from igrft.rollouts.protocols import ActionSource, Embodiment
from igrft.rollouts.settings import EnvironmentSettings, InferenceSettings

if TYPE_CHECKING:
    from igrft.rollouts.policy import LocalPolicy

ENVIRONMENTS = ("metaworld", "robot")


def make_embodiment(settings: EnvironmentSettings, *, pictures: bool) -> Embodiment:
    """What is driven; a robot is connected.

    Args:
        pictures: whether a simulation renders its cameras, where ``settings`` leaves it open.

    Raises:
        UsageError: an unknown type or task, a missing extra.
    """
    if settings.type == "metaworld":
        require("the simulation", "sim")
        from igrft.simulation.metaworld import MetaWorld

        return MetaWorld.from_settings(settings, pictures=pictures)
    if settings.type == "robot":
        require("driving a robot", "robot")
        from igrft.rollouts.robot import RobotEmbodiment

        return RobotEmbodiment.from_settings(settings)
    if settings.type is None:
        raise UsageError("the recipe has no 'environment'; give --environment.type=metaworld --environment.task=TASK")
    near = did_you_mean(str(settings.type), ENVIRONMENTS)
    raise UsageError(f"unknown environment.type {settings.type!r}{near}")


def make_source(
    checkpoint: str | None, inference: InferenceSettings, *, device: str | None, exploration: Any
) -> ActionSource:
    """A policy behind ``inference.server``, else the checkpoint in this process.

    Raises:
        UsageError: neither is named.
    """
    if inference.server is not None:
        require("a policy behind a server", "serve")
        from igrft.serving.client import RemotePolicy

        # A plain openpi server does not say how long its chunks are.
        return RemotePolicy(inference.server, api_key_env=inference.api_key_env, chunk_size=inference.steps)
    if checkpoint is None:
        raise UsageError("no policy was named; give --init_from=RUN, or --rollout.inference.server=ws://HOST:PORT")
    return load_policy(checkpoint, device=device, exploration=exploration, horizon=inference.horizon)


def load_policy(checkpoint: str, *, device: str | None, exploration: Any, horizon: int = 10) -> LocalPolicy:
    """Importing what policies need takes seconds, so it is done here."""
    from igrft.rollouts.policy import LocalPolicy

    return LocalPolicy.load(checkpoint, device=device, exploration=exploration, horizon=horizon)
