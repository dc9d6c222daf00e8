"""The critic's fit on episodes that it never trained on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_actor import STATE, LinearActor
from torch import nn

from igrft.models.critic import CriticOutput
from igrft.models.protocol import Features
from igrft.training.data import RawBatch
from igrft.training.heldout import fit, look, r_squared, score
from igrft.training.inputs import Inputs
from igrft.training.module import TrainingModule
from igrft.training.recipe import Recipe
from igrft.training.recorder import HELDOUT_COLUMNS

NUMBERS = st.floats(-100, 100, width=32)


def rows(**columns) -> np.ndarray:
    size = len(next(iter(columns.values())))
    assert set(columns) <= set(HELDOUT_COLUMNS)
    return np.stack([np.asarray(columns.get(n, np.zeros(size)), dtype=np.float64) for n in HELDOUT_COLUMNS], axis=1)


def test_r_squared_by_hand():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    assert r_squared(true, true) == 1.0
    assert r_squared(np.full(4, 1.5), true) == 0.0
    assert r_squared(np.array([1.0, 1.0, 2.0, 2.0]), true) == pytest.approx(1 - 2 / 5)
    assert r_squared(-true, true) == pytest.approx(1 - 56 / 5)


@pytest.mark.parametrize("true", [[], [1.0], [0.0] * 9, [1.0] * 3])
def test_r_squared_of_a_truth_that_does_not_vary(true):
    assert math.isnan(r_squared(np.full(len(true), 0.3), np.array(true)))


@settings(deadline=None)
@given(arrays(np.float64, 6, elements=NUMBERS), arrays(np.float64, 6, elements=NUMBERS))
def test_r_squared_is_at_most_one_and_does_not_mind_the_scale(predicted, true):
    if true.std() < 1e-3:
        return
    found = r_squared(predicted, true)
    assert found <= 1
    assert r_squared(predicted * 4 + 1, true * 4 + 1) == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_a_fit_by_hand():
    found = fit(
        rows(
            dataset=[0, 0, 0, 1, 1],
            episode=[2, 2, 5, 2, 2],
            value_trajectory=[1, 1, 2, 2, 0],
            return_trajectory=[0, 1, 2, 3, 0],
            value_subtask=[0, 0, 0, 0, 1],
            return_subtask=[0, 0, 0, 0, 1],
            interaction_probability=[0.9, 0.6, 0.4, 0.5, 0.51],
            interaction=[1, 0, 1, 1, 0],
        )
    )
    total = sum((x - 1.2) ** 2 for x in (0, 1, 2, 3, 0))
    assert found == {
        "r2_trajectory": pytest.approx(1 - 2 / total),
        "r2_subtask": 1.0,
        "interaction_precision": pytest.approx(1 / 3),
        "interaction_recall": pytest.approx(1 / 3),
        "frames": 5,
        "episodes": 3,
    }


def test_precision_and_recall_where_there_is_nothing_to_count():
    shy = fit(rows(interaction_probability=[0.1, 0.2], interaction=[1, 0]))
    assert math.isnan(shy["interaction_precision"]) and shy["interaction_recall"] == 0
    calm = fit(rows(interaction_probability=[0.9, 0.2], interaction=[0, 0]))
    assert calm["interaction_precision"] == 0 and math.isnan(calm["interaction_recall"])


def test_a_fit_to_nothing():
    found = fit(np.zeros((0, len(HELDOUT_COLUMNS))))
    assert (found.pop("frames"), found.pop("episodes")) == (0, 0)
    assert all(math.isnan(v) for v in found.values())


def test_the_score_is_the_mean_of_the_heads_that_have_one():
    nan = math.nan
    assert score({"r2_trajectory": 0.5, "r2_subtask": 0.25}) == 0.375
    assert score({"r2_trajectory": nan, "r2_subtask": 0.25}) == 0.25
    assert score({"r2_trajectory": 0.5, "r2_subtask": nan}) == 0.5
    assert score({"r2_trajectory": nan, "r2_subtask": nan}) == -math.inf


class Mode(nn.Module):
    """A critic that reads the state, and notes in which mode and with which gradients it was asked."""

    chunk_q = None

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bool, bool, int]] = []

    def forward(self, features: Features) -> CriticOutput:
        self.asked.append((self.training, torch.is_grad_enabled(), features.mask.shape[0]))
        seen = features.keys[0][:, 0]
        return CriticOutput(seen[:, 0], seen[:, 1], seen[:, 2], seen)


class Heldout:
    """Frames whose state follows from their number."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.asked = sizes, []

    def heldout_batches(self, batch_size: int, frames: int):
        self.asked.append((batch_size, frames))
        start = 0
        for size in self.sizes:
            index = torch.arange(start, start + size)
            start += size
            label = {
                "episode": index // 2,
                "frame": index % 2,
                "length": torch.full((size,), 2),
                "return_trajectory": index * 10.0,
                "return_subtask": index * 20.0,
                "interaction": (index % 2).float(),
                "intervention": torch.zeros(size, dtype=torch.bool),
            }
            state = torch.stack([index + 0.25, index + 0.5, torch.zeros(size)], dim=1)
            observation = {
                STATE: state,
                "action": torch.full((size, 4, 2), math.nan),
                "action_is_pad": torch.zeros(size, 4, dtype=torch.bool),
            }
            yield RawBatch(observation, None, [""] * size, label, torch.full((size,), 1), index)


def looked(sizes: list[int], **changes):
    class Reading(LinearActor):
        def prefix(self, batch, layers, targets=None):
            prefix = super().prefix(batch, layers, targets)
            tokens = batch[STATE][:, None]
            prefix.features = Features([tokens], [tokens], torch.ones(tokens.shape[:2], dtype=torch.bool))
            return prefix

    actor, data = Reading(), Heldout(sizes)
    module = TrainingModule(actor, Mode(), (0,), Recipe())
    module.train(changes.get("training", True))
    built = SimpleNamespace(actor=actor, data=data, preprocess=lambda x: x, recipe=Recipe())
    found = look(module, Inputs(built, torch.device("cpu")), 300, 2, 5)
    return found, module, data, actor


def test_looking_at_held_out_frames():
    found, module, data, actor = looked([2, 2, 1])
    assert data.asked == [(2, 5)]
    assert found.shape == (5, len(HELDOUT_COLUMNS)) and found.dtype == np.float64
    column = dict(zip(HELDOUT_COLUMNS, found.T, strict=True))
    assert column["step"].tolist() == [300] * 5 and column["dataset"].tolist() == [1] * 5
    assert column["episode"].tolist() == [0, 0, 1, 1, 2] and column["length"].tolist() == [2] * 5
    assert column["value_trajectory"].tolist() == [0.25, 1.25, 2.25, 3.25, 4.25]
    assert column["value_subtask"].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert column["interaction_probability"].tolist() == [0.5] * 5
    assert column["return_trajectory"].tolist() == [0, 10, 20, 30, 40]
    # In evaluation, without gradient, and the policy never saw an action.
    assert module.critic.asked == [(False, False, 2), (False, False, 2), (False, False, 1)]
    assert all(set(batch) == {STATE} for batch in actor.seen)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_before(training):
    _, module, _, _ = looked([1], training=training)
    assert module.training is module.policy.training is training


def test_nothing_to_look_at():
    assert looked([])[0].shape == (0, len(HELDOUT_COLUMNS))
