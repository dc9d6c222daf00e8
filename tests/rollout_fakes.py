"""A line to walk along, a policy that walks, and a human who can: everything that a rollout is put together from."""

from __future__ import annotations

import numpy as np

from igrft.rollouts.protocols import Chunk, Event, Judgement, Status


class Line:
    """A point on a line; the goal is at ``goal``. Two subtasks: half way, and there."""

    robot_type, fps, task, realtime = "point", 10.0, "walk to the end", False
    subtasks = ("half way", "the end")

    def __init__(self, goal: float = 10.0, limit: int = 50, *, name: str = "line") -> None:
        self.name, self.goal, self.limit = name, goal, limit
        self.features = {
            "observation.state": {"dtype": "float32", "shape": (1,), "names": ["x"]},
            "action": {"dtype": "float32", "shape": (1,), "names": ["dx"]},
        }
        self.x, self.steps, self.seeds, self.sent, self.closed = 0.0, 0, [], [], False

    def reset(self, seed):
        self.x, self.steps = 0.0, 0
        self.seeds.append(seed)

    def observe(self):
        return {"observation.state": np.array([self.x], dtype=np.float32)}

    def act(self, action):
        self.x += float(action[0])
        self.steps += 1
        self.sent.append(float(action[0]))
        return np.asarray(action, dtype=np.float32)

    def status(self):
        return Status(
            self.x >= self.goal, self.steps >= self.limit, int(self.x >= self.goal / 2) + (self.x >= self.goal)
        )

    def close(self):
        self.closed = True


class Walker:
    """Steps of ``stride``; stands still between ``stuck`` places. Its value is what is left of the way."""

    chunk_size, has_critic, can_guide, n_action_steps = 4, True, True, 4

    def __init__(self, stride: float = 1.0, stuck: tuple[float, float] | None = None, goal: float = 10.0) -> None:
        self.stride, self.stuck, self.goal = stride, stuck, goal
        self.asked, self.judged, self.left_over, self.seeds, self.closed = 0, 0, [], [], False

    def reset(self, seed):
        self.seeds.append(seed)

    def infer(self, observation, *, left_over=None, delay=0):
        self.asked += 1
        self.left_over.append((None if left_over is None else len(left_over), delay))
        x = float(observation["observation.state"][0])
        still = self.stuck is not None and self.stuck[0] <= x < self.stuck[1]
        actions = np.full((self.chunk_size, 1), 0.0 if still else self.stride, dtype=np.float32)
        return Chunk(actions, actions.copy(), self.judge(observation), 1.5, 0.001)

    def judge(self, observation):
        self.judged += 1
        value = 1 - float(observation["observation.state"][0]) / self.goal
        return Judgement(value, value, value, 0.5)

    def close(self):
        self.closed = True


class Helper:
    """Drives by ``stride`` for ``steps`` steps; says the events that ``script`` has for a step of the episode."""

    can_drive = True

    def __init__(self, steps=3, stride=1.0, script=None, *, scripted=True, name="helper") -> None:
        self.steps, self.stride, self.script, self.scripted, self.name = steps, stride, script or {}, scripted, name
        self.calls, self.takes, self.backs, self.asked, self.driven, self.closed = [], 0, 0, 0, 0, False

    def start(self, seed):
        self.asked = 0

    def events(self) -> list[Event]:
        said = self.script.get(self.asked, [])
        self.asked += 1
        return list(said)

    def call(self, reason):
        self.calls.append(reason)

    def take_over(self, observation, last_action):
        self.takes += 1
        self.driven = 0

    def action(self, observation):
        self.driven += 1
        return np.array([self.stride], dtype=np.float32)

    def finished(self, status):
        return self.scripted and self.driven >= self.steps

    def hand_back(self):
        self.backs += 1

    def close(self):
        self.closed = True
