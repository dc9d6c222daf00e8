"""Vectorised statistics equal LeRobot's, figure by figure."""

from __future__ import annotations

import numpy as np
import pytest

from igrft.dataset.statistics import NAMES, aggregate, episode_statistics, stacked_columns


def columns(length: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "normal": rng.normal(size=length).astype(np.float32),
        "constant": np.full(length, 0.37, np.float32),
        "flag": rng.random(length) > 0.7,
        "index": rng.integers(0, 5, length),
        "ramp": (np.linspace(1, 0, length) ** 2).astype(np.float32),
        "wide": (rng.random(length) * 1e4 - 5e3).astype(np.float32),
        "steps": np.round(rng.random(length) * 4).astype(np.float32),
    }


@pytest.fixture(scope="module")
def lerobot():
    return pytest.importorskip("lerobot.datasets.compute_stats")


def test_episode_statistics_equal_lerobots(lerobot):
    rng = np.random.default_rng(0)
    for length in [1, 2, 3, 5, 10, 99, 100, 101, 343, *rng.integers(2, 700, 40).tolist()]:
        values = columns(length, rng)
        for names, stacked in stacked_columns(values):
            found = episode_statistics(stacked)
            for i, name in enumerate(names):
                expected = lerobot.get_feature_stats(values[name], axis=0, keepdims=True)
                assert set(expected) == set(NAMES)
                span = max(1.0, float(np.abs(values[name].astype(float)).max()))
                for statistic in NAMES:
                    assert float(found[statistic][i]) == pytest.approx(
                        float(expected[statistic].ravel()[0]), abs=1e-6 * span
                    ), (name, statistic, length)


def test_aggregation_equals_lerobots(lerobot):
    rng = np.random.default_rng(1)
    parts = [lerobot.get_feature_stats(rng.normal(size=n), axis=0, keepdims=True) for n in (5, 40, 17)]
    expected = lerobot.aggregate_feature_stats(parts)
    found = aggregate({s: np.stack([p[s] for p in parts]) for s in NAMES})
    for statistic in NAMES:
        np.testing.assert_allclose(found[statistic], expected[statistic], rtol=1e-12)
