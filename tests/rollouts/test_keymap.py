"""Which key says what."""

from __future__ import annotations

import pytest

from igrft.errors import UsageError
from igrft.rollouts.keymap import KeyMap
from igrft.rollouts.protocols import Event

E = Event


def test_defaults() -> None:
    keys = KeyMap()
    said = {k: keys.events(k, False) for k in ("space", "c", "s", "f", "r", "left", "enter", "right", "esc", "x", "up")}
    assert said == {
        "space": (E.TAKE_OVER,),
        "c": (E.HAND_BACK,),
        "s": (E.SUCCESS,),
        "f": (E.FAILURE,),
        "r": (E.AGAIN,),
        "left": (E.AGAIN,),
        "enter": (E.READY,),
        "right": (E.SUCCESS, E.READY),
        "esc": (E.STOP,),
        "x": (),
        "up": (),
    }
    assert keys.events("space", True) == (E.HAND_BACK,)
    assert keys.events("S", False) == (E.SUCCESS,)


def test_a_named_key_takes_the_place_of_all_defaults_of_its_event() -> None:
    keys = KeyMap({"success": "y", "failure": "N"})
    assert keys.keys[E.SUCCESS] == ("y",) and keys.keys[E.FAILURE] == ("n",)
    assert keys.events("s", False) == () and keys.events("right", False) == (E.READY,)


def test_a_default_gives_way_to_a_named_key() -> None:
    keys = KeyMap({"failure": "r"})
    assert keys.events("r", False) == (E.FAILURE,) and keys.events("left", False) == (E.AGAIN,)


def test_one_key_for_takeover_and_handing_back() -> None:
    keys = KeyMap({"take_over": "t", "hand_back": "t"})
    assert keys.events("t", False) == (E.TAKE_OVER,) and keys.events("t", True) == (E.HAND_BACK,)
    assert keys.events("space", False) == ()


def test_without_anything_to_drive_with() -> None:
    keys = KeyMap(drives=False)
    assert keys.events("space", False) == () == keys.events("c", True)
    with pytest.raises(UsageError, match="take_over needs something to drive with"):
        KeyMap({"take_over": "t"}, drives=False)


def test_a_pedal_comes_beside_the_keyboard() -> None:
    keys = KeyMap(pedal=True)
    assert keys.events("KEY_A", False) == (E.TAKE_OVER,) and keys.events("KEY_A", True) == (E.HAND_BACK,)
    assert keys.events("KEY_B", False) == (E.SUCCESS, E.READY) and keys.events("KEY_C", False) == (E.FAILURE,)
    assert keys.events("space", False) == (E.TAKE_OVER,)
    # The third switch types a c, which would hand back.
    assert keys.events("c", True) == ()
    assert KeyMap({"failure": "KEY_D", "success": "KEY_B"}, pedal=True).events("c", True) == (E.HAND_BACK,)


def test_keys_that_move_the_robot_say_nothing() -> None:
    keys = KeyMap(taken=("up", "down", "left", "right"))
    assert keys.events("left", False) == () == keys.events("right", False)
    assert keys.events("r", False) == (E.AGAIN,) and keys.events("enter", False) == (E.READY,)
    with pytest.raises(UsageError, match="'left' moves the robot; choose another key for again"):
        KeyMap({"again": "left"}, taken=("left",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sucess": "s"}, "'sucess' is no event; did you mean 'success'"),
        ({"success": "escape"}, "'escape' is no key"),
        ({"success": "spce"}, "did you mean 'space'"),
        ({"success": ""}, "'' is no key"),
        ({"success": "KEY_A"}, "KEY_A is a pedal's code; give --rollout.human.input=pedal"),
        ({"success": "y", "failure": "Y"}, "'y' stands for both"),
        ({"stop": "space"}, "take_over has no key left"),
        ({"ready": "f"}, "failure has no key left"),
    ],
)
def test_what_cannot_be(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KeyMap(given)


def test_a_letter_that_the_pedal_types() -> None:
    with pytest.raises(UsageError, match="'b' is typed by the pedal, too"):
        KeyMap({"stop": "b"}, pedal=True)


def test_the_line_for_the_screen() -> None:
    assert str(KeyMap(drives=False)) == (
        "s/right = success, f = failure, r/left = record the episode again, enter/right = reset is done, esc = stop"
    )
