"""The page of a run made of rounds: what it shows, what it says, and that half a run is no trouble."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from pages import Checker, check
from rollout_lines import Plan, make_rollouts
from round_runs import write_evaluation, write_rounds
from training_runs import Made, write_run

from igrft.cli.main import run as igrft
from igrft.errors import IgrftError
from igrft.reports.rounds.findings import find_rounds
from igrft.reports.rounds.read import read_rounds
from igrft.reports.run.page import report_run
from igrft.reports.run.read import is_rounds, is_run, read_run, refuse_neither
from igrft.rollouts.facts import ROLLOUT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds, all done. Read-only."""
    return write_rounds(tmp_path_factory.mktemp("rounds") / "hil")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "hil", symlinks=True))


def read_page(path: Path) -> str:
    """The page's text, after what must hold of it: whole, and nothing fetched; links lead to pages beside it."""
    text = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.wrong == checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    for link in checker.fetched:
        page, _, anchor = link.partition("#")
        if page:
            other = (path.parent / page).read_text(encoding="utf-8")
            assert not anchor or f'id="{anchor}"' in other
        else:
            assert anchor in checker.ids
    assert not re.search(r"https?://|NaN|\bnan\b|None", text)
    return text


def row(text: str, number: int) -> list[str]:
    """The cells of a round's line in the first table."""
    table = re.search(r'<section id="rounds">.*?<tbody>(.*?)</tbody>', text, re.S)
    assert table is not None
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table[1].strip().splitlines()]
    return next(r for r in rows if r[0] == str(number))


def test_a_finished_run(finished: Path, tmp_path: Path) -> None:
    path = report_run(finished, tmp_path / "out")
    assert path == tmp_path / "out/index.html"
    text = read_page(path)
    assert "hil, line-v3: 3 of 3 rounds, finished" in text
    # Two stand stuck and fail, one is helped, one goes by itself; in the end one is helped and nobody fails.
    assert row(text, 0) == ["0", "4", "2 (50 %)", "1", "1", "3 %", "75 %", "93", "200", "finished"]
    assert row(text, 2)[:5] == ["2", "4", "4 (100 %)", "3", "1"]
    for words in (
        "Driven by a human",
        "Subtask progress",
        "round 1, success: 75 %",
        "round 1, without a takeover: 50 %",
        "helper",
        "the value stagnates",
        "Loss of the actor",
        "Dashed: a round ends.",
        "igrft report hil/rollout_line_2",
        "rollout.monitor",
        "reaches 1.7, and the flow was trained up to 1",
        "2 of 4 in round 0, 4 of 4 in round 2. The intervals overlap",
    ):
        assert words in text, words
    assert "/runs/" not in text
    for number in range(3):
        round_text, checker = check(tmp_path / f"out/round_{number}.html")
        assert {"training", "weights", "critic"} <= set(checker.ids)
        assert f"hil, round {number}" in round_text


def test_a_page_by_its_own_name(finished: Path, tmp_path: Path) -> None:
    path = report_run(finished, tmp_path / "stage3.html")
    read_page(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage3.html", *(f"stage3.round_{n}.html" for n in range(3))]


def test_findings_of_a_round_point_at_its_own_page(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "round_1")
    made = Made(steps=200, episodes=10, critic_start=0, correction=-0.2, overrides={"exploration.sigma_base": 9.0})
    write_run(run / "round_1", made)
    text = read_page(report_run(run, tmp_path / "out"))
    assert re.search(r'T\(s\) of rollouts reaches 9.1.*?href="round_1.html#recipe"', text)


def test_the_command_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert igrft(["report", str(finished), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out/index.html")
    assert igrft(["report", str(finished), "--monitor.window=2"]) == 2
    assert "--monitor.window=2 is for datasets of rollouts" in capsys.readouterr().err
    assert igrft(["report", str(finished / "round_0"), "--output", str(tmp_path / "one")]) == 0
    assert igrft(["report", str(finished / "rollout_line_0"), "--output", str(tmp_path / "two"), "-q"]) == 0


def test_the_losses_stand_on_one_axis(finished: Path) -> None:
    metrics = read_rounds(finished).metrics
    assert metrics.last_step == 600
    steps, numbers = metrics.series("round")
    assert [int(numbers[steps == s][0]) for s in (200, 225, 400, 425)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("plans", "updated", "state"),
    [
        (((Plan(), Plan()),), 0, "2 of 4 rollouts recorded"),
        (((Plan(), Plan(), Plan(), Plan()),), 0, "rolled out, not labelled yet"),
    ],
)
def test_a_run_in_its_first_round(tmp_path: Path, plans, updated: int, state: str) -> None:
    root = write_rounds(tmp_path / "hil", plans, updated=updated, count=4)
    assert is_run(root) and is_rounds(root)
    refuse_neither(root)
    text = read_page(report_run(root))
    assert "0 of 4 rounds, in progress, or stopped" in text
    assert row(text, 0)[-1] == state and row(text, 0)[2] == f"{len(plans[0])} (100 %)"
    assert "Its update has not logged a step yet" in text
    assert "No round is finished: each adds its losses here" in text
    with pytest.raises(IgrftError, match="no round is finished yet"):
        read_run(root)


def test_states_between(run: Path) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines()
    (run / "rounds.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert row(read_page(report_run(run)), 2)[-1] == "its update is in progress, or was stopped"
    shutil.rmtree(run / "round_2")
    shutil.copytree(run / "rollout_line_2", run / "rollout_line_2_labelled")
    text = read_page(report_run(run))
    assert row(text, 2)[-1] == "labelled, its update has not begun"
    assert "igrft report hil/rollout_line_2_labelled" in text


def test_lines_that_cannot_be_read_are_noted(run: Path) -> None:
    lines = (run / "rounds.jsonl").read_text().splitlines()
    bad = ["{", "[1]", '{"round": -1}', '{"round": true}', '{"episodes": 3}']
    (run / "rounds.jsonl").write_text("\n".join([lines[0], *bad, lines[1], '{"round": 2, "interventions": 5}']))
    (run / "rollout_line_1" / ROLLOUT).write_text("{")
    text = read_page(report_run(run))
    assert "5 lines of rounds.jsonl could not be read" in text
    assert row(text, 2) == ["2", "-", "-", "-", "5", "-", "-", "-", "-", "finished"]
    assert row(text, 1)[1] == "4"


def test_rollouts_without_facts(run: Path) -> None:
    (run / "rounds.jsonl").unlink()
    record = json.loads((run / "rollout_line_0" / ROLLOUT).read_text())
    for facts in record["episodes"]:
        del facts["steps"]
    (run / "rollout_line_0" / ROLLOUT).write_text(json.dumps(record))
    text = read_page(report_run(run))
    assert "Round 0: meta/igrft_rollout.json lacks facts" in text
    assert row(text, 0)[1] == "-" and row(text, 1)[1] == "4"


def test_an_update_that_cannot_be_shown(run: Path) -> None:
    (run / "round_1/recipe.yaml").write_text("a: [")
    text = read_page(report_run(run))
    assert "Its update cannot be shown" in text and not (run / "report/round_1.html").exists()


def test_a_recipe_that_cannot_be_read(run: Path) -> None:
    (run / "recipe.yaml").write_text("- 1")
    with pytest.raises(IgrftError, match="no mapping of settings"):
        report_run(run)


def test_evaluations(run: Path) -> None:
    write_evaluation(run / "eval")
    write_evaluation(run / "later", complete=False, notices=["one thing"], comparisons=[{"first": 1}, 2])
    (run / "other").mkdir()
    (run / "other/summary.json").write_text("[]")
    text = read_page(report_run(run))
    assert "Evaluation: eval" in text and "Evaluation: later" in text
    assert re.search(r"<td>hil</td><td>line-v3</td><td[^>]*>1</td><td[^>]*>50</td><td[^>]*>70 %</td>", text)
    assert "56 to 81 %" in text
    assert "hil (noise 1) against offline_rl (noise 1): +30.0 points, +16.1 to +41.8, on the same seeds" in text
    assert "stopped before its last episode" in text and "one thing" in text
    assert "other/summary.json is no summary of igrft eval" in text


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        ([Plan()] * 6, [Plan(stuck=(30.0, 99.0), helper=None)] * 6, "bad: Success of the rollouts fell: 6 of 6"),
        ([Plan(stuck=(30.0, 99.0), helper=None)] * 6, [Plan()] * 6, "note: Success of the rollouts rose: 0 of 6"),
        ([Plan()], [Plan(stuck=(10.0, 90.0), helper=40)], "warn: The human's share rose from 0 % to"),
        ([Plan()], [Plan(stuck=(2.0, 90.0), helper=60)], "warn: A human drove"),
        ([Plan(stuck=(30.0, 99.0), helper=None)], [Plan()], "warn: Nobody took over, and 1 episode failed"),
    ],
)
def test_what_stands_out(tmp_path: Path, first: list[Plan], last: list[Plan], found: str) -> None:
    root = write_rounds(tmp_path / "hil", (first, last), updated=0)
    said = "\n".join(f"{f.level}: {f.text}" for f in find_rounds(read_rounds(root)))
    assert found in said, said


def test_rollouts_beside_a_run_do_not_make_rounds_of_it(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", Made(steps=200, episodes=10))
    make_rollouts(root / "rollout_line_0", [Plan()])
    assert is_run(root) and not is_rounds(root)
    (tmp_path / "none").mkdir()
    assert not is_run(tmp_path / "none") and not is_rounds(tmp_path / "none")
