"""What the files of a run say, in figures: findings and charts are both made from this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from igrft.reports.run import figures
from igrft.reports.run.read import Rows, Run

#: The critic's value heads; V is their weighted sum.
HEADS = ("trajectory", "subtask")
TOTAL = "total"
#: "Late" is the last quarter of training: what the run ended with, and enough samples to say it.
_LATE_SHARE = 0.25
#: With fewer late samples than this, all samples with an advantage are taken.
_LEAST_LATE = 500
#: Training R² of an evaluation is over this many samples before it: the critic changes meanwhile.
_FIT_ROWS = 4096
#: An advantage, in units of beta, that changes a weight by a tenth: exp(0.1) = 1.105.
NOTICEABLE = 0.1
#: Episodes with fewer samples are not called all positive or all negative.
LEAST_SAMPLES = 10


@dataclass(frozen=True)
class Fit:
    """The critic at one evaluation; None where not known or undefined.

    Attributes:
        heldout, training: R² by head (those of :attr:`Diagnosis.heads`).
        precision, recall: of the interaction head on held-out frames, at 0.5.
        frames, episodes: held-out ones that were looked at.
    """

    step: int
    heldout: dict[str, float | None]
    training: dict[str, float | None]
    precision: float | None
    recall: float | None
    frames: int
    episodes: int


@dataclass(frozen=True)
class Share:
    """Some of the late samples; None where not known.

    Attributes:
        count, share: how many, and of all.
        advantage, weight: means.
        negative: share with an advantage below 0.
        held_back: share whose advantage takes a noticeable part off the weight (see NOTICEABLE).
    """

    count: int
    share: float
    advantage: float | None
    negative: float | None
    held_back: float | None
    weight: float | None


class Diagnosis:
    """Figures of a run; everything is None or empty where the run has no such thing.

    Attributes:
        run: what was read.
        late: samples with an advantage, of the last quarter of training; ``late_at`` is where they stand
            among all, ``late_from`` the step from which they are.
        heads: whose fit is shown: both value heads and V, or V alone where only one head learns.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.late_at = _late(run.samples)
        self.late = _rows_of(run.samples, self.late_at)
        self.late_from = int(self.late["step"][0]) if len(self.late_at) else 0
        self.beta = run.number("objective.beta", 0.05)
        self.limit = run.number("objective.weight_limit", 10.0)
        self.idle_share = run.number("rewards.idle_speed", 0.05)
        # As the trainer has it: the sparse reward has one component, and IQL learns one value of the whole
        # reward; both stand in the trajectory head.
        sparse = run.setting("rewards.kind", "hybrid") == "sparse"
        recipe = (run.number("rewards.trajectory_weight", 0.4), run.number("rewards.subtask_weight", 0.6))
        self.weights = {
            "return": (1.0, 0.0) if sparse else recipe,
            "value": (1.0, 0.0) if sparse or self.objective == "iql" else recipe,
        }
        self.heads = (TOTAL,) if self.weights["value"] == (1.0, 0.0) else (*HEADS, TOTAL)

    # What there is, and why not.

    @property
    def objective(self) -> str:
        return str(self.run.setting("objective.type", "sft"))

    @property
    def has_advantages(self) -> bool:
        return bool(len(self.late["step"]))

    @property
    def has_critic(self) -> bool:
        values = self.run.samples["value_trajectory"]
        return bool(np.isfinite(values).any() or len(self.run.heldout["step"]) or self.run.metrics.heldout)

    @property
    def why_no_advantages(self) -> str:
        """Why the page shows none."""
        if self.objective == "sft":
            return "This run has no advantages and no weights: objective.type is sft, which counts every sample alike."
        if not len(self.run.samples["step"]):
            return "No samples are recorded yet (diagnosis/samples is empty): each checkpoint adds some."
        return (
            f"None of the {len(self.run.samples['step']):,} recorded samples has an advantage: the critic starts at "
            f"step {self.run.number('critic.start', 0):,.0f}, and the run is at step {self.run.metrics.last_step:,}."
            if self.run.setting("advantage.source", "critic") == "critic"
            else "The recorded samples have no advantage: the datasets' value columns are unset on them."
        )

    @property
    def why_no_critic(self) -> str:
        """Why the page shows none."""
        if self.run.setting("critic.enabled", True) is False:
            return "This run trains no critic: critic.enabled is false."
        start = self.run.number("critic.start", 0)
        if self.run.metrics.last_step < start:
            return (
                f"The critic has not started: critic.start is {start:,.0f}, the run is at step "
                f"{self.run.metrics.last_step:,}."
            )
        return "The run has recorded no predictions of a critic."

    @property
    def why_no_heldout(self) -> str:
        """Why there are no held-out fits, where there is a critic."""
        if not self.run.number("critic.holdout", 0.1):
            return "No episode is held out (critic.holdout is 0), so nothing shows whether the critic overfits."
        if not self.run.number("critic.evaluate_every", 1000):
            return "The critic is never evaluated on its held-out episodes (critic.evaluate_every is 0)."
        if self.run.metrics.lines and max(self.run.metrics.lines) >= self.run.number("steps", math.inf):
            return "No episode was held out of the critic (fewer than four episodes), so overfitting cannot be seen."
        return (
            "The critic has not been evaluated on held-out episodes yet, or there are too few episodes to hold any out."
        )

    # Advantages and weights.

    def recent(self, key: str) -> float | None:
        """Mean of a logged number over the last quarter of the steps that have it."""
        steps, values = self.run.metrics.series(key)
        if not len(steps):
            return None
        return figures.mean(values[steps > steps[-1] - _LATE_SHARE * (steps[-1] - steps[0]) - 1])

    @cached_property
    def clipped(self) -> float | None:
        """Share of weights at their limit."""
        logged = self.recent("clipped_share")
        if logged is not None or not self.has_advantages:
            return logged
        return figures.mean((self.late["weight"] >= self.limit * (1 - 1e-6)).astype(float))

    @cached_property
    def idle(self) -> tuple[Share, Share] | None:
        """(samples that stand still, the others); None where motion or advantage is not known."""
        known = np.isfinite(self.late["motion"])
        if not known.any():
            return None
        still = self.still
        return self.part(still), self.part(known & ~still)

    @cached_property
    def still(self) -> np.ndarray:
        """Late samples that stand still, against the median of their episode, bool [n]."""
        rows = self.run.samples
        keys = _keys(rows["dataset"], rows["episode"])
        return figures.idle(keys, rows["motion"], self.idle_share)[self.late_at]

    @cached_property
    def interventions(self) -> tuple[Share, Share] | None:
        """(samples on which a human overrode a policy, the others); None where there are none."""
        flags = self.late["intervention"]
        return (self.part(flags), self.part(~flags)) if flags.any() else None

    @cached_property
    def outcomes(self) -> tuple[Share, Share] | None:
        """(samples of successes, of failures); None where not both are there."""
        good = np.isin(self.late_keys, self._successes)
        bad = ~good & np.isfinite(self.late["return_trajectory"])
        return (self.part(good), self.part(bad)) if good.any() and bad.any() else None

    @cached_property
    def ends(self) -> Share | None:
        """Samples of the last tenth of successes; None where there are none."""
        last = self.late["frame"] >= 0.9 * self.late["length"]
        at = last & np.isin(self.late_keys, self._successes)
        return self.part(at) if at.any() else None

    @cached_property
    def episodes(self) -> figures.EpisodeShares:
        """Late samples by episode."""
        return figures.by_episode(self.late["dataset"], self.late["episode"], self.late["advantage"])

    @cached_property
    def episode_success(self) -> np.ndarray:
        """Whether each of :attr:`episodes` succeeded, bool [E]."""
        return np.isin(_keys(self.episodes.dataset, self.episodes.episode), self._successes)

    @cached_property
    def late_keys(self) -> np.ndarray:
        return _keys(self.late["dataset"], self.late["episode"])

    @cached_property
    def _successes(self) -> np.ndarray:
        """Keys of the episodes whose trajectory return is above 0 on any sample: it is 0 throughout a failure."""
        rows = self.run.samples
        return np.unique(_keys(rows["dataset"], rows["episode"])[rows["return_trajectory"] > 0])

    def part(self, mask: np.ndarray) -> Share:
        """Figures of some late samples, bool [n]."""
        advantages = self.late["advantage"][mask]
        return Share(
            count=int(mask.sum()),
            share=float(mask.mean()) if len(mask) else 0.0,
            advantage=figures.mean(advantages),
            negative=figures.mean((advantages < 0).astype(float)),
            held_back=figures.mean((advantages < -NOTICEABLE * self.beta).astype(float)),
            weight=figures.mean(self.late["weight"][mask]),
        )

    # The critic.

    def value(self, rows: Rows, head: str, kind: str = "value") -> np.ndarray:
        """Predicted value (``kind`` return: the reference) of a head, or of the total, [n]."""
        if head != TOTAL:
            return rows[f"{kind}_{head}"]
        out: np.ndarray = np.zeros(len(rows["step"]))
        for weight, name in zip(self.weights[kind], HEADS, strict=True):
            if weight:
                out = out + weight * rows[f"{kind}_{name}"]
        return out

    def r2(self, rows: Rows, head: str) -> float | None:
        return figures.r_squared(self.value(rows, head), self.value(rows, head, "return"))

    @cached_property
    def fits(self) -> list[Fit]:
        """The critic at each evaluation, in order of steps."""
        steps = sorted({*np.unique(self.run.heldout["step"]).tolist(), *self.run.metrics.heldout})
        out, before = [], 0
        for step in steps:
            rows = _rows_of(self.run.heldout, self.run.heldout["step"] == step)
            out.append(self._fit(step, before, rows))
            before = step
        return out

    @cached_property
    def last_heldout(self) -> Rows:
        """Held-out frames of the last evaluation that has any."""
        steps = self.run.heldout["step"]
        return _rows_of(self.run.heldout, steps == (steps[-1] if len(steps) else 0))

    @cached_property
    def calibration(self) -> list[figures.Bin]:
        rows = self.last_heldout
        return figures.calibration(rows["interaction_probability"], rows["interaction"])

    def _fit(self, step: int, before: int, rows: Rows) -> Fit:
        line = {k: None if np.isnan(v) else v for k, v in self.run.metrics.heldout.get(step, {}).items()}
        training = self._training_rows(before, step)
        trained = {h: self.r2(training, h) for h in self.heads}
        if len(rows["step"]):
            precision, recall = figures.precision_recall(rows["interaction_probability"], rows["interaction"])
            heldout = {h: self.r2(rows, h) for h in self.heads}
            number = len(np.unique(_keys(rows["dataset"], rows["episode"])))
            return Fit(step, heldout, trained, precision, recall, len(rows["step"]), number)
        return Fit(
            step,
            {h: line.get("r2_trajectory" if self.heads == (TOTAL,) else f"r2_{h}") for h in self.heads},
            trained,
            line.get("interaction_precision"),
            line.get("interaction_recall"),
            int(line.get("frames") or 0),
            int(line.get("episodes") or 0),
        )

    def _training_rows(self, before: int, step: int) -> Rows:
        """The last samples of (before, step] that the critic was trained on.

        The actor sees the critic's held-out episodes too, so they are taken out here.
        """
        rows = self.run.samples
        start, end = np.searchsorted(rows["step"], [before, step], side="right")
        at = np.arange(start, end)
        at = at[np.isfinite(rows["value_trajectory"][at])]
        held = np.isin(_keys(rows["dataset"][at], rows["episode"][at]), self._heldout_keys)
        return _rows_of(rows, at[~held][-_FIT_ROWS:])

    @cached_property
    def _heldout_keys(self) -> np.ndarray:
        return np.unique(_keys(self.run.heldout["dataset"], self.run.heldout["episode"]))

    # Speed.

    @cached_property
    def waiting(self) -> float | None:
        """Share of the time that waits for data, over the logged steps but the first."""
        (_, waits), (_, seconds) = self.run.metrics.series("seconds_data"), self.run.metrics.series("seconds")
        if len(waits) != len(seconds) or not len(seconds):
            return None
        # The first logged step holds the start of the workers.
        kept = slice(1, None) if len(seconds) > 1 else slice(None)
        total = float(np.nansum(seconds[kept]))
        return float(np.nansum(waits[kept])) / total if total > 0 else None


def _late(samples: Rows) -> np.ndarray:
    """Where the late samples stand, int64."""
    known = np.flatnonzero(np.isfinite(samples["advantage"]))
    if not len(known):
        return known
    steps = samples["step"][known]
    late = known[steps > steps[-1] - _LATE_SHARE * (steps[-1] - steps[0])]
    return late if len(late) >= _LEAST_LATE else known


def _rows_of(rows: Rows, at: np.ndarray) -> Rows:
    return {n: v[at] for n, v in rows.items()}


def _keys(dataset: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """One number for a (dataset, episode), int64."""
    return np.asarray(dataset, dtype=np.int64) * (1 << 32) + np.asarray(episode, dtype=np.int64)
