"""The page of a run: it says what is wrong with the run, and holds together where there is little to show."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from pages import check
from training_runs import Made, write_metrics, write_rows, write_run

from igrft.cli.main import run as igrft
from igrft.reports.run.diagnosis import Diagnosis
from igrft.reports.run.findings import find
from igrft.reports.run.page import report_run
from igrft.reports.run.read import read_run
from igrft.reports.run.spell import signed, two

SMALL = 1_500_000


def texts(folder: Path) -> str:
    """All findings of a run, one a line."""
    return "\n".join(f"{f.level}: {f.text}" for f in find(Diagnosis(read_run(folder)))[0])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with nothing to complain about. Read-only."""
    return write_run(tmp_path_factory.mktemp("runs") / "sound")


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every ailment at once. Read-only."""
    made = Made(
        critic_noise=0.03,
        heldout_noise=0.6,
        offset=0.05,
        correction=-0.05,
        wait=0.17,
        overrides={"objective.beta": 0.0005, "exploration.sigma_base": 1.5, "exploration.sigma_min": 0.2},
    )
    return write_run(tmp_path_factory.mktemp("runs") / "sick", made)


def test_a_sound_run(sound: Path, tmp_path: Path) -> None:
    path = report_run(sound, tmp_path / "out")
    assert path == tmp_path / "out/index.html"
    text, checker = check(path)
    for anchor in (
        "findings",
        "training",
        "weights",
        "episodes",
        "critic",
        "motion",
        "interventions",
        "speed",
        "recipe",
    ):
        assert anchor in checker.ids
    for heading in (
        "Learning rates",
        "Gradient norms",
        "Advantages over training",
        "Weights over training",
        "Positive share of each episode",
        "Trajectory value",
        "Subtask value",
        "Fit of the trajectory value",
        "Interaction: precision and recall",
        "Interaction: calibration",
        "Mean advantage by motion",
        "Throughput",
        "Memory",
    ):
        assert heading in text
    assert "<p>Nothing.</p>" in text
    assert "held-out R² of the critic" in text and "frames that stand still have mean advantage" in text
    assert not re.search(r'"nan|nan"|>nan|inf"', text)
    assert len(text) < SMALL
    # A folder of somebody's machine is no part of a page that is passed on.
    assert "/data/" not in text and "/runs/" not in text


def test_what_is_wrong_is_said(sick: Path) -> None:
    found = texts(sick)
    for words in (
        r"bad: \d\d % of the weights are clipped at 10: beta 0.0005 is too small for these advantages",
        r"objective.beta=0\.\d+ would clip 5 %",
        r"bad: The critic does not predict held-out episodes: R² −\d.* against 0\.9\d, 0\.9\d in training",
        r"critic.patience",
        r"bad: Pauses are rewarded: frames that stand still \(\d+ % of the samples\) have mean advantage \+0.0\d\d",
        r"bad: (Half|\d\d %) of the corrections get a negative advantage .*objective.intervention_floor=1",
        r"warn: T\(s\) of rollouts reaches 1.7, outside the noise scale 1 that the flow was trained on",
        r"note: 17 % of the time waits for data: more workers than 2",
    ):
        assert re.search(words, found), f"{words}\n{found}"


def test_findings_stand_worst_first_and_point_at_sections(sick: Path, tmp_path: Path) -> None:
    text, checker = check(report_run(sick, tmp_path / "page.html"))
    levels = re.findall(r'<li class="is-(\w+)">', text)
    assert levels == sorted(levels, key=["bad", "warn", "note"].index)
    assert {f[1:] for f in checker.fetched if f.startswith("#")} <= set(checker.ids)
    assert len(text) < SMALL


def test_the_training_fit_leaves_held_out_episodes_out(sick: Path) -> None:
    # The actor's batches hold the critic's held-out episodes, which it predicts badly here.
    d = Diagnosis(read_run(sick))
    last = d.fits[-1]
    assert last.training["trajectory"] is not None and last.training["trajectory"] > 0.9
    assert last.heldout["trajectory"] is not None and last.heldout["trajectory"] < 0.2
    everything = d.r2(d.run.samples, "trajectory")
    assert everything is not None and everything < last.training["trajectory"]
    assert (last.frames, last.episodes, last.step) == (512, 6, 2000)


def test_a_small_effective_sample_size(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=400))
    write_metrics(folder, [{"step": s, "loss": 1.0, "ess": 0.04} for s in range(25, 401, 25)])
    assert "bad: The effective sample size is 4 % of the batch, about 1 of 16 samples" in texts(folder)
    write_metrics(folder, [{"step": s, "loss": 1.0, "ess": 0.999} for s in range(25, 401, 25)])
    assert "warn: The weights hardly differ (effective sample size 100 % of the batch): this run is SFT" in texts(
        folder
    )


def test_settings_that_mend_a_finding_silence_it(tmp_path: Path) -> None:
    overrides = {
        "objective.intervention_floor": 1.0,
        "objective.noise_scale": [0.2, 1.7],
        "exploration.sigma_base": 1.5,
        "exploration.sigma_min": 0.2,
    }
    found, fine = find(Diagnosis(read_run(write_run(tmp_path / "run", Made(correction=-0.1, overrides=overrides)))))
    assert not [f for f in found if f.section in ("interventions", "recipe")]
    assert any(re.match(r"\d+ % of the corrections get a negative advantage \(weight floor 1\)", f) for f in fine)
    assert "noise of rollouts up to 1.7, trained up to 1.7" in fine


def test_uniform_noise_beyond_training(tmp_path: Path) -> None:
    overrides = {"exploration.type": "uniform", "exploration.uniform": 1.3}
    assert "The uniform noise of rollouts reaches 1.3" in texts(write_run(tmp_path / "run", Made(overrides=overrides)))


def test_an_sft_run_without_a_critic(tmp_path: Path) -> None:
    overrides = {"objective.type": "sft", "critic.enabled": False, "stage": "sft"}
    folder = write_run(tmp_path / "run", Made(overrides=overrides))
    text, checker = check(report_run(folder))
    assert "objective.type is sft, which counts every sample alike" in text
    assert "critic.enabled is false" in text
    assert "Loss of the actor" in text and "Throughput" in text
    assert "motion" not in checker.ids
    assert (folder / "report/index.html").is_file()


def test_the_sparse_reward_has_one_head(tmp_path: Path) -> None:
    overrides = {"rewards.kind": "sparse", "objective.type": "awr"}
    text, _ = check(report_run(write_run(tmp_path / "run", Made(overrides=overrides))))
    assert "Subtask value" not in text and "Fit of the value" in text


def test_no_episode_held_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=400, overrides={"critic.holdout": 0.0}))
    for path in (folder / "diagnosis/heldout").iterdir():
        path.unlink()
    write_metrics(folder, [{"step": 400, "loss": 1.0}])
    assert "No episode is held out (critic.holdout is 0)" in texts(folder)


def test_fits_of_the_metrics_stand_in_for_files_that_are_gone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=600))
    for path in (folder / "diagnosis/heldout").iterdir():
        path.unlink()
    fit = {"r2_trajectory": 0.7, "r2_subtask": None, "interaction_precision": 0.8, "frames": 99, "episodes": 3}
    write_metrics(folder, [{"step": 600, "loss": 1.0}, {"step": 600, "heldout": fit}])
    (last,) = Diagnosis(read_run(folder)).fits
    assert (last.heldout["trajectory"], last.heldout["subtask"]) == (0.7, None)
    assert (last.precision, last.recall, last.frames, last.episodes) == (0.8, None, 99, 3)
    text, _ = check(report_run(folder))
    assert "99 frames of 3 episodes at step 600" in text
    assert "3 episodes: a rough figure" in text


@pytest.mark.parametrize("metrics", ["", '{"step": 10, "lo', '{"step": 10, "loss": null}\n', '{"step": 10}\n'])
def test_a_run_that_has_hardly_begun(tmp_path: Path, metrics: str) -> None:
    (tmp_path / "recipe.yaml").write_text("steps: 100\nobjective: {type: ig_awr}\n")
    (tmp_path / "metrics.jsonl").write_text(metrics)
    text, _ = check(report_run(tmp_path))
    assert "No samples are recorded yet" in text


def test_an_empty_recipe_takes_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    text, _ = check(report_run(tmp_path))
    assert "reaches 1.7" in text


def test_a_loss_that_is_no_number(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes((sound / "recipe.yaml").read_bytes())
    write_metrics(tmp_path, [{"step": 10, "loss": 1.0}, {"step": 20, "loss": None}])
    assert "bad: loss is not a number at step 20" in texts(tmp_path)
    check(report_run(tmp_path))


def test_constant_advantages(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=400))
    samples = folder / "diagnosis/samples"
    for path in samples.iterdir():
        path.unlink()
    rows = {n: v[:200].copy() for n, v in read_run(write_run(tmp_path / "other", Made(steps=200))).samples.items()}
    rows["advantage"], rows["weight"] = np.zeros(200), np.ones(200)
    write_rows(samples / "000000200.parquet", rows)
    assert "bad: All advantages are 0" in texts(folder)
    check(report_run(folder))


def test_failures_that_weigh_more_than_successes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=600))
    rows = read_run(folder).samples
    for path in (folder / "diagnosis/samples").iterdir():
        path.unlink()
    success = np.isin(rows["dataset"] * 1000 + rows["episode"], _successes(rows))
    rows["weight"] = np.where(success, 1.0, 3.0)
    write_rows(folder / "diagnosis/samples/000000600.parquet", rows)
    assert "bad: Failed episodes count more than successful ones (mean weight 3.00 on failures, 1.00" in texts(folder)


def _successes(rows: dict[str, np.ndarray]) -> np.ndarray:
    keys = rows["dataset"] * 1000 + rows["episode"]
    return np.unique(keys[rows["return_trajectory"] > 0])


def test_episodes_with_none_and_with_only_positive_advantages_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=600))
    rows = read_run(folder).samples
    for path in (folder / "diagnosis/samples").iterdir():
        path.unlink()
    rows["advantage"] = np.where(rows["episode"] % 2 == 0, 0.1, -0.1)
    write_rows(folder / "diagnosis/samples/000000600.parquet", rows)
    found = texts(folder)
    assert "have no sample of positive advantage" in found and "have only samples of positive advantage" in found
    text, _ = check(report_run(folder))
    assert "0 of cups, 0 of rollout_cups_1, " in text or "0 of cups, 2 of cups" in text


def test_a_critic_that_learnt_nothing_is_not_said_to_know_its_episodes_by_heart(tmp_path: Path) -> None:
    found = texts(write_run(tmp_path / "run", Made(critic_noise=2.0, heldout_noise=2.0)))
    assert "bad: The critic has not learnt the returns: held-out R² −" in found and "by heart" not in found


def test_the_fit_before_the_critic_starts_is_not_judged(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=600, heldout_noise=2.0, overrides={"critic.start": 5000}))
    found = texts(folder)
    assert "note: The critic starts after step 5,000" in found and "returns" not in found


def test_ends_of_successes_that_are_held_back(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=600))
    rows = read_run(folder).samples
    for path in (folder / "diagnosis/samples").iterdir():
        path.unlink()
    rows["advantage"] = np.where(rows["frame"] >= 0.9 * rows["length"], -0.2, 0.01)
    write_rows(folder / "diagnosis/samples/000000600.parquet", rows)
    assert "bad: The ends of successes are held back: their last tenth has mean advantage −0.200" in texts(folder)


def test_a_critic_that_was_stopped_is_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", Made(steps=400))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 400, "critic_stopped": {"best_step": 200, "fit": 0.5}}\n')
    text, _ = check(report_run(folder))
    assert "The critic was stopped at step 400 and set back to step 200" in text


def test_numbers_are_spelt_with_a_real_minus() -> None:
    assert [two(-0.001), two(-1.5), two(None)] == ["0.00", "−1.50", "-"]
    assert [signed(0.02), signed(-0.0001), signed(-0.5)] == ["+0.020", "+0.000", "−0.500"]


def test_a_long_run_stays_small_and_quick(tmp_path: Path) -> None:
    made = Made(steps=20_000, log_every=10, batch=4, episodes=120, critic_noise=0.1, heldout_noise=0.3)
    folder = write_run(tmp_path / "run", made)
    started = time.perf_counter()
    path = report_run(folder)
    assert time.perf_counter() - started < 10
    assert path.stat().st_size < SMALL


def test_the_command_line(sound: Path, good_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert igrft(["report", str(sound), "--output", str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a/index.html")
    assert igrft(["report", str(sound), "--episodes", "1"]) == 2
    assert "--episodes is for datasets" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert igrft(["report", str(tmp_path / "empty")]) == 2
    assert "neither a dataset" in capsys.readouterr().err
    assert igrft(["report", "nowhere-at-all"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert igrft(["report", str(good_set), "--output", str(tmp_path / "b"), "-q"]) == 0
