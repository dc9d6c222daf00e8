"""Trains recipes one after the other; started in several processes by tests.

    accelerate launch … several_processes.py FILE

FILE holds a JSON list of ``{"recipe": …, "stop": STEP or null, "spread": whether parameters are to be}``; a run that
stops is saved as after SIGTERM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from igrft.training.loop import Loop, Stopped
from igrft.training.recipe_file import recipe_from
from igrft.training.run import train

torch.set_num_threads(1)


def run(job: dict[str, Any]) -> None:
    """One recipe, to its end or to the step at which it is to stop."""
    asked, step = Loop._asked_to_stop, Loop._step
    reached = [0]

    def steps(self: Loop, number: int, parts: Any) -> Any:
        reached[0] = number
        assert self.sharded == (job["spread"] and self.accelerator.num_processes > 1)
        return step(self, number, parts)

    Loop._step = steps
    Loop._asked_to_stop = lambda self: reached[0] == job.get("stop")
    try:
        train(recipe_from(job["recipe"]))
    except (Stopped, SystemExit):
        # The main process says that it was stopped; the others end without a word.
        assert reached[0] == job["stop"]
    finally:
        Loop._step, Loop._asked_to_stop = step, asked


if __name__ == "__main__":
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        run(job)
