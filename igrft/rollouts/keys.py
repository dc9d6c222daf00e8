"""Keys and foot pedals: hearing them, and a human who has nothing else.

LeRobot's listeners do the listening: pynput where there is a display that lets it, else the terminal.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from igrft.errors import UsageError, did_you_mean
from igrft.rollouts.keymap import PEDAL, KeyMap
from igrft.rollouts.protocols import Event, Observation, Status
from igrft.rollouts.settings import HumanSettings
from igrft.rollouts.sound import Voice

log = logging.getLogger(__name__)

#: Seconds for which a key says nothing new after it was heard: one that is held down repeats itself, and the pause
#: before it does so is up to 0.66 s on common desktops.
REPEAT = 0.7


class KeyInput(Protocol):
    """Where presses come from."""

    def start(self) -> None:
        """A new episode begins."""
        ...

    def poll(self) -> list[str]:
        """Keys pressed since the last call, in order. Never waits."""
        ...

    def waiting(self, keys: Sequence[str]) -> bool:
        """Whether one of ``keys`` is among those that :meth:`poll` would return; takes none away."""
        ...

    def close(self) -> None: ...


class KeyListener:
    """The keyboard, and a foot pedal. Presses are heard in LeRobot's threads and kept until they are asked for."""

    def __init__(self, settings: HumanSettings, keys: KeyMap) -> None:
        """Begins to listen. From now on the terminal belongs to it: whatever asks there (calibration) comes before.

        Raises:
            UsageError: no keyboard can be heard, or no pedal.
        """
        from lerobot.utils.keyboard_input import create_key_listener

        if settings.input not in ("keyboard", "pedal"):
            near = did_you_mean(settings.input, ("keyboard", "pedal"))
            raise UsageError(f"rollout.human.input is {settings.input!r}{near}")
        self._pressed: deque[str] = deque()
        self._heard: dict[str, float] = {}
        self._lock = threading.Lock()
        self._always = frozenset(keys.keys[Event.STOP])
        self._stop_key = keys.keys[Event.STOP][0]
        self._pedal: Any = None
        if settings.input == "pedal":
            self._pedal = _listen_to_pedal(self._hear, settings.pedal)
        self._keyboard = create_key_listener(self._hear, controls_help=str(keys))
        if self._keyboard is None and self._pedal is None:
            raise UsageError(
                "no keyboard can be heard: run in a terminal, or on an X11 display, or use a pedal "
                "(--rollout.human.input=pedal)"
            )
        if self._keyboard is None:
            _refuse_keyless(keys)
        print(f"keys: {keys}", file=sys.stderr)

    def _hear(self, key: str) -> None:
        key, now = key if PEDAL.fullmatch(key) else key.lower(), time.monotonic()
        with self._lock:
            held = now - self._heard.get(key, -REPEAT) < REPEAT
            self._heard[key] = now
            if not held:
                self._pressed.append(key)

    def start(self) -> None:
        """A new episode: what was pressed before does not count, but for the key that stops."""
        with self._lock:
            self._pressed = deque(k for k in self._pressed if k in self._always)

    def poll(self) -> list[str]:
        """Keys pressed since the last call. A pedal that is gone presses the key that stops."""
        if self._pedal is not None and not self._pedal.is_alive():
            log.warning("the foot pedal does not answer any more: stopping")
            self._pedal = None
            self._hear(self._stop_key)
        with self._lock:
            heard, self._pressed = list(self._pressed), deque()
        return heard

    def waiting(self, keys: Sequence[str]) -> bool:
        with self._lock:
            return any(k in keys for k in self._pressed)

    def close(self) -> None:
        """Give the terminal back. The pedal's thread ends with the program."""
        if self._keyboard is not None:
            self._keyboard.stop()
            self._keyboard = None


class ScriptedKeys:
    """Keys that press themselves: for tests, and for a demonstration without a human."""

    def __init__(
        self, *episodes: Sequence[tuple[float, str]], before: Sequence[tuple[float, str]] = (), keep: bool = True
    ) -> None:
        """What is pressed when.

        Args:
            episodes: of each episode, (when, key) in order. An int is a number of looks since the episode began (the
                first look is 0; the loop looks once a step), a float is seconds. Looks and seconds go on in the reset
                phase that follows.
            before: likewise, until the first episode begins.
            keep: whether the last episode's keys are pressed in all later ones, too.
        """
        for when, key in [*before, *(entry for episode in episodes for entry in episode)]:
            if when < 0:
                raise ValueError(f"{key!r} cannot be pressed at {when}")
        self._episodes = [list(e) for e in episodes]
        self._left = list(before)
        self._keep = keep
        self._number = -1
        self._begin()

    def _begin(self) -> None:
        self._looks = 0
        self._begun = time.monotonic()

    def start(self) -> None:
        self._number += 1
        last = len(self._episodes) - 1
        number = min(self._number, last) if self._keep else self._number
        self._left = list(self._episodes[number]) if 0 <= number <= last else []
        self._begin()

    def poll(self) -> list[str]:
        pressed = self._due()
        del self._left[: len(pressed)]
        self._looks += 1
        return pressed

    def _due(self) -> list[str]:
        seconds = time.monotonic() - self._begun
        due = []
        for when, key in self._left:
            if when > (self._looks if isinstance(when, int) else seconds):
                break
            due.append(key)
        return due

    def waiting(self, keys: Sequence[str]) -> bool:
        return any(k in keys for k in self._due())

    def close(self) -> None:
        self._left = []


def _refuse_keyless(keys: KeyMap) -> None:
    """With a pedal alone, whatever has no pedal cannot be said."""
    silent = [e.name.lower() for e, ks in keys.keys.items() if not any(PEDAL.fullmatch(k) for k in ks)]
    needed = [n for n in silent if n in ("take_over", "hand_back", "success", "failure")]
    if needed:
        raise UsageError(
            f"no keyboard can be heard, and no pedal stands for {', '.join(needed)}: run in a terminal, or give it one "
            "under rollout.human.keys"
        )


def _listen_to_pedal(hear: Any, device: str) -> threading.Thread:
    """LeRobot's listener says nothing where there is no pedal; this does."""
    from lerobot.utils.pedal import start_pedal_listener

    if not Path(device).exists():
        raise UsageError(f"there is no pedal at {device}: plug it in, or give --rollout.human.pedal=DEVICE")
    if not os.access(device, os.R_OK):
        raise UsageError(f"the pedal at {device} may not be read: add yourself to its group (mostly 'input')")
    thread = start_pedal_listener(hear, device)
    if thread is None:
        raise UsageError("a pedal needs the package evdev; run: pip install 'igrft[robot]'")
    thread.join(0.2)
    if not thread.is_alive():
        raise UsageError(f"{device} is no pedal that can be listened to: give --rollout.human.pedal=DEVICE")
    return thread


class KeysHuman:
    """A :class:`~igrft.rollouts.protocols.Human` who judges and stops, but has nothing to drive with."""

    scripted = False

    def __init__(self, keys: KeyInput, key_map: KeyMap, voice: Voice | None = None) -> None:
        self.name = "keys"
        self.can_drive = False
        self._keys, self._map, self._voice = keys, key_map, voice or Voice(False)
        self._driving = False

    def start(self, seed: int | None) -> None:
        """A new episode: nobody drives, and keys pressed before do not count."""
        self._driving = False
        self._keys.start()

    def events(self) -> list[Event]:
        """What was pressed since the last call, as events. A key of two events gives both, in order."""
        driving, said = self._driving, []
        for key in self._keys.poll():
            for event in self._map.events(key, driving):
                driving = event is Event.TAKE_OVER or (driving and event is not Event.HAND_BACK)
                said.append(event)
        return said

    def call(self, reason: str) -> None:
        self._voice.say(reason)

    def take_over(self, observation: Observation, last_action: np.ndarray | None) -> None:
        """Raises UsageError: there is nothing to drive with."""
        raise UsageError("keys alone cannot drive; give --rollout.human.type=teleop")

    def action(self, observation: Observation) -> np.ndarray:
        """Raises UsageError: as :meth:`take_over`."""
        raise UsageError("keys alone cannot drive; give --rollout.human.type=teleop")

    def finished(self, status: Status) -> bool:
        """Never: a human says so."""
        return False

    def hand_back(self) -> None:
        self._driving = False

    def close(self) -> None:
        self._keys.close()

    def _wants_to_stop(self) -> bool:
        return self._keys.waiting(self._map.keys[Event.STOP])
