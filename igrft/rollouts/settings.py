"""What a recipe says about rollouts. Plain dataclasses; importing them costs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class EnvironmentSettings:
    """What is driven.

    Attributes:
        type: metaworld, or robot (LeRobot's drivers); None is nothing: the recipe makes no rollouts.
        task: of metaworld, its name ("shelf-place-v3"); of a robot, the sentence that its policy is given.
        pictures: metaworld: whether cameras are rendered; None is what the policy needs.
        cameras: metaworld: names of MuJoCo cameras.
        width, height: metaworld: of the pictures, in pixels.
        max_steps: control steps after which an episode ends without success.
        settle: metaworld: success must hold for so many steps in a row (a distance can be passed through).
        robot: of type robot: LeRobot's robot configuration, with its ``type`` (``{type: so101_follower, port: …}``).
        fps: robot: control steps a second.
    """

    type: str | None = None
    task: str | None = None
    pictures: bool | None = None
    cameras: list[str] = field(default_factory=lambda: ["corner2"])
    width: int = 320
    height: int = 240
    max_steps: int | None = None
    settle: int = 1
    robot: dict[str, Any] | None = None
    fps: float = 30.0


@dataclass
class SafetySettings:
    """Limits that hold for policy and human alike, in the units of the dataset's ``action``.

    Attributes:
        low, high: least and greatest action, one number a joint (or one for all); None is no limit.
        step: greatest change of an action from one step to the next, likewise.
        stop_after: end the episode after so many cut steps in a row; None goes on.
    """

    low: list[float] | None = None
    high: list[float] | None = None
    step: list[float] | None = None
    stop_after: int | None = None


@dataclass
class MonitorSettings:
    """When the value stagnates (section IV-B.3; the paper gives no rule, these numbers are ours).

    Attributes:
        enabled: whether stagnation calls for a takeover.
        window: seconds that are looked back.
        margin: the value (return-to-go, 1 at the start, 0 at the end) must have fallen by so much over the window.
        rise: or it may have risen by less than this over the window; None looks at the margin alone.
        grace: seconds at the start of an episode, and after a handover, in which nothing is said.
    """

    enabled: bool = True
    window: float = 2.0
    margin: float = 0.02
    rise: float | None = 0.1
    grace: float = 2.0


@dataclass
class HumanSettings:
    """Who can take over.

    Attributes:
        type: expert (the simulation's scripted one), teleop (LeRobot's teleoperator), keys (judges, but does not
            drive), or none.
        limit: expert: seconds after which it hands back, whatever is done.
        until: expert: hands back when the ``subtask`` is done that was going on, or the ``episode``.
        skill: expert: 1 acts as scripted; less adds an operator's noise and slips.
        teleop: of type teleop: LeRobot's teleoperator configuration, with its ``type``.
        input: keyboard, or pedal.
        pedal: device of the foot pedal.
        keys: key (or pedal code) by event: take_over, hand_back, success, failure, again, ready, stop.
        smooth: bring leader arm and robot together before control changes hands.
        sound: say out loud what happens.
    """

    type: str = "none"
    limit: float = 10.0
    until: str = "subtask"
    skill: float = 1.0
    teleop: dict[str, Any] | None = None
    input: str = "keyboard"
    pedal: str = "/dev/input/by-id/usb-PCsensor_FootSwitch-event-kbd"
    keys: dict[str, str] = field(default_factory=dict)
    smooth: bool = True
    sound: bool = True


@dataclass
class InferenceSettings:
    """How chunks become one action a step.

    Attributes:
        type: sync (the robot waits for the policy) or rtc (real-time chunking: the next chunk is made while the
            last is done, and agrees with it).
        steps: actions done of a chunk before the next is asked for; None is the policy's ``n_action_steps``.
        judge_every: steps after which the critic looks again between chunks; None looks at chunks alone.
        horizon: rtc: actions of the last chunk that the new one is made to agree with.
        queue: rtc: a new chunk is asked for when so many actions are left.
        server: address of a policy server (``ws://host:port``) instead of a policy here.
        api_key_env: name of the environment variable that holds the server's key.
    """

    type: str = "sync"
    steps: int | None = None
    judge_every: int | None = None
    horizon: int = 10
    queue: int = 20
    server: str | None = None
    api_key_env: str | None = None


@dataclass
class RolloutSettings:
    """One round of collection.

    Attributes:
        episodes: to record.
        seed: of the first episode of round 0; each has the next, also over rounds.
        round: number of this round, from 0.
        root: folder of the dataset; None is ``rollout_<task>_<round>`` in the run's folder.
        reset_seconds: robot: the longest reset phase between episodes, which is not recorded.
        help_seconds: robot: how long it waits for the human when the value stagnates, before it goes on.
    """

    episodes: int = 10
    seed: int = 10000
    round: int = 0
    root: str | None = None
    reset_seconds: float = 60.0
    help_seconds: float = 30.0
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    human: HumanSettings = field(default_factory=HumanSettings)
    safety: SafetySettings = field(default_factory=SafetySettings)


@dataclass
class RoundsSettings:
    """Stage III: collect, label, update, again (Algorithm 1, lines 12-31).

    Attributes:
        count: of rounds (Table V: 4).
        pipeline: that labels rollouts: a name or a file; None is the one that the first demonstrations were labelled
            with, as ``meta/igrft.json`` has it.
        overrides: of the pipeline, as ``steps.TYPE.KEY=VALUE``.
        workers: processes that label; None is one a core.
    """

    count: int = 4
    pipeline: str | None = None
    overrides: list[str] = field(default_factory=list)
    workers: int | None = None
