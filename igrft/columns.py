"""Every name of a column that the toolkit reads or writes, with its dtype and meaning.

Nothing else in the package spells a column's name. Shapes are ``[1]`` throughout: one value a
frame, which parquet holds as a plain scalar column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# LeRobot's own columns.
TIMESTAMP = "timestamp"
FRAME_INDEX = "frame_index"
EPISODE_INDEX = "episode_index"
INDEX = "index"
TASK_INDEX = "task_index"
STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
ACTION = "action"
VELOCITY = "observation.velocity"
EFFORT = "observation.effort"
IMAGE_PREFIX = "observation.images."

# Labels.
SUBTASK_INDEX = "subtask_index"
LANGUAGE_PERSISTENT = "language_persistent"
INTERACTION = "interaction"
INTERACTION_PIXELS = "interaction_pixels"
REWARD_TRAJECTORY = "reward_trajectory"
REWARD_SUBTASK = "reward_subtask"
REWARD = "reward"
RETURN_TRAJECTORY = "return_to_go_trajectory"
RETURN_SUBTASK = "return_to_go_subtask"
RETURN = "return_to_go"
VALUE_TRAJECTORY = "value_trajectory"
VALUE_SUBTASK = "value_subtask"
VALUE = "value"
INTERACTION_PROBABILITY = "interaction_probability"
ADVANTAGE = "advantage"
DONE = "next.done"
SUCCESS = "next.success"
INTERVENTION = "intervention"

# What a rollout records beside its labels (float32 and int64, shape [1]).
#: Standard deviation of the initial noise of the chunk in force (Eq. 2).
NOISE_SCALE = "noise_scale"
#: Why a human drives: a code, 0 where the policy does.
TAKEOVER_REASON = "takeover_reason"

SUBTASK_STYLE = "subtask"
SUBTASK_ROLE = "assistant"

# Spellings of "the episode succeeded" found in the wild; any true frame counts.
SUCCESS_SPELLINGS = (SUCCESS, "is_success", "episode_success")
# Spellings of "a human overrode the policy on this frame".
INTERVENTION_SPELLINGS = (
    INTERVENTION,
    "intervene_flag",
    "complementary_info.is_intervention",
)


@dataclass(frozen=True)
class Column:
    """One label column: ``dtype`` is LeRobot's name of it, ``unset`` what set-aside episodes hold."""

    name: str
    dtype: str
    meaning: str
    unset: float | int | bool | None = None

    @property
    def feature(self) -> dict[str, Any]:
        """The column's entry in ``meta/info.json``."""
        return {"dtype": self.dtype, "shape": [1], "names": None}


_NAN = float("nan")

LABELS: dict[str, Column] = {
    c.name: c
    for c in (
        Column(SUBTASK_INDEX, "int64", "row of meta/subtasks.parquet", -1),
        Column(LANGUAGE_PERSISTENT, "language", "one row per subtask, role assistant, style subtask"),
        Column(INTERACTION, "bool", "I_t of Eq. 1: non-robot pixels move", False),
        Column(INTERACTION_PIXELS, "float32", "moving non-robot pixels, in 640x480 pixels", _NAN),
        Column(REWARD_TRAJECTORY, "float32", "Eq. 4: 1/T on a success", _NAN),
        Column(REWARD_SUBTASK, "float32", "Eq. 6: potential difference over subtasks", _NAN),
        Column(REWARD, "float32", "Eq. 7: weighted sum of the two", _NAN),
        Column(RETURN_TRAJECTORY, "float32", "return-to-go of reward_trajectory, unweighted", _NAN),
        Column(RETURN_SUBTASK, "float32", "return-to-go of reward_subtask, unweighted", _NAN),
        Column(RETURN, "float32", "return-to-go of reward", _NAN),
        Column(VALUE_TRAJECTORY, "float32", "the critic's trajectory value", _NAN),
        Column(VALUE_SUBTASK, "float32", "the critic's subtask value", _NAN),
        Column(VALUE, "float32", "weighted sum of the two values", _NAN),
        Column(INTERACTION_PROBABILITY, "float32", "the critic's interaction probability", _NAN),
        Column(ADVANTAGE, "float32", "N-step advantage", _NAN),
        Column(DONE, "bool", "true on the last frame", False),
        Column(SUCCESS, "bool", "true on the last frame of a success", False),
        Column(INTERVENTION, "bool", "a human overrode a policy on this frame", False),
    )
}

# Facts of the recording: written only where the source has none.
RECORDED_FACTS = (DONE, SUCCESS)


def language_type() -> pa.DataType:
    """The Arrow type of ``language_persistent``: LeRobot's own, spelt here to avoid importing it.

    A test holds it equal to ``lerobot.datasets.language.language_persistent_arrow_type()``.
    """
    import pyarrow as pa

    row = pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string(), nullable=True),
            pa.field("style", pa.string(), nullable=True),
            pa.field("timestamp", pa.float32(), nullable=False),
            pa.field("camera", pa.string(), nullable=True),
            pa.field("tool_calls", pa.list_(pa.json_()), nullable=True),
        ]
    )
    return pa.list_(row)


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a label column as it stands in parquet."""
    import pyarrow as pa

    dtype = LABELS[name].dtype
    if dtype == "language":
        return language_type()
    return {"int64": pa.int64(), "float32": pa.float32(), "bool": pa.bool_()}[dtype]
