"""RoboEngine's robot segmentation (arXiv 2503.18738), through its published interface.

It is source only, with weights on the Hub (``michaelyuanqwq/roboengine-sam``), published at 250 ms a picture.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from igrft.errors import IgrftError, UsageError
from igrft.models.devices import accelerator
from igrft.steps.interaction.robot_mask.protocol import SegmenterSettings
from igrft.steps.interaction.robot_mask.weights import first_line

_INSTALL = (
    "run: git clone https://github.com/michaelyuancb/roboengine && pip install -e ./roboengine "
    "./roboengine/en_core_web_sm-3.8.0-py3-none-any.whl; or make masks where it is installed, and give them with "
    "robot_mask: folder"
)


class RoboEngine:
    """``RoboEngineRobotSegmentation``, a batch of pictures at a time.

    ``gen_video`` is told to look for the robot in every picture (``anchor_frequency=1``): these are pictures some way
    apart, which is not what its tracking between anchors is for.

    It has its own thresholds: ``mask_threshold`` and ``mask_score`` say nothing to it. What it prints goes to standard
    error, since standard output is for what a command answers.
    """

    def __init__(self, settings: SegmenterSettings) -> None:
        model = _class()
        options: dict[str, Any] = {"device": accelerator() if settings.device == "auto" else settings.device}
        if settings.model is not None:
            # Spelt as its interface spells it.
            options["sam_versoin"] = settings.model
        try:
            with _aside():
                self._model = model(**options)
        except Exception as error:
            weights = settings.model or "michaelyuanqwq/roboengine-sam"
            raise IgrftError(
                f"robot_mask: roboengine cannot be loaded ({first_line(error)}); its weights {weights} must be cached "
                f"or reachable on the Hub, and the device {options['device']} have room for them"
            ) from None
        self._prompt = settings.prompt

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        with _aside():
            masks = self._model.gen_video(list(frames), prompt=self._prompt, anchor_frequency=1)
        return np.asarray(masks) > 0.5


def refuse_missing() -> None:
    """Raise UsageError unless the package is there. It is not imported, which takes many seconds."""
    if importlib.util.find_spec("robo_engine") is None:
        raise UsageError(f"robot_mask: roboengine needs the package 'robo_engine', which is not installed; {_INSTALL}")


def _class() -> Any:
    try:
        with _aside():
            from robo_engine.infer_engine import RoboEngineRobotSegmentation
    except ImportError as error:
        missing = f"the package {error.name!r}" if error.name else f"its packages ({first_line(error)})"
        raise IgrftError(f"robot_mask: roboengine needs {missing}, which is not installed; {_INSTALL}") from None
    return RoboEngineRobotSegmentation


def _aside() -> contextlib.AbstractContextManager[object]:
    return contextlib.redirect_stdout(sys.stderr)
