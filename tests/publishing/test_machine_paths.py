"""No folder of this machine is published; what only looks like one stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from igrft.publishing.machine_paths import clean, cleaned_file, without_folders


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/my data/set", "set"),
        ("/home/me/set/", "set"),
        ("~/runs/sft", "sft"),
        ("C:\\Users\\me\\a b\\set", "set"),
        ("the video /data/x/y.mp4 ends early", "the video y.mp4 ends early"),
        ("a.json: /tmp/q/z.json: bad", "a.json: z.json: bad"),
        ("runs/sft", "runs/sft"),
        ("user/name", "user/name"),
        ("https://host.org/home/me/x", "https://host.org/home/me/x"),
        ("ws://host:8000/home/x", "ws://host:8000/home/x"),
        ("/hdas/feedback_arm_left", "/hdas/feedback_arm_left"),
        ("and/or, 3/4, /", "and/or, 3/4, /"),
        ("in ~5/6 of the time", "in ~5/6 of the time"),
    ],
)
def test_texts(text, kept):
    assert without_folders(text) == kept


def test_in_a_recipe_every_absolute_path_goes():
    assert without_folders("/somewhere2/new/run", every=True) == "run"
    assert without_folders("/somewhere2/new/run") == "/somewhere2/new/run"


_part = st.text(st.characters(categories=("L", "N"), include_characters="-_"), min_size=1, max_size=8)


@given(st.lists(_part, min_size=1, max_size=4), st.text("abc ,.", max_size=10))
def test_no_home_folder_is_left(parts, around):
    owner = "xqzowner"
    path = "/".join(["/home", owner, *parts])
    for text in (path, f"{around} {path} {around}", f"{around}: {path}: {around}"):
        assert owner not in without_folders(text)
        assert parts[-1] in without_folders(text)


def test_values_and_keys():
    value = {"/home/me/a.bag": ["/home/me/b", 3, None, {"root": "/home/me/c", "n": 1.5}], "weight": True}
    assert clean(value) == {"a.bag": ["b", 3, None, {"root": "c", "n": 1.5}], "weight": True}


def test_files(tmp_path: Path):
    value = {"datasets": [{"root": "/home/me/sets/cups", "weight": 1.0}], "output_dir": "runs/sft", "seed": None}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(value))
    (tmp_path / "a.json").write_text(json.dumps(value))
    (tmp_path / "a.jsonl").write_text(json.dumps(value) + "\n" + json.dumps({"loss": 0.5}) + "\n")
    (tmp_path / "same.json").write_text('{"topic":"/hdas/arm",  "n": 1}')
    (tmp_path / "broken.json").write_text('{"root": "/home/me/cups", ')
    expected = {**value, "datasets": [{"root": "cups", "weight": 1.0}]}
    assert yaml.safe_load(cleaned_file(tmp_path / "a.yaml")) == expected
    assert json.loads(cleaned_file(tmp_path / "a.json")) == expected
    lines = cleaned_file(tmp_path / "a.jsonl").decode().splitlines()
    assert [json.loads(line) for line in lines] == [expected, {"loss": 0.5}]
    assert cleaned_file(tmp_path / "same.json") is None
    assert b"/home/me" not in cleaned_file(tmp_path / "broken.json")
