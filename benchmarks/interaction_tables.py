"""Tables and a plot of ``benchmarks/interaction_quality.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from interaction_scores import Score, score
from interaction_truth import LADDER

#: Tasks that settings were chosen on.
CHOSEN_ON = ("drawer-open", "shelf-place", "assembly", "door-open")
#: Millimetres in 1/30 s above which a thing moves.
MOVES = 1.0
FLOW, PIXELS = 2.0, 400.0
#: Thresholds for small things.
SMALL = (0.5, 100.0)
FPS = 80


@dataclass
class Counted:
    """One task.

    Attributes:
        arrays: by name. ``counts/STRIDE/FLOW/MASK`` float32 [T, L], all scored episodes in a row, NaN where one was set
            aside; ``motion/STRIDE``, ``contact/STRIDE``, ``perfect/STRIDE``, ``visible/STRIDE`` the truth;
            ``lengths/STRIDE`` of the episodes.
    """

    task: str
    ladder: tuple[float, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def has(self, stride: int, flow: str, mask: str) -> bool:
        return f"counts/{stride}/{flow}/{mask}" in self.arrays

    def knows(self, stride: int) -> bool:
        """Whether the truth is there."""
        return f"lengths/{stride}" in self.arrays

    def _append(self, name: str, values: np.ndarray) -> None:
        self.arrays[name] = np.concatenate([self.arrays[name], values]) if name in self.arrays else values

    def add_truth(
        self, stride: int, motion: np.ndarray, contact: np.ndarray, perfect: np.ndarray, visible: np.ndarray
    ) -> None:
        """Of one episode: mm in 1/30 s, touched, counts of a perfect flow, reference pixels of things."""
        self._append(f"lengths/{stride}", np.array([len(motion)]))
        for name, values in (("motion", motion), ("contact", contact), ("perfect", perfect), ("visible", visible)):
            self._append(f"{name}/{stride}", values)

    def add(self, stride: int, flow: str, mask: str, number: int, counts: np.ndarray | None) -> None:
        """Counts of an episode: the ``number``-th whose truth was added; the earlier ones have theirs."""
        if counts is None:
            length = int(self.arrays[f"lengths/{stride}"][number])
            counts = np.full((length, len(self.ladder)), np.nan, np.float32)
        self._append(f"counts/{stride}/{flow}/{mask}", counts)

    def save(self, path: Path) -> None:
        np.savez_compressed(path, task=self.task, ladder=self.ladder, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> Counted:
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
        return cls(str(arrays.pop("task")), tuple(arrays.pop("ladder").tolist()), arrays)

    def episodes(self, name: str, stride: int) -> list[np.ndarray]:
        """An array, cut into episodes."""
        return np.split(self.arrays[name], np.cumsum(self.arrays[f"lengths/{stride}"])[:-1])

    def pixels(self, stride: int, flow: str, mask: str, delta: float) -> list[np.ndarray]:
        """Counts of each episode at one flow threshold; ``flow`` ``perfect`` is the true one."""
        if flow == "perfect":
            return [v[:, LADDER.index(delta)] for v in self.episodes(f"perfect/{stride}", stride)]
        return [v[:, self.ladder.index(delta)] for v in self.episodes(f"counts/{stride}/{flow}/{mask}", stride)]


def scored(
    tasks: Sequence[Counted],
    stride: int,
    flow: str,
    mask: str,
    *,
    delta: float = FLOW,
    pixels: float = PIXELS,
    truth: str = "motion",
    moves: float = MOVES,
) -> Score:
    """One row: all episodes of some tasks that were not set aside."""
    labels, truths = [], []
    for task in tasks:
        true = task.episodes(f"{truth}/{stride}", stride)
        for found, actual in zip(task.pixels(stride, flow, mask, delta), true, strict=True):
            if np.isfinite(found).all():
                labels.append(found > pixels)
                truths.append(actual if actual.dtype == bool else actual > moves)
    return score(labels, truths, FPS / stride)


def mean_f1(tasks: Sequence[Counted], stride: int, flow: str, mask: str, delta: float, pixels: float) -> float:
    """F1, mean over tasks: one with long motions counts no more than one with short ones."""
    each = [scored([t], stride, flow, mask, delta=delta, pixels=pixels).f1 for t in tasks]
    return float(np.nanmean(each))


def _line(name: str, s: Score, contact: Score, mean: float) -> str:
    return (
        f"| {name} | {s.precision:.2f} | {s.recall:.2f} | {s.f1:.2f} | {mean:.2f} | {s.onset:.0f} ({s.onset_90:.0f}) | "
        f"{s.missed:.2f} | {s.share:.2f} | {contact.precision:.2f} / {contact.recall:.2f} / {contact.f1:.2f} |"
    )


def show(counted: Sequence[Counted], absent: Sequence[str], plot: Path | None) -> None:
    """Print everything as Markdown."""
    chosen = [t for t in counted if t.task in CHOSEN_ON]
    held = [t for t in counted if t.task not in CHOSEN_ON]
    for stride, delta, pixels in ((3, FLOW, PIXELS), (3, *SMALL), (1, FLOW, PIXELS)):
        if held:
            _methods(held, stride, delta, pixels)
    for line in absent:
        print(line)
    if held:
        _per_task(counted)
        _truths(held)
        _causes(counted, FLOW, PIXELS)
        _causes(counted, *SMALL)
        _grid(held, "dis", "true")
        _grid(held, "perfect", "")
    if chosen:
        _choice(chosen, held)
    if plot is not None and held:
        draw(held, plot)


def _methods(tasks: Sequence[Counted], stride: int, delta: float, pixels: float) -> None:
    true = np.concatenate([t.arrays[f"motion/{stride}"] for t in tasks])
    touched = np.concatenate([t.arrays[f"contact/{stride}"] for t in tasks])
    at = "the defaults, " if (delta, pixels) == (FLOW, PIXELS) else ""
    print(
        f"\n## {FPS / stride:.1f} frames/s, {len(tasks)} tasks, {at}δ {delta:g}, Θ {pixels:g}; "
        f"{len(true)} frames, {np.mean(true > MOVES):.0%} move, {np.mean(touched):.0%} are touched\n"
    )
    print("| flow, mask | precision | recall | F1 | F1, mean over tasks | onset error, median (90th), frames | "
          "onsets missed | share labelled | against contact: P / R / F1 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    prefix = f"counts/{stride}/"
    names = [n.removeprefix(prefix).split("/", 1) for n in tasks[0].arrays if n.startswith(prefix)]
    for flow, mask in [*sorted(names), ["perfect", ""]]:
        found, contact = (
            scored(tasks, stride, flow, mask, delta=delta, pixels=pixels, truth=t) for t in ("motion", "contact")
        )
        name = f"{flow}, {mask}" if mask else "perfect flow of things"
        print(_line(name, found, contact, mean_f1(tasks, stride, flow, mask, delta, pixels)))


def _per_task(tasks: Sequence[Counted]) -> None:
    stride = 3
    print("\n## Per task, 26.7 frames/s, DIS, defaults: F1 (precision, recall)\n")
    print("| task | visible px of things, median | true masks, Eq. 1 alone | true masks | exemplar | perfect flow | "
          "best of the grid, true masks: F1 (δ, Θ) |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for task in tasks:
        seen = float(np.median(task.arrays[f"visible/{stride}"]))
        cells = []
        for flow, mask in (("dis", "true, Eq. 1 alone"), ("dis", "true"), ("dis", "exemplar"), ("perfect", "")):
            s = scored([task], stride, flow, mask)
            cells.append(f"{s.f1:.2f} ({s.precision:.2f}, {s.recall:.2f})")
        best = max((scored([task], stride, "dis", "true", delta=d, pixels=p).f1, d, p) for d in DELTAS for p in THETAS)
        star = "*" if task.task in CHOSEN_ON else ""
        print(
            f"| {task.task}{star} | {seen:.0f} | "
            + " | ".join(cells)
            + f" | {best[0]:.2f} ({best[1]:g}, {best[2]:g}) |"
        )
    print("\n\\* settings were chosen on these.")


DELTAS = (0.5, 1.0, 2.0, 4.0, 8.0)
THETAS = (50.0, 100.0, 200.0, 400.0, 800.0, 1600.0)


def _truths(tasks: Sequence[Counted]) -> None:
    print("\n## What counts as motion: all frames of the tasks together, 26.7 frames/s, DIS, true masks, defaults\n")
    print("| a thing moves above, mm in 1/30 s | share of frames | precision | recall | F1 |\n|---|---|---|---|---|")
    for moves in (0.1, 0.3, 1.0, 3.0, 10.0):
        s = scored(tasks, 3, "dis", "true", moves=moves)
        print(f"| {moves:g} | {s.truth:.2f} | {s.precision:.2f} | {s.recall:.2f} | {s.f1:.2f} |")


def _causes(tasks: Sequence[Counted], delta: float, pixels: float) -> None:
    """Why frames that move are missed, and what the false ones are; true masks."""
    print(
        f"\n## Why, 26.7 frames/s, DIS, true masks, δ {delta:g}, Θ {pixels:g}: shares of the moving frames that are "
        "missed, and of the labelled frames that are false\n"
    )
    print("| task | missed | hidden or smaller than Θ | slower than δ in the picture | flow did not see it | false | "
          "moves, but under 1 mm | touched, still | untouched, still |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    held = np.zeros(10, np.int64)
    for task in tasks:
        numbers = np.array(_cause_counts(task, delta, pixels))
        held += numbers * (task.task not in CHOSEN_ON)
        print(_cause_line(task.task + "*" * (task.task in CHOSEN_ON), numbers))
    print(_cause_line("all without *", held))


def _cause_counts(task: Counted, delta: float, pixels: float) -> list[int]:
    """Frames: that move, and of them missed, by cause; that are labelled, and of them false, by kind."""
    label = np.concatenate(task.pixels(3, "dis", "true", delta)) > pixels
    motion, touched, perfect = (task.arrays[f"{n}/3"] for n in ("motion", "contact", "perfect"))
    moves, little = motion > MOVES, motion > MOVES / 10
    missed, false = moves & ~label, label & ~moves
    small = perfect[:, LADDER.index(0.01)] <= pixels
    slow = ~small & (perfect[:, LADDER.index(delta)] <= pixels)
    kinds = (
        *(moves, missed, missed & small, missed & slow, missed & ~small & ~slow),
        *(label, false, false & little, false & ~little & touched, false & ~little & ~touched),
    )
    return [int(np.count_nonzero(k)) for k in kinds]


def _cause_line(name: str, numbers: np.ndarray) -> str:
    cells = [*(numbers[1:5] / max(numbers[0], 1)), *(numbers[6:] / max(numbers[5], 1))]
    return f"| {name} | " + " | ".join(f"{v:.2f}" for v in cells) + " |"


def _grid(tasks: Sequence[Counted], flow: str, mask: str) -> None:
    what = f"{flow}, {mask}" if mask else "perfect flow of things"
    print(f"\n## The grid, {what}, 26.7 frames/s: F1, mean over {len(tasks)} tasks\n")
    print("| δ \\ Θ | " + " | ".join(f"{p:g}" for p in THETAS) + " |\n|" + "---|" * (len(THETAS) + 1))
    for delta in DELTAS:
        cells = [f"{mean_f1(tasks, 3, flow, mask, delta, p):.2f}" for p in THETAS]
        print(f"| {delta:g} | " + " | ".join(cells) + " |")


def _choice(chosen: Sequence[Counted], held: Sequence[Counted]) -> None:
    print("\n## The choice of `change_threshold`: F1, mean over tasks, 26.7 frames/s, DIS, true masks\n")
    print(
        "| | chosen on, defaults | chosen on, δ 0.5, Θ 100 | others, defaults | others, δ 0.5, Θ 100 |\n"
        "|---|---|---|---|---|"
    )
    names = [n.split("/", 3)[3] for n in chosen[0].arrays if n.startswith("counts/3/dis/true")]
    for name in names:
        cells = [
            f"{mean_f1(tasks, 3, 'dis', name, *at):.2f}" if tasks else ""
            for tasks in (chosen, held)
            for at in ((FLOW, PIXELS), (0.5, 100.0))
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def draw(tasks: Sequence[Counted], path: Path) -> None:
    """F1 against both thresholds, of what stands in the tables."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "font.size": 9})
    rows = (
        ("DIS, true masks, Eq. 1 alone", "dis", "true, Eq. 1 alone", "#d95f02", "-"),
        ("DIS, no mask", "dis", "none", "#666666", ":"),
        ("DIS, exemplar masks", "dis", "exemplar", "#7570b3", "-"),
        ("DIS, true masks", "dis", "true", "#1b9e77", "-"),
        ("perfect flow of things", "perfect", "", "#000000", "--"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), sharey=True)
    panels = (
        ("Θ, reference pixels, at δ = 2", THETAS, lambda v: (FLOW, v), PIXELS),
        ("Θ, reference pixels, at δ = 0.5", THETAS, lambda v: (0.5, v), PIXELS),
        ("δ, squared reference pixels, at Θ = 400", DELTAS, lambda v: (v, PIXELS), FLOW),
    )
    for axis, (text, values, at, default) in zip(axes, panels, strict=True):
        for name, flow, mask, colour, style in rows:
            along = [mean_f1(tasks, 3, flow, mask, *at(v)) for v in values]
            axis.plot(values, along, style, marker="o", ms=3, color=colour, label=name)
        axis.set(xscale="log", xlabel=text, ylim=(0, 1))
        axis.set_xticks(values, [f"{v:g}" for v in values])
        axis.minorticks_off()
        axis.axvline(default, color="#cccccc", lw=1, zorder=0)
        axis.axhline(0.9, color="#cccccc", lw=1, ls=":", zorder=0)
    axes[0].set_ylabel(f"F1, mean over {len(tasks)} tasks")
    axes[0].legend(fontsize=7, frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
