"""JSON files with an entry an episode: parsed one at a time, and alike."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igrft.dataset import episode_entries
from igrft.dataset.episode_entries import EpisodeEntries, parse_episode_entries, read_episode_entries
from igrft.errors import IgrftError
from igrft.steps.subtasks.file import read_subtask_file

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_FILES = st.dictionaries(st.text() | st.just("episodes"), st.dictionaries(st.text(), _VALUES, max_size=5) | _VALUES)


@given(_VALUES | _FILES, st.sampled_from([None, 0, 1, 4]), st.booleans())
def test_it_is_what_json_makes_of_the_file(value, indent, ascii_only):
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = parse_episode_entries(f"\n {text}\t", small=0)
    assert found == value
    if isinstance(value, dict) and isinstance(value.get("episodes"), dict):
        assert isinstance(found["episodes"], EpisodeEntries)
        assert list(found["episodes"]) == list(value["episodes"])
        assert dict(pickle.loads(pickle.dumps(found["episodes"]))) == value["episodes"]


@given(_FILES, st.data())
def test_what_is_no_json_is_none_here(value, data):
    text = json.dumps(value, indent=1)
    at = data.draw(st.integers(0, len(text)))
    damaged = text[:at] + data.draw(st.sampled_from(["", "{", "}", ",", '"', "x", ":"])) + text[at + 1 :]
    try:
        expected = json.loads(damaged)
    except json.JSONDecodeError:
        with pytest.raises(json.JSONDecodeError):
            parse_episode_entries(damaged, small=0)
    else:
        assert parse_episode_entries(damaged, small=0) == expected


def test_of_a_key_that_stands_twice_the_last_counts():
    text = '{"episodes": {"0": 1, "1": 2, "0": 3}}'
    assert parse_episode_entries(text, small=0) == json.loads(text) == {"episodes": {"0": 3, "1": 2}}


def test_a_small_file_is_parsed_whole():
    assert isinstance(parse_episode_entries('{"episodes": {"0": 1}}')["episodes"], dict)


@pytest.fixture(params=["whole", "one at a time"])
def however_parsed(request, monkeypatch):
    if request.param != "whole":
        monkeypatch.setattr(episode_entries.parse_episode_entries, "__defaults__", (0,))


def test_the_error_names_the_file(tmp_path: Path, however_parsed):
    path = tmp_path / "igrft.json"
    with pytest.raises(IgrftError, match=r"igrft\.json is missing"):
        read_episode_entries(path)
    path.write_text('{"episodes": {"0": {"success": true}, "1": {"success": tru}}}')
    with pytest.raises(IgrftError, match=r"igrft\.json is not valid JSON .*; restore it from the source"):
        read_episode_entries(path)


def test_a_subtask_file_by_index(tmp_path: Path, however_parsed):
    path = tmp_path / "subtasks.json"
    path.write_text('{"episodes": {"3": {"success": true}, "010": {"success": false}}}')
    found = read_subtask_file(str(path))
    assert dict(found) == {3: {"success": True}, 10: {"success": False}}
    assert 10 in found and 4 not in found and found.get(4) is None


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"episodes": {"one": {}}}', "'one' is not an episode index"),
        ('{"episodes": {"0": {}, "1": [1]}}', "episode 1 must be an object"),
        ('{"episodes": [1]}', "must be"),
        ("[1]", "must be"),
    ],
)
def test_a_subtask_file_of_another_shape_is_refused(tmp_path: Path, text: str, said: str, however_parsed):
    path = tmp_path / "subtasks.json"
    path.write_text(text)
    with pytest.raises(IgrftError, match=said):
        read_subtask_file(str(path))
