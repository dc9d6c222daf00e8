"""Flow times and noises: a function of seed and step, and of nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_actor import STATE, LinearActor

from igrft.training.data import RawBatch
from igrft.training.draws import flow_draws
from igrft.training.inputs import Inputs
from igrft.training.recipe import ObjectiveSettings, Recipe

SIZES = {"batch": 6, "samples": 2, "chunk": 3, "width": 4}


def draws(seed=0, step=0, config=None, **changes):
    return flow_draws(config or SimpleNamespace(), seed, step, **{**SIZES, **changes})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**7))
def test_the_same_seed_and_step_give_the_same_bits(seed, step):
    torch.manual_seed(step % 97)
    first = draws(seed, step)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    second = draws(seed, step)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    # No generator of the process was touched.
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    for other in (draws(seed + 1, step), draws(seed, step + 1)):
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_shapes_and_types():
    noise, time = draws()
    assert (noise.shape, noise.dtype) == ((6, 2, 3, 4), torch.float32)
    assert (time.shape, time.dtype) == ((6, 2), torch.float32)


def test_samples_of_a_batch_differ():
    noise, time = draws()
    assert len(np.unique(noise.numpy())) == noise.numel() and len(np.unique(time.numpy())) == time.numel()


def test_times_are_the_betas_of_the_policy():
    """Mean alpha / (alpha + beta), scaled and moved, to four standard errors; π0.5's without settings."""
    size = {"batch": 20_000, "samples": 1, "chunk": 1, "width": 1}
    for alpha, beta, scale, offset, config in (
        (1.5, 1.0, 0.999, 0.001, None),
        (1.0, 3.0, 0.5, 0.25, {"alpha": 1.0, "beta": 3.0, "scale": 0.5, "offset": 0.25}),
    ):
        names = {"alpha": "beta_alpha", "beta": "beta_beta", "scale": "scale", "offset": "offset"}
        given_ = SimpleNamespace(**{f"time_sampling_{names[k]}": v for k, v in (config or {}).items()})
        time = draws(config=given_, **size)[1].double()
        total = alpha + beta
        deviation = scale * (alpha * beta / (total**2 * (total + 1))) ** 0.5
        assert time.mean().item() == pytest.approx(alpha / total * scale + offset, abs=4 * deviation / 20_000**0.5)
        assert time.std().item() == pytest.approx(deviation, rel=0.03)
        assert time.min() >= offset and time.max() <= scale + offset
        assert time.min() > 0 and time.max() <= 1


def test_noise_is_standard_normal():
    noise = draws(batch=2000, chunk=5)[0].double()
    assert noise.mean().item() == pytest.approx(0, abs=4 / noise.numel() ** 0.5)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 2), st.floats(0, 2), st.integers(0, 1000))
def test_the_scale_multiplies_each_noise_by_one_number_in_its_range(low, more, step):
    plain, time = draws(step=step)
    scaled, same_time = draws(step=step, scale=(low, low + more))
    assert torch.equal(time, same_time)
    ratio = (scaled.double() / plain.double()).flatten(2)
    spread = ratio.max(dim=2).values - ratio.min(dim=2).values
    assert (spread < 1e-5 * (low + more)).all()
    assert (ratio >= low * (1 - 1e-5)).all() and (ratio <= (low + more) * (1 + 1e-5)).all()


def test_the_whole_range_of_the_scale_is_drawn():
    plain, scaled = draws(batch=3000)[0], draws(batch=3000, scale=(0.2, 1.7))[0]
    ratio = (scaled / plain)[:, :, 0, 0]
    assert ratio.min() < 0.22 and ratio.max() > 1.68
    assert ratio.mean().item() == pytest.approx(0.95, abs=0.03)
    # Each draw of an observation has its own.
    assert abs(torch.corrcoef(ratio.T)[0, 1].item()) < 0.1


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_are_slices_of_its_noise(parts):
    """However many processes and accumulation parts share a batch."""
    actor = LinearActor(chunk=3, dim=4)
    recipe = Recipe(seed=5, batch_size=8, objective=ObjectiveSettings(flow_samples=2, noise_scale=[0.5, 1.5]))
    inputs = Inputs(SimpleNamespace(recipe=recipe, actor=actor, preprocess=lambda x: x), torch.device("cpu"))
    whole = flow_draws(actor.policy.config, 5, 11, batch=8, samples=2, chunk=3, width=4, scale=(0.5, 1.5))
    size = 8 // parts
    made = [inputs.step_batch(raw_batch(size), 11, slice(i * size, (i + 1) * size)) for i in range(parts)]
    assert torch.equal(torch.cat([b.noise for b in made]), whole[0])
    assert torch.equal(torch.cat([b.time for b in made]), whole[1])


def raw_batch(size: int) -> RawBatch:
    return RawBatch(
        observation={
            STATE: torch.zeros(size, 3),
            "observation.images.top": torch.full((size, 3, 2, 2), 51, dtype=torch.uint8),
            "action": torch.ones(size, 3, 4),
            "action_is_pad": torch.arange(3).expand(size, -1) == 2,
            "task": ["fold"] * size,
        },
        next_observation=None,
        subtasks=["reach"] * size,
        labels={"critic": torch.ones(size, dtype=torch.bool)},
        dataset=torch.zeros(size, dtype=torch.int64),
        index=torch.arange(size),
    )


def test_a_step_batch_holds_what_the_module_takes():
    """The preprocessor never sees the padding; pictures become [0, 1]; text is left out where nobody learns it."""
    actor, seen = LinearActor(chunk=3, dim=4), []
    recipe = Recipe(batch_size=2)

    def preprocess(batch):
        seen.append(dict(batch))
        return batch

    inputs = Inputs(SimpleNamespace(recipe=recipe, actor=actor, preprocess=preprocess), torch.device("cpu"))
    raw = raw_batch(2)
    batch = inputs.step_batch(raw, 0, slice(0, 2))
    assert "action_is_pad" not in seen[0] and batch.padded.tolist() == [[False, False, True]] * 2
    picture = batch.observation["observation.images.top"]
    assert picture.dtype == torch.float32 and picture.unique().tolist() == pytest.approx([0.2])
    assert raw.observation["observation.images.top"].dtype == torch.uint8
    assert batch.targets is not None and batch.next_observation is None
    recipe.objective.text_weight = 0.0
    raw.next_observation = {STATE: torch.ones(2, 3)}
    batch = inputs.step_batch(raw, 0, slice(0, 2))
    assert batch.targets is None and torch.equal(batch.next_observation[STATE], torch.ones(2, 3))
