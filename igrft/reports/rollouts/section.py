"""What the page says of rollouts as a whole: success, who took over, why, and under which noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.reports import palette
from igrft.reports.rollouts.record import Rollouts
from igrft.reports.run.axes import Axes
from igrft.reports.summary import EpisodeSummary
from igrft.reports.text import percent, plural

#: Bars of a chart; of more episodes neighbours are put together.
_MOST_BARS = 120


@dataclass(frozen=True)
class RolloutSection:
    """Attributes:
    facts: (name, value).
    header, rows: takeovers by who and why.
    chart: share of each episode that a human drove, as ``<svg>``; empty where nobody did.
    warnings: for the head of the page.
    """

    facts: list[tuple[str, str]]
    header: list[str]
    rows: list[list[str]]
    chart: str = ""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reason:
    """Takeovers of one kind.

    Attributes:
        by, why: as recorded; None where nobody wrote it down.
        takeovers, episodes: how many, and in how many.
        frames: that they took.
        successes: of those episodes.
    """

    by: str | None
    why: str | None
    takeovers: int
    episodes: int
    frames: int
    successes: int

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)


def counted(summaries: Sequence[EpisodeSummary]) -> list[EpisodeSummary]:
    """Those that count: an episode set aside is in no statistic."""
    return [s for s in summaries if s.set_aside is None]


def reasons(summaries: Sequence[EpisodeSummary]) -> list[Reason]:
    """Takeovers by who and why, the commonest first."""
    held: dict[tuple[str | None, str | None], list[tuple[EpisodeSummary, int]]] = {}
    for s in counted(summaries):
        for t in s.takeovers or ():
            held.setdefault((t["by"], t["why"]), []).append((s, t["end"] - t["start"]))
    found = []
    for (by, why), ones in held.items():
        episodes = {s.episode: bool(s.success) for s, _ in ones}
        frames = sum(n for _, n in ones)
        found.append(Reason(by, why, len(ones), len(episodes), frames, sum(episodes.values())))
    return sorted(found, key=lambda r: -r.takeovers)


def human_share(summaries: Sequence[EpisodeSummary]) -> float | None:
    """Share of all frames that a human drove; None where the dataset does not say."""
    known = [s for s in counted(summaries) if s.human_share is not None]
    frames = sum(s.frames for s in known)
    return sum((s.human_share or 0.0) * s.frames for s in known) / frames if frames else None


def is_rolled_out(dataset: DatasetReader, summaries: Sequence[EpisodeSummary], rollouts: Rollouts) -> bool:
    """Whether a policy drove: the dataset says so, or somebody overrode it."""
    return bool(rollouts.settings or rollouts.note) or any(s.takeovers for s in summaries)


def rollout_section(
    dataset: DatasetReader, summaries: Sequence[EpisodeSummary], rollouts: Rollouts
) -> RolloutSection | None:
    """The section, or None where nothing was rolled out."""
    if not is_rolled_out(dataset, summaries, rollouts):
        return None
    facts = _outcome(counted(summaries))
    settings = rollouts.settings or {}
    facts += _policy(settings)
    warnings = [rollouts.note] if rollouts.note else []
    noise = _noise(dataset)
    if noise is not None:
        low, high = noise
        trained = trained_noise(settings)
        said = f"{low:.3g} to {high:.3g}" if high > low else f"{high:.3g}"
        facts.append(("noise drawn", said + (f"; trained with {_span(trained)}" if trained else "")))
        if trained and high > trained[1] * (1 + 1e-6):
            warnings.append(
                f"Noise of up to {high:.3g} was drawn, and the flow was trained with {_span(trained)}: rollouts leave "
                "what the policy knows. Lower exploration.sigma_base, or train with objective.noise_scale up to "
                f"{high:.3g}."
            )
    rows = [
        [
            one.by or "not recorded",
            one.why or "not recorded",
            f"{one.takeovers:,}",
            f"{one.episodes:,}",
            f"{one.frames / one.takeovers / dataset.fps:.1f} s",
            f"{one.successes} of {one.episodes}",
        ]
        for one in reasons(summaries)
    ]
    header = ["who", "why", "takeovers", "episodes", "mean length", "episodes that then succeeded"]
    return RolloutSection(facts, header, rows, share_chart(summaries), warnings)


def trained_noise(settings: Mapping[str, Any]) -> tuple[float, float] | None:
    """Noise scales that the flow was trained with, as the rollouts recorded it."""
    held = settings.get("trained_noise")
    if isinstance(held, list) and len(held) == 2 and all(isinstance(v, int | float) for v in held):
        return float(held[0]), float(held[1])
    return None


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g}" if limits[0] == limits[1] else f"{limits[0]:g} to {limits[1]:g}"


def _outcome(summaries: Sequence[EpisodeSummary]) -> list[tuple[str, str]]:
    known = [s for s in summaries if s.success is not None]
    out = []
    if known:
        alone = [s for s in known if not s.takeovers]
        out.append(("success", _share(sum(bool(s.success) for s in known), len(known))))
        if len(alone) < len(known):
            out.append(("without takeover", f"{_share(sum(bool(s.success) for s in alone), len(alone))} succeeded"))
    said = [s for s in summaries if s.takeovers is not None]
    if said:
        total, helped = sum(len(s.takeovers or ()) for s in said), sum(bool(s.takeovers) for s in said)
        out.append(("takeovers", f"{total:,}, in {helped} of {plural(len(said), 'episode')}"))
    share = human_share(summaries)
    if share is not None:
        out.append(("a human drove", f"{percent(share)} of the frames"))
    ends = Counter(s.ended for s in summaries if s.ended)
    if ends:
        out.append(("ended by", ", ".join(f"{name} ({n})" for name, n in ends.most_common())))
    return out


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({percent(part / whole)})" if whole else "")


def _policy(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    if settings.get("checkpoint"):
        out.append(("policy", str(settings["checkpoint"])))
    rollout = settings.get("rollout")
    if isinstance(rollout, Mapping) and isinstance(rollout.get("round"), int):
        out.append(("round", str(rollout["round"])))
    exploration = settings.get("exploration")
    if isinstance(exploration, Mapping):
        kind = str(exploration.get("type"))
        # Of the other rules these settings say nothing.
        shown = {"interaction": ("sigma_base", "alpha", "sigma_min"), "uniform": ("uniform",)}.get(kind, ())
        held = [f"{k} {exploration[k]:g}" for k in shown if isinstance(exploration.get(k), int | float)]
        out.append(("exploration", ", ".join([kind, *held])))
    return out


def _noise(dataset: DatasetReader) -> tuple[float, float] | None:
    """Least and greatest recorded noise scale."""
    if c.NOISE_SCALE not in dataset.features:
        return None
    values = load_labels(dataset, [c.NOISE_SCALE])[c.NOISE_SCALE]
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else None


def share_chart(summaries: Sequence[EpisodeSummary]) -> str:
    """A bar an episode, in the order of recording: the share of it that a human drove."""
    held = [s for s in counted(summaries) if s.human_share is not None]
    if not any(s.human_share for s in held):
        return ""
    axes = Axes((0.0, float(len(held))), (0.0, 100.0), label="episode, as recorded", name="% driven by a human")
    step = -(-len(held) // _MOST_BARS)
    for at in range(0, len(held), step):
        group = held[at : at + step]
        mean = 100 * float(np.mean([s.human_share for s in group]))
        good = sum(bool(s.success) for s in group)
        # A bar of one episode has the colour of its outcome.
        colour = palette.NEUTRAL if step > 1 else palette.SUCCESS if good else palette.FAILURE
        takeovers = sum(len(s.takeovers or ()) for s in group)
        if step == 1:
            said = f"episode {group[0].episode}: {'success' if good else 'failure'}, "
        else:
            said = f"episodes {group[0].episode} to {group[-1].episode}: {good} of {len(group)} succeeded, "
        said += f"{plural(takeovers, 'takeover')}, a human drove {mean:.0f} %"
        # One without help is a line on the ground, so that its outcome shows.
        axes.box(at + 0.12 * step, at + len(group) - 0.12 * step, 0.0, max(mean, 1.5), colour, said)
    return axes.finish()
