"""`igrft subtasks score`: exact figures on small episodes, properties, and the command on real files."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.cli.main import run
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError
from igrft.pipeline.run import annotate
from igrft.steps.subtasks.compare import compare
from igrft.steps.subtasks.score import score_episode, score_episodes
from igrft.steps.subtasks.segments import Segment


def episode(*ends: tuple[str, int]) -> list[Segment]:
    """Segments from names and ends."""
    starts = [0, *(end for _, end in ends[:-1])]
    return [Segment(name, start, end) for (name, end), start in zip(ends, starts, strict=True)]


def test_worked_figures() -> None:
    reference = episode(("reach", 40), ("grasp", 60), ("place", 100))
    found = episode(("reach", 30), ("grasp", 65), ("reach", 70), ("place", 100))
    scores = score_episodes([(found, reference)], 10.0)
    # reach 30/40, grasp 20/35, place 30/40 are at least a half; the second reach is one too many.
    assert (scores.overall.matched, scores.overall.found, scores.overall.reference) == (3, 4, 3)
    assert scores.overall.f1 == pytest.approx(6 / 7)
    assert scores.overall.accuracy == pytest.approx((30 + 20 + 30) / 100)
    assert scores.overall.errors == pytest.approx([1.0, 1.0])  # grasp at 30 for 40, place at 70 for 60
    assert scores.overall.error(0.5) == pytest.approx(1.0) and scores.overall.missed == 0
    assert scores.overall.count_errors == [1] and scores.subtasks["reach"].count_errors == [1]
    assert scores.subtasks["reach"].precision == 0.5 and scores.subtasks["reach"].recall == 1.0


def test_iou_of_exactly_a_half_counts() -> None:
    assert score_episodes([(episode(("a", 10), ("b", 20)), episode(("a", 20)))], 1.0).overall.matched == 1
    assert score_episodes([(episode(("a", 9), ("b", 20)), episode(("a", 20)))], 1.0).overall.matched == 0


def test_a_name_that_comes_twice_is_paired_one_to_one() -> None:
    reference = episode(("x", 10), ("a", 20), ("x", 30), ("a", 40))
    found = episode(("x", 12), ("a", 40))
    score = score_episode(found, reference, 1.0)["a"]
    assert score.errors == [2.0] and score.missed == 1


def test_what_was_never_begun_and_neighbours_of_one_name() -> None:
    reference = [*episode(("a", 5), ("a", 10), ("b", 20)), Segment("c", 20, 20, False)]
    scores = score_episodes([(episode(("a", 10), ("b", 20)), reference)], 1.0)
    assert scores.overall.f1 == 1.0 and scores.overall.count_errors == [0] and "c" not in scores.subtasks


def test_without_names_places_are_compared() -> None:
    reference, found = episode(("a", 10), ("b", 20)), episode(("phase 1", 12), ("phase 2", 20))
    assert score_episodes([(found, reference)], 2.0).overall.f1 == 0.0
    scores = score_episodes([(found, reference)], 2.0, ignore_names=True)
    assert scores.overall.f1 == 1.0 and scores.overall.errors == [1.0] and math.isnan(scores.overall.accuracy)
    assert scores.to_json()["overall"]["frame_accuracy"] is None and scores.subtasks == {}


def test_episodes_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="end at 9, the reference at 10"):
        score_episode(episode(("a", 9)), episode(("a", 10)), 1.0)


@st.composite
def labels(draw: st.DrawFn, length: int = 40) -> list[Segment]:
    cuts = sorted(draw(st.sets(st.integers(1, length - 1), max_size=6)))
    names = [draw(st.sampled_from("abc")) for _ in range(len(cuts) + 1)]
    return episode(*zip(names, [*cuts, length], strict=True))


@given(labels())
def test_labels_agree_with_themselves(segments: list[Segment]) -> None:
    scores = score_episodes([(segments, segments)], 30.0)
    assert scores.overall.f1 == scores.overall.accuracy == 1.0
    assert not any(scores.overall.errors) and scores.overall.missed == 0 and scores.overall.count_errors == [0]


@given(labels(), labels())
def test_f1_and_matches_do_not_depend_on_who_is_the_reference(a: list[Segment], b: list[Segment]) -> None:
    there, back = (score_episodes([pair], 30.0).overall for pair in ((a, b), (b, a)))
    assert there.matched == back.matched and there.f1 == back.f1
    assert there.accuracy == back.accuracy and sum(there.errors) == pytest.approx(sum(back.errors))
    assert 0 <= there.f1 <= 1 and there.matched <= min(there.found, there.reference)


@pytest.fixture
def labelled(source, pipeline_file, tmp_path):
    """A labelled dataset, and its subtasks as a reference in which every boundary lies a frame later."""
    (tmp_path / "task.yaml").write_text("subtasks: [first, second, third]")
    steps = [{"type": "subtasks", "source": "proprio", "task": "task.yaml", "shortest": 0.1}]
    annotate(source, tmp_path / "out", pipeline=pipeline_file(steps), workers=1)
    assert run(["subtasks", "export", str(tmp_path / "out"), str(tmp_path / "reference.json")]) == 0
    reference = json.loads((tmp_path / "reference.json").read_text())
    for entry in reference["episodes"].values():
        for before, after in zip(entry["subtasks"], entry["subtasks"][1:], strict=False):
            before["end"] += 1
            after["start"] += 1
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    return tmp_path / "out", tmp_path / "reference.json"


def test_the_command(labelled, capsys) -> None:
    out, reference = labelled
    fps = DatasetReader.open(out).fps
    capsys.readouterr()
    assert run(["subtasks", "score", str(out), str(reference), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["overall"]["boundary_error_median"] == pytest.approx(1 / fps, abs=1e-4)
    assert found["overall"]["f1"] == 1.0 and set(found["subtasks"]) == {"first", "second", "third"}
    assert (
        found["overall"]["count_error"] == found["subtasks"]["second"]["count_error"] == 0 and found["left_out"] == {}
    )
    assert run(["subtasks", "score", str(out), str(reference)]) == 0
    text = capsys.readouterr().out
    assert "overall" in text and "second" in text and "exact in 100 %" in text
    # A labelled dataset is a reference, too.
    assert run(["subtasks", "score", str(out), str(out)]) == 0


def test_episodes_that_cannot_be_compared_are_named(labelled, capsys) -> None:
    out, reference = labelled
    value = json.loads(reference.read_text())
    # Episodes that nobody looked at are no fault of the labels.
    value["episodes"] = {index: value["episodes"][index] for index in ("0", "2", "3")}
    reference.write_text(json.dumps(value))
    assert compare(out, reference).scores.episodes == 3 and run(["subtasks", "score", str(out), str(reference)]) == 0
    value["episodes"]["2"]["subtasks"][-1]["end"] += 5
    value["episodes"]["77"] = value["episodes"]["3"]
    reference.write_text(json.dumps(value))
    found = compare(out, reference)
    assert set(found.left_out) == {2, 77} and "frames" in found.left_out[2] and "is not in" in found.left_out[77]
    capsys.readouterr()
    assert run(["subtasks", "score", str(out), str(reference)]) == 1
    assert "2 episodes left out; the first: episode 2 in" in capsys.readouterr().out
    reference.write_text('{"episodes": {}}')
    with pytest.raises(IgrftError, match="have no episode in common$"):
        compare(out, reference)
    with pytest.raises(IgrftError, match="does not exist"):
        compare(out, "nowhere.json")


def test_a_subtask_that_some_episodes_have_not() -> None:
    pair = episode(("a", 10), ("b", 20)), episode(("a", 20))
    same = episode(("a", 20)), episode(("a", 20))
    scores = score_episodes([pair, same], 1.0)
    assert scores.subtasks["b"].count_errors == [1, 0] and scores.overall.count_errors == [1, 0]
    assert scores.to_json()["subtasks"]["b"]["count_error"] == 0.5
