"""The state-based actor learns a closed-loop problem with two ways past an obstacle, in seconds on one core."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.factory import make_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from models import reach_and_place as problem

from igrft.models.state_flow import StateFlowActor, StateFlowConfig, StateFlowPolicy
from igrft.training.losses import masked_flow_loss

CHUNK, TAKE = 8, 4
BATCH = 256


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**kwargs):
    return StateFlowConfig(
        device="cpu",
        chunk_size=CHUNK,
        n_action_steps=TAKE,
        input_features={
            OBS_STATE: PolicyFeature(FeatureType.STATE, (problem.STATE,)),
            OBS_ENV_STATE: PolicyFeature(FeatureType.ENV, (problem.ENV,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (problem.ACTION_DIM,))},
        **kwargs,
    )


def frames(episodes):
    """Every frame with the chunk of actions that follows it, padded past the end of its episode."""
    columns = {OBS_STATE: [], OBS_ENV_STATE: [], ACTION: [], "action_is_pad": []}
    for episode in episodes:
        length = len(episode.action)
        at = np.arange(length)[:, None] + np.arange(CHUNK)
        columns[OBS_STATE].append(episode.state)
        columns[OBS_ENV_STATE].append(episode.env)
        columns[ACTION].append(episode.action[np.minimum(at, length - 1)])
        columns["action_is_pad"].append(at >= length)
    return {key: torch.from_numpy(np.concatenate(parts)) for key, parts in columns.items()}


def statistics(data):
    flat = {key: data[key].flatten(0, -2) for key in (OBS_STATE, OBS_ENV_STATE, ACTION)}
    return {
        key: {"mean": x.mean(0), "std": x.std(0), "min": x.min(0).values, "max": x.max(0).values}
        for key, x in flat.items()
    }


def train(actor, batch, *, steps, rate=4e-3, seed=0):
    """AdamW on the flow's error, nothing else. Returns processor seconds."""
    draw = torch.Generator().manual_seed(seed)
    times = torch.distributions.Beta(1.5, 1.0)
    optimizer = torch.optim.AdamW(actor.policy.parameters(), lr=rate, betas=(0.9, 0.95), fused=True)
    torch.manual_seed(seed)
    started = time.process_time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        chosen = torch.randint(len(batch[ACTION]), (BATCH,), generator=draw)
        part = {key: x[chosen] for key, x in batch.items() if isinstance(x, torch.Tensor)}
        noise = torch.randn(BATCH, 1, CHUNK, actor.action_width, generator=draw)
        flow_time = times.sample((BATCH, 1)) * 0.999 + 0.001
        error = actor.flow_error(actor.prefix(part, ()), part[ACTION], noise, flow_time)
        optimizer.zero_grad()
        masked_flow_loss(error, part["action_is_pad"]).mean().backward()
        torch.nn.utils.clip_grad_norm_(actor.policy.parameters(), 1.0)
        optimizer.step()
    return time.process_time() - started


def learn(steps, demonstrations=100, seed=0, episodes=50, rate=4e-3, **kwargs):
    """Success rate after training on demonstrations, and the seconds it took."""
    torch.manual_seed(seed)
    actor = StateFlowActor(StateFlowPolicy(config(**kwargs)))
    data = frames(problem.demonstrations(seed, demonstrations))
    before, after = make_pre_post_processors(actor.policy.config, dataset_stats=statistics(data))
    padded = data.pop("action_is_pad")
    seconds = train(actor, {**before(data), "action_is_pad": padded}, steps=steps, seed=seed, rate=rate)

    def act(state, env):
        batch = before({OBS_STATE: torch.from_numpy(state), OBS_ENV_STATE: torch.from_numpy(env)})
        return after(actor.sample(batch)).numpy()

    return problem.success_rate(act, seed=seed + 1000, n=episodes, take=TAKE), seconds


def test_the_demonstrations_pass_the_pillar_on_both_sides_and_succeed():
    episodes = problem.demonstrations(0, 60)
    assert max(len(e.action) for e in episodes) < problem.HORIZON
    at_pillar = [(np.abs(e.state[:, 0]) < 0.1) & (e.state[:, 2] > 0) for e in episodes]
    sides = [e.state[rows, 1].mean() > 0 for e, rows in zip(episodes, at_pillar, strict=True) if rows.any()]
    assert 0.3 < np.mean(sides) < 0.7


def test_it_begins_to_learn_in_a_few_seconds():
    rate, _ = learn(350)
    assert rate >= 0.6


def test_an_untrained_policy_solves_nothing():
    rate, _ = learn(0)
    assert rate == 0


@pytest.mark.slow
def test_it_learns_to_succeed_within_ten_seconds_on_one_core():
    results = [learn(1400, seed=seed) for seed in (0, 1)]
    rates, seconds = zip(*results, strict=True)
    print(f"state_flow: success {rates} after {', '.join(f'{s:.1f}' for s in seconds)} s on one core")
    assert min(rates) >= 0.9
    assert min(seconds) <= 10
