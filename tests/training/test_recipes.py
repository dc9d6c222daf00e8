"""The recipes that come with the toolkit: Table V number by number, and a tiny twin of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from igrft.pipeline.config import load_pipeline
from igrft.resources import folder
from igrft.rewards import exploration_temperature
from igrft.training.recipe import Recipe
from igrft.training.recipe_file import load_recipe, read_yaml
from igrft.training.rules import check_recipe
from igrft.training.setup import run_folder

ROOT = folder("recipes")
#: Those that `igrft train` runs.
PATHS = [p for p in sorted(ROOT.rglob("*.yaml")) if read_yaml(p).get("stage") not in (None, "eval", "record")]
FULL = sorted(p.stem for p in PATHS if p.parent == ROOT)
TINY = sorted(p.stem for p in PATHS if p.parent == ROOT / "tiny")
STAGES = {"sft": "sft", "offline_rl": "offline_rl", "hil": "hil"}
BASELINES = {"sft_success": "sft", "awr": "offline_rl", "iql": "offline_rl"}
#: For a card of 24 GB.
SMALL_CARD = {"sft_lora": "sft", "sft_expert_only": "sft"}
SPARSE = {"awr", "iql"}


@pytest.fixture(scope="module")
def full() -> dict[str, Recipe]:
    return {name: load_recipe(name) for name in FULL}


@pytest.fixture(scope="module")
def tiny() -> dict[str, Recipe]:
    return {name: load_recipe(f"tiny/{name}") for name in TINY}


def test_one_recipe_a_stage_and_baseline():
    assert set(FULL) == {*STAGES, *BASELINES, *SMALL_CARD}


def test_stages_and_baselines_have_a_tiny_twin():
    assert TINY == FULL


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_recipe_runs_once_it_has_data(path: Path):
    name = str(path.relative_to(ROOT).with_suffix(""))
    count = len(read_yaml(path)["datasets"])
    made = load_recipe(name, [f"datasets.{i}.root=somewhere" for i in range(count)])
    check_recipe(made, name)
    assert made.stage == {**STAGES, **BASELINES, **SMALL_CARD}[path.stem]
    # The next stage starts from here.
    assert str(run_folder(made, name)) == f"runs/{name}"
    assert path.read_text().startswith("# ")


def each(recipes: dict[str, Recipe], read, names=None) -> list:
    return [read(recipes[n]) for n in (names or recipes)]


def test_general_optimization_of_table_v(full):
    for made in full.values():
        assert made.optimizer.learning_rate == 5e-5
        assert made.critic.learning_rate == 5e-6
        assert made.batch_size == 64
        assert made.optimizer.clip == 1.0
        assert made.optimizer.ema == 0.999
        # A round of Stage III is no longer than Table V's warm-up: ours is a tenth.
        assert made.optimizer.warmup_steps == (100 if made.stage == "hil" else 1000)
    # Critic warm-up steps, of those that start a critic.
    starts = {n: made.critic.start for n, made in full.items()}
    assert {n: s for n, s in starts.items() if s} == dict.fromkeys(["sft", "sft_success", *SMALL_CARD], 2000)
    # Total training steps: Stages I and II, and the baseline that has as many.
    assert full["sft"].steps + full["offline_rl"].steps == full["sft_success"].steps == 30_000


def test_ig_awr_of_table_v(full):
    for made in full.values():
        # With 1 a sparse reward returns 1 on every frame of a success: ours is just below.
        assert made.rewards.discount == (1.0 if made.rewards.kind == "hybrid" else 0.999)
        explores = made.exploration
        assert (explores.sigma_base, explores.sigma_min, explores.alpha) == (1.5, 0.2, 0.9)
        if made.objective.type != "sft":
            assert made.objective.beta == 0.05
            assert made.objective.weight_limit == 10.0
        if made.rewards.kind == "hybrid":
            assert (made.rewards.trajectory_weight, made.rewards.subtask_weight) == (0.4, 0.6)
    assert {n for n, made in full.items() if made.rewards.kind == "sparse"} == SPARSE
    with_settings = exploration_temperature(0.5, sigma_base=1.5, alpha=0.9, sigma_min=0.2)
    assert with_settings == pytest.approx(1.025)


def test_interaction_thresholds_of_table_v_stand_in_the_pipelines():
    steps = [s for s in load_pipeline("offline").steps if s.type == "interaction"]
    assert [(s.flow_threshold, s.pixel_threshold) for s in steps] == [(2.0, 400)]


def test_training_schedule_of_table_v(full):
    assert full["sft"].steps == 5000
    assert full["offline_rl"].steps == full["awr"].steps == full["iql"].steps == 25_000
    assert full["hil"].steps == 1000  # ours, a round
    # Critic update frequency 0.5 in Stage III; the actor's is 1 throughout.
    assert {n: made.critic.update_every for n, made in full.items() if made.critic.update_every != 1} == {"hil": 2}


def test_the_critic_of_appendix_a(full):
    for made in full.values():
        critic = made.critic
        assert critic.enabled
        assert (critic.layers, critic.queries, critic.width, critic.heads, critic.hidden) == (
            [11, 14, 17],
            8,
            256,
            8,
            128,
        )


def test_the_policy_of_section_v(full):
    """π0.5, chunks of 30 at 30 Hz, in the precision that it is trained in."""
    for made in full.values():
        policy = made.policy
        assert (policy.type, policy.chunk_size, policy.n_action_steps, policy.dtype) == ("pi05", 30, 30, "bfloat16")
        assert policy.gradient_checkpointing
        assert made.advantage.steps is None  # N is the chunk
        assert len(policy.action_delta_indices) == 30


def test_stages_follow_each_other(full, tiny):
    for recipes, prefix, base in ((full, "runs", "lerobot/pi05_base"), (tiny, "runs/tiny", None)):
        chain = {n: made.init_from for n, made in recipes.items()}
        for name in recipes:
            expected = {"offline_rl": f"{prefix}/sft", "awr": f"{prefix}/sft", "iql": f"{prefix}/sft"}
            expected["hil"] = f"{prefix}/offline_rl"
            assert chain[name] == expected.get(name, base), name


def test_objectives(full, tiny):
    expected = {"offline_rl": "ig_awr", "hil": "ig_awr", "awr": "awr", "iql": "iql"}
    for recipes in (full, tiny):
        for name, made in recipes.items():
            assert made.objective.type == expected.get(name, "sft")
            assert made.objective.frames == ("successes" if name == "sft_success" else "all")
            assert made.objective.intervention_floor == 0.0 and not made.objective.normalise_weights
            assert made.objective.noise_scale == [1.0, 1.0] and made.objective.flow_samples == 1
            # Baselines explore with uniform noise, of the flow's own size.
            uniform = name in BASELINES
            assert made.exploration.type == ("uniform" if uniform else "interaction")
            assert made.exploration.uniform == 1.0
    assert full["iql"].objective.expectile == 0.7


def test_insulation_and_text(full, tiny):
    assert all(made.objective.insulate for made in full.values())
    assert {n: made.objective.text_weight for n, made in full.items() if made.objective.text_weight != 1} == {
        "sft_expert_only": 0.0
    }
    # state_flow has no language model; those of a small card train a tiny π0.5.
    assert {n for n, made in tiny.items() if made.objective.insulate} == set(SMALL_CARD)
    assert {n for n, made in tiny.items() if made.objective.text_weight} == {"sft_lora"}


def test_the_hil_round_takes_equal_parts(full, tiny):
    for made in (full["hil"], tiny["hil"]):
        assert [(d.kind, d.weight) for d in made.datasets] == [("demonstrations", 1.0), ("rollouts", 1.0)]
    for recipes in (full, tiny):
        for name, made in recipes.items():
            if name != "hil":
                assert [d.kind for d in made.datasets] == ["demonstrations"]


def test_a_robot_and_its_twin_in_simulation(full, tiny):
    """What is driven and who takes over differ; rounds, episodes and what calls for help do not."""
    robot, simulation = full["hil"], tiny["hil"]
    assert (robot.environment.type, simulation.environment.type) == ("robot", "metaworld")
    assert (robot.rollout.human.type, simulation.rollout.human.type) == ("teleop", "expert")
    assert (robot.environment.fps, robot.rollout.inference.type) == (30.0, "rtc")
    for made in (robot, simulation):
        assert (made.rounds.count, made.rollout.episodes, made.rollout.seed) == (4, 10, 10000)
        assert made.rollout.monitor.enabled
    assert robot.rollout.inference.queue < robot.policy.chunk_size


def test_recipes_for_a_small_card(full):
    assert {n: made.lora.rank for n, made in full.items() if made.lora.rank} == {"sft_lora": 32}
    assert {n for n, made in full.items() if made.policy.train_expert_only} == {"sft_expert_only"}
    for name in SMALL_CARD:
        made = full[name]
        assert made.gradient_accumulation > 1 and made.batch_size % made.gradient_accumulation == 0


def test_decisions_of_ours(full):
    for name, made in full.items():
        assert made.optimizer.weight_decay == 0.01
        assert made.optimizer.final_learning_rate == 5e-6
        assert made.critic.holdout == 0.1 and made.critic.patience is None
        assert made.advantage.source == "critic" and made.advantage.refresh == 1, name


def test_twins_differ_from_their_originals_in_size_alone(full, tiny):
    """What a stage is, is the same; how large and how long is not."""
    free = {
        "output_dir", "init_from", "steps", "batch_size", "save_every", "policy", "gradient_accumulation",
        "objective.insulate", "objective.text_weight",
        "critic.learning_rate", "critic.start", "critic.evaluate_every", "critic.queries", "critic.width",
        "critic.heads", "critic.hidden",
        "optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.warmup_steps", "optimizer.ema",
        "lora.rank",
    }  # fmt: skip
    for name in TINY:
        big, small = (
            {k: v for k, v in flat(read_yaml(ROOT / p)).items() if not k.startswith(("environment.", "rollout."))}
            for p in (f"{name}.yaml", f"tiny/{name}.yaml")
        )
        assert big.keys() | {"cpu_threads"} == small.keys(), name
        differing = {k for k in big if big[k] != small[k]}
        assert differing <= free, (name, differing - free)


def test_twins_run_on_a_cpu(tiny):
    for name, made in tiny.items():
        kind = "pi05_tiny" if name in SMALL_CARD else "state_flow"
        assert (made.policy.type, made.policy.device) == (kind, "cpu")
        assert made.optimizer.learning_rate == (1e-3 if kind == "pi05_tiny" else 3e-3) and made.optimizer.ema == 0.99
        assert made.steps <= 4000
    assert tiny["sft"].steps + tiny["offline_rl"].steps == tiny["sft_success"].steps
    assert tiny["hil"].critic.update_every == 2


def flat(value: dict, prefix: str = "") -> dict:
    out = {}
    for key, part in value.items():
        if isinstance(part, dict) and key != "policy":
            out.update(flat(part, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = part
    return out
