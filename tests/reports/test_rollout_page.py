"""The page, and the table of inspect, of rollouts as they are really recorded."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from damage import edit_json
from helpers import add_column
from labelled_set import EPISODES
from pages import check
from rollout_lines import CAMERA, MONITOR, PLANS, Plan, make_rollouts

from igrft import columns as c
from igrft.cli.main import run as igrft
from igrft.dataset.labels import load_labels, open_dataset
from igrft.errors import UsageError
from igrft.reports.inspect import inspect
from igrft.reports.page import report
from igrft.reports.rollouts.monitor_section import track_of
from igrft.reports.rollouts.record import takeovers_of
from igrft.reports.rollouts.replay import Replay, Takeover
from igrft.reports.rollouts.settings import replay_settings
from igrft.reports.summary import summarise
from igrft.reports.validate import validate
from igrft.rollouts.episode import ASKED, STAGNATION
from igrft.rollouts.facts import ROLLOUT, read_rollout
from igrft.rollouts.settings import MonitorSettings
from igrft.rollouts.stagnation import StagnationMonitor


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rollouts with a camera. Read-only."""
    return make_rollouts(tmp_path_factory.mktemp("rollouts") / "rollout_line_0", camera=True)


@pytest.fixture
def rolled(recorded: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "set"))


MANY = (
    *PLANS,
    Plan(stuck=(7.0, 9.0)),
    Plan(stuck=(40.0, 50.0), helper=3),
    Plan(stuck=(10.0, 11.0), script={44: [], 30: []}, helper=2),
)


@pytest.mark.parametrize("judge_every", [None, 1, 2])
@pytest.mark.parametrize("monitor", [MONITOR, MonitorSettings(window=0.7, margin=0.21, rise=None, grace=1.1)])
def test_the_replay_fires_where_the_rollout_was_called(
    tmp_path: Path, judge_every: int | None, monitor: MonitorSettings
) -> None:
    root = make_rollouts(tmp_path / "set", MANY, monitor=monitor, judge_every=judge_every)
    dataset, labels = open_dataset(root), load_labels(root, [c.VALUE])
    tracks = [track_of(s, labels.episode(s.episode)[c.VALUE]) for s in summarise(dataset)]
    found = Replay(tracks).firings(StagnationMonitor.of(monitor, dataset.fps))
    calls = [e["calls"] for e in read_rollout(root).episodes]
    assert sum(map(len, calls)) > 3
    # Where nobody could follow the call, the rollout's grace period began a frame earlier.
    followed = [i for i, plan in enumerate(MANY) if plan.helper is not None]
    assert [found[i] for i in followed] == [calls[i] for i in followed]
    assert [len(f) for f in found] == pytest.approx([len(f) for f in calls], abs=1)


def test_the_page(recorded: Path, tmp_path: Path) -> None:
    text, checker = check(report(recorded, tmp_path / "out"))
    assert {"rollouts", "monitor"} <= set(checker.ids)
    for words in (
        "3 of 4 (75 %)",
        "1 of 2 (50 %) succeeded",
        "2, in 2 of 4 episodes",
        "success (3), time limit (1)",
        "interaction, sigma_base 1.5, alpha 0.9, sigma_min 0.2",
        "the flow was trained with 1: rollouts leave what the policy knows",
        "window 1 s, margin 0.02, rise 0.1, grace 0.5 s (those of the recording)",
        "a human (helper) overrode the policy, frames 32 to 43, 3.20 to 4.40 s, because the value stagnates",
        "helper: the human asked",
        "noise scale",
        "dashed: trained up to 1",
        "interaction, predicted probability",
        "1 takeover by helper",
        "1 of 2 takeovers came because the monitor called",
        "The critic spoke about every 4 frames",
        "The stagnation monitor would fire at 3.20 s (window 1 s",
        "The stagnation monitor would not fire",
    ):
        assert words in text, words
    episodes = re.split(r'<article class="box" id="episode-\d">', text)[1:]
    calls = [e["calls"] for e in read_rollout(recorded).episodes]
    # A filled triangle for each firing, a hollow one for each call, and a shade for each takeover.
    assert [e.count('class="alarm"') for e in episodes] == [e.count('class="call"') for e in episodes]
    assert [e.count('class="alarm"') for e in episodes] == [len(f) for f in calls] == [0, 1, 0, 5]
    assert [e.count('class="takeover"') for e in episodes] == [0, 1, 1, 0]
    series = json.loads(re.findall(r'class="series">(.*?)</script>', text)[1])["series"]
    columns = load_labels(recorded, [c.NOISE_SCALE, c.INTERVENTION]).episode(1)
    assert series["noise_scale"] == pytest.approx(columns[c.NOISE_SCALE], rel=1e-3)
    assert series["intervention"] == columns[c.INTERVENTION].astype(float).tolist()
    cells = re.findall(r'<td( class="current")?[^>]*title="([^"]*)">([^<]*)</td>', text)
    assert len(cells) == 25
    assert [cell[2] for cell in cells if cell[0]] == ["67 % / 0 %"]
    assert "window 1 s, margin 0.02: 6 firings, 2 of 3 moments caught, 0 of 1 unaided" in text


def test_settings_of_the_user(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", str(recorded), "--output", str(tmp_path / "out"), "-q"]
    assert igrft([*arguments, "--monitor.window=4", "--monitor.rise", "null", "--monitor.within=2"]) == 0
    text, _ = check(tmp_path / "out/index.html")
    assert "window 4 s, margin 0.02, no rise counts, grace 0.5 s (those of the recording, but window, rise as" in text
    assert "at most 2 s before" in text
    # The calls of the recording stay; with this window it fires twice in the failure.
    assert text.count('class="call"') == 6 and text.count('class="alarm"') == 2
    capsys.readouterr()
    for option, message in (
        ("--monitor.windw=4", "did you mean 'monitor.window'"),
        ("--steps.values.x=4", "no option --steps.values.x"),
        ("--monitor.window=-4", "monitor.window must not be negative"),
        ("--monitor.rise=0", "monitor.rise must be positive"),
        ("--monitor.margin=much", "must be a number, got 'much'"),
        ("--monitor.margin=null", "must be a number, got 'null'"),
        ("--monitor.within=-1", "monitor.within must not be negative"),
    ):
        assert igrft([*arguments, option]) == 2
        assert message in capsys.readouterr().err


def test_settings_without_a_value_to_replay_over(unlabelled_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'value' to replay the monitor over"):
        report(unlabelled_set, tmp_path / "out", overrides=["monitor.window=2"])
    _, checker = check(report(unlabelled_set, tmp_path / "out"))
    assert not {"rollouts", "monitor"} & set(checker.ids)


def test_demonstrations_with_values_of_the_values_step(labelled: Path, tmp_path: Path) -> None:
    """Neither takeovers nor settings are recorded: igrft's defaults, and failures alone need help."""
    values = {i: np.full(e[0], 0.5 if i == 1 else np.nan) for i, e in EPISODES.items()}
    values[0] = np.linspace(1, 0, 40)
    add_column(labelled, c.VALUE, lambda length, row: values[row].astype(np.float32), "float32")
    text, checker = check(report(labelled, tmp_path / "out"))
    assert "monitor" in checker.ids and "rollouts" not in checker.ids
    assert "window 2 s, margin 0.02, rise 0.1, grace 2 s (igrft&#39;s defaults)" in text
    assert "It fires at 1 of 1 moment where help was needed (100 %) and in 0 of 1 episode that succeeded" in text
    assert "2 episodes without a value, or set aside, left out" in text
    # 30 frames at 10 frames/s: once the window of two seconds is full, and not again.
    assert "The stagnation monitor would fire at 2.00 s" in text and text.count('class="alarm"') == 1


def test_a_policy_without_a_critic(tmp_path: Path) -> None:
    text, checker = check(report(make_rollouts(tmp_path / "set", judged=False), tmp_path / "out"))
    assert "rollouts" in checker.ids and "monitor" not in checker.ids
    assert "helper: the human asked" in text


def test_where_the_facts_are_lost_the_columns_speak(rolled: Path, tmp_path: Path) -> None:
    (rolled / ROLLOUT).unlink()
    listed = [s.takeovers for s in summarise(open_dataset(rolled))]
    assert listed == [
        [],
        [{"start": 32, "end": 44, "by": None, "why": STAGNATION}],
        [{"start": 15, "end": 35, "by": None, "why": ASKED}],
        [],
    ]
    text, checker = check(report(rolled, tmp_path / "out"))
    assert "not recorded" in text and "rollouts" in checker.ids
    assert "frames 32 to 43, 3.20 to 4.40 s, because the value stagnates" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["episodes"].pop(), "describes 3 of 4 episodes"),
        (lambda r: r.pop("settings"), "has no"),
        (lambda r: r["episodes"][1].update(takeovers=[{"start": "x"}, 5, {"start": 900, "end": 1000}]), None),
        (lambda r: r["episodes"][1].update(takeovers=7, calls="no", ended=3), None),
        (lambda r: r["settings"].update(rollout=[], trained_noise="?", exploration=None), None),
        (lambda r: r["settings"]["rollout"]["monitor"].update(window="wide", rise=None), None),
    ],
)
def test_a_record_that_somebody_edited(rolled: Path, tmp_path: Path, change, said: str | None) -> None:
    edit_json(rolled / ROLLOUT, change)
    text, _ = check(report(rolled, tmp_path / "out"))
    if said:
        assert "What is recorded about the rollouts cannot be used" in text and said in text
    inspect(rolled).to_table()


def test_takeovers_of_columns() -> None:
    flags = np.array([0, 1, 1, 1, 0, 1], dtype=bool)
    assert takeovers_of(flags, np.array([0, 1, 1, 2, 0, 9])) == [
        Takeover(1, 3, None, ASKED, False),
        Takeover(3, 4, None, STAGNATION, True),
        Takeover(5, 6),
    ]
    assert takeovers_of(flags) == [Takeover(1, 4), Takeover(5, 6)]
    assert takeovers_of(np.zeros(3, dtype=bool)) == []


def test_the_settings_of_the_page() -> None:
    recorded = {"rollout": {"monitor": {"window": 3.0, "rise": None, "enabled": False}}}
    found = replay_settings(recorded)
    assert found.monitor == dataclasses.replace(MonitorSettings(), window=3.0, rise=None)
    assert found.origin == "those of the recording"
    changed = replay_settings(recorded, ["monitor.rise=0.3", "monitor.margin=0"])
    assert (changed.monitor.rise, changed.monitor.margin, changed.monitor.window) == (0.3, 0.0, 3.0)
    assert replay_settings(None).monitor == MonitorSettings()


def test_inspect(recorded: Path) -> None:
    found = inspect(recorded)
    table = found.to_table()
    assert max(map(len, table.splitlines())) <= 100
    assert "takeovers   2 in 2 of 4 episodes; a human drove 10 % of the frames" in table
    assert "helper: the value stagnates (1), helper: the human asked (1)" in table
    assert re.search(r"1 +72 +yes +17 % +1  helper: the value stagnates", table)
    assert re.search(r"3 +120 +no +0 % +0$", table)
    held = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert held["totals"]["rollouts"]["takeovers"] == 2
    assert held["totals"]["rollouts"]["human_share"] == pytest.approx(32 / 312)
    assert held["totals"]["rollouts"]["successes_without_help"] == 1
    assert held["totals"]["rollouts"]["settings"]["trained_noise"] == [1.0, 1.0]
    assert held["episodes"][2]["takeovers"] == [{"start": 15, "end": 35, "by": "helper", "why": ASKED}]
    assert held["episodes"][3] | {"human_share": 0.0, "ended": "time limit", "takeovers": []} == held["episodes"][3]


def test_inspect_of_demonstrations_says_nothing_of_humans(good_set: Path) -> None:
    found = inspect(good_set)
    assert found.totals["rollouts"] is None
    assert found.rows[0].takeovers is found.rows[0].human_share is None
    assert "takeovers" not in found.to_table()


def test_who_is_escaped(rolled: Path, tmp_path: Path) -> None:
    nasty = '</script><b>&"x'
    edit_json(rolled / ROLLOUT, lambda r: r["episodes"][1]["takeovers"][0].update(by=nasty, why=nasty))
    text, _ = check(report(rolled, tmp_path / "out"))
    assert "<b>&" not in text


def test_an_episode_set_aside_counts_in_nothing(rolled: Path, tmp_path: Path) -> None:
    """Labelled with the real pipeline, and one subtask file's entry too short."""
    lengths = {0: 60, 1: 50, 2: 60, 3: 120}
    entries = {
        str(i): {"success": i != 3, "subtasks": [{"name": "walk", "start": 0, "end": n, "done": i != 3}]}
        for i, n in lengths.items()
    }
    (tmp_path / "subtasks.json").write_text(json.dumps({"episodes": entries}))
    (tmp_path / "pipeline.yaml").write_text(
        "steps:\n  - {type: subtasks, source: file, path: subtasks.json}\n  - {type: rewards}\n  - {type: returns}\n"
    )
    target = tmp_path / "labelled"
    assert igrft(["annotate", str(rolled), str(target), "--pipeline", str(tmp_path / "pipeline.yaml"), "-q"]) == 1
    assert {f.check for f in validate(target).findings} == {"set aside"}
    held = inspect(target).totals["rollouts"]
    assert (held["episodes"], held["takeovers"], held["human_share"]) == (3, 1, pytest.approx(20 / 240))
    assert [r["why"] for r in held["reasons"]] == [ASKED]
    text, _ = check(report(target, tmp_path / "out"))
    assert "1 episode without a value, or set aside, left out" in text
    assert "1, in 1 of 3 episodes" in text and "interaction, sigma_base 1.5" in text


@pytest.mark.slow
def test_values_of_another_critic_take_the_place_of_those_recorded(rolled: Path, tmp_path: Path) -> None:
    from value_runs import tiny_checkpoint

    checkpoint = tiny_checkpoint(tmp_path / "run", open_dataset(rolled), cameras=(CAMERA,))
    labelled = tmp_path / "labelled"
    assert igrft(["annotate", str(rolled), str(labelled), "-q"]) == 0
    valued, option = tmp_path / "valued", f"--steps.values.checkpoint={checkpoint}"
    assert igrft(["annotate", str(labelled), str(valued), "--pipeline", "values", option, "--workers", "1", "-q"]) == 0
    assert [f.message for f in validate(valued).findings] == []
    before, after = (load_labels(root, [c.VALUE])[c.VALUE] for root in (rolled, valued))
    assert not np.array_equal(before, after)
    text, _ = check(report(valued, tmp_path / "out"))
    assert "The values are those of the step &#39;values&#39;" in text
    assert "helper: the human asked" in text


def test_a_record_that_cannot_be_used_is_a_warning(rolled: Path) -> None:
    assert validate(rolled, videos=False).findings == []
    edit_json(rolled / ROLLOUT, lambda r: r["episodes"].pop())
    found = validate(rolled, videos=False)
    assert found.ok and [f.check for f in found.findings] == ["rollouts"]
    assert "describes 3 of 4 episodes" in found.findings[0].message
