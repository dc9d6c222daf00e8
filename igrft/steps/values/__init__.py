"""The `values` step: what a trained critic says of every frame of a dataset.

:mod:`~igrft.steps.values.step` is the entry of a pipeline file, :mod:`~igrft.steps.values.checkpoint` what is
read of a checkpoint before any work, :mod:`~igrft.steps.values.frames` how frames reach the model,
:mod:`~igrft.steps.values.labeller` the model at work. The last two import torch, in the worker.
"""

from igrft.steps.values.step import Values

__all__ = ["Values"]
