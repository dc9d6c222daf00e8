"""What is said goes to the screen, and to the machine's speech where it has one."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import pytest

from igrft.rollouts.sound import Voice


@pytest.mark.skipif(platform.system() != "Linux", reason="LeRobot speaks by spd-say on Linux alone")
def test_it_speaks_through_lerobot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    heard = tmp_path / "heard"
    program = tmp_path / "spd-say"
    program.write_text(f'#!/bin/sh\necho "$1" >> {heard}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    Voice(False).say("not aloud")
    Voice(True).say("the value stagnates")
    until = time.monotonic() + 20
    while not heard.exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert heard.read_text() == "the value stagnates\n"
    assert capsys.readouterr().err == "not aloud\nthe value stagnates\n"


@pytest.mark.skipif(platform.system() != "Linux", reason="elsewhere speech is always there")
def test_a_machine_without_speech_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    Voice(True).say("you drive")
    assert capsys.readouterr().err == "you drive\n" and caplog.text == ""
