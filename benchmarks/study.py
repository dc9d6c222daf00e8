"""The study in simulation: every stage on four Meta-World tasks, three training seeds, beside two controls.

    python benchmarks/study.py OUT                         # everything; run again, it goes on
    python benchmarks/study.py OUT --tasks shelf-place-v3 --seeds 0 --only train
    python benchmarks/study.py OUT --only eval
    python benchmarks/study.py OUT --only pictures         # a tiny π0.5 from pictures, on the first task

For each task: 60 simulated demonstrations of mixed quality, labelled from pictures and proprioception (never from the
simulator's truth). For each task and training seed: SFT, offline RL, four rounds with takeovers; and two controls:
SFT on the successes alone, and plain SFT on the same demonstrations and the rollouts that the rounds made, as many
updates as the three stages together. Then every checkpoint on the same held-out starts, at the flow's own noise
(standard deviation 1), through `igrft eval`: docs/study.md has the figures.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

TASKS = ("shelf-place-v3", "box-close-v3", "bin-picking-v3", "assembly-v3")
#: Updates of the three stages together: what the last control gets.
STAGES = ("sft", "offline_rl", "hil", "sft_success", "sft_takeovers")
PIPELINE = "simulation"


def demonstrations(out: Path, task: str, episodes: int) -> Path:
    """Recorded and labelled; the labelled dataset."""
    from igrft.pipeline.run import annotate
    from igrft.recordings.convert import convert
    from igrft.simulation.record import SimulationOptions

    recorded, labelled = out / task / "demonstrations", out / task / "demonstrations_labelled"
    if not recorded.exists():
        options = SimulationOptions(episodes=episodes, seed=0)
        convert(f"metaworld:{task}", recorded, simulation=options, progress=False)
    annotate(recorded, labelled, pipeline=PIPELINE, overrides=[f"steps.subtasks.task={task_file(task)}"])
    return labelled


def task_file(task: str) -> str:
    from igrft.resources import find

    return str(find("pipelines", f"tasks/metaworld-{task}"))


def train_cell(out: Path, task: str, seed: int, more: list[str]) -> None:
    """Every stage of one task and training seed."""
    from igrft.training.run import train

    data = out / task / "demonstrations_labelled"
    cell = out / task / f"seed_{seed}"
    common = [f"datasets.0.root={data}", f"seed={seed}", *more]

    def run(recipe: str, name: str, *settings: str) -> None:
        began = time.perf_counter()
        train(f"tiny/{recipe}", [*common, f"output_dir={cell / name}", *settings], say=print)
        print(f"{task} seed {seed} {name}: {time.perf_counter() - began:.0f} s", flush=True)

    run("sft", "sft")
    run("offline_rl", "offline_rl", f"init_from={cell / 'sft'}")
    run(
        "hil",
        "hil",
        f"init_from={cell / 'offline_rl'}",
        f"environment.task={task}",
        # Every training seed meets starts of its own.
        f"rollout.seed={10_000 + 1_000 * seed}",
        "rounds.workers=1",
    )
    run("sft_success", "sft_success")
    rollouts = sorted((cell / "hil").glob("rollout_*_labelled"))
    listed = []
    for i, root in enumerate(rollouts, start=1):
        # Half of every batch demonstrations, half rollouts, as the rounds have it.
        entry = {"root": root, "kind": "rollouts", "weight": 1 / len(rollouts)}
        listed += [f"datasets.{i}.{key}={value}" for key, value in entry.items()]
    run("sft_success", "sft_takeovers", *listed, "objective.frames=all", "steps=6000")


#: The tiny π0.5 that looks at pictures: far fewer updates than it would take, in minutes on a CPU.
PICTURES = (
    "policy.type=pi05_tiny",
    "objective.insulate=true",
    "objective.text_weight=1.0",
    "batch_size=16",
    "num_workers=0",
    "critic.start=50",
    "save_every=50",
    "log_every=25",
)
PICTURE_STEPS = {"sft": 300, "offline_rl": 150, "hil": 50}


def pictures(out: Path, task: str, episodes: int, max_steps: int) -> None:
    """The three stages with a tiny π0.5 that sees the camera and the arm, not where things are: one task, one seed."""
    from igrft.evaluation.recipe import CheckpointEntry, EvalRecipe
    from igrft.evaluation.run import evaluate
    from igrft.rollouts.settings import EnvironmentSettings
    from igrft.training.run import train

    data, cell = out / task / "demonstrations_labelled", out / task / "pictures"
    before: list[str] = []
    for name, steps in PICTURE_STEPS.items():
        began = time.perf_counter()
        settings = [f"datasets.0.root={data}", *PICTURES, f"steps={steps}", f"output_dir={cell / name}", *before]
        if name == "hil":
            settings += [f"environment.task={task}", f"environment.max_steps={max_steps}", "rounds.workers=1"]
        train(f"tiny/{name}", settings, say=print)
        print(f"{task} from pictures, {name}: {time.perf_counter() - began:.0f} s", flush=True)
        before = [f"init_from={cell / name}"]
    recipe = EvalRecipe(
        checkpoints=[CheckpointEntry(path=str(cell / name), name=name, task=task, seed=0) for name in PICTURE_STEPS],
        environment=EnvironmentSettings(type="metaworld", task=task, max_steps=max_steps),
        episodes=episodes,
        device="cpu",
        output_dir=str(out / "evaluation_pictures"),
    )
    print(evaluate(recipe, say=print).to_text())


def evaluate_all(out: Path, tasks: list[str], seeds: list[int], episodes: int, temperatures: list[float]) -> None:
    """Every checkpoint that is there, on the same starts."""
    from igrft.evaluation.recipe import CheckpointEntry, EvalRecipe
    from igrft.evaluation.run import evaluate
    from igrft.rollouts.settings import EnvironmentSettings

    entries = []
    for task in tasks:
        for seed in seeds:
            cell = out / task / f"seed_{seed}"
            for name in STAGES:
                if (cell / name / "checkpoints" / "last").exists():
                    entries.append(CheckpointEntry(path=str(cell / name), name=name, task=task, seed=seed))
    recipe = EvalRecipe(
        checkpoints=entries,
        baseline="sft",
        environment=EnvironmentSettings(type="metaworld", task=tasks[0], pictures=False),
        episodes=episodes,
        temperatures=list(temperatures),
        device="cpu",
        output_dir=str(out / "evaluation"),
    )
    found = evaluate(recipe, say=print, show_progress=True)
    print(found.to_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--demonstrations", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0])
    parser.add_argument("--only", choices=["demonstrations", "train", "eval", "pictures"])
    parser.add_argument("--set", nargs="*", default=[], help="settings of every recipe, as KEY=VALUE")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.only in (None, "demonstrations", "train"):
        for task in arguments.tasks:
            began = time.perf_counter()
            demonstrations(out, task, arguments.demonstrations)
            print(f"{task}: demonstrations {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.only in (None, "train"):
        for seed in arguments.seeds:
            for task in arguments.tasks:
                train_cell(out, task, seed, arguments.set)
    if arguments.only in (None, "pictures"):
        pictures(out, arguments.tasks[0], episodes=50, max_steps=300)
    if arguments.only in (None, "eval"):
        evaluate_all(out, arguments.tasks, arguments.seeds, arguments.episodes, arguments.temperatures)


if __name__ == "__main__":
    main()
