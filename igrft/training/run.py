"""`igrft train`: one recipe from start, or from where it was, to its last step."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from igrft.dataset.locks import locked
from igrft.dataset.parquet import write_text
from igrft.errors import UsageError
from igrft.models.devices import torch_threads
from igrft.pipeline.workers import refuse_full_disk
from igrft.training import checkpoint, sharding
from igrft.training.ema import Ema
from igrft.training.loop import Loop, Stopped
from igrft.training.lora import trainable
from igrft.training.opening import Keep
from igrft.training.recipe import Recipe
from igrft.training.recipe_file import load_recipe, read_yaml, recipe_from, resolved, resolved_yaml
from igrft.training.recorder import METRICS, WANDB_ID
from igrft.training.rules import check_recipe
from igrft.training.setup import Built, build, effective_precision, open_data, run_folder
from igrft.training.world import PATIENCE, accumulation, is_main, number_of_processes, once
from igrft.training.world import told as divided

if TYPE_CHECKING:
    from accelerate import Accelerator

    from igrft.training.data import TrainingData

RECIPE = "recipe.yaml"
#: Labels of a run that streams, or has several processes; hidden, and gone when it ends.
LABELS = ".labels"
#: Settings that change neither data nor results: a run goes on when they differ.
#: (How a batch is divided changes results by rounding alone: a run goes on on more devices, or fewer.)
_FREE = frozenset({"output_dir", "num_workers", "cpu_threads", "log_every", "save_every", "keep_checkpoints", "wandb"})
_FREE |= frozenset({"gradient_accumulation", "sharding"})
#: Settings that matter where a run makes rollouts, and there alone; more rounds may be asked for later.
_OF_ROUNDS = frozenset({"environment", "rollout", "rounds"})
_FREE_OF_ROUNDS = frozenset({"rounds.count", "rounds.workers", "rollout.reset_seconds", "rollout.help_seconds"})


@dataclass
class TrainResult:
    """What `igrft train` did.

    Attributes:
        resumed_at: step that an earlier run had reached; 0 where there was none.
        notices: what the user should know.
        main: whether this process speaks for the run; of several, one does.
    """

    run: Path
    steps: int
    resumed_at: int = 0
    notices: list[str] = field(default_factory=list)
    main: bool = True


def train(
    recipe: str | Path | Recipe,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train what a recipe says. Run again, it goes on where it was.

    Stage III with an environment runs every round: rollouts, labels, updates.

    Args:
        recipe: name or path of a recipe file, or a loaded recipe.
        overrides: ``a.b.0.c=value``, applied to the file.
        overwrite: start anew where the folder holds a run with other settings.
        say: is given a line an episode and a round of Stage III.

    Raises:
        UsageError: a wrong recipe, or a folder that holds something else.
        IgrftError: data or checkpoint that cannot be used, a loss that is not finite, a full disk, a signal.
    """
    try:
        return _run(recipe, overrides, overwrite, show_progress, say)
    except (UsageError, Stopped) as error:
        if is_main():
            raise
        # Every process finds the same fault, and stops when one is told to; one says so.
        raise SystemExit(2 if isinstance(error, UsageError) else 1) from None


def _run(
    recipe: str | Path | Recipe,
    overrides: Sequence[str],
    overwrite: bool,
    show_progress: bool,
    say: Callable[[str], None],
) -> TrainResult:
    name = recipe.stage if isinstance(recipe, Recipe) else str(recipe)
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe), overrides)
    if makes_rollouts(loaded):
        # The rounds make them.
        loaded.datasets = [entry for entry in loaded.datasets if entry.kind == "demonstrations"]
    check_recipe(loaded, name)
    run = run_folder(loaded, name).absolute()
    with torch_threads(loaded.cpu_threads):
        if makes_rollouts(loaded):
            return _rounds(loaded, run, overwrite, show_progress, say)
        return _train(loaded, run, overwrite, show_progress)


def makes_rollouts(recipe: Recipe) -> bool:
    """Whether ``igrft train`` collects rollouts itself: Stage III with something to drive, and none listed."""
    listed = any(entry.kind == "rollouts" and (entry.root or entry.repo_id) for entry in recipe.datasets)
    return recipe.stage == "hil" and recipe.environment.type is not None and not listed


def _rounds(recipe: Recipe, run: Path, overwrite: bool, show_progress: bool, say: Callable[[str], None]) -> TrainResult:
    """Every round of Stage III in one folder."""
    from igrft.rollouts.rounds import clear, done, run_rounds

    if number_of_processes() > 1:
        raise UsageError(
            "rounds are run by one process; on several GPUs run igrft rollout and igrft annotate, then "
            "igrft train with --datasets.1.root=ROLLOUTS"
        )
    stale = _is_stale(run, recipe, overwrite) or overwrite
    with _locked(run):
        if stale:
            _clear(run)
            clear(run)
        if done(run) >= recipe.rounds.count:
            told = f"already run: {recipe.rounds.count} rounds; --overwrite starts anew"
            return TrainResult(run, recipe.steps * recipe.rounds.count, recipe.steps * recipe.rounds.count, [told])
        write_text(run / RECIPE, resolved_yaml(recipe))

        def update(one: Recipe, folder: Path) -> TrainResult:
            return _train(one, folder, False, show_progress)

        lines = run_rounds(recipe, run, update, say=say)
    return TrainResult(run, sum(int(line["steps"]) for line in lines))


def _train(loaded: Recipe, run: Path, overwrite: bool, show_progress: bool) -> TrainResult:
    accelerator = make_accelerator(loaded)
    accumulation(loaded, accelerator.num_processes)
    stale = _is_stale(run, loaded, overwrite) or overwrite
    accelerator.wait_for_everyone()
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            once(accelerator, lambda: held.enter_context(_locked(run)))
        else:
            once(accelerator, lambda: None)
        newest = None if stale else checkpoint.newest(run)
        data = _open_once(loaded, newest, run, accelerator, held)
        done = _step_of(newest)
        if done >= loaded.steps:
            told = f"already trained: {loaded.steps} of {loaded.steps} steps; --overwrite starts anew"
            # What all read goes with the main process.
            accelerator.wait_for_everyone()
            return TrainResult(run, loaded.steps, done, [told], accelerator.is_main_process)
        # Without its number: that of this process is PyTorch's current one, and a checkpoint names what any has.
        built = build(loaded, data, device=accelerator.device.type, resume=newest)
        loop = make_loop(built, accelerator, run, show_progress)
        accelerator.wait_for_everyone()
        if newest is not None:
            loop.restore(newest)
        elif accelerator.is_main_process:
            if stale:
                _clear(run)
            write_text(run / RECIPE, resolved_yaml(loaded))
        try:
            loop.go(resolved(loaded))
        except OSError as error:
            refuse_full_disk(error)
            raise
    notices = [*data.warnings, *built.notices]
    if accelerator.num_processes > 1:
        notices.append(divided(loaded, accelerator.num_processes))
    return TrainResult(run, loaded.steps, loop.resumed_at, notices, accelerator.is_main_process)


def _open_once(
    recipe: Recipe, newest: Path | None, run: Path, accelerator: Accelerator, held: contextlib.ExitStack
) -> TrainingData:
    """The data, whose labels one process makes for all; they lie in the run's folder while it runs."""
    if accelerator.num_processes == 1 and not any(entry.streaming for entry in recipe.datasets):
        return open_data(recipe, newest)
    keep = Keep(run / LABELS)
    found: list[TrainingData] = []

    def make() -> None:
        shutil.rmtree(keep.folder, ignore_errors=True)
        keep.folder.mkdir()
        held.callback(shutil.rmtree, keep.folder, ignore_errors=True)
        try:
            found.append(open_data(recipe, newest, keep))
            # Written with them.
            _ = found[0].digest
        except OSError as error:
            refuse_full_disk(error)
            raise

    once(accelerator, make)
    return found[0] if found else open_data(recipe, newest, dataclasses.replace(keep, written=True))


def make_accelerator(recipe: Recipe) -> Accelerator:
    """accelerate, in the precision that the recipe or, as in LeRobot, the policy's dtype asks for."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    policy = recipe.policy
    precision = effective_precision(recipe, policy) if policy is not None else recipe.precision or "no"
    return Accelerator(
        mixed_precision=precision,
        cpu=policy is not None and policy.device == "cpu",
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            # The language model's last layer has no part in the flow loss, and adapters may be off.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


def make_loop(built: Built, accelerator: Accelerator, run: Path, show: bool) -> Loop:
    """Optimizers, schedules and averages; the module replicated, or spread, over the processes."""
    recipe, module = built.recipe, built.module
    spread = sharding.asked_for(recipe) and accelerator.num_processes > 1
    if spread:
        sharding.shard(module, accelerator)
    optimizers = {"actor": _adamw(module.policy, recipe, recipe.optimizer.learning_rate, accelerator)}
    if built.critic is not None:
        optimizers["critic"] = _adamw(built.critic, recipe, recipe.critic.learning_rate, accelerator)
    schedule = _schedule(optimizers["actor"], recipe)
    prepared: Any = module
    if not spread:
        names = list(optimizers)
        prepared, *wrapped = accelerator.prepare(module, *optimizers.values())
        optimizers = {n: getattr(o, "optimizer", o) for n, o in zip(names, wrapped, strict=True)}
    ema = None
    if recipe.optimizer.ema is not None:
        ema = Ema(module, recipe.optimizer.ema, recipe.optimizer.ema_device)
    return Loop(built, accelerator, run, prepared, optimizers, schedule, ema, show=show)


def _adamw(module: torch.nn.Module, recipe: Recipe, rate: float, accelerator: Accelerator) -> torch.optim.Optimizer:
    parameters = list(trainable(module).values())
    if not parameters:
        raise UsageError("nothing of the policy is trained; look at policy.train_expert_only and lora")
    settings = recipe.optimizer
    return torch.optim.AdamW(
        parameters,
        lr=rate,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=accelerator.device.type in ("cuda", "cpu"),
    )


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe) -> torch.optim.lr_scheduler.LRScheduler:
    """LeRobot's cosine with warm-up."""
    from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig

    settings = recipe.optimizer
    return CosineDecayWithWarmupSchedulerConfig(
        num_warmup_steps=min(settings.warmup_steps, recipe.steps),
        num_decay_steps=recipe.steps,
        peak_lr=settings.learning_rate,
        decay_lr=settings.final_learning_rate,
    ).build(optimizer, recipe.steps)


def _is_stale(run: Path, recipe: Recipe, overwrite: bool) -> bool:
    """Whether the folder holds a run with other settings, to be replaced. Changes nothing.

    Raises:
        UsageError: it holds such a run and ``overwrite`` is false, or something else.
    """
    if run.is_file():
        raise UsageError(f"{run} is a file; give another --output_dir")
    if not run.exists() or not any(p.name not in (".lock", LABELS, "report") for p in run.iterdir()):
        return False
    if not (run / RECIPE).is_file():
        raise UsageError(f"{run} holds something that is no run of igrft; give another --output_dir")
    earlier = read_yaml(run / RECIPE)
    different = differing(recipe, earlier)
    if not different:
        return False
    if checkpoint.newest(run) is None and not makes_rollouts(recipe):
        # It failed before its first checkpoint: nothing is lost.
        return True
    if not overwrite:
        key = different[0]
        then, now = (_flat(x).get(key, "nothing") for x in (earlier, resolved(recipe)))
        rest = f" and {len(different) - 1} more settings" if len(different) > 1 else ""
        raise UsageError(
            f"{run} holds a run with another {key} ({then} there, {now} now){rest}; to train on from its weights give "
            f"--init_from={run} --output_dir=ANOTHER, to start anew --overwrite"
        )
    return True


def _clear(run: Path) -> None:
    """Remove a run's own files, and no others."""
    for part in (checkpoint.CHECKPOINTS, "diagnosis", "report"):
        shutil.rmtree(run / part, ignore_errors=True)
    for file in (RECIPE, METRICS, WANDB_ID):
        (run / file).unlink(missing_ok=True)


def differing(recipe: Recipe, earlier: dict[str, Any]) -> list[str]:
    """Dotted keys in which a run's recipe and this one differ, apart from those that change no result."""
    now = _flat(resolved(recipe))
    then = _flat(_completed(earlier))
    keys = [k for k in (now | then) if now.get(k) != then.get(k)]
    free = _FREE if makes_rollouts(recipe) else _FREE | _OF_ROUNDS
    return sorted(k for k in keys if k.split(".")[0] not in free and k not in _FREE_OF_ROUNDS)


def _completed(earlier: dict[str, Any]) -> dict[str, Any]:
    """A run's recipe with the settings that its igrft did not know at their defaults."""
    try:
        return resolved(recipe_from(earlier))
    except UsageError:
        # It names what is not here any more: a setting, or a device.
        return earlier


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    else:
        return {prefix[:-1]: value}
    out: dict[str, Any] = {}
    for key, part in items:
        out.update(_flat(part, f"{prefix}{key}."))
    return out


def _step_of(folder: Path | None) -> int:
    return int(folder.name) if folder is not None else 0


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Refuse a second process that trains into the same folder."""
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / ".lock", f"{run} is being trained by another process; give another --output_dir"):
        yield
