"""The processes of one run: what each takes of a batch, and what one of them does for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from igrft.errors import IgrftError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from igrft.training.recipe import Recipe

#: How long the others wait while one process reads labels or writes a checkpoint.
PATIENCE = timedelta(hours=2)


def number_of_processes() -> int:
    """Processes of the run, as the launcher says; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process speaks for the run."""
    return int(os.environ.get("RANK", "0")) == 0


def processes_here() -> int:
    """Those of them on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def accumulation(recipe: Recipe, processes: int) -> int:
    """Parts in which a process takes its share of a step.

    ``batch_size`` is the whole step's, and ``gradient_accumulation`` says what one process would need: no process
    takes more samples at a time than it would, and none takes fewer than it must.

    Raises:
        UsageError: the batch cannot be divided by the processes.
    """
    share, rest = divmod(recipe.batch_size, processes)
    if rest or not share:
        near = [n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
        fewer = max((n for n in near if n < processes), default=1)
        sizes = " or ".join(str(s) for s in (processes * share, processes * (share + 1)) if s)
        raise UsageError(
            f"batch_size {recipe.batch_size} is that of a step over all processes and cannot be divided by "
            f"{processes}; start {fewer}, or give --batch_size={sizes}"
        )
    most = max(1, recipe.batch_size // recipe.gradient_accumulation)
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)


def told(recipe: Recipe, processes: int) -> str:
    """How a step is divided, in one line."""
    parts = accumulation(recipe, processes)
    size = recipe.batch_size // (processes * parts)
    return f"{processes} processes take {size} samples {parts} time(s) a step: {recipe.batch_size}, as the recipe says"


def once(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Let the main process do ``work`` while the others wait.

    Raises:
        What ``work`` raises, in the main process. SystemExit: elsewhere, without a word; the main process has said why.
    """
    if accelerator.num_processes == 1:
        work()
        return
    from accelerate.utils import broadcast_object_list

    error: BaseException | None = None
    if accelerator.is_main_process:
        try:
            work()
        except (IgrftError, OSError, KeyboardInterrupt) as found:
            error = found
    failed = [error is not None]
    broadcast_object_list(failed)
    if error is not None:
        raise error
    if failed[0]:
        raise SystemExit(1)
