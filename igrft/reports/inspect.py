"""`igrft inspect`: what a dataset holds, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import open_dataset
from igrft.dataset.reader import DatasetReader
from igrft.remote.mirror import called
from igrft.reports.rollouts.record import read_rollouts
from igrft.reports.rollouts.section import counted, human_share, is_rolled_out, reasons
from igrft.reports.summary import EpisodeSummary, left_out_reasons, summarise
from igrft.reports.text import WIDTH, aligned, cut, duration, number, percent, plural, wrapped

HEADER = ("episode", "frames", "seconds", "success", "subtasks", "interaction", "return", "task")
#: Of rollouts, which are all of one task: who took over and why. Labels stand there where an episode has them.
ROLLOUT_HEADER = ("episode", "frames", "success", *HEADER[4:7], "human", "takeovers", "by whom, and why")


@dataclass
class Inspection:
    """What :func:`inspect` found.

    Attributes:
        rows: one summary an episode, in order.
        totals: facts about the whole set (JSON).
    """

    rows: list[EpisodeSummary]
    totals: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"totals": self.totals, "episodes": [r.to_json() for r in self.rows]}

    def to_table(self, limit: int | None = 40) -> str:
        """Totals and a table at most 100 characters wide; ``limit`` episodes, None for all."""
        shown = self.rows if limit is None else self.rows[:limit]
        cells = [_cells(r) for r in shown]
        header: tuple[str, ...] = HEADER
        if self.totals["rollouts"] is not None:
            header = tuple(n for n in ROLLOUT_HEADER if n not in HEADER[4:7] or any(row[n] != "-" for row in cells))
        lines = [*_head(self.totals), "", *aligned(header, [[row[n] for n in header] for row in cells])]
        if len(shown) < len(self.rows):
            lines.append(f"… and {plural(len(self.rows) - len(shown), 'more episode')} (--all lists them)")
        reasons = [f"episode {r.episode} set aside: {_without_episode(r.set_aside)}" for r in shown if r.set_aside]
        reasons += [f"{name} left out by convert: {reason}" for name, reason in self.totals["left_out"].items()]
        if reasons:
            lines += ["", *(reasons if limit is None else reasons[:limit])]
        return "\n".join(lines)


def inspect(dataset: DatasetReader | Path | str) -> Inspection:
    """Summarise a LeRobot v3.0 dataset, labelled or not.

    Raises:
        IgrftError: it is not one, or its files disagree with its metadata (``igrft validate`` says where).
    """
    dataset = open_dataset(dataset, pictures=False)
    rows = summarise(dataset)
    return Inspection(rows, _totals(dataset, rows))


def _totals(dataset: DatasetReader, rows: Sequence[EpisodeSummary]) -> dict[str, Any]:
    known = [r.success for r in rows if r.success is not None and r.set_aside is None]
    record = dataset.igrft or {}
    return {
        "root": called(dataset.root),
        "episodes": len(rows),
        "frames": dataset.num_frames,
        "hours": dataset.num_frames / dataset.fps / 3600,
        "fps": dataset.fps,
        "robot_type": dataset.info.get("robot_type"),
        "cameras": {k: dataset.features[k].get("shape") for k in dataset.cameras},
        "tasks": dataset.tasks,
        "success_rate": float(np.mean(known)) if known else None,
        "success_known": len(known),
        "success_assumed": sum(r.success_from == "assumed" for r in rows),
        "rollouts": _rollouts(dataset, rows),
        "set_aside": sum(r.set_aside is not None for r in rows),
        "left_out": left_out_reasons(dataset),
        "subtasks": vocabulary(rows, dataset.fps),
        "label_columns": [n for n in c.LABELS if n in dataset.features],
        "pipeline": record.get("pipeline"),
        "igrft_version": record.get("igrft_version"),
    }


def _rollouts(dataset: DatasetReader, rows: Sequence[EpisodeSummary]) -> dict[str, Any] | None:
    """Who drove, and under which settings; None where no policy did."""
    rollouts = read_rollouts(dataset)
    if not is_rolled_out(dataset, rows, rollouts):
        return None
    used = counted(rows)
    return {
        "episodes": len(used),
        "takeovers": sum(len(r.takeovers or ()) for r in used),
        "episodes_with_takeovers": sum(bool(r.takeovers) for r in used),
        "human_share": human_share(rows),
        "successes_without_help": sum(bool(r.success) and not r.takeovers for r in used),
        "reasons": [one.to_json() for one in reasons(rows)],
        "settings": rollouts.settings,
        "note": rollouts.note or None,
    }


def vocabulary(rows: Sequence[EpisodeSummary], fps: float) -> list[dict[str, Any]]:
    """Per subtask name, in order of first appearance: episodes that list it, done in how many, mean seconds.

    ``done`` is None where no episode says whether it was done; ``mean_seconds`` is over the segments
    done (over all where that is not known), and None where there is none.
    """
    found: dict[str, dict[str, Any]] = {}
    spans: dict[str, list[float]] = {}
    for row in rows:
        if row.set_aside is not None:
            continue
        for s in row.listed:
            entry = found.setdefault(s["name"], {"name": s["name"], "episodes": 0, "done": None})
            entry["episodes"] += 1
            if s["done"] is not None:
                entry["done"] = (entry["done"] or 0) + bool(s["done"])
            if s["done"] is not False:
                spans.setdefault(s["name"], []).append((s["end"] - s["start"]) / fps)
    return [{**e, "mean_seconds": float(np.mean(spans[n])) if n in spans else None} for n, e in found.items()]


def _head(totals: dict[str, Any]) -> list[str]:
    length = duration(totals["hours"] * 3600)
    robot = totals["robot_type"] or "robot not named"
    lines = [
        totals["root"],
        f"{plural(totals['episodes'], 'episode')}, {plural(totals['frames'], 'frame')}, {length} "
        f"at {totals['fps']:g} frames/s; {robot}",
    ]
    cameras = [f"{k} ({_size(shape)})" for k, shape in totals["cameras"].items()]
    lines += wrapped("cameras", cameras)
    if totals["success_rate"] is not None:
        good = round(totals["success_rate"] * totals["success_known"])
        assumed = f"; assumed in {totals['success_assumed']:,}" if totals["success_assumed"] else ""
        known = plural(totals["success_known"], "episode")
        lines.append(f"{'success':<12}{good:,} of {known} ({percent(totals['success_rate'])}){assumed}")
    if totals["rollouts"]:
        lines += _human(totals)
    if totals["set_aside"]:
        lines.append(f"{'set aside':<12}{plural(totals['set_aside'], 'episode')}")
    if totals["left_out"]:
        lines.append(f"{'left out':<12}{plural(len(totals['left_out']), 'recording')} by convert")
    if totals["subtasks"]:
        lines += wrapped("subtasks", [_word(s) for s in totals["subtasks"]])
    lines += wrapped("labels", totals["label_columns"])
    if totals["pipeline"]:
        steps = " → ".join(s.get("type", "?") for s in totals["pipeline"].get("steps") or [])
        name = totals["pipeline"].get("name") or "unnamed"
        lines.append(cut(f"{'pipeline':<12}{name}: {steps} (igrft {totals['igrft_version']})", WIDTH))
    return lines


def _human(totals: dict[str, Any]) -> list[str]:
    """Takeovers, in a line or two, and the tasks, which the table has no room for."""
    held = totals["rollouts"]
    share = held["human_share"]
    drove = "" if share is None else f"; a human drove {percent(share)} of the frames"
    lines = [
        f"{'takeovers':<12}{held['takeovers']:,} in {held['episodes_with_takeovers']} of "
        f"{plural(held['episodes'], 'episode')}{drove}"
    ]
    if held["reasons"]:
        said = [
            f"{r['by'] or 'not recorded'}: {r['why'] or 'not recorded'} ({r['takeovers']})" for r in held["reasons"]
        ]
        lines += wrapped("", said)
    return [*lines, *wrapped("tasks", totals["tasks"])]


def _word(subtask: dict[str, Any]) -> str:
    mean = "" if subtask["mean_seconds"] is None else f" {subtask['mean_seconds']:.1f} s"
    done = "" if subtask["done"] is None else f" ({subtask['done']}/{subtask['episodes']} done)"
    return f"{cut(subtask['name'], 40)}{mean}{done}"


def _size(shape: Sequence[int] | None) -> str:
    return f"{shape[1]}x{shape[0]}" if shape and len(shape) == 3 else "size not declared"


def _cells(row: EpisodeSummary) -> dict[str, str]:
    """What the table says of an episode, by the name of the column."""
    success = {True: "yes", False: "no", None: "-"}[row.success]
    listed = row.listed
    done = "-" if not listed else f"{sum(bool(s['done']) for s in listed)}/{len(listed)}"
    if listed and all(s["done"] is None for s in listed):
        done = str(len(listed))
    aside = "(set aside) " if row.set_aside else ""
    return {
        "episode": str(row.episode),
        "frames": str(row.frames),
        "seconds": f"{row.seconds:.1f}",
        "success": success,
        "subtasks": done,
        "interaction": percent(row.interaction_share),
        "return": number(row.return_at_start),
        "task": aside + "; ".join(row.tasks),
        "human": percent(row.human_share),
        "takeovers": "-" if row.takeovers is None else str(len(row.takeovers)),
        "by whom, and why": aside + _who(row),
    }


def _who(row: EpisodeSummary) -> str:
    """``expert: the value stagnates (2)``, for each who and why of an episode."""
    counts: dict[str, int] = {}
    for t in row.takeovers or ():
        said = ": ".join(v for v in (t["by"], t["why"]) if v) or "not recorded"
        counts[said] = counts.get(said, 0) + 1
    return "; ".join(f"{said} ({n})" if n > 1 else said for said, n in counts.items())


def _without_episode(reason: str) -> str:
    """A reason without the ``episode 3:`` that it may begin with."""
    head, _, rest = reason.partition(": ")
    return rest if rest and head.startswith("episode ") else reason
