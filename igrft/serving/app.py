"""What ``igrft serve`` does: load, try once, listen, serve."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.extras import require
from igrft.rollouts.protocols import ActionSource, Observation
from igrft.serving.access import ApiKey, bind, is_loopback
from igrft.serving.limits import Limits
from igrft.serving.observations import inputs_of

if TYPE_CHECKING:
    from igrft.rollouts.noise import NoiseRule


def serve_checkpoint(
    checkpoint: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str | None = None,
    noise_temperature: float | None = None,
    exploration: NoiseRule | None = None,
    horizon: int = 10,
    task: str | None = None,
    api_key_env: str | None = None,
    insecure: bool = False,
    limits: Limits | None = None,
    ready: Callable[[str], None] = lambda address: None,
    warn: Callable[[str], None] = lambda text: None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Serve a checkpoint until SIGTERM or SIGINT. For the main thread.

    Args:
        port: 0 takes a free one.
        noise_temperature: standard deviation of the flow's initial noise; None is that of training.
        exploration: or how it follows from the critic (Eq. 2).
        horizon: of real-time chunking: actions of the last chunk that a new one is made to agree with.
        api_key_env: name of the environment variable with the key that clients must send.
        insecure: listen to other machines without a key.
        ready: told the address, once clients can connect.
        log: told who comes, goes and errs, line by line.

    Raises:
        UsageError: wrong address, no key, no checkpoint.
        IgrftError: weights that do not fit, an address that is taken, a policy that fails on its first observation,
            or requests that were not answered when the server stopped.
    """
    require("igrft serve", "serve")
    if exploration is not None and noise_temperature is not None:
        raise UsageError("noise is explored with (--explore) or has one temperature (--noise-temperature), not both")
    if horizon < 1:
        raise UsageError(f"the horizon of real-time chunking must be at least 1, got {horizon}")
    key = ApiKey.from_environment(api_key_env)
    # Before minutes are spent on loading.
    with bind(host, port, key, insecure=insecure) as bound:
        if key is None and not is_loopback(bound.getsockname()[0]):
            warn("anybody who reaches this machine can drive the policy: there is no API key")
        from igrft.rollouts.policy import LocalPolicy
        from igrft.serving.server import PolicyServer, serve_policy

        policy = LocalPolicy.load(
            checkpoint, device=device, exploration=exploration, temperature=noise_temperature, horizon=horizon
        )
        told = policy.noise.warning(policy.trained_noise)
        if told:
            warn(told)
        warm_up(policy, policy.input_features, task)
        server = PolicyServer(policy, task=task, key=key, limits=limits)
        if log is not None:
            logger = logging.getLogger("igrft.serving")
            logger.setLevel(logging.INFO)
            # LeRobot gives the root logger a handler, which would say everything twice.
            logger.propagate = False
            logger.addHandler(lines := _Lines(log))
        try:
            serve_policy(server, bound, ready)
        finally:
            if log is not None:
                logger.removeHandler(lines)
                logger.propagate = True


def warm_up(source: ActionSource, features: dict[str, Any], task: str | None) -> None:
    """One chunk for an observation of zeros: the first is slow, and no robot should wait for it.

    Raises:
        IgrftError: the policy fails.
    """
    observation: Observation = {"task": task or ""}
    for wanted in inputs_of(features):
        if wanted.picture:
            height, width = wanted.shape[1:] if wanted.shape[0] == 3 else wanted.shape[:2]
            observation[wanted.name] = np.zeros((height, width, 3), np.uint8)
        else:
            observation[wanted.name] = np.zeros(wanted.shape, np.float32)
    try:
        source.infer(observation)
    except IgrftError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise IgrftError(f"the policy fails on an observation of zeros: {type(error).__name__}: {text}") from error


class _Lines(logging.Handler):
    """Gives log records to a function, with their tracebacks."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record))
