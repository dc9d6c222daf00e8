"""Which key says what.

Defaults, what a recipe puts in their place, and what cannot be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from igrft.errors import UsageError, did_you_mean
from igrft.rollouts.protocols import Event

#: Names that LeRobot's listeners give to keys without a character.
NAMED_KEYS = ("space", "enter", "tab", "backspace", "esc", "up", "down", "left", "right")
#: Keys by event. Left and right arrow do what LeRobot's recorder taught: right ends an episode (well), and ends the
#: reset phase; left records again.
DEFAULT_KEYS: dict[Event, tuple[str, ...]] = {
    Event.TAKE_OVER: ("space",),
    Event.HAND_BACK: ("space", "c"),
    Event.SUCCESS: ("s", "right"),
    Event.FAILURE: ("f",),
    Event.AGAIN: ("r", "left"),
    Event.READY: ("enter", "right"),
    Event.STOP: ("esc",),
}
#: Of a pedal with three switches, beside the keyboard.
DEFAULTPEDALS: dict[Event, tuple[str, ...]] = {
    Event.TAKE_OVER: ("KEY_A",),
    Event.HAND_BACK: ("KEY_A",),
    Event.SUCCESS: ("KEY_B",),
    Event.READY: ("KEY_B",),
    Event.FAILURE: ("KEY_C",),
}
#: Events that may share a key, since they never mean something at the same time.
_SHARED = ({Event.TAKE_OVER, Event.HAND_BACK}, {Event.SUCCESS, Event.READY})
_BY_NAME = {e.name.lower(): e for e in Event}
#: A pedal's code, as evdev names it.
PEDAL = re.compile(r"(KEY|BTN)_\w+")


class KeyMap:
    """Which key says what.

    A key of both take_over and hand_back says the one that makes sense; one of both success and ready says the two
    of them, and the loop hears the one that it waits for.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        pedal: bool = False,
        drives: bool = True,
        taken: Iterable[str] = (),
    ) -> None:
        """Merges a recipe's keys with the defaults.

        Args:
            keys: key or pedal code by event, as :class:`~igrft.rollouts.settings.HumanSettings` has them. An event
                named here loses its default keys, and another event's default gives way to a key named here.
            pedal: whether there is a pedal beside the keyboard.
            drives: whether there is anything to take over with; without, those two events have no keys.
            taken: keys that a keyboard teleoperator moves the robot with; defaults give way to them.

        Raises:
            UsageError: an unknown event or key, one key for two events, or an event that is left without a key.
        """
        chosen = {_event(name): _key(str(key), name, pedal) for name, key in (keys or {}).items()}
        taken = set(taken)
        _refuse(chosen, taken, drives)
        #: Keys by event.
        self.keys: dict[Event, tuple[str, ...]] = {}
        for event in Event:
            if not drives and event in (Event.TAKE_OVER, Event.HAND_BACK):
                continue
            if event in chosen:
                self.keys[event] = (chosen[event],)
                continue
            default = DEFAULT_KEYS[event] + (DEFAULTPEDALS.get(event, ()) if pedal else ())
            free = [k for k in default if k not in taken and _free(k, event, chosen)]
            self.keys[event] = tuple(free)
        if pedal:
            self._silence_typed_pedals(chosen)
        for event, left in self.keys.items():
            if not left:
                name = event.name.lower()
                raise UsageError(f"rollout.human.keys: {name} has no key left; give it one ({{{name}: KEY}})")

    def _silence_typed_pedals(self, chosen: Mapping[Event, str]) -> None:
        """A pedal types its letter like a keyboard, too: that letter must not say something else."""
        typed = {k.removeprefix("KEY_").lower() for ks in self.keys.values() for k in ks if k.startswith("KEY_")}
        for event, ks in self.keys.items():
            if event in chosen and chosen[event] in typed:
                raise UsageError(
                    f"rollout.human.keys: {chosen[event]!r} is typed by the pedal, too; choose another key for "
                    f"{event.name.lower()}"
                )
            self.keys[event] = tuple(k for k in ks if k not in typed)

    def events(self, key: str, driving: bool) -> tuple[Event, ...]:
        """What a key says.

        Args:
            key: as a listener names it; letters of either case.
            driving: whether the human drives now.
        """
        key = key if PEDAL.fullmatch(key) else key.lower()
        said = [e for e, ks in self.keys.items() if key in ks]
        if Event.TAKE_OVER in said and Event.HAND_BACK in said:
            said.remove(Event.TAKE_OVER if driving else Event.HAND_BACK)
        return tuple(said)

    def __str__(self) -> str:
        """One line for the screen."""
        return ", ".join(f"{'/'.join(ks)} = {e.value}" for e, ks in self.keys.items())


def _event(name: str) -> Event:
    if name not in _BY_NAME:
        raise UsageError(f"rollout.human.keys: {name!r} is no event{did_you_mean(name, sorted(_BY_NAME))}")
    return _BY_NAME[name]


def _key(key: str, event: str, pedal: bool) -> str:
    if PEDAL.fullmatch(key):
        if not pedal:
            raise UsageError(f"rollout.human.keys.{event}: {key} is a pedal's code; give --rollout.human.input=pedal")
        return key
    if len(key) == 1 and key.isprintable() and key != " ":
        return key.lower()
    lower = key.lower()
    if lower not in NAMED_KEYS:
        near = did_you_mean(lower, NAMED_KEYS)
        raise UsageError(
            f"rollout.human.keys.{event}: {key!r} is no key{near}; a single character, or KEY_… of a pedal"
        )
    return lower


def _refuse(chosen: Mapping[Event, str], taken: set[str], drives: bool) -> None:
    for event, key in chosen.items():
        name = event.name.lower()
        if not drives and event in (Event.TAKE_OVER, Event.HAND_BACK):
            raise UsageError(
                f"rollout.human.keys: {name} needs something to drive with; give --rollout.human.type=teleop"
            )
        if key in taken:
            raise UsageError(f"rollout.human.keys: {key!r} moves the robot; choose another key for {name}")
        for other, same in chosen.items():
            if other is not event and same == key and {event, other} not in _SHARED:
                raise UsageError(f"rollout.human.keys: {key!r} stands for both {name} and {other.name.lower()}")


def _free(key: str, event: Event, chosen: Mapping[Event, str]) -> bool:
    """Whether a default key was not given to another event, with which it cannot be shared."""
    return all(k != key or {e, event} in _SHARED for e, k in chosen.items() if e is not event)
