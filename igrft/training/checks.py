"""What a user must be told before training starts. Every error is one line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.files import STATS
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.recordings.video_facts import TOLERANCE_S
from igrft.steps.registry import step_that_makes
from igrft.training.blocks import pieces
from igrft.training.frames import STATES, place_of
from igrft.training.labels import WEIGHTED, LabelSource, required_columns
from igrft.training.recipe import KINDS, DatasetEntry, Recipe

#: Statistics that each of LeRobot's normalisations reads, by its name.
NORMALISATIONS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}


def check_recipe(recipe: Recipe) -> None:
    """Settings about data that can be judged without opening any.

    Raises:
        UsageError: naming the setting.
    """
    _check_choices(recipe)
    if not recipe.datasets:
        raise UsageError("the recipe names no dataset; give --datasets.0.root=FOLDER (or --datasets.0.repo_id=ID)")
    for i, entry in enumerate(recipe.datasets):
        _check_entry(i, entry)
    lists_none = all(entry.kind != "rollouts" for entry in recipe.datasets)
    if recipe.stage == "hil" and lists_none and recipe.environment.type is None:
        raise UsageError(
            "stage hil learns from rollouts, and the recipe lists none; record some with the policy, label them (igrft "
            f"annotate) and list them: --datasets.{len(recipe.datasets)}.root=FOLDER "
            f"--datasets.{len(recipe.datasets)}.kind=rollouts; or say what is driven (--environment.type=…)"
        )


def _check_choices(recipe: Recipe) -> None:
    for name, value, known in (
        ("objective.type", recipe.objective.type, ("sft", *WEIGHTED)),
        ("objective.frames", recipe.objective.frames, ("all", "successes", "until_failure")),
        ("rewards.kind", recipe.rewards.kind, ("hybrid", "sparse")),
        ("advantage.source", recipe.advantage.source, ("critic", "columns")),
    ):
        if value not in known:
            raise UsageError(f"unknown {name} {value!r}{did_you_mean(str(value), known)}")
    for name, wrong, rule in (
        ("rewards.discount", not 0 < recipe.rewards.discount <= 1, "lie in (0, 1]"),
        ("rewards.trajectory_weight", not recipe.rewards.trajectory_weight >= 0, "not be negative"),
        ("rewards.subtask_weight", not recipe.rewards.subtask_weight >= 0, "not be negative"),
        ("rewards.idle_speed", not recipe.rewards.idle_speed >= 0, "not be negative"),
        ("critic.holdout", not 0 <= recipe.critic.holdout < 1, "lie in [0, 1)"),
        ("advantage.steps", recipe.advantage.steps is not None and recipe.advantage.steps < 1, "be at least 1"),
        ("batch_size", recipe.batch_size < 1, "be at least 1"),
        ("seed", recipe.seed < 0, "not be negative"),
    ):
        if wrong:
            section, _, key = name.rpartition(".")
            value = getattr(getattr(recipe, section) if section else recipe, key)
            raise UsageError(f"{name} must {rule}, got {value}")


def _check_entry(i: int, entry: DatasetEntry) -> None:
    if not entry.root and not entry.repo_id:
        raise UsageError(f"datasets.{i} names no dataset; give --datasets.{i}.root=FOLDER or --datasets.{i}.repo_id=ID")
    if entry.kind not in KINDS:
        raise UsageError(f"datasets.{i}: unknown kind {entry.kind!r}{did_you_mean(str(entry.kind), KINDS)}")
    if not (np.isfinite(entry.weight) and entry.weight > 0):
        raise UsageError(
            f"datasets.{i}.weight must be above 0, got {entry.weight}; take the dataset out to leave it unused"
        )
    for key, value in (("buffer_size", entry.buffer_size), ("shards", entry.shards)):
        if value < 1:
            raise UsageError(f"datasets.{i}.{key} must be at least 1, got {value}")
    if entry.streaming and entry.buffer_size < entry.shards:
        raise UsageError(
            f"datasets.{i}.buffer_size {entry.buffer_size} leaves some of {entry.shards} shards without a frame; give "
            f"at least {entry.shards}, or fewer shards"
        )
    if entry.episodes is None:
        return
    if not entry.episodes:
        raise UsageError(f"datasets.{i}.episodes is empty; leave it out to use every episode")
    counts: dict[int, int] = {}
    for episode in entry.episodes:
        counts[episode] = counts.get(episode, 0) + 1
        if counts[episode] > 1:
            raise UsageError(f"datasets.{i}.episodes lists episode {episode} twice; list it once")


def check_columns(dataset: DatasetReader, recipe: Recipe, has_text: bool) -> None:
    """The label columns that the recipe needs are there.

    Raises:
        IgrftError: one is missing; naming the pipeline step that makes it and the setting that does without.
    """
    for name, why in required_columns(recipe, has_text).items():
        if name == c.SUCCESS and _says_success(dataset):
            continue
        if name in dataset.features and name != c.SUCCESS:
            continue
        what = "no record of which episodes succeeded" if name == c.SUCCESS else f"no column {name!r}"
        step = step_that_makes(name)
        made = f"label it first: igrft annotate {dataset.root} TARGET, whose step {step!r} makes it" if step else ""
        raise IgrftError(f"{dataset.root} has {what}: {why}; or {made or 'have a trained critic write it'}")
    if recipe.objective.type in WEIGHTED and recipe.advantage.source == "columns":
        _check_value_columns(dataset, recipe)
    if recipe.objective.frames == "until_failure" and not _has_subtasks(dataset):
        raise IgrftError(
            f"{dataset.root} does not say where subtasks begin (meta/igrft.json): objective.frames is until_failure; "
            f"--objective.frames=all does without; or label it first: igrft annotate {dataset.root} TARGET"
        )


def _check_value_columns(dataset: DatasetReader, recipe: Recipe) -> None:
    """Values of another reward would make advantages that mean nothing."""
    steps = ((dataset.igrft or {}).get("pipeline") or {}).get("steps") or []
    made = next((s for s in reversed(steps) if s.get("type") == "values"), None)
    if made is None:
        return
    wrong = ""
    if made.get("value") == "single":
        wrong = "an IQL critic, whose one value is not made of the two components"
    elif made.get("reward") not in (None, recipe.rewards.kind):
        wrong = f"a critic of {made['reward']} rewards, and rewards.kind is {recipe.rewards.kind}"
    elif made.get("discount") not in (None, recipe.rewards.discount):
        wrong = f"a critic with discount {made['discount']}, and rewards.discount is {recipe.rewards.discount}"
    if wrong:
        raise IgrftError(
            f"the value columns of {dataset.root} are those of {wrong}; give step 'values' another checkpoint, or "
            "judge in the loop: --advantage.source=critic"
        )


def _records(dataset: DatasetReader) -> list[Mapping[str, Any]]:
    return [r or {} for r in ((dataset.igrft or {}).get("episodes") or {}).values()]


def _says_success(dataset: DatasetReader) -> bool:
    return any("success" in r for r in _records(dataset)) or any(n in dataset.features for n in c.SUCCESS_SPELLINGS)


def _has_subtasks(dataset: DatasetReader) -> bool:
    return any(r.get("subtasks") for r in _records(dataset))


def check_alike(datasets: Sequence[DatasetReader], cameras: Sequence[Sequence[str]]) -> None:
    """Datasets of one list have the same states, actions, rate and cameras.

    Args:
        cameras: of each dataset, those that the policy will see; empty for a policy without pictures.

    Raises:
        IgrftError: naming both datasets and what differs.
    """
    first = datasets[0]
    if c.ACTION not in first.features:
        raise IgrftError(f"{first.root} has no column {c.ACTION!r}, so there is nothing to imitate")
    for other, seen in zip(datasets[1:], cameras[1:], strict=True):
        if other.fps != first.fps:
            raise IgrftError(
                f"{other.root} has {other.fps:g} frames/s and {first.root} has {first.fps:g}; datasets of one recipe "
                "must share their rate: leave one out, or convert it at the other's rate"
            )
        for name in (c.ACTION, *STATES):
            a, b = _width(first, name), _width(other, name)
            if a != b:
                raise IgrftError(
                    f"{name!r} has {b or 'no'} numbers a frame in {other.root} and {a or 'none'} in {first.root}; "
                    "datasets of one recipe must be of the same robot: leave one out"
                )
        _check_cameras(first, cameras[0], other, seen)


def _width(dataset: DatasetReader, name: str) -> int:
    return int(np.prod(dataset.features[name]["shape"])) if name in dataset.features else 0


def _check_cameras(first: DatasetReader, seen: Sequence[str], other: DatasetReader, others: Sequence[str]) -> None:
    for has, lacks, names, known in ((first, other, seen, others), (other, first, others, seen)):
        for camera in names:
            if camera not in known:
                raise IgrftError(
                    f"{lacks.root} has no pictures of camera {camera!r}, which {has.root} has; datasets of one recipe "
                    "must share their cameras: leave one out, or remove the camera"
                )
    for camera in seen:
        a, b = (tuple(d.features[camera]["shape"]) for d in (first, other))
        if a != b:
            raise IgrftError(
                f"pictures of camera {camera!r} are {b} in {other.root} and {a} in {first.root}; record or convert "
                "both at one size, or leave one out"
            )


def check_statistics(
    dataset: DatasetReader,
    stats: Mapping[str, Mapping[str, Any]],
    features: Mapping[str, Any],
    normalisation: Mapping[str, Any],
) -> None:
    """The statistics that the policy normalises by are there.

    Args:
        stats: of ``meta/stats.json``.
        features: LeRobot's policy features by name.
        normalisation: the policy's ``normalization_mapping``: mode by type of feature.

    Raises:
        IgrftError: naming the first that is missing, or not finite.
    """
    for name, feature in features.items():
        mode = normalisation.get(str(getattr(feature.type, "value", feature.type)), "IDENTITY")
        for statistic in NORMALISATIONS[str(getattr(mode, "value", mode))]:
            values = stats.get(name, {}).get(statistic)
            if values is None:
                raise IgrftError(
                    f"{dataset.root / STATS} has no {statistic} of {name!r}, by which the policy normalises; convert "
                    "the recording again (igrft convert computes it), or run: python -m "
                    "lerobot.scripts.augment_dataset_quantile_stats"
                )
            if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
                raise IgrftError(
                    f"{dataset.root / STATS}: {statistic} of {name!r} is not finite; run: igrft validate {dataset.root}"
                )


def check_numbers(dataset: DatasetReader, labels: LabelSource, values: np.ndarray, name: str) -> None:
    """States or actions [N, d] are finite in every episode that is used.

    Raises:
        IgrftError: naming the first that is not.
    """
    used = np.repeat(labels.episodes.usable, labels.episodes.length)
    check_finite(dataset, used, values, name, None)


def check_finite(
    dataset: DatasetReader, used: np.ndarray, values: np.ndarray, name: str, index: np.ndarray | None
) -> None:
    """The same of some frames: those of absolute ``index`` (None is all), where ``used`` is true."""
    wrong = np.flatnonzero(used & ~np.isfinite(values).all(axis=1))
    if len(wrong):
        where = place_of(dataset, int(wrong[0] if index is None else index[wrong[0]]))
        raise IgrftError(
            f"{dataset.root}: {where}: {name!r} is not finite ({len(wrong)} such frames); "
            "repair the recording, or name the episodes to use in the recipe (datasets.N.episodes)"
        )


def check_timestamps(dataset: DatasetReader, labels: LabelSource) -> None:
    """LeRobot will find a picture for every timestamp: each is within its tolerance of frame / fps.

    Raises:
        IgrftError: naming the worst frame.
    """
    worst, where, count = 0.0, 0, 0
    for piece in pieces(dataset, [c.TIMESTAMP]):
        times = piece.columns[c.TIMESTAMP]
        lengths = dataset.lengths[piece.rows]
        ideal = (piece.index - np.repeat(dataset.from_index[piece.rows], lengths)) / dataset.fps
        # Past half an hour a float32 cannot hold a time to 0.1 ms; its own rounding is no fault.
        allowed = np.maximum(TOLERANCE_S, np.spacing(ideal.astype(times.dtype)).astype(np.float64))
        off = np.nan_to_num(np.abs(times.astype(np.float64) - ideal), nan=np.inf)
        off[~np.repeat(labels.episodes.usable[piece.rows], lengths)] = 0.0
        wrong = off > allowed
        count += int(np.count_nonzero(wrong))
        if wrong.any() and off.max() > worst:
            worst, where = float(off.max()), int(piece.index[np.argmax(off)])
    if count:
        raise IgrftError(
            f"{dataset.root}: {place_of(dataset, where)}: the timestamp is {1000 * worst:.1f} ms off frame / fps "
            f"(the worst of {count} frames), and LeRobot finds no picture there; convert the "
            "source again: igrft convert SOURCE TARGET --rebuild-timestamps"
        )


def check_labels(datasets: Sequence[DatasetReader], labels: Sequence[LabelSource], recipe: Recipe) -> list[str]:
    """The labels of all datasets together teach what the recipe wants.

    Returns:
        Warnings, one line each.

    Raises:
        IgrftError: nothing can be learned from them.
    """
    warnings: list[str] = []
    for dataset, found in zip(datasets, labels, strict=True):
        warnings += _check_one(dataset, found, recipe)
    _check_success(datasets, labels, recipe)
    if recipe.critic.enabled:
        warnings += _check_spread(datasets, labels, recipe)
    return warnings


def _check_one(dataset: DatasetReader, labels: LabelSource, recipe: Recipe) -> list[str]:
    episodes = labels.episodes
    chosen = episodes.chosen
    if len(labels) < 2 or episodes.length.max(initial=0) < 2:
        what = f"{len(labels)} frame(s)" if len(labels) < 2 else "only episodes of one frame"
        raise IgrftError(f"{dataset.root} has {what}, so nothing happens in it; take it out of the recipe")
    aside = chosen & episodes.set_aside
    reason = episodes.reasons.get(int(np.argmax(aside)), "") if aside.any() else ""
    if not (episodes.usable & (episodes.length > 1)).any():
        because = f"every one was set aside ({reason})" if aside.any() else "the ones named are empty or one frame long"
        raise IgrftError(
            f"{dataset.root} has no episode to use: {because}; label it again, or take it out of the recipe"
        )
    if not episodes.trained.any():
        if recipe.objective.frames == "successes":
            raise IgrftError(
                f"{dataset.root} has no successful episode and objective.frames is successes; take it out of the "
                "recipe, or set objective.frames=all"
            )
        raise IgrftError(
            f"{dataset.root} has no frame before a first failure (objective.frames is until_failure); take it out of "
            "the recipe, or set objective.frames=all"
        )
    if not aside.any():
        return []
    share = aside.sum() / max(int(chosen.sum()), 1)
    return [
        f"{dataset.root}: {int(aside.sum())} of {int(chosen.sum())} episodes ({share:.0%}) were set aside and are not "
        f"used; the first: {reason}"
    ]


def _check_success(datasets: Sequence[DatasetReader], labels: Sequence[LabelSource], recipe: Recipe) -> None:
    learns = recipe.critic.enabled or recipe.objective.type in WEIGHTED
    if recipe.allow_no_success or not learns or not all(found.episodes.knows_success for found in labels):
        return
    if any((found.episodes.success & found.episodes.usable).any() for found in labels):
        return
    names = ", ".join(str(d.root) for d in datasets)
    raise IgrftError(
        f"no episode of {names} succeeded, so no return says what is good; add successes, correct the labels (igrft "
        "annotate with a subtask file), or set allow_no_success=true"
    )


def _check_spread(datasets: Sequence[DatasetReader], labels: Sequence[LabelSource], recipe: Recipe) -> list[str]:
    names = ", ".join(str(d.root) for d in datasets)
    # The only value of each label on the frames that the critic trains on; None where there are several.
    only: dict[str, float | None] = {}
    for found in labels:
        for part in found.parts():
            mask = part["critic"] & part["trained"]
            for name in ("return_trajectory", "return_subtask", "interaction") if mask.any() else ():
                values = part[name][mask]
                first = only.setdefault(name, float(values[0]))
                only[name] = first if first is not None and (values == first).all() else None

    def constant(name: str) -> bool:
        return only[name] is not None

    if not only:
        raise IgrftError(f"{names}: no frame is left to train the critic on; lower critic.holdout, or add episodes")
    if constant("return_trajectory") and constant("return_subtask"):
        todo = (
            "successes alone with a sparse reward say the same everywhere; add failures or set rewards.discount below 1"
            if recipe.rewards.kind == "sparse"
            else "label the dataset again, or train without: --critic.enabled=false"
        )
        raise IgrftError(f"{names}: the return is the same on every frame, so the critic cannot learn from it; {todo}")
    warnings = []
    if constant("interaction"):
        value = bool(only["interaction"])
        warnings.append(
            f"{names}: 'interaction' is {value} on every frame, so p_int will be, too; check its thresholds with "
            "igrft report"
        )
    if recipe.objective.frames == "successes":
        warnings.append("objective.frames is successes, so the critic sees no failure, either")
    return warnings
