"""`igrft rollout` and the rounds of Stage III in the simulation, from the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import tree_digest
from lerobot.datasets import LeRobotDataset

from igrft import columns as c
from igrft.cli.main import run as cli
from igrft.dataset.labels import load_labels, open_dataset
from igrft.simulation.record import SimulationOptions

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")
TASK = "shelf-place-v3"
SMALL = [
    "--environment.width=96",
    "--environment.height=72",
    "--environment.max_steps=60",
    "--rollout.monitor.grace=0.1",
]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """A few short demonstrations with small pictures, labelled."""
    from igrft.pipeline.run import annotate
    from igrft.recordings.convert import convert
    from igrft.resources import find

    root = tmp_path_factory.mktemp("demonstrations")
    options = SimulationOptions(episodes=4, seed=0, width=96, height=72, max_steps=120, workers=1)
    convert(f"metaworld:{TASK}", root / "recorded", simulation=options, progress=False)
    task = find("pipelines", f"tasks/metaworld-{TASK}")
    found = annotate(
        root / "recorded",
        root / "labelled",
        pipeline="simulation",
        overrides=[f"steps.subtasks.task={task}"],
        workers=1,
    )
    assert not found.set_aside
    return root / "labelled"


@pytest.fixture(scope="module")
def trained(demonstrations, tmp_path_factory):
    """A policy that has hardly learnt, with its critic."""
    run = tmp_path_factory.mktemp("run") / "sft"
    settings = ["--steps=30", "--batch_size=32", "--critic.start=5", "--critic.holdout=0.25", "--save_every=30"]
    # No demonstration need have succeeded in so little time.
    settings += ["--allow_no_success=true"]
    assert (
        cli(["train", "tiny/sft", f"--datasets.0.root={demonstrations}", f"--output_dir={run}", *settings, "-q"]) == 0
    )
    return run


def rollout(trained, root, *more):
    return cli(["rollout", "tiny/hil", f"--init_from={trained}", f"--rollout.root={root}", *SMALL, "-q", *more])


@pytest.fixture(scope="module")
def recorded(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("rollouts") / "rollout_test_0"
    # Any rise of the value is one too many: the expert comes as soon as it may.
    assert (
        rollout(
            trained,
            root,
            "--rollout.episodes=3",
            "--rollout.monitor.margin=0",
            "--rollout.monitor.rise=0.000001",
            "--rollout.human.limit=0.2",
            "--exploration.sigma_base=0.8",
        )
        == 0
    )
    return root


def test_a_round_is_a_lerobot_dataset_of_what_policy_and_human_did(recorded):
    dataset = LeRobotDataset("local/rollouts", root=recorded)
    assert dataset.meta.total_episodes == 3
    reader = open_dataset(recorded)
    assert reader.fps == 80 and reader.num_episodes == 3
    columns = load_labels(reader, [c.INTERVENTION, c.VALUE, c.INTERACTION_PROBABILITY, c.SUCCESS])
    noise = np.concatenate([reader.column(r, c.NOISE_SCALE).reshape(-1) for r in range(3)])
    p = np.concatenate([columns.episode(e)[c.INTERACTION_PROBABILITY] for e in range(3)])
    assert np.isfinite(np.concatenate([columns.episode(e)[c.VALUE] for e in range(3)])).all()
    # T(s), where nobody drove, is that of the critic's word.
    driven = np.concatenate([columns.episode(e)[c.INTERVENTION] for e in range(3)])
    np.testing.assert_allclose(noise[~driven], (0.8 * (1 - 0.9 * p) + 0.2)[~driven], rtol=1e-5)
    assert driven.any() and not driven.all()
    facts = json.loads((recorded / "meta/igrft_rollout.json").read_text())
    assert "T(s)" not in json.dumps(facts) and facts["settings"]["exploration"]["sigma_base"] == 0.8
    for number, entry in enumerate(facts["episodes"]):
        frames = columns.episode(number)[c.INTERVENTION]
        told = np.zeros(len(frames), dtype=bool)
        for takeover in entry["takeovers"]:
            told[takeover["start"] : takeover["end"]] = True
            assert (takeover["by"], takeover["why"]) == ("expert", "the value stagnates")
        assert np.array_equal(told, frames)
        assert entry["seed"] == 10_000 + number
        reason = reader.column(number, c.TAKEOVER_REASON).reshape(-1)
        assert np.array_equal(reason == 2, frames) and set(reason.tolist()) <= {0, 2}


def test_annotate_validate_inspect_and_report_take_it(recorded, tmp_path, capsys):
    before = tree_digest(recorded)
    labelled = tmp_path / "labelled"
    task = "pipelines/tasks/metaworld-shelf-place-v3.yaml"
    arguments = ["--pipeline", "simulation", f"--steps.subtasks.task={task}", "--workers", "1", "-q"]
    assert cli(["annotate", str(recorded), str(labelled), *arguments]) == 0
    assert cli(["validate", str(labelled), "-q"]) == 0
    assert cli(["inspect", str(labelled)]) == 0
    assert cli(["report", str(labelled), "--output", str(tmp_path / "page"), "-q"]) == 0
    assert tree_digest(recorded) == before
    reader = open_dataset(labelled)
    assert c.INTERVENTION in reader.features and c.RETURN in reader.features


def test_run_again_it_does_nothing_and_with_other_settings_it_is_refused(recorded, trained, capsys):
    again = [
        "--rollout.episodes=3",
        "--rollout.monitor.margin=0",
        "--rollout.monitor.rise=0.000001",
        "--rollout.human.limit=0.2",
        "--exploration.sigma_base=0.8",
    ]
    before = tree_digest(recorded)
    assert rollout(trained, recorded, *again) == 0
    assert tree_digest(recorded) == before
    assert rollout(trained, recorded, *again[:-1], "--exploration.sigma_base=0.7") == 1
    assert "exploration.sigma_base" in capsys.readouterr().err
    assert tree_digest(recorded) == before


def test_episodes_are_the_same_whoever_asks_for_them(recorded, trained, tmp_path):
    root = tmp_path / "rollout_again_0"
    assert (
        rollout(
            trained,
            root,
            "--rollout.episodes=1",
            "--rollout.monitor.margin=0",
            "--rollout.monitor.rise=0.000001",
            "--rollout.human.limit=0.2",
            "--exploration.sigma_base=0.8",
        )
        == 0
    )
    one, other = open_dataset(recorded), open_dataset(root)
    for name in (c.ACTION, c.STATE, c.VALUE):
        assert np.array_equal(one.column(0, name), other.column(0, name)), name


def test_sigterm_keeps_what_is_complete_and_the_same_command_goes_on(trained, tmp_path):
    root = tmp_path / "rollout_stopped_0"
    words = [
        "rollout",
        "tiny/hil",
        f"--init_from={trained}",
        f"--rollout.root={root}",
        *SMALL,
        "--rollout.episodes=40",
        "--rollout.human.type=none",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "igrft.cli.main", *words], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    until = time.monotonic() + 120
    for line in process.stderr:
        if line.startswith("episode 1:") or time.monotonic() > until:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 1
    assert "run the same command to go on" in rest
    kept = LeRobotDataset("local/rollouts", root=root).meta.total_episodes
    assert 2 <= kept < 40
    # (Another number of episodes may be asked for.)
    assert cli([*words[:-2], f"--rollout.episodes={kept + 1}", "--rollout.human.type=none", "-q"]) == 0
    assert open_dataset(root).num_episodes == kept + 1


def test_it_says_where_noise_leaves_what_the_flow_has_seen(trained, tmp_path, capsys):
    words = [
        "rollout",
        "tiny/hil",
        f"--init_from={trained}",
        f"--rollout.root={tmp_path / 'r'}",
        *SMALL,
        "--rollout.episodes=1",
        "--rollout.human.type=none",
    ]
    assert cli(words) == 0
    assert "T(s) reaches 1.7 and the flow was trained on noise up to 1" in capsys.readouterr().err


def test_two_rounds_and_their_figures(demonstrations, trained, tmp_path, capsys):
    run = tmp_path / "hil"
    words = [
        "train",
        "tiny/hil",
        f"--datasets.0.root={demonstrations}",
        f"--init_from={trained}",
        f"--output_dir={run}",
        *SMALL,
        "--rollout.episodes=2",
        "--rounds.count=2",
        "--steps=8",
        "--batch_size=16",
        "--save_every=8",
        "--log_every=4",
        "--allow_no_success=true",
        "--rounds.workers=1",
        "--critic.holdout=0.25",
    ]
    before = tree_digest(demonstrations)
    assert cli(words) == 0
    assert tree_digest(demonstrations) == before
    lines = [json.loads(x) for x in (run / "rounds.jsonl").read_text().splitlines()]
    assert [(x["round"], x["episodes"], x["steps"]) for x in lines] == [(0, 2, 8), (1, 2, 8)]
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics if "loss" in m] == [4, 8, 12, 16]
    assert (run / "checkpoints/last/pretrained_model/model.safetensors").is_file()
    # Equal parts, of all rollouts so far; the second round starts from the first, on starts of its own.
    import yaml

    second = yaml.safe_load((run / "round_1/recipe.yaml").read_text())
    assert second["init_from"].endswith("round_0")
    weights = [(d["kind"], d["weight"]) for d in second["datasets"]]
    assert [k for k, _ in weights] == ["demonstrations", "rollouts", "rollouts"]
    assert sum(w for k, w in weights if k == "rollouts") == pytest.approx(weights[0][1])
    name = f"rollout_metaworld-{TASK}"
    seeds = [
        [e["seed"] for e in json.loads((run / f"{name}_{i}/meta/igrft_rollout.json").read_text())["episodes"]]
        for i in (0, 1)
    ]
    assert seeds == [[10_000, 10_001], [10_002, 10_003]]

    # Run again it has nothing to do; one more round may be asked for, and the others stay.
    first = tree_digest(run / "round_0")
    assert cli(words) == 0
    assert "already run: 2 rounds" in capsys.readouterr().err
    assert cli([*words, "--rounds.count=3", "-q"]) == 0
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 3
    assert tree_digest(run / "round_0") == first
    assert cli(["report", str(run), "-q"]) == 0


def test_rounds_begin_with_a_policy(demonstrations, tmp_path, capsys):
    words = ["train", "tiny/hil", f"--datasets.0.root={demonstrations}", f"--output_dir={tmp_path / 'x'}"]
    assert cli([*words, "--init_from=nowhere/at/all"]) == 2
    assert "there is no run or checkpoint" in capsys.readouterr().err
