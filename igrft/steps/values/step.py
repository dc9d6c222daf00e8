"""The ``values`` entry of a pipeline file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.steps.base import Labeller, Resources, StepDefaults
from igrft.steps.values.checkpoint import CheckpointFacts, read_facts, read_inputs


@dataclass(frozen=True)
class Values(StepDefaults):
    """Value, interaction probability and advantage of every frame, by a trained critic (section IV-A, Eq. 8-10).

    The rewards of the advantage are those that earlier steps make, else those that the dataset has.

    Attributes:
        checkpoint: a run's folder (its newest checkpoint), one of its checkpoints, or a
            ``pretrained_model`` folder with the critic beside it.
        digest: of the checkpoint's files; found out by looking. Given, any other checkpoint is refused.
        batch_size: frames a pass.
        device: ``auto`` (the accelerator if there is one), ``cpu``, ``cuda`` …
        trajectory_weight: omega_traj of value and reward; null, like those below, is what the critic
            was trained with.
        subtask_weight: omega_sub.
        discount: gamma of the advantage.
        steps: N of the advantage, in frames.
        reward: ``hybrid`` (Eq. 7), or ``sparse``: 1 on the last frame of an episode whose trajectory reward
            says success.
        precision: ``float32``, as the weights are; ``bf16`` computes in half of it (autocast), and a GPU
            several times as fast where the weights are float32.
        value: ``weighted``, the sum of the two heads; ``single``, the first head is V of the whole reward
            and the second says nothing (IQL): ``value_subtask`` is then 0.
    """

    type: ClassVar[str] = "values"
    paths: ClassVar[tuple[str, ...]] = ("checkpoint",)

    checkpoint: str | None = None
    digest: str | None = None
    batch_size: int = 64
    device: str = "auto"
    trajectory_weight: float | None = None
    subtask_weight: float | None = None
    discount: float | None = None
    steps: int | None = None
    reward: Literal["hybrid", "sparse"] | None = None
    value: Literal["weighted", "single"] | None = None
    precision: Literal["float32", "bf16"] | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"step 'values': {name} must be at least 1, got {value}")
        for name in ("trajectory_weight", "subtask_weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"step 'values': {name} must not be negative, got {value}")
        if self.discount is not None and not 0 <= self.discount <= 1:
            raise UsageError(f"step 'values': discount must lie in [0, 1], got {self.discount}")

    @property
    def heavy(self) -> bool:
        return True

    @property
    def max_workers(self) -> int:
        """One: the model is held once and uses every core, pictures are decoded in threads beside it."""
        return 1

    @property
    def resources(self) -> Resources:
        """The whole policy is loaded: four cores decode for a GPU."""
        return Resources(cpus=4, memory_gb=32, gpus=0 if self.device == "cpu" else 1)

    @property
    def takes(self) -> tuple[str, ...]:
        return (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK)

    @property
    def makes(self) -> tuple[str, ...]:
        return (c.VALUE_TRAJECTORY, c.VALUE_SUBTASK, c.VALUE, c.INTERACTION_PROBABILITY, c.ADVANTAGE)

    def settings(self) -> dict[str, Any]:
        """Only what changes values: the checkpoint's content, not its place; not the device or batch."""
        names = ("digest", "trajectory_weight", "subtask_weight", "discount", "steps", "reward", "value", "precision")
        return {name: getattr(self, name) for name in names}

    def resolve(self, dataset: DatasetReader) -> Values:
        """Look at the checkpoint without loading it, and take from it what was left open.

        Raises:
            UsageError: no checkpoint was named, there is none, it has no critic, or no such device.
            IgrftError: it is another one than ``digest`` says, or its policy wants other inputs than
                the dataset has.
        """
        if self.checkpoint is None:
            raise UsageError(
                "step 'values' needs a checkpoint with a critic; give the folder of a run: "
                "--steps.values.checkpoint=RUN"
            )
        _refuse_device(self.device)
        facts = read_facts(self.checkpoint)
        if self.digest not in (None, facts.digest):
            raise IgrftError(
                f"step 'values': the checkpoint {self.checkpoint} has the digest {facts.digest}, not {self.digest}; "
                "name the checkpoint that is meant, or leave digest out"
            )
        facts.inputs.refuse_unfit(dataset)
        return dataclasses.replace(self, checkpoint=str(facts.folder), digest=facts.digest, **self._trained(facts))

    def _trained(self, facts: CheckpointFacts) -> dict[str, Any]:
        """Settings of the advantage, those left open as the critic was trained."""
        trained = facts.settings
        single = trained.get("objective") == "iql"
        # IQL's critic has weights of 1 and 0 for its heads; its reward has the recipe's.
        own = (trained.get("trajectory_weight", 0.4), trained.get("subtask_weight", 0.6))
        trajectory, subtask = trained.get("reward_weights", (0.4, 0.6) if single else own)
        found = {
            "trajectory_weight": float(trajectory),
            "subtask_weight": float(subtask),
            "discount": float(trained.get("discount", 1.0)),
            "steps": int(trained.get("advantage_steps") or facts.chunk_size),
            "reward": trained.get("reward_kind", "hybrid"),
            "value": "single" if single else "weighted",
            "precision": trained.get("precision") or "float32",
        }
        return {name: value for name, value in found.items() if getattr(self, name) is None}

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        """Load the checkpoint onto the device.

        Raises:
            IgrftError: its weights do not fit its configuration.
        """
        from igrft.models.devices import accelerator
        from igrft.models.load import CheckpointFolder, load_checkpoint
        from igrft.steps.values.labeller import Judging, ValueLabeller

        step = self if self.digest is not None else self.resolve(dataset)
        path = str(step.checkpoint)
        loaded = load_checkpoint(path, device=accelerator() if step.device == "auto" else step.device)
        inputs = read_inputs(CheckpointFolder.find(path).pretrained)
        judging = Judging(**{f.name: getattr(step, f.name) for f in dataclasses.fields(Judging)})
        half = step.precision == "bf16"
        return ValueLabeller(loaded, dataset, inputs, judging, step.batch_size, half=half)


def _refuse_device(device: str) -> None:
    """Raises UsageError: torch has no such device here. Cheap for what most users ask for."""
    if device in ("auto", "cpu"):
        return
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"step 'values': device {device!r} cannot be used ({why}); give device: auto or cpu") from None
