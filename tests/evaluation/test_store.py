"""results.jsonl: kept line by line, read again after a crash, never mixed with results of other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from igrft.errors import IgrftError, UsageError
from igrft.evaluation.store import RESULTS, ResultStore, first_difference, key_of, read_lines


def line(seed: int = 0, **more) -> dict:
    return {"name": "sft", "task": "t", "training_seed": 1, "temperature": 1.0, "seed": seed, "digest": "d", **more}


def test_what_was_added_is_there_again(tmp_path: Path):
    with ResultStore.open(tmp_path / "out", {"a": 1}) as store:
        assert store.missing([key_of(line(0)), key_of(line(1))]) == [key_of(line(0)), key_of(line(1))]
        store.add(line(0, success=True))
        assert store.missing([key_of(line(0)), key_of(line(1))]) == [key_of(line(1))]
    with ResultStore.open(tmp_path / "out", {"a": 1}) as store:
        assert store.results == {("sft", "t", 1, "1.0", 0): line(0, success=True)}
        store.add(line(0, success=False))
    with ResultStore.open(tmp_path / "out", {"a": 1}) as store:
        assert [r["success"] for r in store.results.values()] == [False]


def test_every_length_of_a_torn_last_line(tmp_path: Path):
    whole = json.dumps(line(0)) + "\n"
    last = json.dumps(line(1, text="ü")) + "\n"
    path = tmp_path / RESULTS
    for cut in range(len(last.encode())):
        path.write_bytes(whole.encode() + last.encode()[:cut])
        assert read_lines(path) == [line(0)]
        assert path.read_bytes() == whole.encode()
    path.write_bytes(whole.encode() + last.encode())
    assert len(read_lines(path)) == 2


@pytest.mark.parametrize("damage", ["{\n", '{"name": "a"}\n', "[1]\n", "\n"])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str):
    path = tmp_path / RESULTS
    path.write_text(json.dumps(line(0)) + "\n" + damage + json.dumps(line(1)) + "\n")
    with pytest.raises(IgrftError, match="line 2 is no result; delete that line"):
        read_lines(path)


def test_other_settings_are_refused_and_overwritten_on_demand(tmp_path: Path):
    folder = tmp_path / "out"
    with ResultStore.open(folder, {"environment": {"settle": 1}}) as store:
        store.add(line(0))
    with (
        pytest.raises(UsageError, match=r"another environment.settle \(1 there, 5 now\); give another --output_dir"),
        ResultStore.open(folder, {"environment": {"settle": 5}}),
    ):
        pass
    (folder / "mine.txt").write_text("kept")
    with ResultStore.open(folder, {"environment": {"settle": 5}}, overwrite=True) as store:
        assert store.results == {}
    assert (folder / "mine.txt").read_text() == "kept" and not (folder / RESULTS).exists()


def test_settings_that_never_had_a_result_do_no_harm(tmp_path: Path):
    with ResultStore.open(tmp_path / "out", {"a": 1}):
        pass
    with ResultStore.open(tmp_path / "out", {"a": 2}) as store:
        store.add(line(0))


def test_other_weights_under_the_same_name(tmp_path: Path):
    with ResultStore.open(tmp_path / "out", {}) as store:
        store.add(line(0))
        store.refuse_others({("sft", "t", 1): "d", ("other", "t", 1): "e"})
        with pytest.raises(UsageError, match="other weights under the name 'sft'"):
            store.refuse_others({("sft", "t", 1): "e"})


def test_folders_of_something_else(tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").write_bytes(b"precious")
    with (
        pytest.raises(UsageError, match="holds something that is no evaluation"),
        ResultStore.open(tmp_path / "full", {}, overwrite=True),
    ):
        pass
    assert (tmp_path / "full" / "model.safetensors").read_bytes() == b"precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"), ResultStore.open(tmp_path / "file", {}):
        pass


def test_one_at_a_time(tmp_path: Path):
    with (
        ResultStore.open(tmp_path / "out", {}),
        pytest.raises(IgrftError, match="is written by another evaluation"),
        ResultStore.open(tmp_path / "out", {}),
    ):
        pass


def test_the_first_difference_in_words():
    assert first_difference({"a": {"b": [1]}, "c": 2}, {"a": {"b": [1]}, "c": 2}) is None
    assert first_difference({"a": {"b": [1]}}, {"a": {"b": [2]}}) == "a.b ([1] there, [2] now)"
    assert first_difference({"a": 1}, {"a": 1, "b": None}) is None
    assert first_difference({"a": 1, "b": 2}, {"a": 1}) == "b (2 there, null now)"
