"""Makes small datasets of rollouts as `igrft rollout` does: the real loop, monitor and recorder, on a line to walk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rollout_fakes import Helper, Line, Walker

from igrft import columns as c
from igrft.rollouts.engine import ChunkEngine
from igrft.rollouts.episode import Frame, run_episode
from igrft.rollouts.protocols import Chunk, Event, Judgement
from igrft.rollouts.recorder import Recorder
from igrft.rollouts.settings import MonitorSettings
from igrft.rollouts.stagnation import StagnationMonitor

CAMERA = "observation.images.top"
FPS = 10


@dataclass
class Plan:
    """One episode.

    Attributes:
        stuck: places between which the policy stands still.
        script: events by step, of a human who asks.
        helper: steps that the human drives; None: nobody can.
        limit: steps after which it ends without success.
    """

    stuck: tuple[float, float] | None = None
    script: Mapping[int, Sequence[Event]] = field(default_factory=dict)
    helper: int | None = 12
    limit: int = 120


#: An unaided success; one that is helped because the value stagnates; one whose human asks; a failure.
PLANS = (
    Plan(),
    Plan(stuck=(20.0, 26.0)),
    Plan(script={15: [Event.TAKE_OVER]}, helper=20),
    Plan(stuck=(30.0, 99.0), helper=None),
)
MONITOR = MonitorSettings(window=1.0, margin=0.02, rise=0.1, grace=0.5)


class SeenLine(Line):
    """The line with a camera above it."""

    def __init__(self, *args: Any, camera: bool = True, **more: Any) -> None:
        super().__init__(*args, **more)
        self.camera = camera
        if camera:
            self.features[CAMERA] = {"dtype": "video", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}

    def observe(self) -> dict[str, Any]:
        out = super().observe()
        if self.camera:
            picture = np.full((48, 64, 3), 200, dtype=np.uint8)
            at = int(np.clip(4 + 54 * self.x / self.goal, 0, 60))
            picture[20:28, at : at + 4] = (200, 40, 40)
            out[CAMERA] = picture
        return out


class Hesitant(Walker):
    """A walker whose interaction probability and noise follow where it stands."""

    def infer(self, observation: Any, **more: Any) -> Chunk:
        chunk = super().infer(observation, **more)
        assert chunk.judgement is not None
        scale = 1.5 * (1 - 0.9 * chunk.judgement.interaction) + 0.2
        return Chunk(chunk.actions, chunk.normalised, chunk.judgement, scale, 0.0)

    def judge(self, observation: Any) -> Judgement:
        x = float(observation["observation.state"][0]) / self.goal
        return Judgement(1 - x, 1 - x, 1 - x, float(np.clip(np.sin(3 * x), 0, 1)))


def make_rollouts(
    root: Path,
    plans: Sequence[Plan] = PLANS,
    *,
    camera: bool = False,
    monitor: MonitorSettings = MONITOR,
    judge_every: int | None = None,
    number: int = 0,
    settings: Mapping[str, Any] | None = None,
    judged: bool = True,
) -> Path:
    """Roll out and record; return ``root``.

    Args:
        monitor: that watches, and is recorded.
        judge_every: steps after which the critic looks between chunks of four.
        number: of the round.
        settings: beside those that are always there.
        judged: whether there is a critic in the dataset.
    """
    first = SeenLine(goal=60.0, camera=camera)
    held = {
        "checkpoint": "000100",
        "exploration": {"type": "interaction", "sigma_base": 1.5, "alpha": 0.9, "sigma_min": 0.2, "uniform": 1.0},
        "environment": {"type": "metaworld", "task": "line"},
        "rollout": {"round": number, "monitor": asdict(monitor), "inference": {"type": "sync"}},
        "trained_noise": [1.0, 1.0],
        **(settings or {}),
    }
    with Recorder.open(
        root,
        features=first.features,
        fps=first.fps,
        robot_type=first.robot_type,
        task=first.task,
        settings=held,
        judged=judged,
    ) as recorder:
        for seed, plan in enumerate(plans):
            _record(recorder, plan, seed, camera, monitor, judge_every, judged)
    return root


def _record(
    recorder: Recorder,
    plan: Plan,
    seed: int,
    camera: bool,
    monitor: MonitorSettings,
    judge_every: int | None,
    judged: bool,
) -> None:
    body = SeenLine(goal=60.0, limit=plan.limit, camera=camera)
    engine = ChunkEngine(Hesitant(stuck=plan.stuck, goal=60.0), 4, judge_every)
    human = None if plan.helper is None else Helper(steps=plan.helper, script=dict(plan.script))

    def keep(frame: Frame) -> None:
        assert frame.judgement is not None
        said = {c.VALUE: frame.judgement.value, c.INTERACTION_PROBABILITY: frame.judgement.interaction}
        recorder.add(
            {
                **{n: frame.observation[n] for n in body.features if n in frame.observation},
                **(said if judged else {}),
                c.ACTION: frame.action,
                c.INTERVENTION: frame.intervention,
                c.NOISE_SCALE: frame.noise_scale,
                c.TAKEOVER_REASON: frame.reason,
            }
        )

    result = run_episode(
        body,
        engine,
        seed=seed,
        human=human,
        monitor=StagnationMonitor.of(monitor, body.fps),
        on_frame=keep,
    )
    recorder.save(success=bool(result.success), facts=result.to_json())
