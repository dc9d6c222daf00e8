"""Which Meta-World tasks there are, what LeRobot calls them, and who solves them.

LeRobot keeps these tables in a JSON file beside its ``MetaworldEnv``. The file is read as data: importing the
module costs 13 s of torch and diffusers, which every process of an evaluation would pay. Its environment is not
used either: it renders at every step, whether anyone looks or not, resets itself upon success, has no state
without pictures, and draws from one frozen goal until its first reset.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from igrft.errors import IgrftError, UsageError, did_you_mean


@cache
def _tables() -> dict[str, Any]:
    import lerobot

    path = Path(lerobot.__file__).parent / "envs" / "metaworld_config.json"
    try:
        tables: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IgrftError(f"{path} is missing, so this is not the LeRobot that igrft is pinned to") from error
    return tables


def task_names() -> tuple[str, ...]:
    """Names of the fifty tasks ("shelf-place-v3", …), sorted."""
    return tuple(sorted(_tables()["TASK_DESCRIPTIONS"]))


def known_task(name: str) -> str:
    """The task that ``name`` means: ``metaworld-`` in front and a missing ``-v3`` are forgiven.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    names = task_names()
    plain = name.strip().removeprefix("metaworld-")
    for candidate in (plain, f"{plain}-v3"):
        if candidate in names:
            return candidate
    raise UsageError(f"Meta-World has no task {name!r}{did_you_mean(plain, names)}")


def description(task: str) -> str:
    """The sentence that LeRobot gives a policy for ``task``."""
    sentence: str = _tables()["TASK_DESCRIPTIONS"][task]
    return sentence


def expert_class(task: str) -> type:
    """Meta-World's scripted policy for ``task``, by LeRobot's table."""
    import metaworld.policies as policies

    found: type = getattr(policies, _tables()["TASK_POLICY_MAPPING"][task])
    return found
