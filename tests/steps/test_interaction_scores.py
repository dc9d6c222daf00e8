"""The measures of ``benchmarks/interaction_quality.py``."""

from __future__ import annotations

import numpy as np
import pytest
from interaction_scores import onset_errors, score


def flags(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


def test_frames_that_are_right() -> None:
    found = score([flags("0110"), flags("0011")], [flags("0011"), flags("0011")], fps=10)
    assert (found.precision, found.recall, found.f1) == (0.75, 0.75, 0.75)
    assert (found.share, found.truth) == (0.5, 0.5)
    nothing = score([flags("0000")], [flags("0011")], fps=10)
    assert np.isnan(nothing.precision) and nothing.recall == 0 and nothing.f1 == 0 and nothing.missed == 1
    assert np.isnan(score([flags("00")], [flags("00")], fps=10).f1)


def test_onsets_early_late_missed_and_rattling() -> None:
    truth = flags("0001111000000111100000000001111")
    assert onset_errors(truth, truth, fps=10) == [0, 0, 0]
    label = flags("0111111000000001100000000000000")
    assert onset_errors(label, truth, fps=10) == [-2, 2, None]
    # A rest of one frame is none, and a run of one frame makes no onset; nor does one that begins with the episode.
    assert onset_errors(label, flags("1111000110111000000000000000100"), fps=20) == [-6]
    assert onset_errors(flags("0" * 31), truth, fps=10) == [None] * 3


def test_onset_errors_are_summed_up() -> None:
    truth = flags("0000011111" * 3)
    label = flags("0000011111" + "0000001111" + "0000000000")
    found = score([label], [truth], fps=10)
    assert (found.onset, found.onsets) == (0.5, 3)
    assert found.onset_90 == pytest.approx(0.9) and found.missed == pytest.approx(1 / 3)
