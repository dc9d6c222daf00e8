"""How good a label of interaction is, against the frames on which something truly moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from igrft.steps.interaction.smoothing import runs, smooth

#: Seconds around a true onset in which a found one is looked for.
REACH = 0.5
#: Seconds: shorter rests between true motions, and shorter motions, make no onset. Contacts rattle.
REST = 0.1


@dataclass(frozen=True)
class Score:
    """Over all frames of some episodes.

    Attributes:
        precision, recall, f1: of frames; NaN where nothing is labelled, or nothing moves.
        onset: median distance of a true onset from the nearest found one, frames; NaN where none is found.
        onset_90: its 90th percentile.
        missed: share of true onsets that have none within REACH.
        onsets: true ones.
        share, truth: shares of frames that are labelled, and that should be.
    """

    precision: float
    recall: float
    f1: float
    onset: float
    onset_90: float
    missed: float
    onsets: int
    share: float
    truth: float


def score(labels: Sequence[np.ndarray], truths: Sequence[np.ndarray], fps: float) -> Score:
    """Score episodes, bool [T] each."""
    label, truth = np.concatenate(labels), np.concatenate(truths)
    both, said, true = (int(np.count_nonzero(v)) for v in (label & truth, label, truth))
    far = [d for pair in zip(labels, truths, strict=True) for d in onset_errors(*pair, fps)]
    found = np.array([abs(d) for d in far if d is not None])
    return Score(
        precision=both / said if said else float("nan"),
        recall=both / true if true else float("nan"),
        f1=2 * both / (said + true) if said + true else float("nan"),
        onset=float(np.median(found)) if len(found) else float("nan"),
        onset_90=float(np.percentile(found, 90)) if len(found) else float("nan"),
        missed=1 - len(found) / len(far) if far else float("nan"),
        onsets=len(far),
        share=said / len(label),
        truth=true / len(truth),
    )


def onset_errors(label: np.ndarray, truth: np.ndarray, fps: float) -> list[int | None]:
    """For each true onset, by how many frames the nearest found one is late; None where none is within REACH.

    An onset is the first frame of a run; rests and runs of the truth shorter than REST are bridged and dropped, and a
    run that begins with the episode has no onset.
    """
    rest = max(round(REST * fps), 1)
    starts = [int(s) for s, _ in runs(smooth(truth, close_gaps=rest, shortest_phase=rest)) if s > 0]
    found = np.array([int(s) for s, _ in runs(label)])
    errors: list[int | None] = []
    for start in starts:
        away = found - start
        nearest = int(away[np.abs(away).argmin()]) if len(away) else None
        errors.append(nearest if nearest is not None and abs(nearest) <= REACH * fps else None)
    return errors
