"""Models of the ``transformers`` package from a folder or the Hub, never with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from igrft.errors import IgrftError
from igrft.extras import require
from igrft.models.devices import accelerator
from igrft.steps.interaction.robot_mask.weights import first_line, how_to_give


class Pretrained:
    """A model in evaluation mode on its device, and its processor.

    Args:
        source: value of ``robot_mask``, for messages.
        setting: name of the setting that gives ``name``, for messages.
        model, processor: names of their classes in ``transformers``.
        name: folder or Hub id.
        device: ``auto``, ``cpu``, ``cuda`` …
        threads: CPU threads.
        unused: beginnings of the names of weights that a checkpoint may lack, since nothing that is computed here
            reads them.

    Raises:
        UsageError: transformers is not installed.
        IgrftError: weights that cannot be had, or that are not of this model.
    """

    def __init__(
        self,
        *,
        source: str,
        setting: str,
        model: str,
        processor: str,
        name: str,
        device: str,
        threads: int,
        unused: tuple[str, ...] = (),
    ) -> None:
        require(f"robot_mask: {source}", "train")
        import torch
        import transformers

        # Its bars would be drawn across ours; what it says of missing weights is said below.
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self.device = accelerator() if device == "auto" else device
        if self.device == "cpu":
            torch.set_num_threads(max(threads, 1))
        hint = how_to_give(setting)
        try:
            self.processor = getattr(transformers, processor).from_pretrained(name)
            self.model, facts = getattr(transformers, model).from_pretrained(name, output_loading_info=True)
        except Exception as error:
            # What it raises depends on where it failed: OSError, ValueError, errors of the Hub's client …
            raise IgrftError(
                f"robot_mask: {source}: {model} and its processor cannot be loaded from {name!r} "
                f"({first_line(error)}); {hint}"
            ) from None
        lacking = [k for k in sorted(facts["missing_keys"]) if not k.startswith(unused)]
        lacking += sorted(str(k) for k in facts["mismatched_keys"])
        if lacking:
            raise IgrftError(
                f"robot_mask: {source}: {name!r} does not hold the weights of {model} ({lacking[0]} and "
                f"{len(lacking) - 1} more are missing); {hint}"
            )
        self.model = self.model.to(self.device).eval()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients; half precision on a GPU."""
        import torch

        half = self.device.startswith("cuda")
        with torch.inference_mode(), torch.autocast("cuda" if half else "cpu", torch.bfloat16, enabled=half):
            yield

    def inputs(self, **given: Any) -> Any:
        """What the processor makes of pictures and text, on the model's device."""
        return self.processor(**given, return_tensors="pt").to(self.device)
