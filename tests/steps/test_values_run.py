"""The `values` step over real tiny checkpoints: what is written, what is kept, what is done again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tree_digest
from labelled_set import CAMERA, EPISODES, REASON, make_labelled_set
from value_runs import CRITIC_SETTINGS, tiny_checkpoint

from igrft import annotate
from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.labels import load_labels
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.rewards import combine, n_step_advantages

MADE = (c.VALUE_TRAJECTORY, c.VALUE_SUBTASK, c.VALUE, c.INTERACTION_PROBABILITY, c.ADVANTAGE)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_labelled_set(tmp_path_factory.mktemp("values") / "labelled")


@pytest.fixture(scope="module")
def checkpoint(labelled):
    return tiny_checkpoint(labelled.parent / "run", DatasetReader.open(labelled), cameras=(CAMERA,))


@pytest.fixture(scope="module")
def valued(labelled, checkpoint):
    """The set with values, and the digest of its source before."""
    before = tree_digest(labelled)
    result = annotate(labelled, labelled.parent / "valued", pipeline="values", overrides=of(checkpoint))
    assert tree_digest(labelled) == before
    return result


def of(checkpoint, **settings):
    return [f"steps.values.{k}={v}" for k, v in {"checkpoint": checkpoint, **settings}.items()]


def seen(monkeypatch):
    """Rows that the step labels from here on; a row in ``dies`` ends the run as a crash would."""
    from igrft.steps.values.labeller import ValueLabeller

    rows, dies = [], set()
    label = ValueLabeller.__call__

    def watched(self, episode):
        if episode.row in dies:
            raise KeyboardInterrupt
        rows.append(episode.row)
        return label(self, episode)

    monkeypatch.setattr(ValueLabeller, "__call__", watched)
    return rows, dies


def test_every_frame_has_the_checkpoints_values(labelled, checkpoint, valued):
    """Against one pass over an episode, frame by frame, with nothing of the step's own."""
    import torch

    from igrft.models.load import load_checkpoint

    assert (valued.episodes, valued.set_aside) == (3, {2: REASON})
    loaded, dataset, target = (
        load_checkpoint(checkpoint),
        DatasetReader.open(labelled),
        DatasetReader.open(valued.target),
    )
    assert [n for n in target.features if n not in dataset.features] == list(MADE)
    row = 3
    state = torch.from_numpy(dataset.column(row, c.STATE).copy())
    pictures = list(episode_frames(dataset, row, CAMERA))
    found = []
    with torch.inference_mode():
        for f in range(EPISODES[row][0]):
            picture = torch.from_numpy(pictures[f]).permute(2, 0, 1)[None].float() / 255
            task = dataset.episode_tasks(row)
            batch = loaded.preprocess({c.STATE: state[f : f + 1], CAMERA: picture, "task": task})
            out = loaded.critic(loaded.actor.prefix(batch, loaded.critic_layers).features)
            found.append([float(out.trajectory), float(out.subtask), float(out.interaction_logit.sigmoid())])
    trajectory, subtask, probability = np.array(found).T
    columns = {n: target.column(row, n) for n in MADE}
    assert all(v.dtype == np.float32 for v in columns.values()) and trajectory.std() > 1e-3
    np.testing.assert_allclose(columns[c.VALUE_TRAJECTORY], trajectory, atol=2e-5)
    np.testing.assert_allclose(columns[c.VALUE_SUBTASK], subtask, atol=2e-5)
    np.testing.assert_allclose(columns[c.INTERACTION_PROBABILITY], probability, atol=2e-5)
    np.testing.assert_allclose(columns[c.VALUE], combine(trajectory, subtask, 0.25, 0.75), atol=2e-5)
    reward = combine(dataset.column(row, c.REWARD_TRAJECTORY), dataset.column(row, c.REWARD_SUBTASK), 0.25, 0.75)
    expected = n_step_advantages(reward, columns[c.VALUE].astype(float), 3, 0.9)
    np.testing.assert_allclose(columns[c.ADVANTAGE], expected, atol=1e-6)


def test_what_is_recorded(valued, checkpoint, labelled):
    record = json.loads((valued.target / "meta/igrft.json").read_text())
    step = record["pipeline"]["steps"][-1]
    assert step["type"] == "values" and step["checkpoint"] == "run" and len(step["digest"]) == 24
    assert [s["type"] for s in record["pipeline"]["steps"]].count("rewards") == 1
    settings = {"trajectory_weight": 0.25, "subtask_weight": 0.75, "discount": 0.9, "steps": 3, "reward": "hybrid"}
    assert {k: step[k] for k in settings} == settings
    assert record["columns"][-5:] == list(MADE) and str(labelled.parent) not in json.dumps(record)
    assert record["episodes"]["0"]["subtasks"], "what the earlier labelling found stays"
    labels = load_labels(valued.target, list(MADE))
    assert np.isnan(labels.episode(2)[c.VALUE]).all() and np.isfinite(labels.episode(3)[c.VALUE]).all()
    stats = json.loads((valued.target / "meta/stats.json").read_text())
    assert stats[c.VALUE]["count"] == [120]


def test_run_again_there_is_nothing_to_do(labelled, checkpoint, valued, monkeypatch):
    rows, _ = seen(monkeypatch)
    # An episode that was set aside is tried again by every run, so this one is complete but for it.
    moved = shutil.copytree(checkpoint, labelled.parent / "moved")
    for overrides in (of(checkpoint), of(checkpoint, batch_size=7, device="cpu"), of(moved)):
        again = annotate(labelled, valued.target, pipeline="values", overrides=overrides)
        assert again.episodes == 3 and rows == []


def test_a_run_that_was_killed_goes_on(labelled, checkpoint, tmp_path, monkeypatch):
    rows, dies = seen(monkeypatch)
    dies.add(0)
    with pytest.raises(KeyboardInterrupt):
        annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(checkpoint))
    assert rows == [3], "the longest comes first"
    dies.clear()
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(checkpoint))
    assert rows == [3, 0, 1]


def test_a_critic_that_was_trained_on_is_asked_again(labelled, checkpoint, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    own = shutil.copytree(checkpoint, tmp_path / "run")
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(own))
    first = load_labels(tmp_path / "out", list(MADE)).episode(0)
    rows, _ = seen(monkeypatch)
    weights = load_file(own / "critic/model.safetensors")
    weights["trajectory.2.bias"] += 1
    save_file(weights, own / "critic/model.safetensors")
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(own))
    second = load_labels(tmp_path / "out", list(MADE)).episode(0)
    assert rows == [3, 0, 1]
    np.testing.assert_allclose(second[c.VALUE_TRAJECTORY], first[c.VALUE_TRAJECTORY] + 1, atol=1e-5)
    np.testing.assert_array_equal(second[c.VALUE_SUBTASK], first[c.VALUE_SUBTASK])
    # Other weights of the sum need no more than the sum, but a step is redone as a whole.
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(own, discount=0.5))
    assert len(rows) == 6


def test_the_engine_says_which_episode_comes_next(labelled, checkpoint, tmp_path, monkeypatch):
    from igrft.steps.values.labeller import ValueLabeller

    told, expect = [], ValueLabeller.expect
    monkeypatch.setattr(ValueLabeller, "expect", lambda self, row: (told.append(row), expect(self, row)))
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(checkpoint))
    assert told == [0, 1], "after episode 3, which is the longest"


def test_one_process_holds_the_model(labelled, checkpoint, tmp_path, monkeypatch):
    from igrft.pipeline import workers

    def refuse(*arguments):
        raise AssertionError("a pool was asked for")

    monkeypatch.setattr(workers, "_run_pool", refuse)
    assert annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(checkpoint), workers=8).episodes == 3


def test_rewards_and_values_in_one_pipeline(checkpoint, tmp_path):
    bare = make_labelled_set(tmp_path / "bare", labels=False)
    steps = [{"type": "subtasks"}, {"type": "rewards"}, {"type": "values", "checkpoint": str(checkpoint)}]
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": steps}))
    result = annotate(bare, tmp_path / "out", pipeline=tmp_path / "p.yaml", workers=1)
    assert result.episodes == 4
    target = DatasetReader.open(tmp_path / "out")
    reward = combine(target.column(0, c.REWARD_TRAJECTORY), target.column(0, c.REWARD_SUBTASK), 0.25, 0.75)
    expected = n_step_advantages(reward, target.column(0, c.VALUE), 3, 0.9)
    np.testing.assert_allclose(target.column(0, c.ADVANTAGE), expected, atol=1e-6)


def test_weights_that_do_not_fit_are_one_line(labelled, checkpoint, tmp_path, capsys):
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    shutil.copy(broken / "critic/model.safetensors", broken / "pretrained_model/model.safetensors")
    arguments = ["annotate", str(labelled), str(tmp_path / "out"), "--pipeline", "values", "-q"]
    assert run([*arguments, f"--steps.values.checkpoint={broken}"]) == 1
    error = capsys.readouterr().err
    assert "does not fit" in error and error.startswith("igrft: ") and error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_policy_without_cameras(tmp_path):
    root = make_labelled_set(tmp_path / "set")
    dataset = DatasetReader.open(root)
    checkpoint = tiny_checkpoint(tmp_path / "run", dataset, kind="state_flow")
    # Nothing opens a video: files that are none do not matter.
    for path in (root / "videos").rglob("*.mp4"):
        path.write_bytes(b"none")
    result = annotate(root, tmp_path / "out", pipeline="values", overrides=of(checkpoint))
    assert result.episodes == 3
    values = load_labels(tmp_path / "out", list(MADE)).episode(0)
    assert np.isfinite(values[c.ADVANTAGE]).all() and values[c.VALUE].std() > 0


def test_half_precision_is_another_result(labelled, checkpoint, valued, tmp_path):
    """Close to the whole one; a critic that was trained so says it."""
    settings = json.loads((checkpoint / "critic/config.json").read_text())
    half = shutil.copytree(checkpoint, tmp_path / "run")
    (half / "critic/config.json").write_text(json.dumps({**settings, "precision": "bf16"}))
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(half))
    found, whole = (load_labels(p, list(MADE)).episode(0) for p in (tmp_path / "out", valued.target))
    difference = np.abs(found[c.VALUE_TRAJECTORY] - whole[c.VALUE_TRAJECTORY])
    assert 0 < difference.max() < 0.1


def test_what_iql_leaves_is_one_value(labelled, checkpoint, tmp_path):
    settings = json.loads((checkpoint / "critic/config.json").read_text())
    iql = {"objective": "iql", "trajectory_weight": 1.0, "subtask_weight": 0.0, "reward_weights": [0.1, 0.9]}
    run_folder = shutil.copytree(checkpoint, tmp_path / "run")
    (run_folder / "critic/config.json").write_text(json.dumps({**settings, **iql}))
    annotate(labelled, tmp_path / "out", pipeline="values", overrides=of(run_folder))
    dataset, values = DatasetReader.open(tmp_path / "out"), load_labels(tmp_path / "out", list(MADE)).episode(0)
    np.testing.assert_array_equal(values[c.VALUE], values[c.VALUE_TRAJECTORY])
    assert not values[c.VALUE_SUBTASK].any()
    reward = combine(dataset.column(0, c.REWARD_TRAJECTORY), dataset.column(0, c.REWARD_SUBTASK), 0.1, 0.9)
    expected = n_step_advantages(reward, values[c.VALUE], CRITIC_SETTINGS["advantage_steps"], 0.9)
    np.testing.assert_allclose(values[c.ADVANTAGE], expected, atol=1e-6)


def test_other_pipelines_load_nothing_of_it():
    code = (
        "import sys; from igrft.steps.registry import step_that_makes; from igrft.pipeline.config import load_pipeline;"
        "assert step_that_makes('value') == 'values'; load_pipeline('values');"
        "print(sorted({'torch', 'lerobot', 'transformers', 'safetensors', 'cv2', 'av'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_real_recording(tmp_path, capsys):
    """From a recording to values on the command line; the size of a batch changes nothing that matters."""
    small = Path(__file__).resolve().parents[1] / "data/g1_small"
    assert run(["convert", str(small), str(tmp_path / "converted"), "-q"]) == 0
    assert run(["annotate", str(tmp_path / "converted"), str(tmp_path / "labelled"), "-q"]) == 0
    dataset = DatasetReader.open(tmp_path / "labelled")
    checkpoint = tiny_checkpoint(tmp_path / "run", dataset, cameras=tuple(dataset.cameras))
    found = []
    for size in (64, 7):
        arguments = ["annotate", str(dataset.root), str(tmp_path / f"out{size}"), "--pipeline", "values", "-q"]
        assert run([*arguments, f"--steps.values.checkpoint={checkpoint}", f"--steps.values.batch_size={size}"]) == 0
        assert run(["validate", str(tmp_path / f"out{size}"), "-q"]) == 0
        found.append(load_labels(tmp_path / f"out{size}", list(MADE)))
    for name in MADE:
        assert np.isfinite(found[0][name]).all() and found[0][name].std() > 0
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-4)
    capsys.readouterr()
