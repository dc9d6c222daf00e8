"""Keys heard in a real terminal, from a pedal and from a script."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igrft.errors import UsageError
from igrft.rollouts.keymap import KeyMap
from igrft.rollouts.keys import KeyListener, KeysHuman, ScriptedKeys
from igrft.rollouts.protocols import Event, Human, Status
from igrft.rollouts.settings import HumanSettings

NO_DISPLAY = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE")}

PROGRAM = """
import sys, time
from igrft.rollouts.keymap import KeyMap
from igrft.rollouts.keys import KeyListener, KeysHuman
from igrft.rollouts.settings import HumanSettings
keys = KeyMap()
human = KeysHuman(KeyListener(HumanSettings(), keys), keys)
print("listening", flush=True)
try:
    while True:
        for event in human.events():
            print(event.name, flush=True)
            if event.name == "STOP":
                raise SystemExit
        time.sleep(0.01)
finally:
    human.close()
    import termios
    print("echo", bool(termios.tcgetattr(0)[3] & termios.ECHO), flush=True)
"""


def test_keys_in_a_terminal_become_events() -> None:
    """A pseudo-terminal: letters, the arrows' sequences in both spellings, and escape alone."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=theirs, stdout=subprocess.PIPE, env=NO_DISPLAY, text=True
    )
    os.close(theirs)
    try:
        assert child.stdout is not None

        def line() -> str:
            assert child.stdout is not None
            return child.stdout.readline().strip()

        assert line() == "listening"
        presses = [
            (b" ", ["TAKE_OVER"]),
            (b"c", ["HAND_BACK"]),
            (b"S", ["SUCCESS"]),
            (b"f", ["FAILURE"]),
            (b"\x1b[D", ["AGAIN"]),
            (b"\x1bOC", ["SUCCESS", "READY"]),
            (b"\r", ["READY"]),
            (b"q", []),
            (b"\x1b", ["STOP"]),
        ]
        for pressed, said in presses:
            os.write(ours, pressed)
            assert [line() for _ in said] == said
        assert line() == "echo True"  # the terminal is as it was
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
        os.close(ours)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """This process's standard input is a terminal that the test types into."""
    if os.environ.get("DISPLAY"):
        pytest.skip("with a display, keys are heard there")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda text: os.write(ours, text)
    os.close(ours)


def heard(listener: KeyListener, count: int) -> list[str]:
    """Wait until so many keys have come."""
    found: list[str] = []
    until = time.monotonic() + 20
    while len(found) < count and time.monotonic() < until:
        found += listener.poll()
        time.sleep(0.005)
    return found


def test_keys_before_an_episode_do_not_count_but_for_stop(terminal: Any) -> None:
    keys = KeyMap()
    listener = KeyListener(HumanSettings(), keys)
    try:
        terminal(b"sr\x1b")
        until = time.monotonic() + 20
        while not listener.waiting(["esc"]) and time.monotonic() < until:
            time.sleep(0.005)
        assert listener.waiting(["s"])
        listener.start()
        assert listener.poll() == ["esc"]
        assert listener.poll() == [] and not listener.waiting(["esc"])
    finally:
        listener.close()


def test_a_key_that_is_held_down_says_one_thing(terminal: Any) -> None:
    listener = KeyListener(HumanSettings(), KeyMap())
    try:
        for _ in range(20):
            terminal(b" ")
        terminal(b"f")
        assert heard(listener, 2) == ["space", "f"]
    finally:
        listener.close()


def test_nothing_is_lost_between_threads() -> None:
    """Presses from many threads, while another asks."""
    listener = KeyListener.__new__(KeyListener)
    listener.__dict__.update(_heard={}, _lock=threading.Lock(), _pedal=None, _always=frozenset(), _stop_key="esc")
    from collections import deque

    listener._pressed = deque()
    names = [[f"KEY_{t}_{i}" for i in range(500)] for t in range(4)]
    threads = [threading.Thread(target=lambda n=n: [listener._hear(k) for k in n]) for n in names]
    found: list[str] = []
    for thread in threads:
        thread.start()
    while any(t.is_alive() for t in threads):
        found += listener.poll()
    found += listener.poll()
    assert sorted(found) == sorted(k for n in names for k in n)
    for number, group in enumerate(names):  # in order
        assert [k for k in found if k.startswith(f"KEY_{number}_")] == group


@pytest.mark.skipif(bool(os.environ.get("DISPLAY")), reason="with a display, keys are heard there")
def test_no_keyboard_says_what_to_do() -> None:
    with pytest.raises(
        UsageError, match=r"no keyboard can be heard: run in a terminal, or on an X11 display, or use a"
    ):
        KeyListener(HumanSettings(), KeyMap())


def test_an_unknown_input() -> None:
    with pytest.raises(UsageError, match="rollout.human.input is 'pedals'; did you mean 'pedal'"):
        KeyListener(HumanSettings(input="pedals"), KeyMap())


# Pedals: LeRobot's listener over a device of ours in evdev's place.


class Pipe:
    """What evdev's InputDevice is to LeRobot: presses come through a pipe, by name."""

    def __init__(self, path: str) -> None:
        self.name, self._file = "pipe", os.open(path, os.O_RDONLY)

    def read_loop(self) -> Iterator[Any]:
        buffered = b""
        while True:
            select.select([self._file], [], [])
            data = os.read(self._file, 64)
            if not data:
                raise OSError(19, "No such device")
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                code, state = line.decode().split()
                yield types.SimpleNamespace(type=1, code=code, state=int(state))


@pytest.fixture
def pedal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    evdev = types.ModuleType("evdev")
    evdev.InputDevice = Pipe  # type: ignore[attr-defined]
    evdev.ecodes = types.SimpleNamespace(EV_KEY=1)  # type: ignore[attr-defined]
    evdev.categorize = lambda e: types.SimpleNamespace(keycode=[e.code], keystate=e.state)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evdev", evdev)
    path = tmp_path / "pedal"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    yield str(path), end


@pytest.mark.skipif(bool(os.environ.get("DISPLAY")), reason="with a display, keys are heard there")
def test_a_pedal_alone_is_enough_and_stops_when_it_is_gone(pedal: tuple[str, int]) -> None:
    path, end = pedal
    keys = KeyMap(pedal=True)
    listener = KeyListener(HumanSettings(input="pedal", pedal=path), keys)
    human = KeysHuman(listener, keys)
    os.write(end, b"KEY_A 1\nKEY_A 0\nKEY_B 1\nKEY_B 0\n")
    until = time.monotonic() + 20
    said: list[Event] = []
    while len(said) < 3 and time.monotonic() < until:
        said += human.events()
    assert said == [Event.TAKE_OVER, Event.SUCCESS, Event.READY]
    os.close(end)
    while Event.STOP not in said and time.monotonic() < until:
        said += human.events()
    assert said[-1] is Event.STOP
    assert human.events() == []


@pytest.mark.skipif(bool(os.environ.get("DISPLAY")), reason="with a display, keys are heard there")
def test_a_pedal_alone_that_cannot_say_enough(pedal: tuple[str, int]) -> None:
    path, end = pedal
    settings = HumanSettings(input="pedal", pedal=path, keys={"failure": "x"})
    with pytest.raises(UsageError, match="no pedal stands for failure"):
        KeyListener(settings, KeyMap(settings.keys, pedal=True))
    os.close(end)


def test_pedals_that_cannot_be_heard(tmp_path: Path) -> None:
    keys = KeyMap(pedal=True)
    with pytest.raises(UsageError, match="there is no pedal at .*missing: plug it in"):
        KeyListener(HumanSettings(input="pedal", pedal=str(tmp_path / "missing")), keys)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is no pedal that can be listened to"):
        KeyListener(HumanSettings(input="pedal", pedal=str(tmp_path / "file")), keys)


# Scripts, and the human who has keys alone.


def test_a_script_counts_looks_and_begins_again_with_every_episode() -> None:
    keys = ScriptedKeys([(1, "a"), (1, "b"), (3, "c")], [(0, "d")], before=[(0, "enter")])
    assert keys.poll() == ["enter"] and keys.poll() == []
    keys.start()
    assert [keys.poll() for _ in range(5)] == [[], ["a", "b"], [], ["c"], []]
    keys.start()
    assert keys.waiting(["d"]) and not keys.waiting(["c"])
    assert [keys.poll() for _ in range(2)] == [["d"], []]
    keys.start()  # the last episode's keys go on
    assert keys.poll() == ["d"]
    once = ScriptedKeys([(0, "d")], keep=False)
    once.start()
    assert once.poll() == ["d"]
    once.start()
    assert once.poll() == []


def test_a_script_counts_seconds() -> None:
    keys = ScriptedKeys([(0.1, "a")])
    keys.start()
    assert keys.poll() == []
    time.sleep(0.12)
    assert keys.poll() == ["a"]


def test_a_human_with_keys_alone_judges() -> None:
    script = ScriptedKeys([(0, "space"), (1, "s"), (2, "left"), (2, "esc")])
    human = KeysHuman(script, KeyMap(drives=False))
    assert isinstance(human, Human)
    assert (human.name, human.scripted, human.can_drive) == ("keys", False, False)
    human.start(0)
    assert [human.events() for _ in range(3)] == [[], [Event.SUCCESS], [Event.AGAIN, Event.STOP]]
    assert not human.finished(Status(ended=True))
    human.call("the value stagnates")
    for drive in (lambda: human.take_over({}, None), lambda: human.action({"observation.state": np.zeros(1)})):
        with pytest.raises(UsageError, match="keys alone cannot drive"):
            drive()


def test_two_presses_of_one_key_in_one_look_take_over_and_hand_back() -> None:
    human = KeysHuman(ScriptedKeys([(0, "space"), (0, "space")]), KeyMap())
    human.start(0)
    assert human.events() == [Event.TAKE_OVER, Event.HAND_BACK]
