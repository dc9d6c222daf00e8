"""Tables and comparisons from results whose answer is known."""

from __future__ import annotations

import pytest

from igrft.evaluation.statistics import wilson
from igrft.evaluation.summary import curves_of, match_runs, summarise
from igrft.evaluation.table import to_text


def episodes(name: str, won: str, *, task: str = "box", seed: int = 0, temperature: float | str = 1.0, **more) -> list:
    """One result a letter: 1 is a success."""
    return [
        {
            "name": name,
            "task": task,
            "training_seed": seed,
            "temperature": temperature,
            "seed": 100 + i,
            "success": letter == "1",
            "said": True,
            "steps": 10 + i,
            "progress": 1.0 if letter == "1" else 0.25,
            "interventions": 0,
            "noise": [1.0, 1.0, 1.0],
            **more,
        }
        for i, letter in enumerate(won)
    ]


def test_one_run_is_one_line():
    (row,) = summarise(episodes("sft", "1101"), ["sft"], [1.0]).rows
    assert (row.name, row.task, row.runs, row.n, row.successes, row.success_rate) == ("sft", "box", 1, 4, 3, 0.75)
    assert row.interval == wilson(3, 4) and row.runs_interval is None
    assert row.progress == pytest.approx((3 + 0.25) / 4) and row.steps == 11.5
    assert (row.interventions, row.successes_alone, row.noise) == (0, 3, (1.0, 1.0, 1.0))


def test_several_tasks_have_a_line_each_and_one_of_all():
    results = [*episodes("sft", "1100", task="box"), *episodes("sft", "1111", task="shelf")]
    rows = summarise(results, ["sft"], [1.0]).rows
    assert [(r.task, r.success_rate, r.runs) for r in rows] == [("box", 0.5, 1), ("shelf", 1.0, 1), (None, 0.75, 2)]
    low, high = rows[2].runs_interval
    assert low < 0.75 < high <= 1.0 and high - low > rows[2].interval[1] - rows[2].interval[0]


def test_help_is_counted_and_successes_without_it_apart():
    results = [*episodes("hil", "11", interventions=2), *episodes("hil", "10", seed=1)]
    (row,) = summarise(results, ["hil"], [1.0]).rows
    assert (row.interventions, row.interventions_per_episode, row.successes_alone) == (4, 1.0, 1)


def test_progress_is_unknown_where_one_episode_does_not_say():
    results = [*episodes("a", "1"), *episodes("a", "1", seed=1, progress=None)]
    assert summarise(results, ["a"], [1.0]).rows[0].progress is None


def test_others_are_compared_with_the_baseline_on_the_same_seeds():
    results = [*episodes("sft", "10010"), *episodes("ours", "111"), *episodes("more", "01100")]
    found = summarise(results, ["sft", "ours", "more"], [1.0])
    first, second = found.comparisons
    assert (first.first, first.second) == (("ours", 1.0), ("sft", 1.0))
    # Only three seeds of ours have been run so far.
    assert first.comparison.episodes == 3 and first.comparison.difference == pytest.approx(2 / 3)
    assert second.first == ("more", 1.0) and second.comparison.difference == 0
    assert vars(second.comparison.counts) == {"both": 0, "first": 2, "second": 2, "neither": 1}
    other = summarise(results, ["sft", "ours", "more"], [1.0], baseline="more").comparisons
    assert [(p.first[0], p.second[0]) for p in other] == [("sft", "more"), ("ours", "more")]


def test_the_order_of_lines_does_not_matter():
    results = [*episodes("sft", "10010"), *episodes("ours", "11101")]
    forward, backward = (summarise(r, ["sft", "ours"], [1.0]) for r in (results, results[::-1]))
    assert forward.to_json() == backward.to_json()


def test_runs_are_matched_by_task_and_training_seed():
    results = [
        *(r for seed, won in ((0, "1100"), (1, "1110")) for r in episodes("sft", won, seed=seed)),
        *(r for seed, won in ((0, "1110"), (2, "1111")) for r in episodes("ours", won, seed=seed)),
    ]
    found = summarise(results, ["sft", "ours"], [1.0])
    (pair,) = found.comparisons
    assert (pair.comparison.runs, pair.comparison.difference) == (1, 0.25)
    assert found.notices == [
        "ours against sft: ours has no counterpart on box seed 2: left out",
        "ours against sft: sft has no counterpart on box seed 1: left out",
    ]


def test_which_runs_belong_together():
    assert match_runs([("a", 0), ("a", 1)], [("a", 1), ("a", 0)]) == [(("a", 0),) * 2, (("a", 1),) * 2]
    # The only run of a task is compared with the only one of the other, whatever their seeds.
    assert match_runs([("a", 0), ("b", 3)], [("a", 5)]) == [(("a", 0), ("a", 5))]
    assert match_runs([("a", 0), ("a", 1)], [("a", 5)]) == []


def test_temperatures_of_a_policy_are_compared_with_its_first():
    results = [*episodes("sft", "1000"), *episodes("sft", "1110", temperature=0.35)]
    found = summarise(results, ["sft"], [1.0, 0.35])
    assert [r.temperature for r in found.rows] == [1.0, 0.35]
    (pair,) = found.comparisons
    assert (pair.first, pair.second) == (("sft", 0.35), ("sft", 1.0)) and pair.comparison.difference == 0.5


def test_curves_join_the_names_of_a_method():
    results = [
        *episodes("start", "10", task="box"), *episodes("start", "11", task="shelf"),
        *episodes("round", "11", task="box"), *episodes("round", "11", task="shelf"),
        *episodes("other", "11"),
    ]  # fmt: skip
    rows = summarise(results, ["start", "round", "other"], [1.0]).rows
    places = {"start": ("ours", 0.0), "round": ("ours", 12.0), "other": ("other", None)}
    curves = curves_of(rows, places)
    assert list(curves) == [1.0] and list(curves[1.0]) == ["ours"]
    assert [(p.interventions, dict(p.rates)) for p in curves[1.0]["ours"]] == [
        (0.0, {"box": 0.5, "shelf": 1.0}),
        (12.0, {"box": 1.0, "shelf": 1.0}),
    ]


# The table.


def test_the_table_says_it_all():
    results = [
        *episodes("sft", "1000", noise=[1.0, 0.9, 1.4], temperature="exploration"),
        *episodes("ours", "1111", noise=[1.0, 0.5, 1.2], temperature="exploration", interventions=1),
    ]
    text = to_text(summarise(results, ["sft", "ours"], ["exploration"]))
    lines = text.splitlines()
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "policy task noise n success 95 % unaided progress interventions steps",
        "sft box T(s) 0.90-1.40 4 25.0 % 4.6-69.9 - 0.44 0 12",
        "ours box T(s) 0.50-1.20 4 100.0 % 51.0-100.0 0.0 % 1.00 4 (1.0 an episode) 12",
    ]
    assert "Wilson's 95 % interval" in text and "over runs" not in text
    assert any(
        x.startswith("ours - sft, noise exploration  +75.0 points  (") and "4 pairs, one run" in x for x in lines
    )


def test_columns_that_say_nothing_are_left_out_and_runs_have_theirs():
    results = [*episodes("sft", "1000", progress=None), *episodes("sft", "1100", seed=1, progress=None)]
    text = to_text(summarise(results, ["sft"], [1.0], confidence=0.9))
    assert (
        "progress" not in text
        and "unaided" not in text
        and "over runs" in text
        and "90 %" in text
        and "8 in 2 runs" in text
    )
    assert len({len(line.rstrip()) for line in text.splitlines()[:2]}) == 1
