"""Meta-World's raw environment, set up so that a seed names a start and the goal can be seen.

As it comes, an environment hides the goal, repeats one start for ever, and checks that a "task" (a pickled
start) was set. All three are switches on the object; Meta-World's own goal-observable classes throw the same ones.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from igrft.errors import IgrftError

#: corner2 stands too far off to see the objects; everyone who uses it brings it here (LeRobot and the
#: authors of Meta-World do).
_CORNER2_POSITION = (0.75, 0.075, 0.7)


def choose_renderer() -> None:
    """Let MuJoCo draw without a display, unless the user chose otherwise. Only works before mujoco is imported."""
    if sys.platform.startswith("linux") and "mujoco" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl")
    # Mesa's software renderer starts a thread a core, which costs a third more than it brings for small pictures,
    # and everything where several processes render.
    os.environ.setdefault("LP_NUM_THREADS", "0")


def make_environment(task: str) -> Any:
    """The raw environment of ``task``, a ``metaworld.sawyer_xyz_env.SawyerXYZEnv``.

    After ``env.seed(s)``, ``env.reset()`` puts it into the start that ``s`` names, in any process.

    Raises:
        IgrftError: metaworld or MuJoCo is absent; the message says the install line.
    """
    choose_renderer()
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise IgrftError(f"the simulation needs Meta-World ({error}); run: pip install 'igrft[sim]'") from error
    env = ALL_V3_ENVIRONMENTS[task]()
    env._partially_observable = False
    # Cached while the goal was hidden, with bounds that would clip it to zero.
    del env.sawyer_observation_space
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
    # The environment refuses to step past its own horizon; the time limit is ours.
    env.max_path_length = sys.maxsize
    env.model.camera("corner2").pos[:] = _CORNER2_POSITION
    # Multisampling takes most of the time of a picture, and is fixed when the renderer is made.
    env.model.vis.quality.offsamples = 0
    return env
