"""The parts of ``source: vlm`` that need no server: windows, answers, names, settings, the cache."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from igrft.errors import UsageError
from igrft.pipeline.config import build_step
from igrft.pipeline.record import step_json
from igrft.steps.subtasks.segments import Segment
from igrft.steps.subtasks.vlm.answers import (
    Refused,
    read_description,
    read_json_answer,
    read_merges,
    read_spans,
    read_success,
)
from igrft.steps.subtasks.vlm.cache import Answer, AnswerCache, cache_folder, request_digest
from igrft.steps.subtasks.vlm.prompts import Question, merge_schema, segment, segment_schema
from igrft.steps.subtasks.vlm.step import joined, listed
from igrft.steps.subtasks.vlm.vocabulary import by_spelling, merge_vocabulary
from igrft.steps.subtasks.vlm.windows import Window, join_windows, windows_of

# Windows.


def test_a_short_episode_is_one_window_with_its_last_frame():
    (window,) = windows_of(95, 10.0, rate=2.0, longest=40, overlap=4)
    assert (window.start, window.end) == (0.0, 9.5) and f"{window.start:.2f}" == "0.00"
    assert window.frames == (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90, 94)


def test_a_long_episode_has_windows_of_equal_length_that_overlap():
    found = windows_of(1000, 10.0, rate=1.0, longest=40, overlap=4)
    assert [(round(w.start, 6), round(w.end, 6)) for w in found] == [(0, 36), (32, 68), (64, 100)]
    assert found[1].frames == tuple(range(320, 680, 10)) and found[2].frames[-1] == 999


def test_no_frame_is_shown_twice_where_the_recording_is_slower_than_the_rate():
    (window,) = windows_of(7, 3.0, rate=30.0, longest=40, overlap=4)
    assert window.frames == (0, 1, 2, 3, 4, 5, 6)


@given(
    length=st.integers(1, 5000),
    fps=st.sampled_from([5.0, 10.0, 29.97, 30.0, 50.0]),
    rate=st.floats(0.05, 60),
    longest=st.floats(0.5, 60),
    share=st.floats(0, 0.5),
)
def test_windows_cover_every_episode(length, fps, rate, longest, share):
    # Less is refused: a window could then show nothing.
    assume(longest * min(rate, fps) >= 2)
    found = windows_of(length, fps, rate=rate, longest=longest, overlap=longest * share)
    assert found[0].start == 0 and found[-1].end == length / fps and found[-1].frames[-1] == length - 1
    for window in found:
        assert window.end - window.start <= longest + 1e-6 and window.frames
        assert list(window.frames) == sorted(set(window.frames))
        slack = 0.5 / fps + 1e-6
        assert window.start - slack <= window.frames[0] / fps and window.frames[-1] / fps <= window.end + slack
    for before, after in pairwise(found):
        assert after.start <= before.end + 1e-6 and after.number == before.number + 1


def pair(overlap=(8.0, 12.0)):
    return [Window(0, 2, 0.0, overlap[1], ()), Window(1, 2, overlap[0], 20.0, ())]


def test_windows_that_agree_are_joined():
    first = [("a", 0.0, 5.0, True), ("b", 5.0, 12.0, True)]
    second = [("b", 8.0, 15.0, True), ("c", 15.0, 20.0, False)]
    assert join_windows(pair(), [first, second], 0.5) == [
        ("a", 0.0, 5.0, True),
        ("b", 5.0, 15.0, True),
        ("c", 15.0, 20.0, False),
    ]


def test_a_boundary_in_the_overlap_that_both_saw_differently_is_there_once():
    first = [("a", 0.0, 9.9, True), ("b", 9.9, 12.0, True)]
    second = [("a", 8.0, 10.2, True), ("b", 10.2, 20.0, True)]
    assert join_windows(pair(), [first, second], 0.5) == [("a", 0.0, 10.2, True), ("b", 10.2, 20.0, True)]


def test_windows_that_disagree_are_cut_in_the_middle_and_leave_no_sliver():
    first = [("a", 0.0, 9.8, True), ("b", 9.8, 12.0, True)]
    second = [("c", 8.0, 20.0, True)]
    assert join_windows(pair(), [first, second], 0.5) == [("a", 0.0, 10.0, True), ("c", 10.0, 20.0, True)]
    assert join_windows(pair(), [first, second], 0.1) == [
        ("a", 0.0, 9.8, True),
        ("b", 9.8, 10.0, True),
        ("c", 10.0, 20.0, True),
    ]


names = st.sampled_from(["a", "b", "c"])


@st.composite
def window_answers(draw):
    windows = windows_of(draw(st.integers(100, 1500)), 10.0, rate=1.0, longest=20, overlap=4)
    spans = []
    for w in windows:
        cuts = sorted(draw(st.lists(st.floats(0.05, 0.95), max_size=4, unique=True)))
        edges = [w.start, *(w.start + c * (w.end - w.start) for c in cuts), w.end]
        spans.append([(draw(names), a, b, True) for a, b in pairwise(edges)])
    return windows, spans


@given(window_answers())
def test_joined_windows_cover_the_episode_whatever_was_said(case):
    windows, spans = case
    found = join_windows(windows, spans, 0.5)
    assert found[0][1] == 0 and found[-1][2] == windows[-1].end
    assert all(a[2] == b[1] for a, b in pairwise(found))
    assert all(s[2] > s[1] for s in found)


# Answers.


def question(names=("reach", "grasp"), success=None, criterion=None, start=0.0, end=10.0):
    return Question(Window(0, 1, start, end, ()), "", names, (), success, criterion, 0.5, end)


def said(*spans):
    return {"subtasks": [{"name": n, "start": a, "end": b, "done": True} for n, a, b in spans]}


def test_a_right_answer_covers_the_window_exactly():
    # Ends of tiles instead of ends of subtasks, and a last frame instead of the end, are meant as they should be.
    answer = said(("reach", 0.1, 4.0), ("grasp", 4.25, 9.75))
    assert read_spans(answer, question(), 0.25) == [("reach", 0.0, 4.25, True), ("grasp", 4.25, 10.0, True)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "must be a list of at least one"),
        ({"subtasks": []}, "must be a list of at least one"),
        ({"subtasks": ["reach"]}, "subtask 1 is no object"),
        (said(("dance", 0, 10)), "'dance' is none of the subtasks; known: grasp, reach"),
        (said(("grasping", 0, 10)), "did you mean 'grasp'?"),
        (said((None, 0, 10)), "needs a name"),
        (said(("reach", "0", 10)), "'start' must be a number of seconds"),
        (said(("reach", 0, True)), "'end' must be a number of seconds"),
        (said(("reach", 0, float("nan"))), "'end' must be a number of seconds"),
        ({"subtasks": [{"name": "reach", "start": 0, "end": 10}]}, "'done' must be true or false"),
        (said(("reach", 2, 10)), "the first subtask starts at 2.00 s, and not at 0.00 s"),
        (said(("reach", 0, 8)), "the last subtask ends at 8.00 s, and not at 10.00 s"),
        (said(("reach", 0, 11)), "ends at 11.00 s, beyond the end at 10.00 s"),
        (said(("reach", 0, 5), ("grasp", 4, 10)), "subtask 2 starts at 4.00 s, before subtask 1 ends at 5.00 s"),
        (said(("reach", 0, 5), ("grasp", 6, 10)), "nothing is said of 5.00 s to 6.00 s, between subtasks 1 and 2"),
        (said(("reach", 0, 5), ("grasp", 5, 5)), "which is not after its start"),
        (said(("reach", 0, 9.8), ("grasp", 9.8, 10)), "subtask 2 lasts 0.20 s, less than 0.5 s"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_reason(answer, reason):
    with pytest.raises(Refused, match=reason.replace("?", r"\?").replace("(", r"\(")):
        read_spans(answer, question(), 0.25)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {"b": "}"}}',
        '```json\n{"a": {"b": "}"}}\n```',
        'Sure! {"a": {"b": "}"}} I hope this helps {x}.',
        '<think>{"a": 0}, or not</think>{"a": {"b": "}"}}',
        # Without a beginning, which stands in the prompt; thoughts in thoughts; another model's.
        'It may be {"a": 0}, or not.\n</think>\n\n{"a": {"b": "}"}}',
        '<think>{"a": 0}</think>, no: {"a": 1}</think>```{"a": {"b": "}"}}```',
        '◁think▷{"a": 0}◁/think▷{"a": {"b": "}"}}',
        # What else stands in braces.
        'First {}, then {"a": {"b": "}"}}',
        'The {red} one, {"b": 1} or {"a: {"a": {"b": "}"}}',
    ],
)
def test_json_is_found_in_what_models_wrap_around_it(text):
    assert read_json_answer(text, "a") == {"a": {"b": "}"}}


@pytest.mark.parametrize("text", ["", "no", '{"a": ', '{"a": NaN}', "{" * 100000, '{"b":' * 100000, '{"a": 1'])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(Refused):
        read_json_answer(text, "a")


def test_a_refusal_says_what_is_wrong_with_the_object_that_was_meant():
    with pytest.raises(Refused, match="no JSON object in it has 'a'"):
        read_json_answer('{} and {"b": {}}', "a")
    with pytest.raises(Refused, match="cannot be read .*char 34"):
        read_json_answer('The {red} one. {"a": [{"b": 1}, {}', "a")
    with pytest.raises(Refused, match="holds no JSON object"):
        read_json_answer('{"a": 1} </think> I cannot.', "a")


def test_names_are_known_by_more_than_one_spelling_where_it_is_clear():
    names = ("Reach the  cup", "grasp", "Grasp.", "lift (2.)")
    for said_name, meant in {
        "reach the cup.": "Reach the  cup",
        " REACH  the cup ": "Reach the  cup",
        "grasp": "grasp",
        "Grasp.": "Grasp.",
        "Lift (2.)": "lift (2.)",
    }.items():
        assert read_spans(said((said_name, 0, 10)), question(names), 0.25)[0][0] == meant
    # Two it could be; none it is.
    for wrong in ("GRASP", "reach cup", "."):
        with pytest.raises(Refused, match="is none of the subtasks"):
            read_spans(said((wrong, 0, 10)), question(names), 0.25)


def test_success_and_description():
    assert read_success({"success": False}) is False
    with pytest.raises(Refused, match="true or false"):
        read_success({"success": "yes"})
    for said in ("<think>hm</think> The arm\n moves. ", "I see a hand. </think>The arm moves.", "The arm moves."):
        assert read_description(said) == "The arm moves."
    for said in ("<think>hm</think>", "hm</think>", " <think>hm, and so on"):
        with pytest.raises(Refused, match="empty"):
            read_description(said)


def test_the_schema_closes_the_vocabulary_and_asks_for_success_where_it_is_asked():
    schema = segment_schema(question(criterion="it stands"))
    item = schema["properties"]["subtasks"]["items"]
    assert item["properties"]["name"] == {"type": "string", "enum": ["reach", "grasp"]}
    assert schema["required"] == ["subtasks", "success"] and item["additionalProperties"] is False
    assert segment_schema(question(names=()))["properties"]["subtasks"]["items"]["properties"]["name"] == {
        "type": "string"
    }
    assert "success" not in segment_schema(question())["properties"]
    text = segment(question(success=True), "The arm moves.")
    assert "known that the robot succeeded" in text and "The arm moves." in text and "  2. grasp" in text


# Names.


def test_spelling_merges_case_articles_and_punctuation():
    uses = {"Grasp the cup.": 1, "grasp cup": 3, "grasp a cup": 1, "place the cup": 2, "The": 1}
    assert by_spelling(uses) == {
        "Grasp the cup.": "grasp cup",
        "grasp cup": "grasp cup",
        "grasp a cup": "grasp cup",
        "place the cup": "place the cup",
        "The": "the",
    }


def test_names_that_people_gave_stay_and_draw_others():
    uses = {"grasp cup": 5, "Grasp the Cup": 1}
    assert by_spelling(uses, {"Grasp the Cup"}) == {"grasp cup": "Grasp the Cup", "Grasp the Cup": "Grasp the Cup"}


def test_without_a_model_spelling_is_all():
    assert merge_vocabulary({"lift": 2, "raise": 1}, set(), None) == ({"lift": "lift", "raise": "raise"}, None)


def test_merges_are_validated():
    names = {"a", "b", "c"}
    assert read_merges({"merge": [{"name": "a", "into": "b"}, {"name": "c", "into": "c"}]}, names) == {"a": "b"}
    for wrong, reason in [
        ({"merge": {}}, "must be a list"),
        ({"merge": [{"name": "a", "into": "x"}]}, "'x' is none of the listed"),
        ({"merge": ["a"]}, "none of the listed"),
        ({"merge": [{"name": "a", "into": "b"}, {"name": "a", "into": "c"}]}, "into two names"),
        ({"merge": [{"name": "a", "into": "b"}, {"name": "b", "into": "c"}]}, "itself is merged"),
    ]:
        with pytest.raises(Refused, match=reason):
            read_merges(wrong, names)
    assert merge_schema(["a"])["properties"]["merge"]["items"]["properties"]["into"]["enum"] == ["a"]


# What an episode lists.


def test_never_begun_subtasks_are_listed_in_a_failure_and_left_out_of_a_success():
    seen = [Segment("a", 0, 5, True), Segment("b", 5, 9, False)]
    assert listed(seen, ("c",), False, 9) == [*seen, Segment("c", 9, 9, False)]
    # What is known of the episode outweighs what the model thinks of its last subtask.
    assert listed(seen, ("c",), True, 9) == [Segment("a", 0, 5, True), Segment("b", 5, 9, True)]


def test_a_failed_try_and_the_next_are_two_and_other_neighbours_one():
    a, b = Segment("a", 0, 5, False), Segment("a", 5, 9, True)
    assert joined([a, b]) == [a, b]
    assert joined([Segment("a", 0, 5, True), b]) == [Segment("a", 0, 9, True)]


# Settings.

GOOD = {"type": "subtasks", "source": "vlm", "model": "m", "base_url": "http://127.0.0.1:1/v1"}


def build(**settings):
    return build_step({k: v for k, v in {**GOOD, **settings}.items() if v is not None}, "p.yaml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": None}, "needs 'model'"),
        ({"base_url": None}, "needs 'base_url'"),
        ({"base_url": "127.0.0.1:1"}, "must look like http://host:port/v1"),
        ({"base_url": "http://localhost:80o0/v1"}, "must look like http://host:port/v1"),
        ({"base_url": "http://localhost:secret/v1"}, "must look like http://host:port/v1"),
        ({"base_url": "http://localhost:99999/v1"}, "must look like http://host:port/v1"),
        ({"base_url": "http://localhost:0/v1"}, "must look like http://host:port/v1"),
        ({"base_url": "http://[::1/v1"}, "must look like http://host:port/v1"),
        (
            {"base_url": "http://localhost/v1", "serve_command": "vllm serve m --port {port}"},
            "needs the port in base_url",
        ),
        (
            {"frames_per_second": 0.1, "window": 1, "overlap": 0},
            "1 s at 0.1 frames a second shows less than two frames",
        ),
        ({"camera": []}, "camera must name a camera"),
        ({"camera": ["front", ""]}, "camera must name a camera"),
        ({"base_url": "http://me:secret@host/v1"}, "a key goes into an environment variable"),
        ({"base_url": "http://host/v1?key=secret"}, "a key goes into an environment variable"),
        ({"base_url": None, "serve_command": "vllm serve m"}, "needs {port}"),
        ({"api_key_env": "sk-secret-123"}, "must be the name of an environment variable"),
        ({"api_key_env": "hf_secretSecret"}, "must be the name of an environment variable"),
        ({"window": 10, "overlap": 6}, "at most half of window"),
        ({"jpeg_quality": 100}, "1 to 95"),
        ({"frames_per_second": 0}, "frames_per_second must be positive"),
        ({"retries": -1}, "must not be negative"),
        ({"schema": "strict"}, "must be one of auto, always, never"),
        ({"modle": "x"}, "no key 'modle'; did you mean 'model'"),
        ({"source": "proprio", "model": None, "base_url": "http://h/v1"}, "'base_url' is for source: vlm"),
    ],
)
def test_wrong_settings_are_refused_in_one_line_without_a_secret(settings, message):
    with pytest.raises(UsageError, match=message.replace("{", r"\{")) as caught:
        build(**settings)
    assert "secret" not in str(caught.value).lower() and "\n" not in str(caught.value)


def test_what_can_be_no_key_is_sent_to_nobody(monkeypatch):
    for key in ("two words", "schlüssel", "line\nbreak"):
        monkeypatch.setenv("TEST_VLM_KEY", key)
        with pytest.raises(UsageError, match="TEST_VLM_KEY holds what can be no key") as caught:
            build(api_key_env="TEST_VLM_KEY").key()
        assert key not in str(caught.value)
    monkeypatch.setenv("TEST_VLM_KEY", " sk-1\n")
    assert build(api_key_env="TEST_VLM_KEY").key() == "sk-1" and build().key() is None


def test_one_camera_or_several():
    assert build(camera="front").cameras == ("front",)
    assert build(camera=["front", "wrist"]).cameras == ("front", "wrist")
    assert build().cameras == ()


def test_only_what_decides_the_labels_keys_them():
    first = build().settings()
    patience = {
        "merge": "spelling",
        "concurrency": 1,
        "timeout": 9,
        "retries": 0,
        "cache": "x",
        "ask_again": True,
        "schema": "always",
    }
    assert build(base_url="http://other/v1", api_key_env="KEY", **patience).settings() == first
    for name, value in {"model": "n", "window": 20, "describe": False, "schema": "never", "temperature": 1}.items():
        assert build(**{name: value}).settings() != first


def test_the_record_says_nothing_of_the_authors_machine():
    step = build(api_key_env="MY_KEY", cache="/home/me/cache", serve_command="vllm serve /home/me/m --port {port}")
    text = json.dumps(step_json(step))
    assert '"model": "m"' in text
    assert "extra_body" not in step_json(build(extra_body={"token": "5ecret"}))
    assert not any(word in text for word in ("127.0.0.1", "MY_KEY", "/home", "vllm"))
    # Other sources do not list what is not theirs.
    assert "window" not in step_json(build_step({"type": "subtasks"}, "p.yaml"))


@pytest.mark.parametrize(
    "model",
    ["/home/me/models/Seer-7B", "/home/me/models/Seer-7B/", "~/Seer-7B", "../Seer-7B", r"C:\me\Seer-7B", "me/Seer-7B"],
)
def test_the_record_names_a_model_and_not_the_folder_that_it_lies_in(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me/Seer-7B").mkdir(parents=True)
    assert step_json(build(model=model))["model"] == "Seer-7B"
    assert step_json(build(model="another/Seer-7B"))["model"] == "another/Seer-7B"


# The cache.


def test_answers_are_kept_by_content_and_broken_files_are_asked_again(tmp_path):
    cache = AnswerCache(tmp_path)
    digest = request_digest({"model": "m", "messages": [{"role": "user", "content": "ä"}]})
    assert digest == request_digest({"messages": [{"content": "ä", "role": "user"}], "model": "m"})
    answer = Answer("text ä", "stop", 10, 2)
    cache.put(digest, answer, model="m")
    assert cache.get(digest) == answer == AnswerCache(tmp_path).get(digest, ask_again=True)
    cache.put(digest, answer, model="m", refused="it is empty")
    assert cache.get(digest) == answer and cache.get(digest, ask_again=True) is None
    (file,) = tmp_path.rglob("*.json")
    file.write_text(file.read_text()[:20])
    assert cache.get(digest) is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


def test_the_cache_lies_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.delenv("IGRFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/igrft"
    monkeypatch.setenv("IGRFT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" and cache_folder("/x") != tmp_path / "own"
