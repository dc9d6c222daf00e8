"""From a recipe to policy, processors, critic and module; everything that can be refused early is refused here."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from igrft import columns as c
from igrft.errors import IgrftError, UsageError
from igrft.models.actors import build_policy, looks_at_pictures, make_actor
from igrft.models.critic import Critic, CriticConfig
from igrft.models.load import WEIGHTS, CheckpointFolder, is_hub_id, load_config, load_critic, load_weights
from igrft.models.processors import load_processors, make_processors, name_tokenizer
from igrft.models.protocol import Actor, at_fractions
from igrft.remote.urls import local_folder
from igrft.steps.values.checkpoint import digest_of_folders
from igrft.training.labels import reward_weights
from igrft.training.module import TrainingModule, value_weights
from igrft.training.recipe import Recipe

if TYPE_CHECKING:
    from lerobot.configs import PreTrainedConfig

    from igrft.training.data import TrainingData
    from igrft.training.opening import Keep


@dataclass
class Built:
    """What a run trains, before accelerate has seen it.

    Attributes:
        precision: bf16 or no: what the passes run under.
        origin: digests of what the run is made from; a run goes on from the same alone.
    """

    recipe: Recipe
    data: TrainingData
    actor: Actor
    preprocess: Any
    postprocess: Any
    critic: Critic | None
    module: TrainingModule
    advantage_steps: int
    precision: str
    origin: dict[str, Any] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @property
    def critic_settings(self) -> dict[str, Any]:
        """What whoever loads the critic must know; ``critic/config.json``."""
        assert self.critic is not None
        rewards = self.recipe.rewards
        trajectory, subtask = value_weights(self.recipe)
        return {
            "critic": self.critic.config.to_json(),
            "layers": list(self.module.layers),
            "trajectory_weight": trajectory,
            "subtask_weight": subtask,
            "discount": rewards.discount,
            "advantage_steps": self.advantage_steps,
            "reward_kind": rewards.kind,
            "reward_weights": list(reward_weights(self.recipe)),
            "precision": self.precision,
            "objective": self.recipe.objective.type,
            "noise_scale": list(self.recipe.objective.noise_scale),
        }


def policy_config(recipe: Recipe, *, fetch: bool = True) -> tuple[PreTrainedConfig, CheckpointFolder | None]:
    """The policy's configuration without features, and the checkpoint that it starts from.

    Args:
        fetch: False leaves a checkpoint on the Hub where it is, if the recipe names the policy.

    Raises:
        UsageError: ``init_from`` is not there, or of another type of policy.
    """
    if recipe.init_from is None:
        assert recipe.policy is not None
        return copy.deepcopy(recipe.policy), None
    if not fetch and recipe.policy is not None and is_hub_id(recipe.init_from):
        return copy.deepcopy(recipe.policy), None
    folder = CheckpointFolder.find(recipe.init_from)
    held = load_config(folder.pretrained)
    if recipe.policy is None:
        return held, folder
    if held.type != recipe.policy.type:
        raise UsageError(
            f"init_from {recipe.init_from} holds a {held.type!r} policy and the recipe trains a "
            f"{recipe.policy.type!r}; give --policy.type={held.type} or another checkpoint"
        )
    config = copy.deepcopy(recipe.policy)
    _take_widths(config, held)
    return config, folder


def _take_widths(config: PreTrainedConfig, held: PreTrainedConfig) -> None:
    """Widths are the weights' own; a run from nothing may have made its policy wider than the default."""
    for key in ("max_state_dim", "max_action_dim"):
        if hasattr(config, key):
            setattr(config, key, getattr(held, key))


def build(recipe: Recipe, data: TrainingData, *, device: str | None = None, resume: Path | None = None) -> Built:
    """Build everything with weights, on ``device`` (None is the policy configuration's).

    Args:
        resume: the run's own checkpoint, whose processors and untrained weights are taken up again.

    Raises:
        UsageError, IgrftError: see the parts.
    """
    # Adapters were merged into what a checkpoint holds: their base is where the run began.
    again = resume is not None and recipe.lora.rank == 0
    config, folder = _resumed(recipe, resume) if again and resume else policy_config(recipe)
    precision = effective_precision(recipe, config)
    origin = {"data": data.digest}
    if recipe.lora.rank > 0 and folder is not None:
        origin["init_from"] = digest_of_folders([folder.pretrained])
    config.device = device or config.device
    config.pretrained_path = None
    put_features(config, data, folder is not None)
    notices: list[str] = []
    torch.manual_seed(recipe.seed)
    policy = build_policy(config)
    if folder is not None:
        load_weights(policy, folder.pretrained / WEIGHTS)
    if resume is not None:
        pre, post, tokenizer = load_processors(config, CheckpointFolder.find(resume).pretrained, _tokenizer(recipe))
    else:
        pre, post, tokenizer = _processors(recipe, config, data, folder, notices)
    actor = make_actor(policy, recipe.text, tokenizer)
    _check_actor(recipe, actor)
    if recipe.lora.rank > 0:
        from igrft.training.lora import add_adapters

        add_adapters(policy, recipe.lora)
    freeze_idle(policy)
    saved = {n: t.dtype for n, t in policy.state_dict().items()}
    if precision == "bf16":
        train_in_float32(policy)
    policy.to(config.device)
    steps = recipe.advantage.steps or actor.chunk_size
    layers = at_fractions(recipe.critic.layers, actor.depth)
    critic = _critic(recipe, actor, data, layers, folder, notices)
    if critic is not None:
        critic.to(config.device)
    module = TrainingModule(actor, critic, layers, recipe)
    module.saved_dtypes = saved
    return Built(recipe, data, actor, pre, post, critic, module, steps, precision, origin, notices)


def _resumed(recipe: Recipe, checkpoint: Path) -> tuple[PreTrainedConfig, CheckpointFolder]:
    """Configuration and folder of a run's own checkpoint; where the run began is not asked again."""
    folder = CheckpointFolder.find(checkpoint)
    held = load_config(folder.pretrained)
    config = copy.deepcopy(recipe.policy) if recipe.policy is not None else held
    _take_widths(config, held)
    return config, folder


#: Weights that a policy carries along and never uses: no pass reaches them.
_IDLE = ("gemma_expert.lm_head.weight",)


def freeze_idle(policy: nn.Module) -> None:
    """Leave out of training what has no part in any loss; it would still be averaged and held in float32."""
    for name, parameter in policy.named_parameters():
        if name.endswith(_IDLE):
            parameter.requires_grad_(False)


def train_in_float32(policy: nn.Module) -> None:
    """Hold in float32 what is trained. What is frozen keeps its dtype, and the passes run under autocast.

    A step at these learning rates is smaller than the distance of two bfloat16 numbers: AdamW on bfloat16 weights
    leaves most of them where they are.
    """
    for parameter in policy.parameters():
        if parameter.requires_grad and parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()


def effective_precision(recipe: Recipe, config: PreTrainedConfig) -> str:
    """bf16 or no: what the recipe says, else what the policy's dtype does, as in LeRobot."""
    return recipe.precision or {"bfloat16": "bf16"}.get(str(getattr(config, "dtype", None)), "no")


def is_ours(folder: CheckpointFolder) -> bool:
    """Whether igrft trained a checkpoint: a critic stands beside it, or the run's recipe above it."""
    return folder.critic is not None or (folder.pretrained.parent.parent.parent / "recipe.yaml").is_file()


def open_data(recipe: Recipe, resume: Path | None = None, keep: Keep | None = None) -> TrainingData:
    """The recipe's datasets, checked.

    Args:
        resume: the run's own checkpoint.
        keep: where labels are kept; see :meth:`igrft.training.data.TrainingData.open`.

    Raises:
        UsageError, IgrftError: see :mod:`igrft.training.checks`.
    """
    from igrft.training.data import TrainingData

    config, _ = _resumed(recipe, resume) if resume is not None else policy_config(recipe, fetch=False)
    pictures = looks_at_pictures(config.type)
    chunk = len(config.action_delta_indices or [0])
    return TrainingData.open(recipe, image_policy=pictures, chunk=chunk, has_text=pictures, keep=keep)


def put_features(config: PreTrainedConfig, data: TrainingData, started: bool) -> None:
    """Tell a policy's configuration what the datasets hold.

    Args:
        started: whether the weights come from a checkpoint; otherwise the policy is made wide enough.

    Raises:
        UsageError: more dimensions than the policy takes.
    """
    config.input_features = dict(data.input_features)
    config.output_features = dict(data.output_features)
    for name, feature in {"state": config.robot_state_feature, "action": config.action_feature}.items():
        key = f"max_{name}_dim"
        most = getattr(config, key, None)
        # π0.5 writes the state into its prompt: its width is nobody's.
        if feature is None or most is None or feature.shape[0] <= most or (name, config.type[:4]) == ("state", "pi05"):
            continue
        if started:
            raise UsageError(
                f"the datasets' {name} has {feature.shape[0]} dimensions and the checkpoint's policy takes {most}; "
                f"start from another checkpoint, or from none: --init_from=null --policy.{key}={feature.shape[0]}"
            )
        setattr(config, key, feature.shape[0])


def _processors(
    recipe: Recipe,
    config: PreTrainedConfig,
    data: TrainingData,
    folder: CheckpointFolder | None,
    notices: list[str],
) -> tuple[Any, Any, Any]:
    tokenizer = _tokenizer(recipe)
    keep = folder is not None and (
        recipe.normalisation == "checkpoint" or (recipe.normalisation == "auto" and is_ours(folder))
    )
    if recipe.normalisation == "checkpoint" and folder is None:
        raise UsageError("normalisation: checkpoint needs init_from")
    if keep:
        assert folder is not None
        notices.append(f"normalisation is that of {recipe.init_from}")
        return load_processors(config, folder.pretrained, tokenizer)
    data.check_normalisation(config.normalization_mapping)
    pre, post, found = make_processors(config, data.stats, tokenizer)
    if recipe.text.tokenizer not in (None, "bytes"):
        name_tokenizer(pre, str(recipe.text.tokenizer))
    return pre, post, found


def _tokenizer(recipe: Recipe) -> Any:
    """The tokenizer that the recipe names; None leaves it to LeRobot."""
    name = recipe.text.tokenizer
    if name is None:
        return None
    if name == "bytes":
        from igrft.models.text import byte_tokenizer

        return byte_tokenizer()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(f"text.tokenizer {name!r} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _check_actor(recipe: Recipe, actor: Actor) -> None:
    if recipe.objective.insulate and not actor.has_text:
        raise UsageError(
            f"objective.insulate keeps the flow loss out of the encoder of {actor.type!r}, which has nothing else to "
            "learn from; give --objective.insulate=false"
        )


def _critic(
    recipe: Recipe,
    actor: Actor,
    data: TrainingData,
    layers: tuple[int, ...],
    folder: CheckpointFolder | None,
    notices: list[str],
) -> Critic | None:
    settings = recipe.critic
    if not settings.enabled:
        return None
    if settings.patience is not None and not data.has_heldout:
        raise UsageError(
            "critic.patience watches held-out episodes, and there are none (critic.holdout is 0, or there are fewer "
            "than four episodes); leave it out"
        )
    config = critic_config(recipe, actor, data, layers)
    torch.manual_seed(recipe.seed + 1)
    critic = Critic(config)
    if folder is None or folder.critic is None:
        return critic
    earlier, held = load_critic(folder.critic)
    if held["layers"] != list(layers) or _without_q(earlier.config) != _without_q(config):
        raise IgrftError(
            f"init_from {recipe.init_from} holds a critic of other sizes ({json.dumps(held['critic'])}, layers "
            f"{held['layers']}); give critic.* the same sizes, or a checkpoint without a critic"
        )
    own = critic.state_dict()
    own.update({n: t for n, t in earlier.state_dict().items() if n in own})
    critic.load_state_dict(own)
    _compare(recipe, held, notices)
    return critic


def critic_config(recipe: Recipe, actor: Actor, data: TrainingData, layers: tuple[int, ...]) -> CriticConfig:
    """Sizes of the recipe's critic on this actor."""
    settings = recipe.critic
    iql = recipe.objective.type == "iql"
    return CriticConfig(
        feature_width=actor.feature_width,
        blocks=len(layers),
        queries=settings.queries,
        width=settings.width,
        heads=settings.heads,
        hidden=settings.hidden,
        chunk_size=actor.chunk_size if iql else 0,
        action_dim=data.features[c.ACTION].shape[0] if iql else 0,
    )


def _without_q(config: CriticConfig) -> dict[str, Any]:
    return {k: v for k, v in config.to_json().items() if k not in ("chunk_size", "action_dim")}


def _compare(recipe: Recipe, held: dict[str, Any], notices: list[str]) -> None:
    """Tell where the critic that is taken over has learnt something else than this run asks of it."""
    if held["reward_kind"] != recipe.rewards.kind or (held["objective"] == "iql") != (recipe.objective.type == "iql"):
        notices.append(
            f"the critic of {recipe.init_from} learnt {held['reward_kind']} rewards with {held['objective']}; this run "
            f"trains it on {recipe.rewards.kind} ones with {recipe.objective.type}"
        )
    elif held["discount"] != recipe.rewards.discount:
        notices.append(
            f"the critic of {recipe.init_from} learnt discount {held['discount']}, this run has "
            f"{recipe.rewards.discount}"
        )


def run_folder(recipe: Recipe, name: str) -> Path:
    """Where the run lies: ``output_dir``, or ``runs/NAME`` below the working directory."""
    return local_folder(recipe.output_dir, "output_dir") if recipe.output_dir else Path("runs") / Path(name).stem
