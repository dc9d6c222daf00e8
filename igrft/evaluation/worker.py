"""One process of an evaluation: JSON lines in, JSON lines out. Nothing is pickled.

The first line says what is evaluated, each one after it names an episode. The process ends when its input does,
which is also what happens when its parent dies.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from igrft.errors import IgrftError, UsageError

if TYPE_CHECKING:
    from igrft.evaluation.bench import Bench


def main() -> None:
    """Serve until the input ends."""
    # Ctrl-C reaches the whole process group; the parent alone decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print: what they say must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()

    def answer(kind: str, value: Any) -> None:
        answers.write(json.dumps({kind: value}, allow_nan=False) + "\n")
        answers.flush()

    serve(lines.get, answer)


def serve(following: Callable[[], str], answer: Callable[[str, Any], None]) -> None:
    """Answer each line with ``result`` or ``error``.

    Args:
        following: the next line of the input.
        answer: is given a kind and its value; ``say`` are lines for the user.
    """
    bench: Bench | None = None
    while True:
        line = following()
        try:
            value = json.loads(line)
            if bench is None:
                bench = _opened(value, answer)
            else:
                from igrft.evaluation.bench import Job

                answer("result", bench.run(Job(**value)))
        except Exception as error:
            # Without what is not told to users: the parent names the episode.
            kind = "usage" if isinstance(error, UsageError) else "failure"
            text = " ".join(str(error).split())
            answer("error", [kind, text if isinstance(error, IgrftError) else f"{type(error).__name__}: {text}"])


def _opened(value: dict[str, Any], answer: Callable[[str, Any], None]) -> Bench:
    # LeRobot takes ten seconds to import; until then the process already listens for its parent's end.
    from igrft.evaluation.bench import Bench
    from igrft.evaluation.contenders import Contender
    from igrft.evaluation.recipe import EvalRecipe
    from igrft.training.recipe_file import recipe_from

    recipe = recipe_from(value["recipe"], [], "recipe", EvalRecipe)
    contenders = [Contender(**one) for one in value["contenders"]]
    return Bench(recipe, contenders, Path(value["folder"]), say=lambda line: answer("say", line))


def _read(lines: queue.Queue[str], stream: TextIO | None = None) -> None:
    for line in stream or sys.stdin:
        lines.put(line)
    # Whatever is going on, nobody waits for it any more.
    os._exit(0)


if __name__ == "__main__":
    main()
