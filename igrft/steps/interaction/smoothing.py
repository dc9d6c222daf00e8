"""Phases of interaction: closing gaps and dropping what is too short. Off by default (ours)."""

from __future__ import annotations

import numpy as np


def runs(flags: np.ndarray) -> np.ndarray:
    """[n, 2] int64: first frame and end (exclusive) of every run of true values in ``flags`` [T]."""
    padded = np.concatenate([[False], np.asarray(flags, dtype=bool), [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)


def smooth(flags: np.ndarray, *, close_gaps: int = 0, shortest_phase: int = 0) -> np.ndarray:
    """Smooth a label, bool [T].

    First, gaps of at most ``close_gaps`` frames between two phases become interaction; then phases
    of fewer than ``shortest_phase`` frames become none. 0 turns either off. Frames before the first
    phase and after the last are no gaps.
    """
    out = np.array(flags, dtype=bool)
    if close_gaps > 0:
        phases = runs(out)
        for end, start in zip(phases[:-1, 1], phases[1:, 0], strict=True):
            if start - end <= close_gaps:
                out[end:start] = True
    if shortest_phase > 0:
        for start, end in runs(out):
            if end - start < shortest_phase:
                out[start:end] = False
    return out
