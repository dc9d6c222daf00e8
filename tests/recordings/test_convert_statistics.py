"""Statistics of pictures, counted by value, against LeRobot's function."""

from __future__ import annotations

import numpy as np
import pytest
from lerobot.datasets.compute_stats import auto_downsample_height_width, get_feature_stats, sample_indices

from igrft.recordings.statistics import _thinned, numeric_statistics, picture_statistics, sampled_rows


def by_lerobot(pictures: np.ndarray) -> dict[str, np.ndarray]:
    small = np.stack([auto_downsample_height_width(p.transpose(2, 0, 1)) for p in pictures])
    stats = get_feature_stats(small, axis=(0, 2, 3), keepdims=True)
    return {k: v if k == "count" else np.squeeze(v / 255.0, axis=0) for k, v in stats.items()}


@pytest.mark.parametrize("kind", ["noise", "dark", "two values", "constant", "large"])
def test_equal_to_lerobots(kind: str) -> None:
    """Where LeRobot's float32 sums are exact enough; quantiles to within one of its bins."""
    rng = np.random.default_rng(3)
    shape = (3, 480, 640, 3) if kind == "large" else (6, 24, 32, 3)
    pictures = {
        "noise": rng.integers(0, 256, shape, dtype=np.uint8),
        "large": rng.integers(0, 256, shape, dtype=np.uint8),
        "dark": rng.integers(3, 9, shape, dtype=np.uint8),
        "two values": (rng.random(shape) < 0.3).astype(np.uint8) * 200,
        "constant": np.full(shape, 77, np.uint8),
    }[kind]
    ours, theirs = picture_statistics(pictures), by_lerobot(pictures)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape
        np.testing.assert_allclose(ours[name], value, atol=3e-4, err_msg=name)


def test_rows_and_pixels_that_lerobot_samples() -> None:
    """At every length and size about which the two could part."""
    for length in (*range(1, 700), 1000, 2399, 2400, 54_000, 215_443, 215_445, 300_000):
        assert sampled_rows(length) == sample_indices(length), length
    for height, width in ((299, 299), (300, 200), (200, 300), (301, 301), (480, 640), (640, 480), (749, 750), (9, 990)):
        picture = np.arange(height * width * 3, dtype=np.uint32).astype(np.uint8).reshape(height, width, 3)
        np.testing.assert_array_equal(
            _thinned(picture).transpose(2, 0, 1), auto_downsample_height_width(picture.transpose(2, 0, 1))
        )


def test_mean_of_many_pictures_is_exact() -> None:
    """LeRobot's is off by more than a percent here, having summed six million pixels in float32."""
    picture = np.random.default_rng(0).integers(100, 250, (256, 256, 3), dtype=np.uint8)
    ours = picture_statistics(picture for _ in range(100))
    np.testing.assert_allclose(ours["mean"].ravel(), picture.mean(axis=(0, 1)) / 255, rtol=1e-12)
    np.testing.assert_allclose(ours["std"].ravel(), picture.std(axis=(0, 1)) / 255, rtol=1e-9)
    assert ours["count"].tolist() == [100]


def test_rows_that_are_not_finite_count_in_nothing() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 9.0], [3.0, 4.0], [5.0, np.inf]])
    assert numeric_statistics(values)["max"].tolist() == [3.0, 4.0]
    assert numeric_statistics(values)["count"].tolist() == [2]
    assert numeric_statistics(np.full(4, np.nan))["mean"].tolist() == [0.0]
    assert numeric_statistics(np.array([True, False]))["mean"].tolist() == [0.5]
