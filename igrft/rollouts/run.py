"""`igrft rollout`: one round of collection, into one LeRobot dataset. Run again, it goes on where it was."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft import columns as c
from igrft.errors import IgrftError, UsageError
from igrft.remote.urls import local_folder
from igrft.rollouts.build import make_embodiment, make_source
from igrft.rollouts.engine import Engine, make_engine
from igrft.rollouts.episode import Clock, EpisodeResult, Frame, run_episode
from igrft.rollouts.protocols import ActionSource, Embodiment, Event, Human
from igrft.rollouts.safety import Limiter
from igrft.rollouts.settings import RolloutSettings
from igrft.rollouts.stagnation import StagnationMonitor
from igrft.rollouts.waiting import reset_events

if TYPE_CHECKING:
    from igrft.rollouts.keys import KeyInput
    from igrft.rollouts.recorder import Recorder
    from igrft.training.recipe import Recipe


@dataclass
class RolloutResult:
    """One round.

    Attributes:
        root: its dataset.
        episodes: how each went, those of an earlier call too.
        complete: whether all that were asked for are there; False after the human stopped.
    """

    root: Path
    episodes: list[dict[str, Any]]
    complete: bool
    notices: list[str] = field(default_factory=list)

    @property
    def successes(self) -> int:
        return sum(bool(e["success"]) for e in self.episodes)

    @property
    def interventions(self) -> int:
        return sum(len(e["takeovers"]) for e in self.episodes)

    def to_json(self) -> dict[str, Any]:
        return {
            "root": str(self.root),
            "episodes": len(self.episodes),
            "successes": self.successes,
            "interventions": self.interventions,
            "frames": sum(e["steps"] for e in self.episodes),
            "complete": self.complete,
        }


def rollout(
    recipe: Recipe,
    checkpoint: str | None = None,
    root: Path | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    keys: KeyInput | None = None,
) -> RolloutResult:
    """Collect the episodes of one round.

    Args:
        checkpoint: the policy; None is the recipe's ``init_from``.
        root: folder of the dataset; None is what the recipe says.
        say: is given a line an episode.
        keys: where presses come from; None is the keyboard or the pedal, as the recipe says.

    Raises:
        UsageError: a recipe that cannot be rolled out.
        IgrftError: the policy, the robot or the disk failed; complete episodes are kept.
    """
    from igrft.rollouts.recorder import Recorder
    from igrft.rollouts.teleop import make_human

    checkpoint = checkpoint or recipe.init_from
    settings = recipe.rollout
    _check(settings)
    with contextlib.ExitStack() as stack:
        device = recipe.policy.device if recipe.policy is not None else None
        source = make_source(checkpoint, settings.inference, device=device, exploration=recipe.exploration)
        stack.callback(source.close)
        body = make_embodiment(recipe.environment, pictures=True)
        stack.callback(body.close)
        notices = _fit(source, body, settings)
        for line in notices:
            say(f"warning: {line}")
        human = make_human(settings.human, body, keys=keys, safety=settings.safety)
        if human is not None:
            stack.callback(human.close)
        if hasattr(source, "warm_up"):
            body.reset(settings.seed)
            source.warm_up({**body.observe(), "task": body.task}, guided=settings.inference.type == "rtc")
        default_steps = getattr(source, "n_action_steps", source.chunk_size)
        engine = make_engine(settings.inference, source, body.fps, default_steps)
        stack.callback(engine.close)
        target = (root or rollout_root(recipe, body)).absolute()
        recorder = Recorder.open(
            target,
            features=body.features,
            fps=body.fps,
            robot_type=body.robot_type,
            task=body.task,
            settings=_recorded(recipe, checkpoint, source),
            judged=source.has_critic,
        )
        stack.callback(recorder.close)
        collector = _Collector(recipe, body, engine, human, recorder, say)
        with stop_on_signals(collector.stop):
            collector.go()
        recorder.close()
        return RolloutResult(target, list(recorder.facts), recorder.episodes >= settings.episodes, notices)


def rollout_root(recipe: Recipe, body: Embodiment) -> Path:
    """``rollout_<task>_<round>``, in the run's folder unless the recipe says where."""
    if recipe.rollout.root is not None:
        return local_folder(recipe.rollout.root, "rollout.root")
    return Path(recipe.output_dir or "runs") / dataset_name(body.name, recipe.rollout.round)


def dataset_name(embodiment: str, number: int) -> str:
    """Folder of a round's rollouts."""
    task = re.sub(r"[^A-Za-z0-9]+", "-", embodiment).strip("-").lower()
    return f"rollout_{task}_{number}"


def _check(settings: RolloutSettings) -> None:
    if settings.episodes < 1:
        raise UsageError(f"rollout.episodes must be at least 1, got {settings.episodes}")
    for name in ("round", "seed", "reset_seconds", "help_seconds"):
        if not getattr(settings, name) >= 0:
            raise UsageError(f"rollout.{name} must not be negative, got {getattr(settings, name)}")


def _fit(source: ActionSource, body: Embodiment, settings: RolloutSettings) -> list[str]:
    """Refuse what cannot work together; what works and should be known is returned, a line each."""
    notices = []
    if hasattr(source, "refuse_unfit"):
        source.refuse_unfit(dict(body.features))
    if hasattr(source, "noise"):
        warning = source.noise.warning(source.trained_noise)  # type: ignore[attr-defined]
        if warning:
            notices.append(warning)
    if settings.monitor.enabled and not source.has_critic:
        notices.append("the policy has no critic: nobody watches the value, and the human alone decides on a takeover")
    if body.realtime and settings.human.type == "none":
        raise UsageError(
            "nobody can say whether a robot's episode succeeded; give --rollout.human.type=keys, or teleop with "
            "--rollout.human.teleop.type=LEADER"
        )
    return notices


def _recorded(recipe: Recipe, checkpoint: str | None, source: ActionSource) -> dict[str, Any]:
    """What decides how episodes come about; a dataset holds episodes of one such setting alone."""
    from igrft.training.recipe_file import resolved

    everything = resolved(recipe)
    rollout_ = {k: v for k, v in everything["rollout"].items() if k not in ("root", "episodes", "reset_seconds")}
    found: dict[str, Any] = {
        "checkpoint": Path(checkpoint).name if checkpoint else None,
        "exploration": everything["exploration"],
        "environment": everything["environment"],
        "rollout": rollout_,
    }
    if checkpoint is not None and recipe.rollout.inference.server is None:
        from igrft.models.load import CheckpointFolder
        from igrft.steps.values.checkpoint import digest_of_folders

        folder = CheckpointFolder.find(checkpoint)
        parts = [folder.pretrained, *([folder.critic] if folder.critic else [])]
        found["checkpoint_digest"] = digest_of_folders(parts)
        found["trained_noise"] = list(source.trained_noise)  # type: ignore[attr-defined]
    return found


class _Collector:
    """Episodes one after the other, with what happens between them."""

    def __init__(
        self,
        recipe: Recipe,
        body: Embodiment,
        engine: Engine,
        human: Human | None,
        recorder: Recorder,
        say: Callable[[str], None],
    ) -> None:
        self.settings = recipe.rollout
        self.body, self.engine, self.human, self.recorder, self.say = body, engine, human, recorder, say
        self.max_steps = recipe.environment.max_steps
        watches = self.settings.monitor.enabled and engine.source.has_critic
        self.monitor = StagnationMonitor.of(self.settings.monitor, body.fps) if watches else None
        self.limiter = Limiter(self.settings.safety, int(body.features["action"]["shape"][0]))
        self.paced = body.realtime or self.settings.inference.type == "rtc"
        self.stopping = threading.Event()

    def stop(self) -> None:
        """A signal: the episode in progress is not kept."""
        self.stopping.set()

    def go(self) -> None:
        settings = self.settings
        while self.recorder.episodes < settings.episodes and not self.stopping.is_set():
            if not self._reset_phase():
                return
            number = self.recorder.episodes
            # Every round has seeds of its own.
            result = self._episode(settings.seed + settings.round * settings.episodes + number)
            if result.ended in ("again", "stopped"):
                self.recorder.discard()
                self.say(f"episode {number}: {'to be recorded again' if result.ended == 'again' else 'stopped'}")
                if result.ended == "stopped":
                    return
                continue
            self._keep(number, result)

    def _keep(self, number: int, result: EpisodeResult) -> None:
        if not result.steps:
            self.say(f"episode {number}: ended before its first step; nothing was recorded")
            return
        said = result.success
        if said is None:
            self.say(f"episode {number}: nobody said whether it succeeded; it counts as a failure")
        facts = {**result.to_json(), "success": bool(said), "judged_by": "nobody" if said is None else self._judge}
        self.recorder.save(success=bool(said), facts=facts)
        told = "success" if said else "failure"
        if result.ended not in ("success", "failure"):
            told += f" ({result.ended})"
        helped = f", {result.interventions} takeovers" if result.interventions else ""
        cut = f", {result.cuts} actions cut" if result.cuts else ""
        self.say(f"episode {number}: {told} after {result.steps} steps{helped}{cut}")
        if result.overruns:
            self.say(f"warning: {result.overruns} of {result.steps} steps took longer than 1/{self.body.fps:g} s")

    @property
    def _judge(self) -> str:
        return "a human" if self.body.realtime else "the simulation"

    def _episode(self, seed: int) -> EpisodeResult:
        clock: Clock | None = None
        if self.paced:
            from igrft.rollouts.pace import Pacer

            clock = Pacer(self.body.fps)
        self.limiter.reset()
        return run_episode(
            self.body,
            self.engine,
            seed=seed,
            human=self.human,
            monitor=self.monitor,
            limiter=self.limiter,
            clock=clock,
            max_steps=self.max_steps,
            help_seconds=self.settings.help_seconds,
            on_frame=self._record,
            stop=self.stopping.is_set,
        )

    def _record(self, frame: Frame) -> None:
        judged: dict[str, float] = {}
        if frame.judgement is not None:
            judged = {c.VALUE: frame.judgement.value, c.INTERACTION_PROBABILITY: frame.judgement.interaction}
        self.recorder.add(
            {
                **{name: frame.observation[name] for name in self.body.features if name in frame.observation},
                **judged,
                c.ACTION: frame.action,
                c.INTERVENTION: frame.intervention,
                c.NOISE_SCALE: frame.noise_scale,
                c.TAKEOVER_REASON: frame.reason,
            }
        )

    def _reset_phase(self) -> bool:
        """Between episodes somebody clears the table; nothing is recorded. Whether to go on.

        The key for recording again takes back the episode that was just recorded.
        """
        human = self.human
        if not self.body.realtime or human is None or self.settings.reset_seconds == 0:
            return True
        self.engine.pause()
        self.say(f"reset the scene, then say so (at most {self.settings.reset_seconds:g} s)")
        for event in reset_events(human, self.settings.reset_seconds, self.stopping.is_set):
            if event is Event.STOP:
                return False
            if event is Event.READY:
                return True
            if event is Event.AGAIN and self.recorder.episodes:
                self.recorder.drop_last()
                self.say(f"episode {self.recorder.episodes}: taken back, to be recorded again")
        return not self.stopping.is_set()


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the round after its step; what is complete is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def refuse_incomplete(result: RolloutResult, asked: int) -> None:
    """Raises IgrftError: the round was stopped before its last episode."""
    if not result.complete:
        raise IgrftError(
            f"{result.root}: stopped after {len(result.episodes)} of {asked} episodes; run the same command to go on"
        )


def summary(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a round: success rate, interventions, share of frames that a human drove, mean steps."""
    steps = np.array([e["steps"] for e in episodes], dtype=np.float64)
    driven = np.array([sum(t["end"] - t["start"] for t in e["takeovers"]) for e in episodes], dtype=np.float64)
    alone = [e for e in episodes if not e["takeovers"]]
    return {
        "episodes": len(episodes),
        "successes": sum(bool(e["success"]) for e in episodes),
        "successes_without_help": sum(bool(e["success"]) for e in alone),
        "interventions": sum(len(e["takeovers"]) for e in episodes),
        "human_share": float(driven.sum() / max(steps.sum(), 1)),
        "mean_steps": float(steps.mean()) if len(steps) else 0.0,
        "progress": float(np.mean([e["progress"] for e in episodes])) if episodes else 0.0,
    }
