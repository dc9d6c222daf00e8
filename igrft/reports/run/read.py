"""Reads the folder of a training run, finished, in progress or broken off: what can be read is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from igrft.dataset.files import INFO
from igrft.errors import IgrftError, UsageError
from igrft.reports.text import plural
from igrft.rollouts.facts import ROUNDS

RECIPE = "recipe.yaml"
METRICS = "metrics.jsonl"
#: Of a run made of rounds: the folders of their updates and rollouts.
ROUND = r"round_(\d+)"
_ROLLOUTS = r"rollout_.+_\d+"
SAMPLES = "diagnosis/samples"
HELDOUT = "diagnosis/heldout"
#: Samples kept in memory, about 70 bytes each; of more, every n-th is read.
_MOST_ROWS = 2_000_000

#: Columns of the diagnosis files that are whole numbers or flags; all others are float32.
_INTEGERS = ("step", "dataset", "episode", "frame", "length")
_FLAGS = ("intervention",)
_SAMPLE_FLOATS = (
    "advantage",
    "weight",
    "loss",
    "value_trajectory",
    "value_subtask",
    "interaction_probability",
    "return_trajectory",
    "return_subtask",
    "interaction",
    "motion",
)
_HELDOUT_FLOATS = _SAMPLE_FLOATS[3:9]

Rows = dict[str, np.ndarray]


@dataclass
class Metrics:
    """``metrics.jsonl``, each step once.

    Attributes:
        lines: numbers of each logged step, by step.
        heldout: held-out fits by step.
        critic_stopped: (step, step of its best fit), where the critic was stopped on its held-out fit.
        resumed: how often the steps went back: the run was resumed from a checkpoint.
        broken: lines that are no JSON object with a step; a last line cut short is not counted.
    """

    lines: dict[int, dict[str, float]] = field(default_factory=dict)
    heldout: dict[int, dict[str, float]] = field(default_factory=dict)
    critic_stopped: tuple[int, int] | None = None
    resumed: int = 0
    broken: int = 0

    @property
    def last_step(self) -> int:
        """The last step that anything is known of, 0 where nothing is."""
        return max([*self.lines, *self.heldout], default=0)

    def series(self, key: str, *, heldout: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(steps int64 [n], values float64 [n]) of the lines that have ``key``, in order of steps."""
        held = self.heldout if heldout else self.lines
        steps = [s for s in sorted(held) if key in held[s]]
        return np.array(steps, dtype=np.int64), np.array([held[s][key] for s in steps], dtype=np.float64)


@dataclass
class Run:
    """What a run left behind.

    Attributes:
        root: its folder.
        recipe: ``recipe.yaml``, as resolved.
        metrics: what it logged.
        samples: columns over the samples trained on, each [n], in order of steps; empty columns where none.
        heldout: the same over held-out frames, of all evaluations.
        notes: what could not be read, or was left out.
    """

    root: Path
    recipe: Mapping[str, Any]
    metrics: Metrics
    samples: Rows
    heldout: Rows
    notes: list[str]

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting of the recipe by its dotted name; ``default`` where the recipe has none."""
        return setting_of(self.recipe, key, default)

    def number(self, key: str, default: float) -> float:
        """A setting that is a number."""
        value = self.setting(key, default)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    @cached_property
    def dataset_names(self) -> list[str]:
        """Names of the recipe's datasets, by the number that ``dataset`` columns hold."""
        entries = self.setting("datasets", [])
        held = [e if isinstance(e, Mapping) else {} for e in entries] if isinstance(entries, list) else []
        paths = [str(e.get("root") or e.get("repo_id") or f"dataset {i}") for i, e in enumerate(held)]
        return [p.rstrip("/").rsplit("/", 1)[-1] for p in paths]

    def episode_name(self, dataset: int, episode: int) -> str:
        """How the page calls an episode."""
        names = self.dataset_names
        if len(names) < 2:
            return f"episode {episode}"
        return f"episode {episode} of {names[dataset] if 0 <= dataset < len(names) else f'dataset {dataset}'}"


def is_run(path: Path) -> bool:
    """Whether ``path`` is the folder of a training run (it has a recipe and metrics, and is no dataset).

    One made of rounds is a run from its first rollout on, before it has metrics.
    """
    return ((path / RECIPE).is_file() and (path / METRICS).is_file()) or is_rounds(path)


def is_rounds(path: Path) -> bool:
    """Whether ``path`` is the folder of a run made of rounds: of rollouts and updates in turn."""
    if not (path / RECIPE).is_file():
        return False
    if (path / ROUNDS).is_file():
        return True
    folders = [p for p in path.iterdir() if p.is_dir()]
    if any(re.fullmatch(ROUND, p.name) and (p / RECIPE).is_file() for p in folders):
        return True
    # A run that trained something itself may have rollouts of its policy beside it.
    trained = (path / METRICS).is_file()
    return not trained and any(re.fullmatch(_ROLLOUTS, p.name) and (p / INFO).is_file() for p in folders)


def refuse_neither(path: Path) -> None:
    """Raise where an existing ``path`` is neither a run nor a dataset; the message says what is missing.

    Raises:
        UsageError: it is something else. IgrftError: a run that has not logged anything, or lost its recipe.
    """
    if not path.exists() or is_run(path) or (path / INFO).is_file():
        return
    if not path.is_dir():
        raise UsageError(f"{path} is a file; give the folder of a dataset or of a training run")
    if (path / RECIPE).is_file():
        raise IgrftError(f"{path} has no {METRICS}: the run has not logged a step yet; wait for the first")
    if (path / METRICS).is_file():
        raise IgrftError(f"{path} has {METRICS} and no {RECIPE}, which the page needs; restore it from the recipe")
    below = sorted(p.name for p in path.iterdir() if p.is_dir() and is_run(p))
    if below:
        shown = ", ".join(below[:5]) + (" …" if len(below) > 5 else "")
        raise UsageError(f"{path} holds {plural(len(below), 'training run')}; give the folder of one: {shown}")
    above = next((p for p in path.resolve().parents if is_run(p)), None)
    if above is not None:
        raise UsageError(f"{path} is a part of a training run; give the run's folder: {above}")
    raise UsageError(
        f"{path} is neither a dataset (no {INFO}) nor a training run (no {RECIPE} and {METRICS}); "
        "give the folder of one of them"
    )


def read_run(root: Path) -> Run:
    """Read a run.

    Raises:
        UsageError, IgrftError: ``root`` is no run, or its recipe cannot be read. Anything else that cannot
            be read goes to the notes.
    """
    refuse_neither(root)
    if not is_run(root):
        raise UsageError(f"{root} is no training run: it has no {RECIPE} and {METRICS}")
    if not (root / METRICS).is_file():
        raise IgrftError(f"{root} has no {METRICS}: no round is finished yet; wait for the first")
    notes: list[str] = []
    recipe = read_recipe(root / RECIPE)
    metrics = read_metrics(root / METRICS)
    if metrics.broken:
        notes.append(f"{plural(metrics.broken, 'line')} of {METRICS} could not be read and were left out.")
    if metrics.resumed:
        notes.append(f"The run was resumed {plural(metrics.resumed, 'time')}; of a step done twice the later counts.")
    if metrics.critic_stopped:
        stopped, best = metrics.critic_stopped
        notes.append(
            f"The critic was stopped at step {stopped:,} and set back to step {best:,}, its best held-out fit."
        )
    samples = _read_rows(root / SAMPLES, _SAMPLE_FLOATS, metrics, notes)
    heldout = _read_rows(root / HELDOUT, _HELDOUT_FLOATS, metrics, notes)
    return Run(root, recipe, metrics, samples, heldout, notes)


def read_metrics(path: Path) -> Metrics:
    """Read ``metrics.jsonl``; what is no number is left out, null and NaN are kept as NaN.

    Where steps go back, the run was resumed there: what was logged beyond that step is no longer part of it.
    """
    out = Metrics()
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text.endswith("\n")
    rows = text.splitlines()
    last = 0
    for i, row in enumerate(rows):
        if not row.strip():
            continue
        value = _object(row)
        step = None if value is None else value.get("step")
        if value is None or isinstance(step, bool) or not isinstance(step, int):
            # A run in progress, or one that was killed, may have written half of its last line.
            out.broken += i + 1 < len(rows) or whole
            continue
        if step < last:
            out.resumed += 1
            for held in (out.lines, out.heldout):
                for later in [s for s in held if s > step]:
                    del held[later]
            if out.critic_stopped is not None and out.critic_stopped[0] > step:
                out.critic_stopped = None
        last = step
        fit, stopped = value.get("heldout"), value.get("critic_stopped")
        if isinstance(fit, Mapping):
            out.heldout[step] = _numbers(fit)
        if isinstance(stopped, Mapping):
            best = stopped.get("best_step")
            out.critic_stopped = (step, best if isinstance(best, int) else step)
        if "loss" in value or not isinstance(fit or stopped, Mapping):
            plain = {k: v for k, v in value.items() if k not in ("step", "heldout", "critic_stopped")}
            out.lines[step] = _numbers(plain)
    return out


def _object(row: str) -> dict[str, Any] | None:
    try:
        value = json.loads(row)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _numbers(value: Mapping[str, Any]) -> dict[str, float]:
    out = {}
    for key, number in value.items():
        if number is None:
            out[key] = math.nan
        elif isinstance(number, int | float) and not isinstance(number, bool):
            out[key] = float(number)
    return out


def setting_of(recipe: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """A setting of a recipe by its dotted name; ``default`` where the recipe has none."""
    node: Any = recipe
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return default
        node = node[part]
    return default if node is None else node


def read_recipe(path: Path) -> Mapping[str, Any]:
    """A run's recipe. Raises IgrftError: it is no mapping in YAML."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise IgrftError(f"{path} is not YAML ({' '.join(str(error).split())}); restore it from the recipe") from None
    if not isinstance(value, Mapping):
        raise IgrftError(f"{path} holds no mapping of settings; restore it from the recipe")
    return value


def _read_rows(folder: Path, floats: tuple[str, ...], metrics: Metrics, notes: list[str]) -> Rows:
    """All files of a diagnosis folder as one set of columns in order of steps, each step from one file."""
    # Written last wins: after a resume the same steps may stand in a file of another name.
    paths = sorted(folder.glob("*.parquet"), key=lambda p: (p.stat().st_mtime_ns, p.name))
    files: list[Rows] = []
    unreadable: list[str] = []
    total = 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as parquet:
                total += parquet.metadata.num_rows
        except (pa.ArrowException, OSError):
            unreadable.append(path.name)
    stride = max(1, -(-total // _MOST_ROWS))
    for path in paths:
        if path.name not in unreadable:
            try:
                files.append(_columns(path, floats, stride))
            except (pa.ArrowException, OSError, KeyError, ValueError):
                unreadable.append(path.name)
    if unreadable:
        shown = ", ".join(unreadable[:3]) + (" …" if len(unreadable) > 3 else "")
        notes.append(f"{plural(len(unreadable), 'file')} of {folder.name} could not be read and were left out: {shown}")
    if stride > 1:
        notes.append(f"Of {total:,} rows of {folder.name} one in {stride} is used.")
    return _joined(files, floats, metrics)


def _columns(path: Path, floats: tuple[str, ...], stride: int) -> Rows:
    """The columns of one file; a float column that it lacks is NaN, a flag false."""
    with pq.ParquetFile(path) as parquet:
        held = parquet.schema_arrow.names
        wanted = [n for n in (*_INTEGERS, *_FLAGS, *floats) if n in held]
        table = parquet.read(columns=wanted)
    out: Rows = {n: table.column(n).to_numpy()[::stride].astype(np.int64) for n in _INTEGERS}
    size = len(out["step"])
    for name in floats:
        values = table.column(name).to_numpy() if name in held else np.full(table.num_rows, np.nan)
        out[name] = values[::stride].astype(np.float32)
    for name in _FLAGS:
        out[name] = table.column(name).to_numpy()[::stride].astype(bool) if name in held else np.zeros(size, bool)
    return out


def _joined(files: list[Rows], floats: tuple[str, ...], metrics: Metrics) -> Rows:
    if not files:
        empty: Rows = {n: np.zeros(0, dtype=np.int64) for n in _INTEGERS}
        empty |= {n: np.zeros(0, dtype=np.float32) for n in floats}
        return empty | {n: np.zeros(0, dtype=bool) for n in _FLAGS}
    rows = {n: np.concatenate([f[n] for f in files]) for n in files[0]}
    number = np.repeat(np.arange(len(files)), [len(f["step"]) for f in files])
    steps, at = np.unique(rows["step"], return_inverse=True)
    last = np.zeros(len(steps), dtype=np.int64)
    np.maximum.at(last, at, number)
    keep = number == last[at]
    if metrics.resumed:
        # What an earlier life wrote beyond the step that the run has now come to.
        keep &= rows["step"] <= metrics.last_step
    order = np.flatnonzero(keep)
    order = order[np.argsort(rows["step"][order], kind="stable")]
    return {n: v[order] for n, v in rows.items()}
