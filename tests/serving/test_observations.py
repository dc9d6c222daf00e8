"""Which value of a request is which input, and what it must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lerobot.configs import FeatureType, PolicyFeature
from policy_servers import CAMERAS, STATE, features, observation

from igrft.serving.observations import Input, ObservationReader, RequestError, inputs_of

FRONT, WRIST = CAMERAS
PICTURE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
VECTOR = np.array([1, 2, 3, 4], np.float32)


def reader(known: dict[str, Any] | None = None, task: str | None = None) -> ObservationReader:
    return ObservationReader(inputs_of(known or features()), task)


def one_camera() -> ObservationReader:
    return reader(features(cameras=(FRONT,)))


def test_inputs_are_read_from_lerobots_features_of_policies_and_of_datasets():
    policy = {
        STATE: PolicyFeature(FeatureType.STATE, (7,)),
        FRONT: PolicyFeature(FeatureType.VISUAL, (3, 10, 20)),
        "observation.images.empty_camera_0": PolicyFeature(FeatureType.VISUAL, (3, 10, 20)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (39,)),
    }
    assert inputs_of(policy) == [
        Input(STATE, False, (7,)),
        Input(FRONT, True, (3, 10, 20)),
        Input("observation.environment_state", False, (39,)),
    ]
    dataset = {FRONT: {"dtype": "video", "shape": [10, 20, 3]}, STATE: {"dtype": "float32", "shape": [7]}}
    assert inputs_of(dataset) == [Input(FRONT, True, (10, 20, 3)), Input(STATE, False, (7,))]
    assert inputs_of({i.name: i.to_json() for i in inputs_of(policy)}) == inputs_of(policy)


@pytest.mark.parametrize(
    "request_",
    [
        {STATE: VECTOR, FRONT: PICTURE, "task": "t"},
        {"observation/state": VECTOR, "observation/images/front": PICTURE, "prompt": "t"},
        {"observation/state": VECTOR, "observation/front": PICTURE, "prompt": "t"},
        {"observation/state": VECTOR, "observation/image": PICTURE, "prompt": "t"},
        {"state": VECTOR, "images": {"front": PICTURE}, "prompt": b"t"},
        {"state": VECTOR, "image": {"front": PICTURE}, "prompt": "t"},
        {"state": VECTOR, "image": PICTURE, "prompt": "t"},
        {"observation": {"state": VECTOR, "images": {"front": PICTURE}}, "task": "t", "prompt": "t"},
        {"observation": {"state": VECTOR.astype(np.float64), "images.front": PICTURE}, "task": "t"},
        {"state": [1, 2.0, np.float32(3), 4], "front": PICTURE.transpose(2, 0, 1), "prompt": "t"},
        {"state": VECTOR.astype(np.int16), "front": PICTURE / np.float32(255), "prompt": "t", "more": PICTURE},
    ],
)
def test_every_spelling_is_the_same_observation(request_):
    found = one_camera().read(request_)
    assert found.keys() == {STATE, FRONT, "task"} and found["task"] == "t"
    np.testing.assert_array_equal(found[STATE], VECTOR)
    np.testing.assert_array_equal(found[FRONT], PICTURE)
    assert found[STATE].dtype == np.float32 and found[FRONT].dtype == np.uint8
    assert found[FRONT].flags.c_contiguous


def test_libero_and_droid_as_openpis_examples_send_them():
    libero = reader(features(8, ("observation.images.image", "observation.images.wrist_image")))
    found = libero.read(
        {
            "observation/state": np.arange(8.0),
            "observation/image": PICTURE,
            "observation/wrist_image": PICTURE + 1,
            "prompt": "do something",
        }
    )
    np.testing.assert_array_equal(found["observation.images.wrist_image"], PICTURE + 1)
    droid = reader(features(8, ("observation.images.exterior_image_1_left", "observation.images.wrist_image_left")))
    request = {
        "observation/exterior_image_1_left": PICTURE,
        "observation/wrist_image_left": PICTURE,
        "observation/joint_position": np.arange(7.0),
        "observation/gripper_position": np.array([7.0]),
        "prompt": "do something",
    }
    np.testing.assert_array_equal(droid.read(request)[STATE], np.arange(8, dtype=np.float32))
    request["observation/gripper_position"] = np.float64(7)
    np.testing.assert_array_equal(droid.read(request)[STATE], np.arange(8, dtype=np.float32))


def test_a_spelling_that_could_mean_two_inputs_means_none():
    both = reader({**features(cameras=("observation.images.front", "observation.image.front"))})
    with pytest.raises(RequestError, match="lacks 'observation.images.front'.*'front'"):
        both.read({"state": VECTOR, "front": PICTURE, "prompt": "t"})
    # "image" means a camera only where there is one alone.
    with pytest.raises(RequestError, match="lacks 'observation.images.front'"):
        reader().read({"state": VECTOR, "image": PICTURE, "wrist": PICTURE, "prompt": "t"})
    # A camera called "state" never takes the vector's name.
    named = reader(features(cameras=("observation.images.state",)))
    found = named.read({"state": VECTOR, "images": {"state": PICTURE}, "prompt": "t"})
    assert found[STATE].shape == (4,) and found["observation.images.state"].shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({STATE: None}, "observation.state must be an array of numbers, got nothing"),
        ({STATE: "1 2 3 4"}, "got a str"),
        ({STATE: np.zeros(5)}, r"must have shape \[4\], got \[5\]"),
        ({STATE: np.zeros((1, 4))}, r"must have shape \[4\], got \[1, 4\]"),
        ({STATE: np.zeros(4, bool)}, r"got an array of bool \[4\]"),
        ({STATE: [1, 2, 3, "4"]}, "a list with something else"),
        ({STATE: [1, 2, [3], 4]}, "a list with something else"),
        ({STATE: [10**400, 0, 0, 0]}, "too large"),
        ({STATE: np.array([0, np.nan, 0, 0])}, "must be finite, its number 1 is not"),
        ({STATE: np.array([0, 0, np.inf, 0], np.float16)}, "its number 2 is not"),
        ({STATE: np.array([0, 0, 0, 1e300])}, "its number 3 is not.*beyond float32"),
        ({STATE: [0, 0, float("nan"), 0]}, "its number 2 is not"),
        ({FRONT: None}, "must be a picture, uint8"),
        ({FRONT: b"\xff\xd8"}, "must be a picture, uint8.*got a bytes"),
        ({FRONT: PICTURE.astype(np.int64)}, "picture of uint8.*got int64"),
        ({FRONT: PICTURE[..., 0]}, r"shape \[H, W, 3\] or \[3, H, W\], got \[4, 5\]"),
        ({FRONT: np.zeros((4, 5, 4), np.uint8)}, r"got \[4, 5, 4\]"),
        ({FRONT: PICTURE[None]}, r"got \[1, 4, 5, 3\]"),
        ({FRONT: np.zeros((0, 5, 3), np.uint8)}, r"got \[0, 5, 3\]"),
        ({FRONT: PICTURE.astype(np.float32)}, "must lie in 0 … 1"),
        ({FRONT: np.full((4, 5, 3), np.nan)}, "must lie in 0 … 1"),
        ({FRONT: np.full((4, 5, 3), -0.1)}, "must lie in 0 … 1"),
        ({"task": 5}, "prompt must be text, got a int"),
        ({"task": b"\xff"}, "prompt is not UTF-8"),
        ({"task": "x" * 2001}, "2001 characters, at most 2000"),
        ({"prompt": "something else"}, "two tasks that differ"),
        ({"state": VECTOR}, "observation.state is given twice"),
        ({"images": {b"x": 1}}, "keys of an observation must be text"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change, says):
    with pytest.raises(RequestError, match=says) as error:
        reader().read({**observation(), **change})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_what_is_missing_is_said_with_what_is_there():
    with pytest.raises(RequestError, match=r"lacks 'observation.state', the vector of \[4\]; .* is 'statt'"):
        reader().read({**{k: v for k, v in observation().items() if k != STATE}, "observation/statt": VECTOR})
    with pytest.raises(RequestError, match="holds no 'prompt'"):
        reader().read({k: v for k, v in observation().items() if k != "task"})
    long = {"x" * 100_000: 1, "a\nb": 2}
    with pytest.raises(RequestError) as error:
        reader().read(long)
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_the_servers_task_stands_in_for_a_missing_prompt():
    request = {k: v for k, v in observation().items() if k != "task"}
    assert reader(task="fold").read(request)["task"] == "fold"
    assert reader(task="fold").read({**request, "prompt": "sort"})["task"] == "sort"


def test_a_vector_of_one_may_be_a_number():
    known = {STATE: {"dtype": "float32", "shape": (1,)}}
    for value in (2, 2.0, np.float32(2), np.array(2.0), [2], np.array([2.0])):
        np.testing.assert_array_equal(reader(known).read({STATE: value, "task": ""})[STATE], np.float32([2]))
    with pytest.raises(RequestError, match="shape"):
        reader(known).read({STATE: np.zeros((1, 1)), "task": ""})
