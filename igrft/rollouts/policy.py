"""A trained policy, and its critic, as a source of actions."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from igrft.errors import IgrftError, UsageError
from igrft.rollouts.noise import NoiseRule
from igrft.rollouts.protocols import Chunk, Judgement, Observation

if TYPE_CHECKING:
    from igrft.models.critic import CriticOutput
    from igrft.models.inference import Judge
    from igrft.models.load import Loaded
    from igrft.models.protocol import Batch

#: LeRobot's type of features that are pictures.
_VISUAL = "VISUAL"


class LocalPolicy:
    """A checkpoint in this process: one look at the observation serves critic and actions.

    Implements :class:`igrft.rollouts.protocols.ActionSource`. Noise is drawn on the CPU from the episode's seed, so
    that an episode is the same on every device up to rounding.

    Args:
        loaded: actor, processors and critic.
        noise: how wide the initial noise is.
        horizon: of real-time chunking, in actions.
        judge: the same critic in a faster form.

    Raises:
        UsageError: Eq. 2 is asked for and there is no critic.
    """

    def __init__(
        self, loaded: Loaded, noise: NoiseRule | None = None, *, horizon: int = 10, judge: Judge | None = None
    ) -> None:
        self._loaded = loaded
        self._actor = loaded.actor
        self._critic: Judge | None = judge or loaded.critic
        self._device = torch.device(str(loaded.actor.policy.config.device))
        self.noise = noise or NoiseRule()
        self.horizon = horizon
        self.chunk_size = loaded.actor.chunk_size
        self.has_critic = loaded.critic is not None
        self.can_guide = True
        if self.noise.needs_critic and not self.has_critic:
            self.noise.scale(None)
        self._generator = torch.Generator().manual_seed(0)
        self._names = _dataset_names(loaded.preprocess)
        self._inputs = {name: str(f.type.value) == _VISUAL for name, f in self.input_features.items()}

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        device: str | None = None,
        exploration: Any = None,
        temperature: float | None = None,
        horizon: int = 10,
    ) -> LocalPolicy:
        """Load a checkpoint, or a run's newest.

        Args:
            device: None is an accelerator if there is one.
            exploration: ``exploration`` of a recipe, or a :class:`NoiseRule`; None is the flow's own noise.
            temperature: one standard deviation for all, instead.

        Raises:
            UsageError, IgrftError: see :func:`igrft.models.load.load_checkpoint`.
        """
        from igrft.models.devices import accelerator
        from igrft.models.inference import for_inference
        from igrft.models.load import load_checkpoint

        if temperature is not None:
            rule = NoiseRule.fixed(temperature)
        elif isinstance(exploration, NoiseRule):
            rule = exploration
        elif exploration is not None:
            rule = NoiseRule(**vars(exploration))
        else:
            rule = NoiseRule()
        device = device or accelerator()
        loaded = load_checkpoint(checkpoint, device=device)
        loaded.actor, judge = for_inference(loaded.actor, loaded.critic)
        # Only an accelerator records kernels; elsewhere the critic as it is has less around it.
        return cls(loaded, rule, horizon=horizon, judge=judge if device.startswith("cuda") else None)

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that the policy's configuration says are done."""
        return int(getattr(self._actor.policy.config, "n_action_steps", self.chunk_size))

    @property
    def uses_images(self) -> bool:
        return self._actor.uses_images

    def session(self) -> LocalPolicy:
        """The same weights for another client, with noise of its own."""
        other = LocalPolicy(self._loaded, self.noise, horizon=self.horizon, judge=self._critic)
        other.reset(secrets.randbits(63))
        return other

    @property
    def input_features(self) -> dict[str, Any]:
        """LeRobot's policy features that the checkpoint reads, by the dataset's names.

        The preprocessor may rename them; cameras that LeRobot makes up itself are left out.
        """
        features = self._actor.policy.config.input_features or {}
        return {self._names.get(k, k): f for k, f in features.items() if ".empty_camera_" not in k}

    @property
    def action_dim(self) -> int:
        """Width of the robot's actions."""
        feature = self._actor.policy.config.action_feature
        assert feature is not None
        return int(feature.shape[0])

    @property
    def trained_noise(self) -> tuple[float, float]:
        """Standard deviations of the noise that the flow was trained on."""
        low, high = self._loaded.settings.get("noise_scale", (1.0, 1.0))
        return float(low), float(high)

    @property
    def settings(self) -> dict[str, Any]:
        """What the critic was trained with (``critic/config.json``); empty without one."""
        return dict(self._loaded.settings)

    def refuse_unfit(self, features: dict[str, dict[str, Any]]) -> None:
        """What is driven gives what the policy reads.

        Args:
            features: of an embodiment.

        Raises:
            UsageError: a camera or vector is missing, or of another width.
        """
        for name, feature in self.input_features.items():
            if name not in features:
                raise UsageError(
                    f"the policy looks at {name!r}, which the environment does not give: it has "
                    f"{', '.join(sorted(features))}"
                )
            shape = tuple(features[name]["shape"])
            if not self._inputs[name] and shape != tuple(feature.shape):
                raise UsageError(
                    f"{name!r} has shape {shape} here, and the policy was trained on {tuple(feature.shape)}"
                )
        width = features["action"]["shape"][0]
        if width != self.action_dim:
            raise UsageError(
                f"the environment takes actions of {width} numbers, and the policy makes {self.action_dim}"
            )

    def reset(self, seed: int | None) -> None:
        if seed is not None:
            self._generator.manual_seed(seed)

    @torch.no_grad()
    def infer(self, observation: Observation, *, left_over: np.ndarray | None = None, delay: int = 0) -> Chunk:
        began = time.perf_counter()
        batch = self._batch(observation)
        prefix = self._actor.prefix(batch, self._loaded.critic_layers)
        verdict = None if self._critic is None else self._critic(prefix.features)
        shape = (1, self.chunk_size, self._actor.action_width)
        noise = torch.randn(shape, generator=self._generator).to(self._device)
        if verdict is not None and self.noise.needs_critic:
            # On the device: waiting for the critic's word here would leave an accelerator idle.
            noise = noise * self.noise.of_logit(verdict.interaction_logit)[:, None, None]
        else:
            noise = noise * self.noise.scale(None)
        guidance = None
        if left_over is not None and len(left_over):
            from igrft.models.guidance import Guidance

            given = torch.as_tensor(left_over, dtype=torch.float32, device=self._device)[None]
            guidance = Guidance(given, delay, self.horizon)
        normalised = self._actor.denoise(prefix, noise, guidance=guidance)
        judgement = self._judged(verdict)
        scale = self.noise.scale(judgement)
        # Processors may write in place.
        actions = self._loaded.postprocess(normalised.clone())[0].to("cpu", torch.float32).numpy()
        if not np.isfinite(actions).all():
            raise IgrftError("the policy's actions are not finite; take another checkpoint, or lower the noise")
        seconds = time.perf_counter() - began
        return Chunk(actions, normalised[0].to("cpu", torch.float32).numpy(), judgement, scale, seconds)

    @torch.no_grad()
    def judge(self, observation: Observation) -> Judgement | None:
        if self._critic is None:
            return None
        return self._judged(
            self._critic(self._actor.prefix(self._batch(observation), self._loaded.critic_layers).features)
        )

    def warm_up(self, observation: Observation, *, guided: bool = False) -> None:
        """Compile and record what chunks of such observations need, where the actor does so (on a GPU).

        Args:
            guided: whether chunks will be guided.
        """
        if self._device.type == "cuda" and hasattr(self._actor, "warm_up"):
            batch = self._batch(observation)
            self._actor.warm_up(batch, self._loaded.critic_layers, self._critic, guided=guided)

    def close(self) -> None:
        """Nothing is held open."""

    def _judged(self, verdict: CriticOutput | None) -> Judgement | None:
        if verdict is None:
            return None
        probability = verdict.interaction_logit.sigmoid()
        found = torch.stack([verdict.trajectory, verdict.subtask, probability])[:, 0].tolist()
        settings = self._loaded.settings
        value = settings.get("trajectory_weight", 0.4) * found[0] + settings.get("subtask_weight", 0.6) * found[1]
        return Judgement(found[0], found[1], float(value), found[2])

    def _batch(self, observation: Observation) -> Batch:
        batch: dict[str, Any] = {"task": [str(observation.get("task", ""))]}
        for name, is_picture in self._inputs.items():
            if name in observation:
                batch[name] = _picture(observation[name]) if is_picture else _vector(observation[name])
        return self._loaded.preprocess(batch)


def _dataset_names(preprocess: Any) -> dict[str, str]:
    """The dataset's name of every observation that a preprocessor renames."""
    from lerobot.processor import RenameObservationsProcessorStep

    for step in getattr(preprocess, "steps", ()):
        if isinstance(step, RenameObservationsProcessorStep):
            return {new: old for old, new in step.rename_map.items()}
    return {}


def _picture(value: Any) -> Tensor:
    """[H, W, 3] as LeRobot's dataset gives it: [1, 3, H, W] in 0 … 1."""
    array = np.asarray(value)
    picture = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
    return picture.float().div_(255)[None] if array.dtype == np.uint8 else picture.float()[None]


def _vector(value: Any) -> Tensor:
    """Copied: whoever made it may write the next one into the same memory."""
    return torch.from_numpy(np.array(value, dtype=np.float32))[None]
