"""Runs episodes one at a time, with what they need kept open: policy, environment, human."""

from __future__ import annotations

import contextlib
import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.evaluation.contenders import Contender, exploration_of
from igrft.evaluation.recipe import EXPLORATION, SERVER, EvalRecipe
from igrft.evaluation.store import EPISODES, Key
from igrft.evaluation.traces import Trace
from igrft.models.devices import torch_threads
from igrft.rollouts.episode import EpisodeResult, Frame, run_episode
from igrft.rollouts.protocols import ActionSource, Embodiment, Event, Human
from igrft.rollouts.waiting import reset_events

if TYPE_CHECKING:
    from igrft.evaluation.videos import VideoWriter
    from igrft.rollouts.engine import Engine
    from igrft.rollouts.noise import NoiseRule

#: Width of the pictures that a figure of the episode shows.
_WIDTH = 240


class Stopped(Exception):
    """The human said stop."""


class Again(Exception):
    """The human takes back the episode before this one: it is to be run again."""


@dataclass(frozen=True)
class Job:
    """One episode.

    Attributes:
        contender: number of the policy.
        temperature: of the noise; "exploration" is T(s), "server" whatever a server does.
        seed: of start and noise.
        number: of the episode, from 0.
    """

    contender: int
    temperature: float | str
    seed: int
    number: int

    def key(self, contenders: Sequence[Contender]) -> Key:
        one = contenders[self.contender]
        return one.name, one.task, one.seed, str(self.temperature), self.seed

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def failed(self, contenders: Sequence[Contender], why: str) -> IgrftError:
        """The error of an episode that could not be run to its end."""
        one = contenders[self.contender]
        return IgrftError(
            f"{one.name} ({one.run}, temperature {self.temperature}), episode {self.number} (seed {self.seed}): {why}; "
            "finished episodes are kept, and the same command goes on from there"
        )


def wants_video(videos: list[int] | str, number: int) -> bool:
    """Whether pictures of an episode are needed, as far as is known before it."""
    return videos in ("all", "failures") if isinstance(videos, str) else number in videos


def keeps_video(videos: list[int] | str, number: int, success: bool) -> bool:
    """Whether an episode's video stays."""
    return wants_video(videos, number) and not (videos == "failures" and success)


@dataclass
class _Stage:
    """A policy in an environment, and who may take over."""

    body: Embodiment
    human: Human | None
    engine: Engine


class Bench:
    """What one process holds open between episodes.

    Args:
        recipe, contenders: of the evaluation.
        folder: where videos and figures go.
        open_body: environment for a task, with pictures or without; the default is what the recipe names.
        open_source: a policy. open_human: who may take over.
        say: is given what the user should know, each line once.
    """

    def __init__(
        self,
        recipe: EvalRecipe,
        contenders: Sequence[Contender],
        folder: Path,
        *,
        open_body: Callable[[str, bool], Embodiment] | None = None,
        open_source: Callable[[Contender], ActionSource] | None = None,
        open_human: Callable[[Embodiment], Human | None] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.recipe, self.contenders, self.folder = recipe, contenders, folder
        self._open_body = open_body or self._default_body
        self._open_source = open_source or self._default_source
        self._open_human = open_human or self._default_human
        self._say, self._said = say, set[str]()
        self._source: tuple[int, ActionSource] | None = None
        self._bodies: dict[tuple[str, bool], tuple[Embodiment, Human | None]] = {}
        self._engine: tuple[tuple[int, int], Engine] | None = None

    def run(self, job: Job) -> dict[str, Any]:
        """One episode's result, as a line of ``results.jsonl``.

        Raises:
            Stopped: the human said so; the episode does not count.
            Again: likewise, of the one before.
            UsageError, IgrftError: policy and environment do not fit, or one of them failed.
        """
        one = self.contenders[job.contender]
        filmed = wants_video(self.recipe.videos, job.number)
        stage = self._stage(job, filmed)
        source = stage.engine.source
        self._set_noise(source, one, job.temperature)
        began = time.perf_counter()
        while True:
            self._reset_phase(stage, job)
            film = _Film(self, one, job, stage.body, source) if filmed else None
            noise: list[float] = []
            result = self._episode(stage, job, film, noise)
            if result.ended != "again":
                break
            if film is not None:
                film.close(False)
            self._say(f"episode {job.number}: again")
        if result.ended == "stopped":
            if film is not None:
                film.close(False)
            raise Stopped
        made = self._line(one, job, result, noise, stage.body)
        made["seconds"] = round(time.perf_counter() - began, 3)
        if film is not None:
            made.update(film.close(keeps_video(self.recipe.videos, job.number, made["success"]), made["success"]))
        return made

    def close(self) -> None:
        """Let go of everything, a robot first."""
        with contextlib.ExitStack() as stack:
            if self._source is not None:
                stack.callback(self._source[1].close)
            if self._engine is not None:
                stack.callback(self._engine[1].close)
            for body, human in self._bodies.values():
                if human is not None:
                    stack.callback(human.close)
                stack.callback(body.close)
        self._source, self._engine = None, None
        self._bodies.clear()

    def warn(self, line: str) -> None:
        """Say it once."""
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    # An episode.

    def _episode(self, stage: _Stage, job: Job, film: _Film | None, noise: list[float]) -> EpisodeResult:
        from igrft.rollouts.pace import Pacer
        from igrft.rollouts.safety import Limiter
        from igrft.rollouts.stagnation import StagnationMonitor

        recipe, body = self.recipe, stage.body
        watched = recipe.monitor.enabled and stage.engine.source.has_critic
        paced = body.realtime or recipe.inference.type == "rtc"

        def on_frame(frame: Frame) -> None:
            if not frame.intervention:
                noise.append(frame.noise_scale)
            if film is not None:
                film.add(frame)

        with torch_threads(recipe.cpu_threads):
            return run_episode(
                body,
                stage.engine,
                seed=job.seed,
                human=stage.human,
                monitor=StagnationMonitor.of(recipe.monitor, body.fps) if watched else None,
                limiter=Limiter(recipe.safety, int(body.features["action"]["shape"][0])),
                clock=Pacer(body.fps) if paced else None,
                max_steps=recipe.environment.max_steps,
                help_seconds=recipe.help_seconds,
                on_frame=on_frame,
            )

    def _line(
        self, one: Contender, job: Job, result: EpisodeResult, noise: list[float], body: Embodiment
    ) -> dict[str, Any]:
        """What is kept of an episode. Success on a robot is what the human's key said; without one it is none."""
        if result.success is None:
            self.warn(f"episode {job.number}: nobody said whether it succeeded; it counts as a failure")
        known = bool(body.subtasks)
        driven = sum(t.end - t.start for t in result.takeovers)
        return {
            "name": one.name,
            "task": one.task,
            "training_seed": one.seed,
            "temperature": job.temperature,
            "seed": job.seed,
            "number": job.number,
            "digest": one.digest,
            "success": bool(result.success),
            "said": result.success is not None,
            "ended": result.ended,
            "steps": result.steps,
            "completed": result.completed if known else None,
            "subtasks": result.subtasks if known else None,
            "progress": result.progress if known else None,
            "interventions": result.interventions,
            "human_steps": driven,
            "calls": len(result.calls),
            "cuts": result.cuts,
            "overruns": result.overruns,
            "noise": [float(np.mean(noise)), min(noise), max(noise)] if noise else None,
        }

    def _reset_phase(self, stage: _Stage, job: Job) -> None:
        """On a robot somebody clears the table first, and says so."""
        human, seconds = stage.human, self.recipe.reset_seconds
        if not stage.body.realtime or human is None or seconds == 0:
            return
        stage.engine.pause()
        one = self.contenders[job.contender]
        self._say(f"{one.name}, episode {job.number}: reset the scene, then say so (at most {seconds:g} s)")
        for event in reset_events(human, seconds):
            if event is Event.STOP:
                raise Stopped
            if event is Event.READY:
                return
            if event is Event.AGAIN:
                raise Again

    # What is kept open.

    def _stage(self, job: Job, pictures: bool) -> _Stage:
        one = self.contenders[job.contender]
        source = self._source_of(job.contender)
        body, human = self._body_of(one.task, pictures or bool(getattr(source, "uses_images", True)))
        if hasattr(source, "refuse_unfit"):
            source.refuse_unfit(dict(body.features))
        if self.recipe.monitor.enabled and not source.has_critic:
            self.warn(f"{one.name} has no critic: nobody watches its value")
        return _Stage(body, human, self._engine_of(source, body))

    def _source_of(self, number: int) -> ActionSource:
        if self._source is None or self._source[0] != number:
            if self._engine is not None:
                self._engine[1].close()
                self._engine = None
            if self._source is not None:
                self._source[1].close()
                # Two policies need not fit into memory at a time.
                self._source = None
            self._source = number, self._open_source(self.contenders[number])
        return self._source[1]

    def _body_of(self, task: str, pictures: bool) -> tuple[Embodiment, Human | None]:
        if (task, pictures) not in self._bodies:
            body = self._open_body(task, pictures)
            try:
                self._bodies[task, pictures] = body, self._open_human(body)
            except BaseException:
                body.close()
                raise
        return self._bodies[task, pictures]

    def _engine_of(self, source: ActionSource, body: Embodiment) -> Engine:
        from igrft.rollouts.engine import make_engine

        key = id(source), id(body)
        if self._engine is None or self._engine[0] != key:
            if self._engine is not None:
                self._engine[1].close()
            steps = getattr(source, "n_action_steps", source.chunk_size)
            self._engine = key, make_engine(self.recipe.inference, source, body.fps, steps)
        return self._engine[1]

    def _set_noise(self, source: ActionSource, one: Contender, temperature: float | str) -> None:
        if temperature == SERVER:
            return
        rule = noise_rule(one, self.recipe, temperature)
        if rule.needs_critic and not source.has_critic:
            raise UsageError(
                f"{one.name}: the temperature {EXPLORATION!r} asks a critic, and {one.checkpoint} has none"
            )
        source.noise = rule  # type: ignore[attr-defined]
        trained = getattr(source, "trained_noise", None)
        warning = rule.warning(trained) if trained is not None else None
        if warning is not None:
            self.warn(f"{one.name} at temperature {temperature}: {warning}")

    def _default_body(self, task: str, pictures: bool) -> Embodiment:
        from igrft.rollouts.build import make_embodiment

        settings = copy.deepcopy(self.recipe.environment)
        settings.task = task
        if wants_any_video(self.recipe) and settings.pictures is False:
            raise UsageError("a video was asked for, and environment.pictures is false; give --videos=none")
        return make_embodiment(settings, pictures=pictures)

    def _default_source(self, one: Contender) -> ActionSource:
        from igrft.rollouts.build import load_policy, make_source

        if one.checkpoint is None:
            return make_source(None, self.recipe.inference, device=None, exploration=None)
        return load_policy(
            one.checkpoint, device=self.recipe.device, exploration=None, horizon=self.recipe.inference.horizon
        )

    def _default_human(self, body: Embodiment) -> Human | None:
        if self.recipe.human.type == "none":
            return None
        from igrft.rollouts.teleop import make_human

        return make_human(self.recipe.human, body, safety=self.recipe.safety)


def noise_rule(one: Contender, recipe: EvalRecipe, temperature: float | str) -> NoiseRule:
    """How wide the noise is at a temperature.

    Raises:
        UsageError: T(s) is asked for and nobody says its settings.
    """
    from igrft.rollouts.noise import NoiseRule

    if isinstance(temperature, str):
        return NoiseRule(**vars(exploration_of(one, recipe)))
    return NoiseRule.fixed(temperature)


def wants_any_video(recipe: EvalRecipe) -> bool:
    return bool(recipe.videos) and recipe.videos != "none"


class _Film:
    """The video, the trace and Figure 7 of one episode."""

    def __init__(self, bench: Bench, one: Contender, job: Job, body: Embodiment, source: ActionSource) -> None:
        from igrft.evaluation.videos import cameras_of

        self._cameras = cameras_of(list(body.features), bench.recipe.video_camera)
        self._body, self._bench, self._one, self._job = body, bench, one, job
        self.stem = bench.folder / EPISODES / folder_of(one, job.temperature) / f"{job.number:04d}_seed_{job.seed}"
        settings = getattr(source, "settings", {})
        self.trace = Trace(body.fps, tuple(body.subtasks), dict(settings))
        self._curve = bench.recipe.value_curve and source.has_critic
        self._temporary = self.stem.with_name(f".{self.stem.name}.mp4")
        self._writer: VideoWriter | None = None
        self._small: list[bytes] = []

    def add(self, frame: Frame) -> None:
        from igrft.evaluation.videos import VideoWriter, side_by_side

        if self._writer is None:
            self._writer = VideoWriter(self._temporary, self._body.fps, value_curve=self._curve)
        self.trace.add(frame, self._body.status().subtask)
        pictures = [frame.observation[name] for name in self._cameras]
        value = float("nan") if frame.judgement is None else frame.judgement.value
        self._writer.add(pictures, value=value, human=frame.intervention)
        if self._figure:
            self._small.append(_encoded(side_by_side(pictures[:1])))

    @property
    def _figure(self) -> bool:
        return self._bench.recipe.figures and self._curve

    def close(self, keep: bool, success: bool = False) -> dict[str, Any]:
        """Finish the files, or take them away; what the result says of them."""
        if self._writer is not None:
            self._writer.close()
        if not keep or self._writer is None:
            self._temporary.unlink(missing_ok=True)
            return {}
        from igrft.dataset.parquet import write_json

        video = self.stem.with_suffix(".mp4")
        self._temporary.replace(video)
        write_json(self.stem.with_suffix(".json"), self.trace.to_json(), indent=None)
        made = {"video": str(video.relative_to(self._bench.folder))}
        if self._figure and self.trace.judged:
            from igrft.evaluation.figures import save
            from igrft.evaluation.value_figure import figure_7

            title = (
                f"{self._one.name} on {self._one.task}, seed {self._job.seed}: {'success' if success else 'failure'}"
            )
            pictures = _Pictures(self._small)
            path = save(figure_7(self.trace.figure_trace(success, pictures, title)), self.stem)[0]
            made["figure"] = str(path.relative_to(self._bench.folder))
        return made


class _Pictures(Sequence[np.ndarray]):
    """Pictures that were put away as JPEG: an episode's do not fit into memory otherwise."""

    def __init__(self, encoded: list[bytes]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, at: Any) -> Any:
        import cv2

        picture: Any = cv2.imdecode(np.frombuffer(self._encoded[at], np.uint8), cv2.IMREAD_COLOR)
        return picture[..., ::-1]


def _encoded(picture: np.ndarray) -> bytes:
    import cv2

    from igrft.reports.pictures import fit

    small = cv2.resize(picture, fit((picture.shape[1], picture.shape[0]), _WIDTH), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise IgrftError("a picture could not be encoded; check the installation of opencv-python-headless")
    return bytes(data)


def folder_of(one: Contender, temperature: float | str) -> str:
    """A folder's name for the episodes of a policy at a temperature; different ones never share it."""
    text = f"{one.name} {one.task} seed {one.seed} T {temperature}"
    plain = re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.")
    return f"{plain}_{sha256(text.encode()).hexdigest()[:6]}"
