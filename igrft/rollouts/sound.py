"""Saying what happens, aloud and on the screen."""

from __future__ import annotations

import platform
import shutil
import sys


class Voice:
    """Speaks through LeRobot's ``log_say``; where the machine has no speech, the terminal's bell rings."""

    def __init__(self, aloud: bool) -> None:
        self._aloud = aloud
        # LeRobot runs spd-say on Linux and warns at every sentence where it is missing.
        self._speaks = aloud and (platform.system() != "Linux" or shutil.which("spd-say") is not None)

    def say(self, text: str) -> None:
        """Returns at once."""
        bell = "\a" if self._aloud and not self._speaks and sys.stderr.isatty() else ""
        print(f"{bell}{text}", file=sys.stderr, flush=True)
        if self._speaks:
            from lerobot.utils.utils import log_say

            log_say(text, play_sounds=True)
