"""A small fully connected network on the CPU: what tells robot pixels from others, from a person's few masks.

Plain NumPy, so that a worker needs neither PyTorch nor scikit-learn, and the same samples give the same network.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Adam's constants, and the weight decay that is applied apart from the gradient.
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_DECAY = 1e-4
#: Rows that are multiplied at a time: they stay in the cache, and BLAS starts no threads for so few. Its threads would
#: fight with the other workers' (a factor of 20 on a busy machine).
_ROWS = 256


@dataclass
class Network:
    """``sigmoid(W_n relu(… relu(W_1 z + b_1) …) + b_n)`` of features z.

    Attributes:
        weights: float32 [inputs, outputs] of each layer.
        biases: float32 [outputs] of each layer.
    """

    weights: list[np.ndarray]
    biases: list[np.ndarray]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities, float32 [n], of features float32 [n, features]."""
        probability = np.empty(len(features), np.float32)
        for start in range(0, len(features), _ROWS):
            part = slice(start, start + _ROWS)
            probability[part] = self._some(features[part])
        return probability

    def _some(self, features: np.ndarray) -> np.ndarray:
        hidden = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = hidden @ weight
            hidden += bias
            np.maximum(hidden, 0, out=hidden)
        return _sigmoid((hidden @ self.weights[-1])[:, 0] + self.biases[-1][0])


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-np.clip(logit, -30, 30)))
    return found


def train(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    hidden: Sequence[int] = (48, 24),
    updates: int = 4000,
    batch: int = _ROWS,
    rate: float = 5e-3,
    seed: int = 0,
) -> Network:
    """Fit a network by Adam on cross-entropy, the rate falling as a cosine to nothing.

    Args:
        features: float32 [n, features].
        labels: bool [n].
        hidden: widths of the hidden layers.
        updates, batch, rate: of the optimiser.
        seed: of the first weights and the draws; the same seed gives the same network.
    """
    rng = np.random.default_rng(seed)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = features.std(axis=0, dtype=np.float64).astype(np.float32)
    scale = (1 / np.maximum(deviation, 1e-3)).astype(np.float32)
    z = (features - mean) * scale
    y = labels.astype(np.float32)
    widths = [z.shape[1], *hidden, 1]
    weights = [(rng.standard_normal((a, b)) * np.sqrt(2 / a)).astype(np.float32) for a, b in itertools.pairwise(widths)]
    biases = [np.zeros(b, np.float32) for b in widths[1:]]
    values = [*weights, *biases]
    first, second = ([np.zeros_like(v) for v in values] for _ in range(2))
    for update in range(1, updates + 1):
        take = rng.integers(0, len(z), min(batch, len(z)))
        gradients = _gradients(z[take], y[take], weights, biases)
        step = rate * 0.5 * (1 + np.cos(np.pi * update / updates))
        for i, gradient in enumerate(gradients):
            first[i] += (1 - _BETA1) * (gradient - first[i])
            second[i] += (1 - _BETA2) * (gradient * gradient - second[i])
            by = first[i] / (1 - _BETA1**update) / (np.sqrt(second[i] / (1 - _BETA2**update)) + _EPSILON)
            values[i] -= (step * (by + _DECAY * values[i])).astype(np.float32)
    # What standardised the features goes into the first layer.
    biases[0] = biases[0] - (mean * scale) @ weights[0]
    weights[0] = scale[:, None] * weights[0]
    return Network(weights, biases)


def _gradients(
    z: np.ndarray, y: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Of the mean cross-entropy over a batch: for every weight, then every bias."""
    inputs = [z]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(np.maximum(inputs[-1] @ weight + bias, 0))
    logit = (inputs[-1] @ weights[-1])[:, 0] + biases[-1][0]
    error = (_sigmoid(logit) - y)[:, None] / len(y)
    by_weight, by_bias = [], []
    for layer in range(len(weights) - 1, -1, -1):
        by_weight.append(inputs[layer].T @ error)
        by_bias.append(error.sum(axis=0))
        if layer:
            error = (error @ weights[layer].T) * (inputs[layer] > 0)
    return [*by_weight[::-1], *by_bias[::-1]]
