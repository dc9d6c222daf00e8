"""The colours of the page, in one place."""

from __future__ import annotations

INK = "#1f2933"
MUTED = "#6b7785"
RULE = "#e4e8ec"
PAPER = "#ffffff"

SUBTASK_REWARD = "#2b6cb0"
TRAJECTORY_REWARD = "#a9c7e4"
RETURN = "#1f2933"
INTERACTION = "#c05621"
INTERACTION_SHADE = "#fdebdc"
VALUE = "#c53030"
INTERVENTION = "#b83280"
SUCCESS = "#2f855a"
FAILURE = "#c53030"
NEUTRAL = "#5a7fa6"

#: Fills of subtasks, light enough for dark text; by the name's place in the vocabulary.
_SUBTASKS = (
    "#a6cee3",
    "#fdd49e",
    "#b8dfa1",
    "#d4c4e4",
    "#f9b9b7",
    "#ffe699",
    "#a8dcd1",
    "#e3cfae",
    "#c7d3de",
    "#f3c3dd",
)


def subtask_fill(position: int) -> str:
    """The fill of the subtask at ``position`` in the vocabulary."""
    return _SUBTASKS[position % len(_SUBTASKS)]
