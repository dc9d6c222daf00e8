"""An expert that takes a thing and brings it to its goal, and begins again where that fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from igrft.simulation.tasks import Scene

#: Of the distance to a target, per metre; from 5 cm on the hand goes at full speed (1 cm a step).
_GAIN = 20.0
_OPEN = -1.0
#: From the hand's middle to the outside of an open finger, and some room.
_FINGERS = 0.07


@dataclass(frozen=True)
class Route:
    """How the thing of a task is taken and where it goes, metres.

    Attributes:
        grasp: hand relative to the thing when the fingers close.
        hover: height of the hand above the table while it goes to the thing with nothing in it.
        entry: piece relative to the goal, from where it goes in in a straight line.
        finish: piece relative to the goal at the end of that line.
        lateral: the piece may stand off the line by so much before it goes in.
        effort: of the gripper while it holds, in (0, 1].
        close_for: control steps that the fingers get to close.
        walls: y of the two walls of a bin in which the thing may lie. The fingers, which stand in y, must miss
            them; a thing beyond is on the table.
    """

    grasp: tuple[float, float, float]
    entry: tuple[float, float, float]
    finish: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hover: float = 0.2
    lateral: float = 0.015
    effort: float = 0.8
    close_for: int = 14
    walls: tuple[float, float] | None = None


ROUTES: dict[str, Route] = {
    "shelf-place-v3": Route(grasp=(0.0, 0.0, 0.035), entry=(0.0, -0.2, 0.01), lateral=0.02),
    "box-close-v3": Route(grasp=(0.0, 0.0, 0.085), entry=(0.0, 0.0, 0.05), finish=(0.0, 0.0, -0.03), hover=0.24),
    "bin-picking-v3": Route(
        grasp=(0.0, 0.0, 0.04), entry=(0.0, 0.0, 0.14), finish=(0.0, 0.0, 0.02), lateral=0.025, walls=(0.605, 0.795)
    ),
    "assembly-v3": Route(grasp=(-0.03, 0.0, 0.04), entry=(0.0, 0.0, 0.06), finish=(0.0, 0.0, -0.05), lateral=0.01),
}


@dataclass
class PickAndPlace:
    """Goes above the thing, down, closes, and carries; what it does next follows from where things are.

    All that it remembers is for how long it has been closing, for how long it has been stuck, and how another
    hand holds the thing that it takes over: it goes on with that grip instead of opening the fingers first.
    """

    route: Route
    _closing: int = field(default=0, init=False)
    _stuck: int = field(default=0, init=False)
    _last: np.ndarray | None = field(default=None, init=False)
    _grip: np.ndarray | None = field(default=None, init=False)
    _fresh: bool = field(default=True, init=False)

    def reset(self) -> None:
        self._closing = self._stuck = 0
        self._last = self._grip = None
        self._fresh = True

    def action(self, scene: Scene) -> np.ndarray:
        """float32 [4] in [-1, 1]."""
        self._count_stuck(scene)
        if self._fresh and scene.gripped:
            self._grip, self._closing = scene.hand - scene.thing, self.route.close_for
        self._fresh = False
        taken = self._at_grasp(scene, 0.03)
        if not taken:
            self._closing, self._grip = 0, None
            return self._move(scene, self._towards_thing(scene), _OPEN)
        if self._closing == 0 and not self._at_grasp(scene, 0.012) and self._stuck < 10:
            return self._move(scene, self._grasp_point(scene), _OPEN)
        self._closing += 1
        if self._closing <= self.route.close_for:
            return self._move(scene, scene.hand, self.route.effort)
        if not scene.gripped and self._closing <= self.route.close_for + 5:
            return self._move(scene, scene.hand, 1.0)
        return self._move(scene, self._towards_goal(scene), self.route.effort)

    def _grasp_point(self, scene: Scene) -> np.ndarray:
        if self._grip is not None:
            return scene.thing + self._grip
        point = scene.thing + np.asarray(self.route.grasp)
        if self.route.walls is not None:
            low, high = self.route.walls
            if low < scene.thing[1] < high:
                point[1] = np.clip(point[1], low + _FINGERS, high - _FINGERS)
        return point

    def _at_grasp(self, scene: Scene, tolerance: float) -> bool:
        return bool(np.abs(scene.hand - self._grasp_point(scene)).max() < tolerance)

    def _towards_thing(self, scene: Scene) -> np.ndarray:
        point = self._grasp_point(scene)
        across = np.hypot(*(scene.hand[:2] - point[:2]))
        if across < 0.015:
            return point
        hover = max(self.route.hover, scene.thing[2] + 0.1)
        # Straight up first, so that nothing is swept along.
        if across > 0.04 and scene.hand[2] < hover - 0.06:
            return np.array([scene.hand[0], scene.hand[1], hover])
        return np.array([point[0], point[1], hover])

    def _towards_goal(self, scene: Scene) -> np.ndarray:
        """Where the hand has to be, given how it holds the piece."""
        held = scene.hand - scene.piece
        entry = scene.goal + np.asarray(self.route.entry)
        finish = scene.goal + np.asarray(self.route.finish)
        line = finish - entry
        line /= np.linalg.norm(line)
        off = scene.piece - entry
        lateral = off - (off @ line) * line
        if np.linalg.norm(lateral) < self.route.lateral:
            return finish + held
        if scene.piece[2] < entry[2] - 0.03:
            return np.array([scene.hand[0], min(scene.hand[1], entry[1] + held[1]), entry[2] + held[2] + 0.02])
        return entry + held

    def _count_stuck(self, scene: Scene) -> None:
        moved = self._last is None or np.abs(scene.hand - self._last).max() > 5e-4
        self._last = scene.hand.copy()
        self._stuck = 0 if moved else self._stuck + 1

    @staticmethod
    def _move(scene: Scene, target: np.ndarray, effort: float) -> np.ndarray:
        step = np.clip(_GAIN * (target - scene.hand), -1.0, 1.0)
        return np.append(step, effort).astype(np.float32)
