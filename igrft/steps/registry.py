"""The steps that a pipeline file may name."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "subtasks": ("igrft.steps.subtasks", "Subtasks"),
    "rewards": ("igrft.steps.rewards", "Rewards"),
    "returns": ("igrft.steps.rewards", "Returns"),
    "interaction": ("igrft.steps.interaction", "Interaction"),
    "values": ("igrft.steps.values", "Values"),
}

#: The ``type`` of every step.
STEP_TYPES = tuple(_HOMES)


def step_class(name: str) -> Any:
    """The class of a step, imported when first asked for. ``name`` is one of STEP_TYPES."""
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def step_that_makes(what: str) -> str | None:
    """The type of the step that makes a column or record, for messages; None where no step does."""
    for name in STEP_TYPES:
        for step in _expanded(step_class(name)):
            if what in step.makes:
                return name
    return None


def _expanded(cls: Any) -> tuple[Any, ...]:
    return cls().expand()
