"""igrft: teleoperation recordings in, labelled LeRobot datasets out.

Importing this package loads nothing heavy: each name below is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from igrft.dataset.labels import Labels, load_labels
    from igrft.pipeline.run import AnnotateResult, annotate
    from igrft.publishing.push import PushResult, push
    from igrft.recordings.convert import ConvertResult, convert
    from igrft.reports.inspect import inspect
    from igrft.reports.page import report
    from igrft.reports.validate import validate
    from igrft.training.run import TrainResult, train

_HOMES = {
    "AnnotateResult": "igrft.pipeline.run",
    "ConvertResult": "igrft.recordings.convert",
    "Labels": "igrft.dataset.labels",
    "PushResult": "igrft.publishing.push",
    "TrainResult": "igrft.training.run",
    "annotate": "igrft.pipeline.run",
    "convert": "igrft.recordings.convert",
    "inspect": "igrft.reports.inspect",
    "load_labels": "igrft.dataset.labels",
    "push": "igrft.publishing.push",
    "report": "igrft.reports.page",
    "train": "igrft.training.run",
    "validate": "igrft.reports.validate",
}

__all__ = [
    "AnnotateResult",
    "ConvertResult",
    "Labels",
    "PushResult",
    "TrainResult",
    "__version__",
    "annotate",
    "convert",
    "inspect",
    "load_labels",
    "push",
    "report",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'igrft' has no attribute {name!r}")
