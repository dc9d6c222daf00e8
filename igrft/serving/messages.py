"""What stands in a request and in an answer beside the observation and its actions.

A request may hold, all of it optional:

- ``igrft/reset``: a seed or None: a new episode begins, before anything else is done.
- ``igrft/left_over`` float [n, dim], ``igrft/delay``: real-time chunking, see
  :meth:`igrft.rollouts.protocols.ActionSource.infer`.
- ``igrft/judge``: true: what the critic says, without actions.

A request without an observation is a reset alone. An answer holds ``actions`` float32 [N, dim] and ``noise_scale``;
where there is a critic ``value``, ``value_trajectory``, ``value_subtask`` and ``interaction_probability``; where the
policy can be guided ``igrft/normalised`` float32 [N, dim]; and ``server_timing``. Whatever is no array is a plain
number: openpi's action broker cuts arrays along the chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.rollouts.protocols import ActionSource, Chunk, Judgement, Observation
from igrft.serving.observations import ObservationReader, RequestError

EXTRA = "igrft/"
RESET, LEFT_OVER, DELAY, JUDGE = (f"{EXTRA}{name}" for name in ("reset", "left_over", "delay", "judge"))
NORMALISED = f"{EXTRA}normalised"
ACTIONS, TIMING = "actions", "server_timing"
VALUE, TRAJECTORY, SUBTASK = c.VALUE, c.VALUE_TRAJECTORY, c.VALUE_SUBTASK
INTERACTION, NOISE = c.INTERACTION_PROBABILITY, "noise_scale"
#: The part of the metadata that is ours, and the version of what it promises.
METADATA, VERSION = "igrft", 1
_LONGEST_DELAY = 10_000


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        observation: None of a reset alone.
        resets, seed: whether an episode begins, and from where its noise is drawn.
        judge: the critic's word is wanted, and no actions.
    """

    observation: Observation | None
    resets: bool = False
    seed: int | None = None
    left_over: np.ndarray | None = None
    delay: int = 0
    judge: bool = False


def read_request(message: Any, reader: ObservationReader, source: ActionSource) -> Request:
    """Check a decoded message.

    Raises:
        RequestError: it is no request, or asks for what the policy cannot do.
    """
    if not isinstance(message, Mapping):
        raise RequestError(f"a request must be a map of an observation, got a {type(message).__name__}")
    extra = {k: v for k, v in message.items() if isinstance(k, str) and k.startswith(EXTRA)}
    rest = {k: v for k, v in message.items() if k not in extra}
    unknown = extra.keys() - {RESET, LEFT_OVER, DELAY, JUDGE}
    if unknown:
        raise RequestError(f"unknown field {ascii(min(unknown))[:60]}; known: {RESET}, {LEFT_OVER}, {DELAY}, {JUDGE}")
    seed = extra.get(RESET)
    if seed is not None and not (_is_integer(seed) and 0 <= seed < 2**63):
        raise RequestError(f"{RESET} must be a seed, an integer from 0, or None")
    judge = extra.get(JUDGE, False)
    if not isinstance(judge, bool):
        raise RequestError(f"{JUDGE} must be true or false")
    if judge and not source.has_critic:
        raise RequestError(f"{JUDGE}: the policy has no critic")
    delay = extra.get(DELAY, 0)
    if not _is_integer(delay) or not 0 <= delay <= _LONGEST_DELAY:
        raise RequestError(f"{DELAY} must be an integer in 0 … {_LONGEST_DELAY}")
    left_over = _left_over(extra[LEFT_OVER], source) if extra.get(LEFT_OVER) is not None else None
    alone = RESET in extra and not rest
    observation = None if alone else reader.read(rest)
    return Request(observation, RESET in extra, None if seed is None else int(seed), left_over, int(delay), judge)


def fulfil(request: Request, source: ActionSource) -> dict[str, Any]:
    """Ask the policy. Runs where the policy runs."""
    if request.resets:
        source.reset(request.seed)
    if request.observation is None:
        return {}
    if request.judge:
        return judgement_answer(source.judge(request.observation))
    return chunk_answer(source.infer(request.observation, left_over=request.left_over, delay=request.delay))


def chunk_answer(chunk: Chunk) -> dict[str, Any]:
    """A chunk as a client gets it.

    Raises:
        RequestError: the policy's actions are not finite; no robot should see them.
    """
    actions = np.ascontiguousarray(chunk.actions, dtype=np.float32)
    if not np.isfinite(actions).all():
        raise RequestError("the policy made actions that are not finite; none are sent")
    answer: dict[str, Any] = {ACTIONS: actions, NOISE: float(chunk.noise_scale)}
    if chunk.normalised is not None:
        answer[NORMALISED] = np.ascontiguousarray(chunk.normalised, dtype=np.float32)
    return answer | judgement_answer(chunk.judgement)


def judgement_answer(judgement: Judgement | None) -> dict[str, Any]:
    """The critic's word as plain numbers; nothing where there is none."""
    if judgement is None:
        return {}
    return {
        VALUE: float(judgement.value),
        TRAJECTORY: float(judgement.trajectory),
        SUBTASK: float(judgement.subtask),
        INTERACTION: float(judgement.interaction),
    }


def judgement_of(answer: Mapping[str, Any]) -> Judgement | None:
    """The other way round; None where an answer holds none."""
    try:
        found = [float(answer[name]) for name in (TRAJECTORY, SUBTASK, VALUE, INTERACTION)]
    except (KeyError, TypeError, ValueError):
        return None
    return Judgement(*found)


def _left_over(value: Any, source: ActionSource) -> np.ndarray:
    if not source.can_guide:
        raise RequestError(f"{LEFT_OVER}: the policy cannot be guided")
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or value.ndim != 2:
        raise RequestError(f"{LEFT_OVER} must be an array of floats, [n, dim]")
    if len(value) > source.chunk_size:
        raise RequestError(f"{LEFT_OVER} has {len(value)} actions, more than a chunk of {source.chunk_size}")
    with np.errstate(over="ignore"):
        found: np.ndarray = value.astype(np.float32)
    if not np.isfinite(found).all():
        raise RequestError(f"{LEFT_OVER} must be finite")
    width = getattr(source, "action_dim", None)
    if width is not None and found.shape[1] != width:
        raise RequestError(f"{LEFT_OVER} has actions of {found.shape[1]} numbers, the policy's have {width}")
    return found


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
