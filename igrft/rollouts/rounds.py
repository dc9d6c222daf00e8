"""Stage III from end to end: roll out, label, update, and again (Algorithm 1, lines 10-31).

A run's folder holds, for each round N:

    rollout_<task>_N             as recorded
    rollout_<task>_N_labelled    the same, labelled by the demonstrations' pipeline
    round_N                      the update: a run of its own, with its checkpoints and figures

and, over all of them, ``rounds.jsonl`` (one line a finished round), ``metrics.jsonl`` (every round's, steps counted on)
and ``checkpoints``, a link to the newest round's. Every part can be stopped anywhere and goes on where it was.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft.dataset.files import IGRFT, read_json
from igrft.dataset.labels import open_dataset
from igrft.dataset.parquet import whole_file, write_text
from igrft.errors import IgrftError, UsageError
from igrft.models.load import CHECKPOINTS, CheckpointFolder
from igrft.pipeline.config import Pipeline, load_pipeline, recorded_pipeline
from igrft.pipeline.run import annotate
from igrft.rollouts.build import make_embodiment
from igrft.rollouts.facts import ROUNDS, read_rounds
from igrft.rollouts.run import dataset_name, refuse_incomplete, rollout, summary
from igrft.rollouts.settings import EnvironmentSettings
from igrft.training.recipe import DatasetEntry, Recipe
from igrft.training.recorder import METRICS

if TYPE_CHECKING:
    from igrft.training.run import TrainResult


def run_rounds(
    recipe: Recipe,
    run: Path,
    update: Callable[[Recipe, Path], TrainResult],
    *,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Every round of Stage III.

    Args:
        recipe: of stage hil, with an environment; its datasets are the demonstrations.
        run: the run's folder, which holds ``recipe.yaml`` already.
        update: trains one round's recipe into a folder; goes on where it was.

    Returns:
        The lines of ``rounds.jsonl``.

    Raises:
        UsageError: a recipe that cannot be run so.
        IgrftError: a part failed, or was stopped.
    """
    _check(recipe)
    body = make_embodiment(recipe.environment, pictures=False)
    name = body.name
    body.close()
    pipeline = _pipeline(recipe)
    lines: list[dict[str, Any]] = []
    before = str(recipe.init_from)
    labelled: list[Path] = []
    for number in range(recipe.rounds.count):
        say(f"round {number}: rolling out {recipe.rollout.episodes} episodes of {before}")
        collecting = copy.deepcopy(recipe)
        collecting.rollout.round = number
        root = run / dataset_name(name, number)
        collected = rollout(collecting, before, root, say=say)
        refuse_incomplete(collected, recipe.rollout.episodes)
        say(f"round {number}: labelling")
        labelled.append(_label(root, pipeline, recipe.rounds.workers))
        folder = run / f"round_{number}"
        trained = update(_update_recipe(recipe, labelled, before, folder), folder)
        line = {"round": number, **summary(collected.episodes), "steps": trained.steps, "run": folder.name}
        lines.append(line)
        _publish(run, lines)
        say(
            f"round {number}: {line['successes']} of {line['episodes']} episodes succeeded, "
            f"{line['interventions']} takeovers, {trained.steps} steps of updates"
        )
        before = str(folder)
    return lines


def done(run: Path) -> int:
    """Finished rounds in a run's folder."""
    return len(read_rounds(run))


def clear(run: Path) -> None:
    """Remove what rounds left in a run's folder, and nothing else."""
    (run / ROUNDS).unlink(missing_ok=True)
    if (run / CHECKPOINTS).is_symlink():
        (run / CHECKPOINTS).unlink()
    for folder in run.glob("*"):
        if re.fullmatch(r"round_\d+|rollout_.+_\d+(_labelled)?(\.staging)?", folder.name) and folder.is_dir():
            shutil.rmtree(folder)


def _check(recipe: Recipe) -> None:
    if recipe.stage != "hil":
        raise UsageError(f"rounds are of stage hil, and this recipe's is {recipe.stage}")
    if recipe.init_from is None:
        raise UsageError("rounds begin with a trained policy; give --init_from=RUN")
    if recipe.rounds.count < 1:
        raise UsageError(f"rounds.count must be at least 1, got {recipe.rounds.count}")
    if not recipe.datasets or any(entry.kind != "demonstrations" for entry in recipe.datasets):
        raise UsageError(
            "with an environment, rollouts are made round by round: list demonstrations alone in datasets "
            "(--datasets.0.root=FOLDER), or leave the environment out to train on rollouts that are there"
        )
    if recipe.rollout.root is not None:
        raise UsageError("every round has a folder of its own; leave rollout.root out")
    CheckpointFolder.find(recipe.init_from)


def _pipeline(recipe: Recipe) -> Pipeline:
    """What labels rollouts: what the recipe names, else what labelled the demonstrations."""
    settings = recipe.rounds
    if settings.pipeline is not None:
        return load_pipeline(settings.pipeline, settings.overrides)
    entry = recipe.datasets[0]
    root = open_dataset(entry.root or str(entry.repo_id), pictures=False).root
    path = root / IGRFT
    if not path.is_file():
        raise UsageError(f"{root} has no {IGRFT} that names its pipeline; give --rounds.pipeline=NAME")
    try:
        return recorded_pipeline(read_json(path).get("pipeline", {}), settings.overrides, str(path))
    except UsageError as error:
        raise UsageError(f"{error} (with --rounds.overrides.0=…), or another pipeline with --rounds.pipeline") from None


def _label(root: Path, pipeline: Pipeline, workers: int | None) -> Path:
    target = root.with_name(root.name + "_labelled")
    found = annotate(root, target, pipeline=pipeline, workers=workers)
    if found.set_aside:
        first = next(iter(found.set_aside.values()))
        if not found.episodes:
            raise IgrftError(f"{root}: no rollout could be labelled: {first}")
    return target


def _update_recipe(recipe: Recipe, labelled: list[Path], before: str, folder: Path) -> Recipe:
    """Equal parts demonstrations and rollouts of all rounds so far; within each part, a frame is a frame."""
    found = copy.deepcopy(recipe)
    found.environment = EnvironmentSettings()
    found.init_from, found.output_dir = before, str(folder)
    demonstrations = sum(entry.weight for entry in found.datasets)
    frames = [int(open_dataset(str(root)).lengths.sum()) for root in labelled]
    found.datasets = [
        *found.datasets,
        *(
            DatasetEntry(root=str(root), kind="rollouts", weight=demonstrations * count / sum(frames))
            for root, count in zip(labelled, frames, strict=True)
        ),
    ]
    return found


def _publish(run: Path, lines: list[dict[str, Any]]) -> None:
    """What the folder says of all rounds so far."""
    newest = run / str(lines[-1]["run"])
    link = run / CHECKPOINTS
    temporary = run / f".{CHECKPOINTS}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(newest / CHECKPOINTS, run), target_is_directory=True)
    os.replace(temporary, link)
    step = 0
    with whole_file(run / METRICS) as path, path.open("w", encoding="utf-8") as out:
        for line in lines:
            for text in (run / str(line["run"]) / METRICS).read_text(encoding="utf-8").splitlines():
                row = json.loads(text)
                out.write(json.dumps({**row, "step": row["step"] + step, "round": line["round"]}) + "\n")
            step += int(line["steps"])
    write_text(run / ROUNDS, "".join(json.dumps(line) + "\n" for line in lines))
