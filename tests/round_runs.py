"""Makes the folder of a run made of rounds: real rollouts, updates as `igrft train` leaves them, and their summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rollout_lines import Plan, make_rollouts
from training_runs import Made, write_run

from igrft.rollouts.facts import read_rollout
from igrft.rollouts.rounds import _publish
from igrft.rollouts.run import summary

#: Rollouts by round: a policy that needs less and less help.
PLANS: tuple[tuple[Plan, ...], ...] = (
    (Plan(stuck=(30.0, 99.0), helper=None), Plan(stuck=(20.0, 26.0)), Plan(stuck=(30.0, 99.0), helper=None), Plan()),
    (Plan(stuck=(20.0, 26.0)), Plan(), Plan(stuck=(30.0, 99.0), helper=None), Plan()),
    (Plan(), Plan(stuck=(40.0, 44.0)), Plan(), Plan()),
)


def write_rounds(
    root: Path, plans: Sequence[Sequence[Plan]] = PLANS, *, updated: int | None = None, count: int | None = None
) -> Path:
    """Write the run to ``root`` and return it.

    Args:
        updated: rounds whose update is finished; None is all.
        count: rounds that the recipe asks for; None is as many as there are.
    """
    root.mkdir(parents=True)
    recipe = {
        "stage": "hil",
        "environment": {"type": "metaworld", "task": "line-v3", "robot": None},
        "rollout": {"episodes": 4, "monitor": {"window": 1.0, "margin": 0.02}, "human": {"type": "expert"}},
        "rounds": {"count": len(plans) if count is None else count},
        "exploration": {"type": "interaction", "sigma_base": 1.5, "alpha": 0.9, "sigma_min": 0.2},
        "init_from": "/runs/offline_rl",
        "steps": 200,
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    lines: list[dict[str, Any]] = []
    for number, held in enumerate(plans):
        make_rollouts(root / f"rollout_line_{number}", held, number=number)
        if updated is not None and number >= updated:
            continue
        overrides = {"stage": "hil"}
        write_run(
            root / f"round_{number}", Made(steps=200, episodes=10, critic_start=0, seed=number, overrides=overrides)
        )
        episodes = read_rollout(root / f"rollout_line_{number}").episodes
        lines.append({"round": number, **summary(episodes), "steps": 200, "run": f"round_{number}"})
        _publish(root, lines)
    return root


def write_evaluation(folder: Path, **changed: Any) -> Path:
    """``summary.json`` of `igrft eval` with two policies, as it writes it."""
    from igrft.evaluation.summary import summarise

    results = [
        {
            "name": name,
            "task": "line-v3",
            "training_seed": 0,
            "temperature": 1.0,
            "seed": seed,
            "success": seed % 10 < good,
            "said": True,
            "progress": 0.5,
            "interventions": 0,
            "steps": 40,
            "noise": [1.0, 1.0, 1.0],
        }
        for name, good in (("offline_rl", 4), ("hil", 7))
        for seed in range(50)
    ]
    value = {"complete": True, **summarise(results, ["offline_rl", "hil"], [1.0]).to_json(), **changed}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(value))
    return folder
