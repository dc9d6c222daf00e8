"""Episodes of an evaluation, one after the other, on a line that a point walks along."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from rollout_fakes import Helper, Line, Walker
from value_runs import write_run

from igrft.dataset.video import open_frames, probe
from igrft.errors import IgrftError, UsageError
from igrft.evaluation.bench import Bench, keeps_video, wants_video
from igrft.evaluation.recipe import EvalRecipe
from igrft.evaluation.run import evaluate
from igrft.rollouts.protocols import Event, Status
from igrft.training.recipe_file import recipe_from


class Stage:
    """What a bench opens: a line, a policy whose stride follows from the noise and the seed, and nobody."""

    def __init__(self, body=Line, source=None, human=lambda body: None) -> None:
        self.body, self.source, self.human = body, source or SeededWalker, human
        self.opened: list[tuple] = []

    def open_body(self, task: str, pictures: bool):
        self.opened.append((task, pictures))
        self.last_body = self.body()
        return self.last_body

    def open_source(self, one):
        self.opened.append(("source", one.name))
        self.last_source = self.source()
        return self.last_source

    def bench(self, *arguments, **more) -> Bench:
        return Bench(*arguments, open_body=self.open_body, open_source=self.open_source, open_human=self.human, **more)


class SeededWalker(Walker):
    """Strides of 0.15 to 0.25 by the seed: some come to the end within 50 steps, some do not."""

    trained_noise = (1.0, 1.0)
    uses_images = False

    def reset(self, seed):
        super().reset(seed)
        self.stride = 0.15 + 0.1 * np.random.default_rng(seed).random()

    def infer(self, observation, **more):
        chunk = super().infer(observation, **more)
        scale = self.noise.scale(chunk.judgement)
        return type(chunk)(chunk.actions * scale, chunk.normalised, chunk.judgement, scale, 0.0)


class Painted(Line):
    """A line with two cameras."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in (("left", 64), ("right", 32)):
            shape = (48, width, 3)
            self.features[f"observation.images.{name}"] = {"dtype": "video", "shape": shape, "names": None}

    def observe(self):
        made = super().observe()
        for name, width, colour in (("left", 64, 40), ("right", 32, 220)):
            made[f"observation.images.{name}"] = np.full((48, width, 3), colour, np.uint8)
        return made


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that says its exploration."""
    root = write_run(tmp_path / "sft")
    exploration = {"type": "interaction", "sigma_base": 1.5, "alpha": 0.9, "sigma_min": 0.2, "uniform": 1.0}
    (root / "recipe.yaml").write_text(yaml.safe_dump({"seed": 0, "exploration": exploration}))
    return root


@pytest.fixture
def run(run_folder: Path, tmp_path: Path):
    def go(*overrides: str, stage: Stage | None = None, said: list | None = None, **more):
        value = {
            "checkpoints": [{"path": str(run_folder)}],
            "environment": {"type": "metaworld", "task": "reach"},
            "episodes": 6,
            "seed": 100,
            "workers": 1,
            "output_dir": str(tmp_path / "out"),
        }
        recipe = recipe_from(value, overrides, "mine", EvalRecipe)
        say = (lambda line: None) if said is None else said.append
        return evaluate(recipe, make_bench=partial((stage or Stage()).bench), say=say, **more)

    return go


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_an_episode_says_what_became_of_it(run):
    found = run()
    assert found.complete and found.ran == 6
    made = lines(found.folder)
    assert [(r["seed"], r["number"]) for r in made] == [(100 + i, i) for i in range(6)]
    strides = [0.15 + 0.1 * np.random.default_rng(100 + i).random() for i in range(6)]
    assert [r["success"] for r in made] == [s * 50 >= 10 for s in strides]
    assert {r["success"] for r in made} == {True, False}
    for r in made:
        assert (r["name"], r["task"], r["training_seed"], r["temperature"]) == ("sft", "reach-v3", 0, 1.0)
        assert r["said"] and r["noise"] == [1.0, 1.0, 1.0] and r["subtasks"] == 2
        assert (r["interventions"], r["human_steps"], r["calls"], r["cuts"]) == (0, 0, 0, 0)
        assert r["progress"] == (1.0 if r["success"] else 0.5)
        assert r["ended"] == ("success" if r["success"] else "time limit")
    (row,) = found.summary.rows
    assert row.success_rate == np.mean([r["success"] for r in made])
    assert row.steps == np.mean([r["steps"] for r in made])


def test_the_noise_is_that_of_the_temperature(run):
    found = run("temperatures=[0, 0.5, exploration]", "episodes=2")
    by = {r["temperature"]: r for r in lines(found.folder)}
    assert by[0.0]["noise"] == [0.0, 0.0, 0.0] and by[0.0]["progress"] == 0.0
    assert by[0.5]["noise"] == [0.5, 0.5, 0.5]
    # The walker's p_int is one half everywhere: 1.5 (1 - 0.9 / 2) + 0.2.
    assert by["exploration"]["noise"] == pytest.approx([1.025] * 3)
    assert {(p.first, p.second) for p in found.summary.comparisons} == {
        (("sft", 0.5), ("sft", 0.0)),
        (("sft", "exploration"), ("sft", 0.0)),
    }


def test_the_recipes_own_exploration_comes_first_and_noise_beyond_training_is_told(run):
    said: list[str] = []
    found = run("temperatures=[exploration]", "exploration.sigma_base=3", "exploration.alpha=0", said=said)
    assert lines(found.folder)[0]["noise"] == pytest.approx([3.2] * 3)
    assert len(said) == 1 and "T(s) reaches 3.2 and the flow was trained on noise up to 1" in said[0]
    assert found.summary.notices == said


def test_run_again_it_goes_on(run):
    first = run("episodes=3")
    stage = Stage()
    second = run("episodes=6", stage=stage)
    assert (first.ran, second.ran) == (3, 3)
    assert [r["number"] for r in lines(second.folder)] == [0, 1, 2, 3, 4, 5]
    stage = Stage()
    third = run("episodes=6", stage=stage)
    assert third.ran == 0 and stage.opened == []
    assert third.summary.to_json() == second.summary.to_json()
    # Fewer are asked for: the others stay, and do not count.
    assert run("episodes=2").summary.rows[0].n == 2


def test_other_settings_are_refused(run):
    run("episodes=2")
    with pytest.raises(UsageError, match=r"another environment.max_steps \(null there, 9 now\)"):
        run("episodes=2", "environment.max_steps=9")
    found = run("episodes=2", "environment.max_steps=9", overwrite=True)
    assert [r["steps"] for r in lines(found.folder)] == [9, 9]


def test_a_failing_episode_is_named_and_those_before_are_kept(run, tmp_path):
    class Broken(SeededWalker):
        def infer(self, observation, **more):
            if self.seeds[-1] == 103:
                raise RuntimeError("out of\nmemory")
            return super().infer(observation, **more)

    stage = Stage(source=Broken)
    with pytest.raises(IgrftError) as error:
        run(stage=stage)
    assert str(error.value) == (
        "sft (reach-v3 seed 0, temperature 1.0), episode 3 (seed 103): RuntimeError: out of memory; finished episodes "
        "are kept, and the same command goes on from there"
    )
    assert [r["number"] for r in lines(tmp_path / "out")] == [0, 1, 2]
    assert stage.last_body.closed and stage.last_source.closed
    assert run().ran == 3


def test_each_policy_is_loaded_once_and_let_go_of(run, run_folder, tmp_path):
    stage = Stage()
    overrides = [f"checkpoints.1.path={run_folder}", "checkpoints.1.name=b", "temperatures=[1, 0.5]", "episodes=2"]
    found = run(*overrides, stage=stage)
    assert stage.opened == [("source", "sft"), ("reach-v3", False), ("source", "b")]
    assert len(lines(found.folder)) == 8 and stage.last_source.closed


def test_help_is_counted(run):
    class Stuck(SeededWalker):
        def reset(self, seed):
            Walker.reset(self, seed)
            self.stride, self.stuck = 1.0, (4, 6)

    stage = Stage(source=Stuck, human=lambda body: Helper(steps=3))
    monitor = ["monitor.enabled=true", "monitor.window=0.4", "monitor.grace=0", "monitor.margin=0.05"]
    found = run(*monitor, stage=stage)
    made = lines(found.folder)
    assert {(r["interventions"], r["human_steps"], r["success"], r["calls"]) for r in made} == {(1, 3, True, 1)}
    (row,) = found.summary.rows
    assert (row.interventions, row.interventions_per_episode, row.successes_alone) == (6, 1.0, 0)
    # Nobody is there to help: the calls are counted, and nothing else.
    alone = run(*monitor, stage=Stage(source=Stuck), overwrite=True)
    assert {(r["interventions"], r["success"]) for r in lines(alone.folder)} == {(0, False)}
    assert all(r["calls"] > 1 for r in lines(alone.folder))


def test_eq_2_without_a_critic_is_refused(run):
    class Blind(SeededWalker):
        has_critic = False

    with pytest.raises(UsageError, match="the temperature 'exploration' asks a critic"):
        run("temperatures=[exploration]", stage=Stage(source=Blind))


def test_a_policy_that_does_not_fit_is_refused(run):
    class Picky(SeededWalker):
        def refuse_unfit(self, features):
            raise UsageError("the policy looks at 'observation.images.top', which the environment does not give")

    with pytest.raises(UsageError, match=r"looks at 'observation.images.top'"):
        run(stage=Stage(source=Picky))


# A robot.


class Robot(Line):
    """Nothing but a human can tell whether the point has arrived."""

    realtime = True
    fps = 1000.0

    def status(self):
        return Status(None, self.steps >= self.limit)


class Keys(Helper):
    """Presses one key after the other, every third time that it is asked."""

    def __init__(self, presses: list[Event]) -> None:
        super().__init__(scripted=False)
        self.can_drive, self.presses, self.moves = False, iter(presses), 0

    def events(self):
        self.moves += 1
        found = next(self.presses, None) if self.moves % 3 == 0 else None
        return [] if found is None else [found]


def test_on_a_robot_success_is_what_the_key_says(run):
    # Every episode has a reset phase before it, which a key ends; nobody judges the third.
    human = Keys([Event.READY, Event.SUCCESS, Event.READY, Event.FAILURE, Event.READY])
    overrides = ["environment.type=robot", "human.type=keys", "episodes=3", "environment.max_steps=12"]
    found = run(*overrides, stage=Stage(body=Robot, human=lambda body: human))
    made = lines(found.folder)
    assert [(r["success"], r["said"], r["ended"]) for r in made] == [
        (True, True, "success"),
        (False, True, "failure"),
        (False, False, "time limit"),
    ]
    assert human.calls == ["reset the scene"] * 3
    assert found.summary.rows[0].unsaid == 1
    assert any("nobody said whether it succeeded" in notice for notice in found.summary.notices)


def test_in_the_reset_phase_the_last_episode_can_be_taken_back(run):
    """The wrong key was pressed: what it said is replaced."""
    presses = [Event.AGAIN, Event.READY, Event.FAILURE, Event.AGAIN, Event.READY, Event.SUCCESS]
    human = Keys([*presses, Event.READY, Event.SUCCESS])
    overrides = ["environment.type=robot", "human.type=keys", "episodes=2"]
    found = run(*overrides, stage=Stage(body=Robot, human=lambda body: human))
    assert [(r["number"], r["success"]) for r in lines(found.folder)] == [(0, False), (0, True), (1, True)]
    assert found.summary.rows[0].successes == found.summary.rows[0].n == 2 and found.ran == 2


def test_a_human_who_stops_keeps_what_is_done(run):
    class Stopping(Helper):
        def __init__(self):
            super().__init__(scripted=False)
            self.episodes = 0

        def start(self, seed):
            self.episodes += 1

        def events(self):
            return [Event.STOP] if self.episodes == 3 else []

    found = run(stage=Stage(human=lambda body: Stopping()))
    assert not found.complete and found.ran == 2 and len(lines(found.folder)) == 2
    assert run().ran == 4


def test_an_episode_to_be_done_again_counts_once(run):
    class Again(Helper):
        def __init__(self):
            super().__init__(scripted=False)
            self.starts = 0

        def start(self, seed):
            self.starts += 1

        def events(self):
            return [Event.AGAIN] if self.starts == 1 else []

    stage = Stage(human=lambda body: Again())
    found = run("episodes=2", stage=stage)
    assert [r["number"] for r in lines(found.folder)] == [0, 1]
    assert stage.last_source.seeds == [100, 100, 101]


# Videos.


def test_which_videos_are_made_and_kept():
    assert [wants_video(v, 3) for v in ("none", "failures", "all", [1], [3])] == [False, True, True, False, True]
    assert not keeps_video("failures", 3, True) and keeps_video("failures", 3, False)
    assert keeps_video([3], 3, True) and not keeps_video([3], 4, False) and keeps_video("all", 3, True)


def test_videos_of_failures_alone(run):
    stage = Stage(body=Painted)
    found = run("videos=failures", stage=stage)
    assert ("reach-v3", True) in stage.opened
    for r in lines(found.folder):
        assert ("video" in r) == ("figure" in r) == (not r["success"])
    failed = [r for r in lines(found.folder) if not r["success"]]
    kept = sorted(p.name for p in (found.folder / "episodes").rglob("*") if p.is_file())
    stems = [f"{r['number']:04d}_seed_{r['seed']}" for r in failed]
    assert kept == sorted(f"{stem}.{kind}" for stem in stems for kind in ("mp4", "json", "png", "svg"))
    video = found.folder / failed[0]["video"]
    facts = probe(video)
    # Two cameras side by side, and 64 pixels for the value.
    assert (facts.width, facts.height, facts.frames, facts.fps) == (96, 48 + 64, failed[0]["steps"], 10.0)
    first = next(iter(open_frames(video, start=0.0, fps=10.0, count=1)))
    assert abs(float(first[8:40, 8:56].mean()) - 40) < 6 and abs(float(first[8:40, 70:90].mean()) - 220) < 6
    trace = json.loads(video.with_suffix(".json").read_text())
    assert len(trace["value"]) == failed[0]["steps"] and trace["subtasks"] == ["half way", "the end"]
    # The critic looks where a chunk begins.
    assert [v is not None for v in trace["value"][:8]] == [True, False, False, False] * 2
    assert max(trace["completed"]) == 1


def test_one_camera_and_chosen_episodes(run):
    found = run("videos=[1]", "video_camera=right", "value_curve=false", stage=Stage(body=Painted))
    assert [r["number"] for r in lines(found.folder) if "video" in r] == [1]
    facts = probe(found.folder / next(r["video"] for r in lines(found.folder) if "video" in r))
    assert (facts.width, facts.height) == (32, 48)


def test_a_video_asked_for_later_is_made_and_nothing_else_runs(run):
    run(stage=Stage(body=Painted))
    found = run("videos=[2]", stage=Stage(body=Painted))
    assert found.ran == 1
    made = lines(found.folder)
    assert [r["number"] for r in made] == [0, 1, 2, 3, 4, 5, 2]
    before, after = made[2], made[6]
    assert {k: v for k, v in after.items() if k not in ("video", "figure", "seconds")} == {
        k: v for k, v in before.items() if k != "seconds"
    }
    assert found.summary.rows[0].n == 6


@pytest.mark.parametrize(
    ("body", "overrides", "message"),
    [
        (Line, ["videos=all"], "the environment gives no pictures; give --videos=none"),
        (Painted, ["videos=all", "video_camera=lef"], "there is no camera 'lef'; did you mean 'left'?"),
        (Painted, ["videos=all", "environment.pictures=false"], "environment.pictures is false"),
    ],
)
def test_videos_that_cannot_be(run, body, overrides, message):
    with pytest.raises(UsageError) as error:
        run(*overrides, stage=Stage(body=body))
    assert message in str(error.value)


# Figures.


def test_figure_5_needs_two_points_of_one_method(run, run_folder):
    assert run().files == []
    entries = [f"checkpoints.1.path={run_folder}", "checkpoints.1.name=late", "checkpoints.1.curve=sft"]
    found = run(*entries, "checkpoints.1.interventions=12")
    assert [p.name for p in found.files] == ["figure_5_temperature_1.0.png", "figure_5_temperature_1.0.svg"]
    assert all(p.is_file() for p in found.files)
    assert run(*entries, "checkpoints.1.interventions=12", "figures=false").files == []


def test_what_stands_in_the_folder(run):
    found = run()
    value = json.loads((found.folder / "summary.json").read_text())
    assert value["complete"] is True and value["results"][0]["n"] == 6
    assert value["checkpoints"][0]["name"] == "sft"
    assert (found.folder / "table.txt").read_text() == found.to_text() + "\n"
    json.dumps(found.to_json(), allow_nan=False)


def test_a_baseline_that_is_not_there(run, run_folder):
    with pytest.raises(UsageError, match="baseline 'stf' is no checkpoint's name; did you mean 'sft'"):
        run("baseline=stf", f"checkpoints.1.path={run_folder}", "checkpoints.1.name=other")
