"""Demonstrations as a teleoperator gives them: an expert who sees badly, trembles, pauses, wanders and slips.

Nothing in here is taken from a study of people. The settings are chosen so that a set of demonstrations is of
mixed quality: failed tries, re-grasps, and between 40 and 75 % of episodes that succeed (ours).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from igrft.errors import UsageError
from igrft.simulation.experts import make_expert
from igrft.simulation.tasks import Scene

#: Control steps a second, in which the settings' seconds are counted.
_FPS = 80
#: Control steps after which a grip, or its loss, is believed.
_SURE = 12


@dataclass(frozen=True)
class OperatorSettings:
    """How bad an operator of skill 0 is; one of skill s has (1 − s) of each. Times are of the simulation.

    Attributes:
        operators: people who take turns; each has a skill of its own, drawn once.
        skill_low, skill_high: range of those skills, in [0, 1].
        skill_spread: standard deviation of an episode's skill around its operator's.
        tremble: standard deviation of the noise on each direction of an action, in [0, 2]; 1 is a full step.
        tremble_seconds: time over which that noise stays alike.
        misjudge: standard deviation of the error in x and y with which the thing is seen, metres, in [0, 0.1].
        misplace: the same of the goal.
        correct: what is left of both errors after a failed try, in [0, 1].
        slow: share by which movements are slower, in [0, 0.9].
        pauses, detours, slips: how many a second, in [0, 10]; slips only while something is held.
        pause_seconds, detour_seconds, slip_seconds: longest of each; they are drawn from a third of it on.
        tries: failed ones after which an operator gives up and ends the episode.
    """

    operators: int = 4
    skill_low: float = 0.1
    skill_high: float = 0.9
    skill_spread: float = 0.1
    tremble: float = 0.45
    tremble_seconds: float = 0.1
    misjudge: float = 0.022
    misplace: float = 0.03
    correct: float = 0.6
    slow: float = 0.4
    pauses: float = 0.8
    pause_seconds: float = 0.5
    detours: float = 0.7
    detour_seconds: float = 0.4
    slips: float = 0.8
    slip_seconds: float = 0.3
    tries: int = 4

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"operators: {name} must lie between {low:g} and {high:g}, got {value!r}")
        if self.skill_low > self.skill_high:
            raise UsageError(f"operators: skill_low {self.skill_low:g} is above skill_high {self.skill_high:g}")

    def record(self) -> dict[str, Any]:
        """As written into a dataset."""
        return asdict(self)


_RANGES: dict[str, tuple[float, float]] = {
    "operators": (1, 1000),
    "skill_low": (0, 1),
    "skill_high": (0, 1),
    "skill_spread": (0, 1),
    "tremble": (0, 2),
    "tremble_seconds": (0, 10),
    "misjudge": (0, 0.1),
    "misplace": (0, 0.1),
    "correct": (0, 1),
    "slow": (0, 0.9),
    "pauses": (0, 10),
    "pause_seconds": (0, 10),
    "detours": (0, 10),
    "detour_seconds": (0, 10),
    "slips": (0, 10),
    "slip_seconds": (0, 10),
    "tries": (1, 1000),
}


@dataclass(frozen=True)
class Turn:
    """Who gives an episode.

    Attributes:
        operator: number of the person, from 0.
        skill: on this episode, in [0, 1].
        seed: of what goes wrong.
    """

    operator: int
    skill: float
    seed: tuple[int, int]


def turns(settings: OperatorSettings, episodes: int, seed: int) -> list[Turn]:
    """Who gives which episode, and how well. The first n of a longer list are those of a shorter one."""
    # One from each part of the range, so that a set is of mixed quality whatever its seed.
    parts = np.random.default_rng([seed, 1]).uniform(size=settings.operators) + np.arange(settings.operators)
    people = settings.skill_low + (settings.skill_high - settings.skill_low) * parts / settings.operators
    found = []
    for episode in range(episodes):
        rng = np.random.default_rng([seed, 2, episode])
        operator = int(rng.integers(settings.operators))
        skill = float(np.clip(people[operator] + settings.skill_spread * rng.normal(), 0.0, 1.0))
        found.append(Turn(operator, skill, (seed, episode)))
    return found


class Operator:
    """One person in one episode; acts like an :class:`igrft.simulation.experts.Expert`.

    Attributes:
        tries: failed ones so far.
        gave_up: after as many as the settings allow; the episode should end.
    """

    def __init__(self, task: str, settings: OperatorSettings, skill: float, seed: tuple[int, ...] | int) -> None:
        """
        Args:
            task: as "shelf-place-v3".
            skill: in [0, 1]; 1 is the expert.
            seed: of everything that goes wrong.
        """
        self._expert = make_expert(task)
        self._settings = settings
        self._lack = 1.0 - skill
        self._rng = np.random.default_rng(seed)
        self._noise: np.ndarray = np.zeros(3)
        self.tries = 0
        self.reset()

    @property
    def gave_up(self) -> bool:
        return self.tries >= self._settings.tries

    def reset(self) -> None:
        """Look afresh: the errors of the eye are drawn anew."""
        self._expert.reset()
        self._busy = 0
        self._doing = ""
        self._push: np.ndarray = np.zeros(3)
        self._gripped, self._holding = 0, False
        self._look(1.0)
        self._idle, self._low = 0, np.inf

    def action(self, scene: Scene) -> np.ndarray:
        """float32 [4] in [-1, 1]."""
        self._judge(scene)
        wanted = self._expert.action(self._seen(scene)).astype(np.float64)
        self._distract(scene)
        move = wanted[:3] * (1.0 - self._lack * self._settings.slow) + self._tremble()
        if self._doing == "pause":
            move = np.zeros(3)
        elif self._doing == "detour":
            move = move * 0.3 + self._push
        elif self._doing == "slip":
            wanted[3] = -1.0
        return np.clip(np.append(move, wanted[3]), -1.0, 1.0).astype(np.float32)

    def _seen(self, scene: Scene) -> Scene:
        """The scene with the errors of the eye; a thing in the hand is felt, not seen."""
        error = np.zeros(3) if scene.gripped else self._thing_error
        observation = scene.observation.copy()
        observation[4:7] += error
        observation[-3:] += self._goal_error
        return replace(scene, thing=scene.thing + error, goal=scene.goal + self._goal_error, observation=observation)

    def _look(self, share: float) -> None:
        s = self._settings
        across = np.array([1.0, 1.0, 0.0]) * self._lack * share
        self._thing_error = s.misjudge * across * self._rng.normal(size=3)
        self._goal_error = s.misplace * across * self._rng.normal(size=3)

    def _judge(self, scene: Scene) -> None:
        """Count a failed try: what was held is lost, or nothing comes of it for a second."""
        # Contacts flicker: held is what was pressed for a while, lost what has not been for as long.
        self._gripped = min(self._gripped + 1, _SURE) if scene.gripped else max(self._gripped - 1, 0)
        lost = self._holding and self._gripped == 0
        self._holding = self._gripped == _SURE or (self._holding and not lost)
        distance = float(np.linalg.norm(scene.piece - scene.goal)) + float(np.linalg.norm(scene.hand - scene.thing))
        self._idle = 0 if distance < self._low - 0.005 else self._idle + 1
        self._low = min(self._low, distance)
        if lost or self._idle > _FPS:
            self.tries += 1
            self._idle, self._low = 0, np.inf
            self._look(self._settings.correct**self.tries)

    def _tremble(self) -> np.ndarray:
        s = self._settings
        keep = np.exp(-1.0 / max(1.0, s.tremble_seconds * _FPS))
        self._noise = keep * self._noise + np.sqrt(1.0 - keep**2) * self._rng.normal(size=3)
        return s.tremble * self._lack * self._noise

    def _distract(self, scene: Scene) -> None:
        """Begin, go on with or end a pause, a detour or a slip."""
        s = self._settings
        # Drawn every step, so that what happened does not shift what will.
        chance, length, direction = self._rng.uniform(size=3), self._rng.uniform(1 / 3, 1), self._rng.normal(size=3)
        if self._busy > 0:
            self._busy -= 1
            return
        self._doing = ""
        for draw, what, rate, seconds in zip(
            chance,
            ("pause", "detour", "slip"),
            (s.pauses, s.detours, s.slips if scene.gripped else 0.0),
            (s.pause_seconds, s.detour_seconds, s.slip_seconds),
            strict=True,
        ):
            if draw < rate * self._lack / _FPS:
                self._doing = what
                self._busy = max(1, round(length * seconds * _FPS))
                self._push = direction / max(1e-9, float(np.linalg.norm(direction)))
                return


def settings_from(overrides: dict[str, Any]) -> OperatorSettings:
    """Settings with some changed.

    Raises:
        UsageError: an unknown name, or a value out of its range.
    """
    from igrft.errors import did_you_mean

    known = {f.name: f.type for f in fields(OperatorSettings)}
    for name in overrides:
        if name not in known:
            raise UsageError(f"operators have no setting {name!r}{did_you_mean(name, tuple(known))}")
    return replace(OperatorSettings(), **overrides)
