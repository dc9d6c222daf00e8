"""Which adapter serves which policy, and where its layers are read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from tiny_actor import LinearActor, one_thread  # noqa: F401
from tiny_pi05 import tiny_config

from igrft.errors import UsageError
from igrft.models.actors import POLICY_TYPES, build_policy, looks_at_pictures, make_actor, register_policy
from igrft.models.protocol import Actor, at_fractions


def test_the_policies_that_there_are():
    assert set(POLICY_TYPES) == {"pi05", "pi05_tiny", "smolvla", "state_flow"}
    assert {t: looks_at_pictures(t) for t in POLICY_TYPES} == {
        "pi05": True,
        "pi05_tiny": True,
        "smolvla": True,
        "state_flow": False,
    }


@pytest.mark.parametrize("kind", ["pi05", "pi05_tiny", "state_flow"])
def test_registering_makes_a_type_known_to_lerobot(kind):
    register_policy(kind)
    assert PreTrainedConfig.get_choice_class(kind)(device="cpu").type == kind


@pytest.mark.parametrize("kind", ["pi05_tiny", "state_flow"])
def test_built_policies_are_actors(kind):
    register_policy(kind)
    if kind == "pi05_tiny":
        config = tiny_config(cameras=1)
    else:
        config = PreTrainedConfig.get_choice_class(kind)(
            device="cpu",
            chunk_size=4,
            n_action_steps=4,
            width=16,
            input_features={"observation.state": PolicyFeature(FeatureType.STATE, (5,))},
            output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        )
    policy = build_policy(config)
    actor = make_actor(policy)
    assert isinstance(actor, Actor) and actor.policy is policy and kind.startswith(actor.type)
    assert actor.chunk_size == 4 and actor.depth == 3 and actor.uses_images is actor.has_text is looks_at_pictures(kind)


def test_the_actor_of_the_tests_keeps_to_the_protocol():
    assert isinstance(LinearActor(), Actor)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: register_policy("state_flo"),
        lambda: build_policy(SimpleNamespace(type="state_flo")),
        lambda: make_actor(SimpleNamespace(config=SimpleNamespace(type="state_flo"))),
    ],
    ids=["register", "build", "adapt"],
)
def test_an_unknown_policy_is_refused_with_the_near_miss(ask):
    with pytest.raises(UsageError, match="^unknown policy type 'state_flo'; did you mean 'state_flow'\\?$"):
        ask()


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(18, (11, 14, 17)), (12, (7, 9, 11)), (16, (10, 12, 15)), (6, (3, 4, 5)), (3, (1, 2)), (1, (0,))],
)
def test_layers_at_the_same_fractions(depth, layers):
    assert at_fractions((11, 14, 17), depth) == layers


@settings(deadline=None)
@given(st.lists(st.integers(0, 17), min_size=1, max_size=18), st.integers(1, 64))
def test_fractions_stay_in_the_model(layers, depth):
    found = at_fractions(layers, depth)
    assert found == tuple(sorted(set(found))) and found[0] >= 0 and found[-1] < depth
    assert len(found) <= len(set(layers))
    assert at_fractions(layers, 18) == tuple(sorted(set(layers)))
    assert at_fractions([*layers, 17], depth)[-1] == depth - 1
    # Half a layer is the most that rounding moves.
    exact = [(i + 1) / 18 * depth - 1 for i in layers]
    assert all(min(abs(f - e) for f in found) <= 0.5 or e < 0 for e in exact)


def test_layers_beyond_the_model_are_its_last():
    assert at_fractions((30,), 18) == (17,)
