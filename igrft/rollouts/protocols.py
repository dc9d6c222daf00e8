"""The three things that a rollout is put together from.

What is driven (:class:`Embodiment`: a simulation or a robot), where actions come from (:class:`ActionSource`:
a policy here or behind a server), and who can take over (:class:`Human`: a scripted expert, or a person with
keys, a pedal and a leader arm). The loop in :mod:`igrft.rollouts.episode` knows nothing else. Importing this
costs nothing: no torch, no LeRobot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import numpy as np

#: One moment, by the names of LeRobot's dataset features: ``observation.state`` float32 [D],
#: ``observation.images.NAME`` uint8 [H, W, 3] (RGB), and whatever else the embodiment declares.
Observation = dict[str, Any]


@dataclass(frozen=True)
class Status:
    """What is known of the episode beside the observation.

    Attributes:
        success: the goal is reached now; None where nothing but a human can tell (a robot).
        ended: nothing more can happen: a time limit, or a simulation that is over.
        subtask: number of the ordered subtask that is going on, from 0, where the embodiment knows; one more
            than the last when all are done.
    """

    success: bool | None = None
    ended: bool = False
    subtask: int | None = None


@runtime_checkable
class Embodiment(Protocol):
    """What is driven.

    Attributes:
        name: short, fit for a folder's name ("metaworld-shelf-place-v3", "so101_follower").
        robot_type: as LeRobot writes it into ``meta/info.json``.
        fps: control steps a second.
        task: what the episodes are about, one sentence.
        subtasks: names of the ordered subtasks that :attr:`Status.subtask` counts; empty where it knows none.
        realtime: whether time passes between two calls (a robot): the loop then keeps to ``fps``.
    """

    name: str
    robot_type: str
    fps: float
    task: str
    subtasks: tuple[str, ...]
    realtime: bool

    @property
    def features(self) -> Mapping[str, dict[str, Any]]:
        """LeRobot dataset features of what :meth:`observe` returns and of ``action``."""
        ...

    def reset(self, seed: int | None) -> None:
        """Begin a new episode. A simulation puts itself into the start that ``seed`` names; a robot is where it
        is: the loop's reset phase, in which a human clears the table, comes before.
        """
        ...

    def observe(self) -> Observation:
        """Look. May be costly (cameras): the loop calls it once a step."""
        ...

    def act(self, action: np.ndarray) -> np.ndarray:
        """Do one step.

        Args:
            action: float32 [dim], in the units of the dataset's ``action``.

        Returns:
            What was really sent: drivers may cut it.
        """
        ...

    def status(self) -> Status:
        """Where the episode stands after the last step."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Judgement:
    """What the critic says of one observation.

    Attributes:
        trajectory, subtask: the two values (unweighted).
        value: omega_traj * trajectory + omega_sub * subtask.
        interaction: p_int, in [0, 1].
    """

    trajectory: float
    subtask: float
    value: float
    interaction: float


@dataclass(frozen=True)
class Chunk:
    """Actions that a policy wants to do one after the other.

    Attributes:
        actions: float32 [N, dim], in the units of the dataset's ``action``.
        normalised: the same as the policy made them, float32 [N, dim], for real-time chunking; None where the
            source cannot be guided.
        judgement: of the observation that they start from; None without a critic.
        noise_scale: standard deviation of the initial noise (Eq. 2).
        seconds: that it took.
    """

    actions: np.ndarray
    normalised: np.ndarray | None = None
    judgement: Judgement | None = None
    noise_scale: float = 1.0
    seconds: float = 0.0


@runtime_checkable
class ActionSource(Protocol):
    """Where actions come from."""

    @property
    def chunk_size(self) -> int:
        """N of its chunks."""
        ...

    @property
    def has_critic(self) -> bool:
        """Whether chunks are judged."""
        ...

    @property
    def can_guide(self) -> bool:
        """Whether ``left_over`` is obeyed (real-time chunking)."""
        ...

    def reset(self, seed: int | None) -> None:
        """Forget the last episode; noise is drawn from ``seed`` from now on."""
        ...

    def infer(self, observation: Observation, *, left_over: np.ndarray | None = None, delay: int = 0) -> Chunk:
        """Actions for an observation.

        Args:
            observation: of one moment, with ``task``.
            left_over: what is left of the last chunk's ``normalised``, float32 [n, dim], that the new one
                should agree with (real-time chunking).
            delay: how many of them will have been done before the new chunk can start.
        """
        ...

    def judge(self, observation: Observation) -> Judgement | None:
        """What the critic says, without making actions; None without a critic."""
        ...

    def close(self) -> None: ...


class Event(Enum):
    """What a human can say with a key, a pedal, or by being a script."""

    TAKE_OVER = "take over"
    HAND_BACK = "hand back"
    SUCCESS = "success"
    FAILURE = "failure"
    AGAIN = "record the episode again"
    READY = "reset is done"
    STOP = "stop"


@runtime_checkable
class Human(Protocol):
    """Who can take over.

    Attributes:
        name: what stands in the dataset as who took over ("expert", "so101_leader").
        scripted: whether it comes by itself when called. The loop waits for one that is not.
        can_drive: whether there is anything to drive with; keys alone end episodes and judge them.
    """

    name: str
    scripted: bool
    can_drive: bool

    def start(self, seed: int | None) -> None:
        """A new episode begins."""
        ...

    def events(self) -> list[Event]:
        """What was said since the last call, in order. Never waits."""
        ...

    def call(self, reason: str) -> None:
        """The policy needs help: sound, say it on the screen. Returns at once."""
        ...

    def take_over(self, observation: Observation, last_action: np.ndarray | None) -> None:
        """Begin to drive from where the robot is, without a jump: an actuated leader arm is brought to the
        robot's pose, or the robot to the leader's. May take seconds.
        """
        ...

    def action(self, observation: Observation) -> np.ndarray:
        """float32 [dim], in the units of the dataset's ``action``."""
        ...

    def finished(self, status: Status) -> bool:
        """Whether it hands back by itself now: the subtask is done, or it has driven long enough."""
        ...

    def hand_back(self) -> None:
        """The policy drives again."""
        ...

    def close(self) -> None: ...
