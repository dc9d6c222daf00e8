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
ROBOT = "#286ee6"
VALUE = "#c53030"
INTERVENTION = "#b83280"
ALARM = "#6b46c1"
NOISE = "#2c7a7b"
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


#: Lines of one chart, in order; apart in hue and in lightness.
SERIES = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#5a6673")
#: Prediction against reference, as the paper's Figure 7 has it.
REFERENCE = "#7b8794"
RISE_SHADE = "#dbe9f8"
DIP_SHADE = "#fbeecb"
#: The trajectory head beside the subtask head: TRAJECTORY_REWARD is too pale for a line.
PART_TRAJECTORY = "#319795"


def shade(share: float) -> str:
    """A fill from the paper's colour (0) to a deep blue (1), for heat maps."""
    share = min(max(share, 0.0), 1.0)
    stops = ((255, 255, 255), (167, 199, 231), (43, 108, 176), (16, 42, 92))
    at = share * (len(stops) - 1)
    i = min(int(at), len(stops) - 2)
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return "#" + "".join(f"{v:02x}" for v in mixed)
