"""From simulated demonstrations to success rates, by the same calls that a user makes.

Nothing of the simulator's truth reaches a label: subtasks come from the gripper and the state, interaction from the
pictures, and whether an episode succeeded from the recording, as a teleoperator would have said it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft.errors import IgrftError, UsageError
from igrft.resources import find

if TYPE_CHECKING:
    from igrft.evaluation.run import EvalResult

#: Names of the stages, in the order of the story; the last is one round with takeovers.
STAGES = ("SFT", "offline RL", "one round")
_FACTS = "demo.json"


@dataclass(frozen=True)
class DemoSettings:
    """How large a demonstration it is.

    Attributes:
        task: of Meta-World; one that has a task file.
        demonstrations: episodes recorded.
        episodes: of evaluation, after each stage.
        width, height: of pictures, in pixels.
        overrides: of every recipe, as ``KEY=VALUE``.
    """

    task: str = "shelf-place-v3"
    demonstrations: int = 30
    episodes: int = 50
    width: int = 240
    height: int = 180
    seed: int = 0
    overrides: tuple[str, ...] = ("batch_size=128",)


@dataclass
class Demo:
    """What there is to tell.

    Attributes:
        seconds: that each part took.
        pages: reports by what they are of.
    """

    settings: DemoSettings
    root: Path
    seconds: dict[str, float] = field(default_factory=dict)
    pages: dict[str, Path] = field(default_factory=dict)
    evaluation: EvalResult | None = None

    @property
    def recorded(self) -> Path:
        return self.root / "demonstrations"

    @property
    def labelled(self) -> Path:
        return self.root / "labelled"

    @property
    def sft(self) -> Path:
        return self.root / "runs" / "sft"

    @property
    def offline_rl(self) -> Path:
        return self.root / "runs" / "offline_rl"

    @property
    def hil(self) -> Path:
        return self.root / "runs" / "hil"

    @property
    def rollouts(self) -> Path:
        """The round's rollouts, labelled."""
        found = sorted(self.hil.glob("rollout_*_0_labelled"))
        if not found:
            raise IgrftError(f"{self.hil} holds no labelled rollouts")
        return found[0]


def demo(root: Path | str, settings: DemoSettings | None = None, *, say: Callable[[str], None] = print) -> Path:
    """Record, label, train three stages, evaluate after each, and tell it on one page.

    Args:
        root: a folder that is not there yet, is empty, or holds an earlier demo: it then goes on.
        say: is given a line a part.

    Returns:
        The page.

    Raises:
        UsageError: the folder holds something else. IgrftError: a part failed.
    """
    settings = settings or DemoSettings()
    told = Demo(settings, Path(root).expanduser().resolve())
    _claim(told)
    with _timed(told, "record", say, f"recording {settings.demonstrations} demonstrations of {settings.task}"):
        _record(told)
    with _timed(told, "label", say, "labelling them: subtasks, interaction, rewards, returns"):
        from igrft.pipeline.run import annotate

        task = f"steps.subtasks.task={_task_file(settings.task)}"
        annotate(told.recorded, told.labelled, pipeline="simulation", overrides=[task])
    common = [f"datasets.0.root={told.labelled}", f"seed={settings.seed}", *settings.overrides]
    with _timed(told, "SFT", say, "Stage I: imitation"):
        _train("sft", told.sft, common, say)
    with _timed(told, "offline RL", say, "Stage II: offline RL on the same demonstrations"):
        _train("offline_rl", told.offline_rl, [*common, f"init_from={told.sft}"], say)
    with _timed(told, "one round", say, "Stage III: one round; the expert takes over where the value stagnates"):
        _train(
            "hil",
            told.hil,
            [
                *common,
                f"init_from={told.offline_rl}",
                f"environment.task={settings.task}",
                f"environment.width={settings.width}",
                f"environment.height={settings.height}",
                "rounds.count=1",
            ],
            say,
        )
    with _timed(told, "evaluate", say, f"evaluating each stage on the same {settings.episodes} starts"):
        told.evaluation = _evaluate(told)
    with _timed(told, "report", say, "writing the reports"):
        _report(told)
    from igrft.demo.page import write_page

    (told.root / _FACTS).write_text(json.dumps(_facts(told), indent=2) + "\n", encoding="utf-8")
    return write_page(told)


def _claim(told: Demo) -> None:
    root = told.root
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; give another --output")
    held = root / _FACTS
    if root.exists() and any(root.iterdir()) and not held.is_file():
        raise UsageError(f"{root} holds something that is no demo of igrft; give another --output")
    root.mkdir(parents=True, exist_ok=True)
    facts = _facts(told)
    if held.is_file():
        earlier = json.loads(held.read_text(encoding="utf-8"))
        if earlier.get("settings") != facts["settings"]:
            raise UsageError(f"{root} holds a demo with other settings; give another --output, or remove it")
        told.seconds.update(earlier.get("seconds", {}))
    else:
        held.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _facts(told: Demo) -> dict[str, Any]:
    from dataclasses import asdict

    return json.loads(json.dumps({"settings": asdict(told.settings), "seconds": told.seconds}))


def _task_file(task: str) -> str:
    return str(find("pipelines", f"tasks/metaworld-{task}"))


def _record(told: Demo) -> None:
    from igrft.recordings.convert import convert
    from igrft.simulation.record import SimulationOptions

    settings = told.settings
    if (told.recorded / "meta" / "info.json").is_file():
        return
    options = SimulationOptions(
        episodes=settings.demonstrations, seed=settings.seed, width=settings.width, height=settings.height
    )
    convert(f"metaworld:{settings.task}", told.recorded, simulation=options, progress=False)


def _train(recipe: str, run: Path, overrides: list[str], say: Callable[[str], None]) -> None:
    from igrft.training.run import train

    train(f"tiny/{recipe}", [*overrides, f"output_dir={run}"], say=lambda line: say(f"  {line}"))


def _evaluate(told: Demo) -> EvalResult:
    from igrft.evaluation.recipe import CheckpointEntry, EvalRecipe
    from igrft.evaluation.run import evaluate
    from igrft.rollouts.settings import EnvironmentSettings

    runs = zip(STAGES, (told.sft, told.offline_rl, told.hil), strict=True)
    recipe = EvalRecipe(
        checkpoints=[CheckpointEntry(path=str(run), name=name, seed=told.settings.seed) for name, run in runs],
        environment=EnvironmentSettings(type="metaworld", task=told.settings.task, pictures=False),
        episodes=told.settings.episodes,
        device="cpu",
        figures=False,
        output_dir=str(told.root / "evaluation"),
    )
    return evaluate(recipe)


def _report(told: Demo) -> None:
    from igrft.reports.page import report
    from igrft.reports.run.page import report_run

    pages = told.root / "report"
    told.pages = {
        "the labels": report(told.labelled, pages / "labels", max_episodes=6),
        "the rollouts": report(told.rollouts, pages / "rollouts", max_episodes=6),
        "SFT": report_run(told.sft, pages / "sft"),
        "offline RL": report_run(told.offline_rl, pages / "offline_rl"),
        "the round's updates": report_run(told.hil / "round_0", pages / "round_0"),
    }


@contextmanager
def _timed(told: Demo, name: str, say: Callable[[str], None], what: str) -> Iterator[None]:
    say(f"{what} …")
    began = time.perf_counter()
    yield
    # A part that was done before takes no time now, and what it took then is told.
    told.seconds[name] = max(told.seconds.get(name, 0.0), time.perf_counter() - began)
    say(f"  {time.perf_counter() - began:.0f} s")
