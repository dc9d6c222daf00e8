"""``source: vlm`` against a server on loopback that sees what is in the pictures it is sent."""

from __future__ import annotations

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import add_column
from vlm_server import NAMES, VARIANTS, looks, vlm_server
from vlm_sets import FPS, entry, plain_truth, record, run, segments, write_set, write_task

from igrft import annotate
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError


def segmenting(server):
    return [b for b in server.bodies if server.kind(b) == "segment"]


def text_of(body):
    return "\n".join(p["text"] for p in body["messages"][0]["content"] if p["type"] == "text")


def test_a_closed_vocabulary_is_labelled_to_the_frame(tmp_path):
    truths = [plain_truth(e) for e in range(5)]
    source = write_set(tmp_path / "source", truths, dtype="video")
    said: list[str] = []
    with vlm_server() as server:
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), said=said)
    assert result.set_aside == {} and result.episodes == 5
    for e, truth in enumerate(truths):
        assert segments(tmp_path / "out", e) == truth
    # Two calls an episode; every frame goes once into each, in order.
    assert len(server.bodies) == 10
    frames = sum(len(t) and t[-1][2] for t in truths)
    assert sum(len(looks(b["messages"])) for b in server.bodies) == 2 * frames
    # What leaves the machine is said before, what it cost after.
    assert said[0].startswith(f"subtasks: {frames} frames of 5 episodes go to http://127.0.0.1:")
    assert "10 calls, about" in said[0] and said[1].startswith("subtasks: 10 calls of seer (10 requests")
    spent = result.spent["subtasks"]
    assert (spent["answers"], spent["input_tokens"], spent["output_tokens"], spent["cached"]) == (10, 10000, 1000, 0)
    # The description that came first stands in the second question; the schema closes the vocabulary.
    first, second = server.bodies[0], segmenting(server)[0]
    assert "response_format" not in first
    schema = second["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["subtasks"]["items"]["properties"]["name"]["enum"] == list(NAMES)
    assert "The robot moves: 0@0" in text_of(second)


def test_repeats_skips_and_failures_are_as_seen(tmp_path):
    retry = [("reach the cup", 0, 8, True), ("grasp the cup", 8, 14, False), ("grasp the cup", 14, 20, True)]
    retry += [("move to the shelf", 20, 28, True), ("place the cup", 28, 36, True)]
    skip = [("grasp the cup", 0, 10, True), ("place the cup", 10, 20, True)]
    cut = [("reach the cup", 0, 10, True), ("grasp the cup", 10, 22, False)]
    source = write_set(tmp_path / "source", [retry, skip, cut])
    add_column(source, "next.success", lambda n, e: (np.arange(n) == n - 1) & (e != 2), "bool")
    with vlm_server() as server:
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)))
    assert result.set_aside == {} and result.assumed_successes == 0
    assert any("not seen in 1 successes" in notice for notice in result.notices)
    assert segments(tmp_path / "out", 0) == retry
    weights = [s["weight"] for s in record(tmp_path / "out", 0)["subtasks"]]
    assert weights == [0.25, 0, 0.25, 0.25, 0.25]
    # A success did without what is not seen; it is not listed, so that the seen ones pay all.
    assert segments(tmp_path / "out", 1) == skip
    assert record(tmp_path / "out", 1)["skipped"] == ["reach the cup", "move to the shelf"]
    # In a failure it was never begun: no frame, no pay.
    assert segments(tmp_path / "out", 2) == [
        *cut,
        ("move to the shelf", 22, 22, False),
        ("place the cup", 22, 22, False),
    ]
    told = {t for t in ("succeeded", "failed") for b in segmenting(server) if f"the robot {t}" in text_of(b)}
    assert told == {"succeeded", "failed"}


def test_the_model_judges_success_where_nobody_else_knows(tmp_path):
    truths = [plain_truth(e) for e in range(3)]
    source = write_set(tmp_path / "source", truths, [True, False, True])
    task = str(write_task(tmp_path))
    with vlm_server() as server:
        result = run(source, tmp_path, server.base_url, task=task, judge_success=True)
        assert result.assumed_successes == 0
        assert result.notices == ("success is a model's word in 3 of 3 episodes",)
        found = [record(tmp_path / "out", e) for e in range(3)]
        assert [(r["success"], r["success_from"]) for r in found] == [
            (True, "model"),
            (False, "model"),
            (True, "model"),
        ]
        assert all("the cup stands on the shelf" in text_of(b) for b in segmenting(server))
        # Its word is no fact: who labels the result again asks again.
        calls = len(server.bodies)
        run(tmp_path / "out", tmp_path, server.base_url, task=task, judge_success=True, out="relabelled")
        assert {record(tmp_path / "relabelled", e)["success_from"] for e in range(3)} == {"model"}
        assert len(server.bodies) == calls
        # Where the dataset knows, it is told and not asked.
        add_column(source, "is_success", lambda n, e: np.ones(n, bool), "bool")
        run(source, tmp_path, server.base_url, task=task, judge_success=True, out="known")
        assert {record(tmp_path / "known", e)["success_from"] for e in range(3)} == {"source"}
        assert not any('"success" is true' in text_of(b) for b in segmenting(server)[calls // 2 :])


def test_an_open_vocabulary_is_merged_over_the_dataset(tmp_path):
    truths = [plain_truth(e) for e in range(6)]
    source = write_set(tmp_path / "source", truths)
    with vlm_server(open_names=True) as server:
        result = run(source, tmp_path, server.base_url)
        assert result.set_aside == {}
        assert server.kind(server.bodies[-1]) == "merge" and len(server.bodies) == 13
        schema = server.bodies[0].get("response_format")
        assert schema is None
        names = DatasetReader.open(tmp_path / "out").subtask_names
        assert len(names) == 4
        meaning = {v: n for n, variants in VARIANTS.items() for v in variants}
        for e, truth in enumerate(truths):
            assert [(meaning[n], *rest) for n, *rest in segments(tmp_path / "out", e)] == truth
        assert any("renamed" in record(tmp_path / "out", e) for e in range(6))
        # A finished dataset asks nothing again, not even how names are merged.
        assert run(source, tmp_path, server.base_url).unchanged and len(server.bodies) == 13
        # By spelling alone, more names remain, and no call is made for them.
        run(source, tmp_path, server.base_url, out="spelled", merge="spelling")
        assert len(server.bodies) == 13
        spelled = DatasetReader.open(tmp_path / "spelled").subtask_names
        assert len(spelled) > 4 and len({s.lower().rstrip(".") for s in spelled}) == len(spelled)


def test_where_merging_fails_spelling_is_what_is_left(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(6)])
    said: list[str] = []
    answer = lambda kind, body: "I would rather not." if kind == "merge" else None  # noqa: E731
    with vlm_server(open_names=True, answer=answer) as server:
        result = run(source, tmp_path, server.base_url, said=said)
    assert result.set_aside == {} and len(DatasetReader.open(tmp_path / "out").subtask_names) > 4
    assert "merged by their spelling alone: the model's answer was refused twice: it holds no JSON" in said[-1]


def test_a_long_episode_is_asked_in_windows(tmp_path):
    # 60 s in windows of 20 s at most, which overlap by 2 s.
    ends = [100, 190, 290, 415, 505, 600]
    cycle = [NAMES[i % 4] for i in range(6)]
    truth = [(n, a, b, True) for n, a, b in zip(cycle, [0, *ends[:-1]], ends, strict=True)]
    source = write_set(tmp_path / "source", [truth])
    with vlm_server() as server:
        settings = {"task": str(write_task(tmp_path)), "window": 20, "overlap": 2}
        result = run(source, tmp_path, server.base_url, **settings)
    assert result.set_aside == {}
    asked = segmenting(server)
    assert len(asked) == 4 and "Shown here is part 3 of 4" in text_of(asked[2])
    assert [len(looks(b["messages"])) for b in asked] == [165] * 4
    assert [s[:3] for s in segments(tmp_path / "out", 0)] == [t[:3] for t in truth]
    # Later windows are told what came before.
    assert "Before that, the recording was divided into: reach the cup from 0.00 s to 10.00 s" in text_of(asked[1])


def test_windows_that_name_the_same_differently_are_joined_when_names_are_merged(tmp_path):
    ends = [100, 190, 290, 400]
    truth = [(n, a, b, True) for n, a, b in zip(NAMES, [0, *ends[:-1]], ends, strict=True)]
    source = write_set(tmp_path / "source", [truth])
    with vlm_server(open_names=True) as server:
        result = run(source, tmp_path, server.base_url, window=15, overlap=2)
    assert result.set_aside == {} and len(segmenting(server)) == 3
    meaning = {v: n for n, variants in VARIANTS.items() for v in variants}
    assert [(meaning[n], *rest) for n, *rest in segments(tmp_path / "out", 0)] == truth
    assert "Where one of these names fits, use it: " in text_of(segmenting(server)[1])


def test_a_server_without_schemas_is_asked_without(tmp_path):
    truths = [plain_truth(e) for e in range(3)]
    source = write_set(tmp_path / "source", truths)
    task = str(write_task(tmp_path))
    with vlm_server(schema=False, lacks=("max_tokens", "temperature")) as server:
        result = run(source, tmp_path, server.base_url, task=task, concurrency=1)
        assert [segments(tmp_path / "out", e) for e in range(3)] == truths and result.set_aside == {}
        # Found out once: one try too many for each thing that it does not take.
        assert len(server.bodies) == 6 + 3 and server.bodies[-1].keys() == {
            "model",
            "messages",
            "max_completion_tokens",
        }
        # The answer is the same question's, whichever way it was asked.
        run(source, tmp_path, server.base_url, task=task, out="again")
        assert len(server.bodies) == 9
    with vlm_server(schema=False) as server, pytest.raises(IgrftError, match="400 response_format.type must be text"):
        run(source, tmp_path, server.base_url, task=task, out="never", schema="always", cache=str(tmp_path / "c2"))


def test_one_refusal_for_another_reason_costs_no_schema(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(3)])
    said: list[str] = []
    with vlm_server(fault=lambda number: "400" if number == 0 else None) as server:
        result = run(
            source, tmp_path, server.base_url, task=str(write_task(tmp_path)), describe=False, concurrency=1, said=said
        )
    assert result.set_aside == {} and len(server.bodies) == 4
    assert all("response_format" in body for body in server.bodies) and "took no" not in said[-1]


def test_what_a_server_did_not_take_is_said_at_the_end(tmp_path):
    truths = [plain_truth(e) for e in range(3)]
    source = write_set(tmp_path / "source", truths)
    said: list[str] = []
    more = {"task": str(write_task(tmp_path)), "describe": False, "concurrency": 1}
    with vlm_server(schema=False, refusal="Bad Request", lacks=("temperature",)) as server:
        run(source, tmp_path, server.base_url, said=said, **more)
    assert [segments(tmp_path / "out", e) for e in range(3)] == truths
    # It names the temperature; of the schema it says nothing, so that it is asked once more before that is left out.
    assert ["response_format" in b for b in server.bodies] == [True, True, True, False, False, False]
    assert said[-1].endswith("; the server took no JSON schema and no temperature: asked without")


@pytest.mark.parametrize("fault", ["think", "parts"])
def test_thoughts_and_parts_are_no_part_of_the_answer(tmp_path, fault):
    truths = [plain_truth(e) for e in range(2)]
    source = write_set(tmp_path / "source", truths)
    with vlm_server(fault=lambda number: fault) as server:
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)))
    assert result.set_aside == {} and [segments(tmp_path / "out", e) for e in range(2)] == truths
    assert len(server.bodies) == 4
    for body in segmenting(server):
        assert "frames:\nThe robot moves: 0@0" in text_of(body) and "or is it" not in text_of(body)


def test_what_changes_no_answer_asks_nothing(tmp_path):
    truths = [plain_truth(e) for e in range(2)]
    source = write_set(tmp_path / "source", truths)

    def asked(result):
        return result.spent.get("subtasks", {}).get("asked", 0)

    with vlm_server() as server:
        more = {"task": str(write_task(tmp_path))}
        assert asked(run(source, tmp_path, server.base_url, **more)) == 4
        assert "importance" not in record(tmp_path / "out", 0)
        # Weights, and what success is where nobody asks for it.
        write_task(tmp_path, subtasks=[{"name": n, "weight": w} for w, n in enumerate(NAMES)], success="it glows")
        assert asked(run(source, tmp_path, server.base_url, **more)) == 0
        assert record(tmp_path / "out", 1)["importance"] == dict(zip(NAMES, range(4), strict=True))
        assert [segments(tmp_path / "out", e) for e in range(2)] == truths
        write_task(tmp_path, goal="put the cup away")
        assert asked(run(source, tmp_path, server.base_url, **more)) == 4
        assert asked(run(source, tmp_path, server.base_url, judge_success=True, **more)) == 4
        write_task(tmp_path, goal="put the cup away", success="it glows")
        assert asked(run(source, tmp_path, server.base_url, judge_success=True, **more)) == 4
        # How names are merged, where they are.
        assert asked(run(source, tmp_path, server.base_url, out="open")) == 5
        assert asked(run(source, tmp_path, server.base_url, out="open", merge="spelling")) == 0


def test_weights_of_a_task_file_are_what_rewards_take(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    task, path = write_task(tmp_path), tmp_path / "rewards.yaml"
    with vlm_server() as server:
        steps = [entry(server.base_url, tmp_path, task=str(task)), {"type": "rewards", "weights": "task"}]
        path.write_text(json.dumps({"steps": steps}))
        for weights in ((1, 1, 1, 1), (1, 2, 4, 1)):
            write_task(tmp_path, subtasks=[{"name": n, "weight": w} for n, w in zip(NAMES, weights, strict=True)])
            annotate(source, tmp_path / "out", pipeline=path, say=lambda line: None)
            found = [s["weight"] for s in record(tmp_path / "out", 0)["subtasks"]]
            assert found == [w / sum(weights) for w in weights]


def test_a_new_task_file_asks_about_its_own_episodes_alone(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(3)])
    path = source / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    tasks = pa.array([["put the cup away"], ["clear the table"], ["put the cup away"]])
    pq.write_table(table.set_column(table.column_names.index("tasks"), "tasks", tasks), path)
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_task(folder, match=["put the cup away"])
    with vlm_server() as server:
        result = run(source, tmp_path, server.base_url, task=str(folder))
        assert result.set_aside.keys() == {1} and "no task file matches 'clear the table'" in result.set_aside[1]
        assert result.spent["subtasks"]["asked"] == 4
        write_task(folder, match=["put the cup away"]).rename(folder / "first.yaml")
        write_task(folder, match=["clear the table"])
        result = run(source, tmp_path, server.base_url, task=str(folder))
        assert result.set_aside == {} and result.spent["subtasks"]["asked"] == 2


def test_snapping_without_signals_is_refused_before_anything_is_sent(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    with vlm_server() as server:
        with pytest.raises(IgrftError, match="neither observation.state nor action, .*; set snap_window: 0$"):
            run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), snap_window=0.3)
        # No recording shows more than it has.
        with pytest.raises(IgrftError, match="0.15 s at 10 frames a second shows less than two"):
            run(source, tmp_path, server.base_url, frames_per_second=20.0, window=0.15, overlap=0)
    assert server.bodies == []


def test_a_busy_server_is_asked_again_when_it_says(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    with vlm_server(busy=1) as server:
        start = time.monotonic()
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)))
        assert time.monotonic() - start >= 1.0
    assert result.set_aside == {} and len(server.bodies) == 3
    assert result.spent["subtasks"]["requests"] == 3 and result.spent["subtasks"]["answers"] == 2


def test_calls_in_flight_are_bounded_and_many(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(e) for e in range(9)])
    with vlm_server(delay=0.3) as server:
        run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), concurrency=3)
    assert server.most == 3


def test_corrections_are_taken_and_not_asked_about(tmp_path):
    truths = [plain_truth(e) for e in range(2)]
    source = write_set(tmp_path / "source", truths)
    length = truths[0][-1][2]
    given = [{"name": "Grasp the Cup", "start": 0, "end": 9}, {"name": "go home", "start": 9, "end": length}]
    (tmp_path / "mine.json").write_text(json.dumps({"episodes": {"0": {"success": True, "subtasks": given}}}))
    said: list[str] = []
    with vlm_server() as server:
        run(source, tmp_path, server.base_url, overrides=str(tmp_path / "mine.json"), said=said)
        assert len(segmenting(server)) == 1 and "of 1 episodes" in said[0]
    assert segments(tmp_path / "out", 0) == [("Grasp the Cup", 0, 9, True), ("go home", 9, length, True)]
    # Other names of the same words go by the one that a person gave.
    assert segments(tmp_path / "out", 1)[1][0] == "Grasp the Cup"


def test_the_camera_is_the_one_asked_for_else_the_tasks(tmp_path):
    source = write_set(tmp_path / "source", [plain_truth(0)])
    with vlm_server() as server:
        for camera in ("front", "observation.images.front", ["front"]):
            run(source, tmp_path, server.base_url, camera=camera, task=str(write_task(tmp_path)))
        with pytest.raises(IgrftError, match="step 'subtasks': .* has no camera 'top'"):
            run(source, tmp_path, server.base_url, camera="top")
        # A task file serves many datasets: a camera that this one lacks is a hint in vain.
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path, camera="corner2")), out="hint")
    assert result.set_aside == {} and "camera front: 0.00 s" in text_of(server.bodies[0])


def test_boundaries_move_onto_events_where_asked(tmp_path):
    truths = [plain_truth(0)]
    source = write_set(tmp_path / "source", truths)
    # The gripper closes two frames after the third subtask begins in the pictures.
    event = truths[0][2][1] + 2
    add_state(source, event)
    with vlm_server() as server:
        run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), snap_window=0.3)
    found, truth = segments(tmp_path / "out", 0), truths[0]
    assert found[2][1] == event and found[1][2] == event
    assert [s[0] for s in found] == [t[0] for t in truth]


def add_state(source, event):
    path = source / "data/chunk-000/file-000.parquet"
    table = pq.ParquetFile(path).read()
    n = table.num_rows
    values = np.stack([np.linspace(0, 1, n), np.arange(n) >= event], axis=1).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 2)
    pq.write_table(table.append_column("observation.state", column), path)
    info = json.loads((source / "meta/info.json").read_text())
    info["features"]["observation.state"] = {"dtype": "float32", "shape": [2], "names": ["joint", "gripper"]}
    (source / "meta/info.json").write_text(json.dumps(info))


def test_a_sparser_look_errs_by_less_than_its_spacing(tmp_path):
    truths = [plain_truth(e) for e in range(4)]
    source = write_set(tmp_path / "source", truths)
    with vlm_server() as server:
        result = run(source, tmp_path, server.base_url, task=str(write_task(tmp_path)), frames_per_second=4)
    assert result.set_aside == {}
    for e, truth in enumerate(truths):
        found = segments(tmp_path / "out", e)
        assert [s[0] for s in found] == [t[0] for t in truth]
        assert all(0 <= s[1] - t[1] <= FPS / 4 for s, t in zip(found, truth, strict=True))
