"""`igrft eval`: episodes on fixed seeds, success rates, comparisons. Run again, it goes on where it was."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from igrft.dataset.parquet import write_json, write_text
from igrft.errors import IgrftError, UsageError, did_you_mean
from igrft.evaluation.bench import Again, Bench, Job, Stopped, keeps_video, noise_rule, wants_any_video
from igrft.evaluation.contenders import Contender, find_contenders
from igrft.evaluation.recipe import SERVER, EvalRecipe, check_recipe
from igrft.evaluation.store import SUMMARY, ResultStore
from igrft.evaluation.summary import Summary, curves_of, summarise
from igrft.evaluation.table import to_text
from igrft.models.devices import accelerator
from igrft.pipeline.workers import default_workers, one_line, refuse_full_disk

#: Settings that decide how an episode goes; results made under others do not stand in one folder.
_DECIDE = ("environment", "exploration", "human", "monitor", "inference", "safety", "cpu_threads", "device")
_FIGURES = "figures"


@dataclass
class EvalResult:
    """What `igrft eval` found.

    Attributes:
        folder: with results.jsonl, summary.json, table.txt, figures and videos.
        complete: whether all episodes that were asked for are there; False after a human stopped.
        ran: episodes of this call; the others were there.
        files: figures that were drawn.
    """

    folder: Path
    summary: Summary
    contenders: list[Contender]
    complete: bool
    ran: int
    files: list[Path] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "complete": self.complete,
            "checkpoints": [one.to_json() for one in self.contenders],
            **self.summary.to_json(),
            "figures": [str(path) for path in self.files],
        }

    def to_text(self) -> str:
        return to_text(self.summary)


def evaluate(
    recipe: str | Path | EvalRecipe,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    show_progress: bool = False,
    say: Callable[[str], None] = lambda line: None,
    make_bench: Callable[..., Bench] = Bench,
) -> EvalResult:
    """Evaluate what a recipe says.

    An episode's result depends on checkpoint, seed and temperature, not on the number of processes (real-time
    chunking apart, whose chunks come when they come).

    Args:
        recipe: name or path of a recipe file, or a loaded recipe.
        overrides: ``a.b.0.c=value``, applied to the file.
        overwrite: start anew where the folder holds results of other settings.
        say: is given what the user should know while it goes on.
        make_bench: what runs episodes where one process does; for environments of one's own.

    Raises:
        UsageError: a wrong recipe, a checkpoint that is not there or does not fit, a folder of something else.
        IgrftError: an episode failed; the message names it, and what is done is kept.
    """
    from igrft.training.recipe_file import load_recipe

    name = recipe.stage if isinstance(recipe, EvalRecipe) else str(recipe)
    loaded = recipe if isinstance(recipe, EvalRecipe) else load_recipe(str(recipe), overrides, EvalRecipe)
    check_recipe(loaded, name)
    if wants_any_video(loaded) and loaded.environment.pictures is False:
        raise UsageError("a video was asked for, and environment.pictures is false; give --videos=none")
    contenders = find_contenders(loaded)
    names = [one.name for one in contenders]
    if loaded.baseline is not None and len(set(names)) > 1 and loaded.baseline not in names:
        raise UsageError(f"baseline {loaded.baseline!r} is no checkpoint's name{did_you_mean(loaded.baseline, names)}")
    jobs = make_jobs(loaded, contenders)
    folder = folder_for(loaded, name).absolute()
    with ResultStore.open(folder, deciding(loaded), overwrite=overwrite) as store:
        store.refuse_others({(c.name, c.task, c.seed): c.digest for c in contenders})
        notices = [] if loaded.inference.type != "rtc" else ["real-time chunking: results are not the same every time"]
        left = [job for job in jobs if _is_missing(store, job, contenders, loaded)]

        def tell(line: str) -> None:
            notices.append(line)
            say(line)

        complete = _run(loaded, contenders, store, left, tell, show_progress, make_bench)
        held = [store.results[k] for k in (job.key(contenders) for job in jobs) if k in store.results]
        if not held:
            raise IgrftError(f"{folder}: stopped before the first episode was done; run the same command again")
        ran = len(left) - sum(_is_missing(store, job, contenders, loaded) for job in left)
        return _report(loaded, contenders, folder, held, complete, ran, notices)


def make_jobs(recipe: EvalRecipe, contenders: Sequence[Contender]) -> list[Job]:
    """Every episode, policy after policy.

    Raises:
        UsageError: T(s) is asked for and a policy's settings of it are not known.
    """
    temperatures: Sequence[float | str] = [SERVER] if recipe.inference.server is not None else recipe.temperatures
    for one in contenders:
        for temperature in temperatures:
            if temperature != SERVER:
                noise_rule(one, recipe, temperature)
    return [
        Job(number, temperature, recipe.seed + i, i)
        for number in range(len(contenders))
        for temperature in temperatures
        for i in range(recipe.episodes)
    ]


def folder_for(recipe: EvalRecipe, name: str) -> Path:
    """``output_dir``, else ``runs/`` and the recipe's name."""
    return Path(recipe.output_dir).expanduser() if recipe.output_dir else Path("runs") / Path(name).stem


def deciding(recipe: EvalRecipe) -> dict[str, Any]:
    """The settings that an episode's result depends on, as JSON."""
    from igrft.training.recipe_file import resolved

    everything = resolved(recipe)
    found = {key: everything[key] for key in _DECIDE}
    # Each policy names its own task, and pictures beside what the policy sees change nothing.
    found["environment"] = {k: v for k, v in found["environment"].items() if k not in ("task", "pictures")}
    found["inference"].pop("api_key_env")
    return found


def _is_missing(store: ResultStore, job: Job, contenders: Sequence[Contender], recipe: EvalRecipe) -> bool:
    """Whether an episode must run: it has not, or its video was not kept then. A robot's cannot run again."""
    found = store.results.get(job.key(contenders))
    if found is None:
        return True
    wanted = keeps_video(recipe.videos, job.number, bool(found["success"])) and "video" not in found
    return wanted and recipe.environment.type != "robot"


def _run(
    recipe: EvalRecipe,
    contenders: Sequence[Contender],
    store: ResultStore,
    jobs: Sequence[Job],
    say: Callable[[str], None],
    show: bool,
    make_bench: Callable[..., Bench],
) -> bool:
    """Run what is missing; whether all of it could be."""
    if not jobs:
        return True
    workers = _workers(recipe, len(jobs))
    complete = True
    with _progress(len(jobs), show) as advance, _ends_on_sigterm():
        try:
            if workers > 1 and make_bench is Bench:
                from igrft.evaluation.pool import run_jobs

                results = run_jobs(recipe, contenders, store.folder, jobs, workers, say=say)
            else:
                results = _in_turn(make_bench(recipe, contenders, store.folder, say=say), jobs)
            with contextlib.closing(results):
                for result in results:
                    store.add(result)
                    advance()
        except Stopped:
            say("stopped; run the same command again to go on")
            complete = False
        except OSError as error:
            refuse_full_disk(error)
            raise
    return complete


@contextlib.contextmanager
def _progress(episodes: int, show: bool) -> Iterator[Callable[[], Any]]:
    """A bar over episodes, on stderr; off a terminal it is drawn every ten seconds."""
    if not show:
        yield lambda: None
        return
    import sys

    from tqdm import tqdm

    pause = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(total=episodes, unit="episode", desc="evaluating", dynamic_ncols=True, mininterval=pause) as bar:
        yield bar.update


def _in_turn(bench: Bench, jobs: Sequence[Job]) -> Generator[dict[str, Any]]:
    """Episodes one after the other in this process."""
    at = 0
    try:
        while at < len(jobs):
            job = jobs[at]
            try:
                yield bench.run(job)
                at += 1
            except Again:
                # Its next result takes the place of the one before.
                at = max(0, at - 1)
            except (UsageError, Stopped, OSError):
                raise
            except Exception as error:
                told = (
                    one_line(error) if isinstance(error, IgrftError) else f"{type(error).__name__}: {one_line(error)}"
                )
                raise job.failed(bench.contenders, told) from error
    finally:
        bench.close()


def _workers(recipe: EvalRecipe, jobs: int) -> int:
    if recipe.environment.type == "robot":
        return 1
    if recipe.workers is not None:
        return min(recipe.workers, jobs)
    if recipe.device not in (None, "cpu") or (recipe.device is None and accelerator() != "cpu"):
        # Several copies of a large policy do not fit.
        return 1
    # Starting a process costs as much as some episodes.
    return max(1, min(default_workers(), jobs // 4))


def _report(
    recipe: EvalRecipe,
    contenders: list[Contender],
    folder: Path,
    held: Sequence[Mapping[str, Any]],
    complete: bool,
    ran: int,
    notices: list[str],
) -> EvalResult:
    """Summary, table and figures."""
    temperatures = list(dict.fromkeys(r["temperature"] for r in held))
    names = [one.name for one in contenders]
    baseline = recipe.baseline if recipe.baseline in names else None
    summary = summarise(held, names, temperatures, baseline=baseline, confidence=recipe.confidence)
    summary.notices.extend(notices)
    files = _figures(recipe, contenders, folder, summary) if recipe.figures else []
    found = EvalResult(folder, summary, contenders, complete, ran, files, notices)
    value = found.to_json()
    value.update(folder=None, figures=[str(path.relative_to(folder)) for path in files], complete=complete)
    write_json(folder / SUMMARY, {k: v for k, v in value.items() if v is not None})
    write_text(folder / "table.txt", found.to_text() + "\n")
    return found


def _figures(recipe: EvalRecipe, contenders: Sequence[Contender], folder: Path, summary: Summary) -> list[Path]:
    """Figure 5 of every temperature, where some method has more than one point."""
    from igrft.evaluation.figures import figure_5, save

    places: dict[str, tuple[str, float | None]] = {}
    for one in contenders:
        counts = [c.interventions for c in contenders if c.name == one.name]
        known = [c for c in counts if c is not None]
        places[one.name] = one.curve, (sum(known) / len(known) if len(known) == len(counts) else None)
    files: list[Path] = []
    for temperature, curves in curves_of(summary.rows, places).items():
        if any(len({p.interventions for p in points}) > 1 for points in curves.values()):
            stem = folder / _FIGURES / f"figure_5_temperature_{temperature}"
            files += save(figure_5(curves), stem)
    return files


@contextlib.contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """SIGTERM ends an evaluation as Ctrl-C does: robots are let go of, processes ended, results kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
