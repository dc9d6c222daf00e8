"""The `subtasks` step: which subtask the robot is at, from a file, the dataset or proprioception."""

from igrft.steps.subtasks.step import Subtasks

__all__ = ["Subtasks"]
