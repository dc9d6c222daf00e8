"""What of a recipe no data could make right."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any

from igrft.errors import UsageError, did_you_mean
from igrft.rollouts.noise import NOISE_TYPES
from igrft.training.checks import check_recipe as check_data_settings
from igrft.training.labels import needs_next
from igrft.training.recipe import STAGES, Recipe
from igrft.training.recipe_file import refuse_other_verbs


def check_recipe(recipe: Recipe, name: str) -> None:
    """Refuse what no data could make right.

    Raises:
        UsageError: says the key and what it may be.
    """
    _refuse_nothing(recipe)
    refuse_other_verbs(recipe, name, STAGES)
    check_data_settings(recipe)
    choices = (
        ("exploration.type", recipe.exploration.type, NOISE_TYPES),
        ("normalisation", recipe.normalisation, ("auto", "checkpoint", "dataset")),
    )
    for key, value, known in choices:
        if value not in known:
            raise UsageError(f"{name}: unknown {key} {value!r}{did_you_mean(str(value), known)}")
    positive = (
        ("steps", recipe.steps),
        ("gradient_accumulation", recipe.gradient_accumulation),
        ("log_every", recipe.log_every),
        ("save_every", recipe.save_every),
        ("objective.beta", recipe.objective.beta),
        ("objective.weight_limit", recipe.objective.weight_limit),
        ("objective.flow_samples", recipe.objective.flow_samples),
        ("advantage.refresh", recipe.advantage.refresh),
        ("critic.update_every", recipe.critic.update_every),
        ("optimizer.learning_rate", recipe.optimizer.learning_rate),
        ("optimizer.eps", recipe.optimizer.eps),
        ("critic.learning_rate", recipe.critic.learning_rate),
        ("cpu_threads", 1 if recipe.cpu_threads is None else recipe.cpu_threads),
        ("critic.queries", recipe.critic.queries),
        ("critic.heads", recipe.critic.heads),
        ("critic.width", recipe.critic.width),
        ("critic.hidden", recipe.critic.hidden),
        ("critic.layers", len(recipe.critic.layers)),
        ("text.max_tokens", recipe.text.max_tokens),
    )
    for key, number in positive:
        if not number > 0:
            raise UsageError(f"{name}: {key} must be positive, got {number}")
    not_negative = (
        ("optimizer.clip", recipe.optimizer.clip),
        ("optimizer.warmup_steps", recipe.optimizer.warmup_steps),
        ("optimizer.weight_decay", recipe.optimizer.weight_decay),
        ("optimizer.final_learning_rate", recipe.optimizer.final_learning_rate),
        ("objective.intervention_floor", recipe.objective.intervention_floor),
        ("objective.text_weight", recipe.objective.text_weight),
        ("critic.start", recipe.critic.start),
        ("critic.evaluate_every", recipe.critic.evaluate_every),
        ("lora.rank", recipe.lora.rank),
    )
    for key, number in not_negative:
        if not number >= 0:
            raise UsageError(f"{name}: {key} must not be negative, got {number}")
    _check_expressions(recipe, name)
    at_least_one = (
        ("critic.patience", recipe.critic.patience),
        ("critic.evaluate_frames", recipe.critic.evaluate_frames),
        ("keep_checkpoints", recipe.keep_checkpoints),
    )
    for key, count in at_least_one:
        if count is not None and count < 1:
            raise UsageError(f"{name}: {key} must be at least 1, got {count}")
    for key, settings in (("optimizer", recipe.optimizer), ("critic", recipe.critic), ("objective", recipe.objective)):
        for part, value in vars(settings).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"{name}: {key}.{part} must be a finite number, got {value}")
    if recipe.num_workers is not None and recipe.num_workers < 0:
        raise UsageError(f"{name}: num_workers must not be negative, got {recipe.num_workers}")
    if not all(0 <= i < 18 for i in recipe.critic.layers):
        raise UsageError(f"{name}: critic.layers count from 0 to 17 (of 18), got {recipe.critic.layers}")
    if recipe.precision not in (None, "no", "bf16"):
        raise UsageError(f"{name}: precision must be bf16, no or null, got {recipe.precision!r}")
    if recipe.sharding not in (None, "fsdp"):
        raise UsageError(f"{name}: sharding must be fsdp or null, got {recipe.sharding!r}")
    if recipe.batch_size % recipe.gradient_accumulation:
        raise UsageError(
            f"{name}: batch_size {recipe.batch_size} cannot be divided by gradient_accumulation "
            f"{recipe.gradient_accumulation}"
        )
    if recipe.objective.normalise_weights and recipe.gradient_accumulation > 1:
        raise UsageError(
            f"{name}: objective.normalise_weights divides by the mean weight of a whole batch, which "
            "gradient_accumulation takes apart; use one of the two"
        )
    betas = recipe.optimizer.betas
    if len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise UsageError(f"{name}: optimizer.betas must be two numbers in [0, 1), got {betas}")
    if recipe.critic.width % recipe.critic.heads:
        raise UsageError(
            f"{name}: critic.width {recipe.critic.width} cannot be divided by critic.heads {recipe.critic.heads}"
        )
    if not 0 < recipe.objective.target_rate <= 1:
        raise UsageError(f"{name}: objective.target_rate must lie in (0, 1], got {recipe.objective.target_rate}")
    if not 0 < recipe.objective.expectile < 1:
        raise UsageError(f"{name}: objective.expectile must lie in (0, 1), got {recipe.objective.expectile}")
    scale = recipe.objective.noise_scale
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise UsageError(f"{name}: objective.noise_scale must be [LOW, HIGH] with 0 < LOW <= HIGH, got {scale}")
    if recipe.optimizer.ema is not None and not 0 < recipe.optimizer.ema < 1:
        raise UsageError(f"{name}: optimizer.ema must lie in (0, 1) or be null, got {recipe.optimizer.ema}")
    if recipe.policy is None and recipe.init_from is None:
        raise UsageError(f"{name}: give a 'policy' with a type, or 'init_from' with a checkpoint")
    if needs_next(recipe) and not recipe.critic.enabled:
        raise UsageError(
            f"{name}: objective {recipe.objective.type!r} judges with the critic, which critic.enabled=false leaves "
            "out; enable it, or give --advantage.source=columns"
        )


def _refuse_nothing(settings: Any, prefix: str = "") -> None:
    """A setting that must have a value and has none."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is None and type(None) not in typing.get_args(hints[field.name]):
            raise UsageError(f"{prefix}{field.name} needs a value; leave it out for its default")
        entries = value if isinstance(value, list) else [value]
        for i, entry in enumerate(entries):
            if dataclasses.is_dataclass(entry) and field.name != "policy":
                _refuse_nothing(entry, f"{prefix}{field.name}." + (f"{i}." if isinstance(value, list) else ""))


def _check_expressions(recipe: Recipe, name: str) -> None:
    for key in ("targets", "full"):
        text = getattr(recipe.lora, key)
        try:
            re.compile(text or "")
        except re.error as error:
            raise UsageError(f"{name}: lora.{key} is no regular expression ({error}): {text!r}") from None
