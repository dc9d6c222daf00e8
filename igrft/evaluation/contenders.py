"""The policies that an evaluation compares: which checkpoint, of which method, task and training seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from igrft.errors import UsageError
from igrft.evaluation.recipe import SERVER, CheckpointEntry, EvalRecipe
from igrft.rollouts.facts import ROUNDS, read_rounds
from igrft.training.recipe import ExplorationSettings

_ROUND = re.compile(r"round_(\d+)")


@dataclass(frozen=True)
class Contender:
    """One policy.

    Attributes:
        name: of the method.
        task: what it is driven on.
        seed: of its training.
        checkpoint: folder of LeRobot's checkpoint; None behind a server.
        digest: of its files: other weights are another policy.
        curve: method in Figure 5.
        interventions: of a human that its training took; None where nobody knows.
        exploration: of the run, as its recipe has it; None where there is no recipe.
    """

    name: str
    task: str
    seed: int
    checkpoint: str | None
    digest: str
    curve: str
    interventions: int | None = None
    exploration: Mapping[str, Any] | None = None

    @property
    def run(self) -> str:
        """What a paired comparison clusters by: runs of one task and training seed."""
        return f"{self.task} seed {self.seed}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_contenders(recipe: EvalRecipe) -> list[Contender]:
    """The policies of a recipe, in its order.

    Raises:
        UsageError: a checkpoint that is not there, or two of the same name, task and seed.
    """
    if recipe.inference.server is not None:
        task = _task(recipe, None)
        return [Contender(recipe.inference.server, task, 0, None, SERVER, recipe.inference.server)]
    alone = recipe.checkpoint
    entries = recipe.checkpoints if alone is None else [CheckpointEntry(path=alone)]
    found: list[Contender] = []
    digests: dict[Path, str] = {}
    for entry in entries:
        parts = _rounds(entry) if entry.rounds else [entry]
        found += [_contender(part, _task(recipe, part), digests) for part in parts]
    taken: dict[tuple[str, str], Contender] = {}
    for one in found:
        other = taken.setdefault((one.name, one.run), one)
        if other is not one:
            raise UsageError(
                f"{other.checkpoint} and {one.checkpoint} are both {one.name!r} on {one.run}; give one another name or "
                "seed (--checkpoints.N.name=…, --checkpoints.N.seed=…)"
            )
    return found


def _contender(entry: CheckpointEntry, task: str, digests: dict[Path, str]) -> Contender:
    from igrft.models.load import CheckpointFolder
    from igrft.steps.values.checkpoint import digest_of_folders

    folder = CheckpointFolder.find(str(entry.path))
    pretrained = folder.pretrained.absolute()
    run = run_of(pretrained)
    recipe = run_recipe(run)
    if pretrained not in digests:
        digests[pretrained] = digest_of_folders([pretrained, *([folder.critic] if folder.critic else [])])
    seed = entry.seed if entry.seed is not None else int(recipe.get("seed", 0))
    name, curve = entry.name or default_name(entry, run), entry.curve
    if curve is None:
        curve = name if entry.name or run is None or not _ROUND.fullmatch(run.name) else run.parent.name
    interventions = entry.interventions
    if interventions is None and run is not None:
        interventions = interventions_of(run)
    exploration = recipe.get("exploration")
    return Contender(name, task, seed, str(pretrained), digests[pretrained], curve, interventions, exploration)


def _task(recipe: EvalRecipe, entry: CheckpointEntry | None) -> str:
    task = (entry.task if entry is not None else None) or recipe.environment.task
    if task is None:
        raise UsageError("what is the policy driven on? give --environment.task=TASK")
    if recipe.environment.type != "metaworld":
        return task
    from igrft.simulation.catalogue import known_task

    # "reach" is "reach-v3": one task has one name.
    return known_task(task)


def run_of(pretrained: Path) -> Path | None:
    """The folder of the training run that a ``pretrained_model`` folder belongs to, or None."""
    parts = pretrained.resolve()
    above = parts.parents
    inside = len(above) > 2 and above[1].name == "checkpoints"
    return above[2] if inside and (above[2] / "recipe.yaml").is_file() else None


def run_recipe(run: Path | None) -> dict[str, Any]:
    """``recipe.yaml`` of a run; empty where there is none."""
    if run is None:
        return {}
    value = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    return dict(value) if isinstance(value, dict) else {}


def exploration_of(contender: Contender, recipe: EvalRecipe) -> ExplorationSettings:
    """T(s) that the temperature "exploration" means for a policy: the recipe's own, else its run's.

    Raises:
        UsageError: neither says.
    """
    if recipe.exploration is not None:
        return recipe.exploration
    if contender.exploration is None:
        raise UsageError(
            f"{contender.checkpoint} belongs to no run that says its exploration; give --exploration.type=interaction"
        )
    return ExplorationSettings(**contender.exploration)


def default_name(entry: CheckpointEntry, run: Path | None) -> str:
    """What a checkpoint is called in tables: its run's folder, with the run before a round's."""
    path = Path(str(entry.path)).expanduser()
    if run is None or (path / ROUNDS).is_file():
        return path.name
    return f"{run.parent.name}/{run.name}" if _ROUND.fullmatch(run.name) else run.name


def interventions_of(run: Path) -> int | None:
    """Human interventions that a run's training took: those of its round of Stage III and the rounds before it.

    Returns:
        0 where it was trained on demonstrations alone; None where rollouts were given that no round recorded.
    """
    match = _ROUND.fullmatch(run.name)
    if match and (run.parent / ROUNDS).is_file():
        lines = [line for line in read_rounds(run.parent) if int(line["round"]) <= int(match[1])]
        return sum(int(line["interventions"]) for line in lines)
    if (run / ROUNDS).is_file():
        return sum(int(line["interventions"]) for line in read_rounds(run))
    listed = run_recipe(run).get("datasets") or []
    return None if any(entry.get("kind") == "rollouts" for entry in listed) else 0


def _rounds(entry: CheckpointEntry) -> list[CheckpointEntry]:
    """The start of a run of Stage III and each of its rounds, as entries of one curve."""
    run = Path(str(entry.path)).expanduser()
    if not (run / ROUNDS).is_file():
        raise UsageError(f"{run} has no {ROUNDS}: it is no run of Stage III with a finished round; leave rounds out")
    curve = entry.curve or entry.name or run.name
    start = run_recipe(run).get("init_from")
    found = [CheckpointEntry(str(start), f"{curve} start", entry.task, entry.seed, False, curve, 0)] if start else []
    for line in read_rounds(run):
        number = int(line["round"])
        path = str(run / str(line["run"]))
        found.append(CheckpointEntry(path, f"{curve} round {number}", entry.task, entry.seed, False, curve))
    # Rounds are runs of their own, and one number names a training seed in all of them.
    seed = entry.seed if entry.seed is not None else int(run_recipe(run).get("seed", 0))
    for one in found:
        one.seed = seed
    return found
