"""Each kind of damage is found, and nothing else is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from labelled_set import CAMERA, DATA_FILES, EPISODES, edit_json, edit_rows, edit_table, encode, make_labelled_set

from igrft import columns as c
from igrft.reports.validate import Validation, validate

INFO, STATS, IGRFT = "meta/info.json", "meta/stats.json", "meta/igrft.json"
TABLE = "meta/episodes/chunk-000/file-000.parquet"
Damage = Callable[[Path], None]


def messages(found: Validation, level: str = "error") -> str:
    return "\n".join(f"[{f.check}] {f.message}" for f in found.findings if f.level == level)


def test_a_good_set_is_clean_but_for_the_episode_set_aside(good_set: Path) -> None:
    found = validate(good_set)
    assert found.ok
    assert [(f.level, f.check, f.episode) for f in found.findings] == [("warning", "set aside", 2)]
    assert "ends at frame 7" in found.findings[0].message


def test_good_sets_of_other_kinds_are_clean(unlabelled_set: Path, tmp_path: Path) -> None:
    assert validate(unlabelled_set).findings == []
    assert validate(make_labelled_set(tmp_path / "g", discount=0.9, videos=False)).ok


def test_json_and_text(good_set: Path, labelled: Path) -> None:
    assert json.loads(json.dumps(validate(good_set, videos=False).to_json()))["ok"] is True
    for episode in (0, 1, 3):
        edit_rows(labelled, episode, set_at(c.TIMESTAMP, 7, 0.75))
    found = validate(labelled)
    text = found.to_text(limit=1)
    assert text.count("[timestamps]") == 2
    assert "and 2 more" in text
    assert text.splitlines()[-1].startswith("3 errors, 1 warning in 4 episodes, 145 frames")


# Damage to rows.


def set_at(column: str, frame: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(columns: dict[str, Any]) -> None:
        columns[column][frame] = value

    return edit


def add_at(column: str, frame: int, value: float) -> Callable[[dict[str, Any]], None]:
    def edit(columns: dict[str, Any]) -> None:
        columns[column][frame] += value

    return edit


def language_at(frames: slice, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(columns: dict[str, Any]) -> None:
        for frame in range(*frames.indices(len(columns[c.LANGUAGE_PERSISTENT]))):
            columns[c.LANGUAGE_PERSISTENT][frame] = [{**r} for r in columns[c.LANGUAGE_PERSISTENT][frame]]
            columns[c.LANGUAGE_PERSISTENT][frame][1][key] = value

    return edit


ROWS: dict[str, tuple[int, Callable[[dict[str, Any]], None], str, str]] = {
    "timestamp": (
        3,
        add_at(c.TIMESTAMP, 22, 0.01),
        "timestamps",
        "frame 22 is 2.2100 s where 10 frames/s give 2.2000 s, 10.0 ms",
    ),
    "frame_index": (3, set_at(c.FRAME_INDEX, 4, 9), "indices", "frame_index is 9 at frame 4, expected 4"),
    "episode_index": (1, set_at(c.EPISODE_INDEX, 4, 0), "indices", "episode_index is 0 at frame 4, expected 1"),
    "index": (1, set_at(c.INDEX, 4, 45), "indices", "index is 45 at frame 4, expected 44"),
    "task_index": (
        0,
        set_at(c.TASK_INDEX, 3, 1),
        "tasks",
        "task_index is 1 at frame 3, but meta/tasks.parquet has 1 rows",
    ),
    "nan in state": (0, set_at(c.STATE, 5, [0.0, float("nan"), 0.0]), "nan", "'observation.state' is not finite"),
    "nan in a label": (0, set_at(c.REWARD, 5, float("nan")), "nan", "'reward' is not finite"),
    "width": (0, set_at(c.ACTION, 5, [0.0, 1.0]), "columns", "'action' has 2 numbers at frame 5, 3 are declared"),
    "trajectory reward": (0, add_at(c.REWARD_TRAJECTORY, 6, 1e-6), "rewards", "is not 1/T on a success"),
    "subtask reward": (0, add_at(c.REWARD_SUBTASK, 5, 1.5e-6), "rewards", "but the recorded subtasks pay"),
    "reward": (0, add_at(c.REWARD, 6, 4e-6), "rewards", "not 0.4·reward_trajectory + 0.6·reward_subtask"),
    "return": (0, add_at(c.RETURN, 6, 1e-3), "returns", "return_to_go is 0.949962 at frame 5"),
    "return of a component": (1, add_at(c.RETURN_SUBTASK, 6, 1e-3), "returns", "return_to_go_subtask is"),
    "return at the end": (3, add_at(c.RETURN_TRAJECTORY, 49, 1e-3), "returns", "return_to_go_trajectory is"),
    "interaction": (0, set_at(c.INTERACTION, 0, True), "interaction", "interaction is True at frame 0 with 0 pixels"),
    "pixels": (0, set_at(c.INTERACTION_PIXELS, 0, -1.0), "interaction", "interaction_pixels is -1 at frame 0"),
    "subtask_index": (
        0,
        set_at(c.SUBTASK_INDEX, 12, 0),
        "subtasks",
        "subtask_index is 0 at frame 12, but meta/igrft.json has 'grasp'",
    ),
    "subtask_index out": (
        0,
        set_at(c.SUBTASK_INDEX, 12, 3),
        "subtasks",
        "subtask_index is 3 at frame 12, but meta/subtasks.parquet has 3",
    ),
    "text on one frame": (
        0,
        language_at(slice(3, 5), "content", "x"),
        "language",
        "at frame 3 differs from frame 0 (2 such",
    ),
    "text": (0, language_at(slice(None), "content", "x"), "language", "has 'reach' at 0.00 s, 'x' at 1.20 s"),
    "text's time": (0, language_at(slice(None), "timestamp", 1.3), "language", "'grasp' at 1.30 s"),
    "text's role": (0, language_at(slice(None), "role", "user"), "language", "is not of role 'assistant'"),
    "done": (1, set_at(c.DONE, 3, True), "facts", "next.done is not true on the last frame alone (frame 3"),
    "not done": (1, set_at(c.DONE, 29, False), "facts", "next.done is not true on the last frame alone (frame 29"),
    "success": (
        1,
        set_at(c.SUCCESS, 29, True),
        "facts",
        "next.success contradicts meta/igrft.json, which records no success",
    ),
    "a label where set aside": (
        2,
        set_at(c.RETURN, 3, 0.5),
        "set aside",
        "was set aside, but return_to_go is 0.5 at frame 3",
    ),
    "a flag where set aside": (2, set_at(c.INTERACTION, 3, True), "set aside", "but interaction is True"),
}


@pytest.mark.parametrize("name", ROWS)
def test_damaged_rows(name: str, labelled: Path) -> None:
    episode, edit, check, text = ROWS[name]
    edit_rows(labelled, episode, edit)
    found = validate(labelled, videos=False)
    # A changed label may move its mean by more than rounding, and a changed reward is missing from its return.
    follows = {"statistics"} | ({"returns"} if check == "rewards" else set())
    errors = [f for f in found.errors if f.check not in follows]
    assert len(errors) == 1, messages(found)
    assert (errors[0].check, errors[0].episode) == (check, episode)
    assert text in errors[0].message


def test_a_discounted_return_is_checked_with_its_discount(tmp_path: Path) -> None:
    root = make_labelled_set(tmp_path / "set", discount=0.9, videos=False)
    edit_json(root / IGRFT, lambda record: record["pipeline"]["steps"][3].update(discount=0.8))
    assert {f.check for f in validate(root).errors} == {"returns"}
    assert "discounted by 0.8" in messages(validate(root))


def test_smoothed_interaction_may_differ_from_its_threshold(labelled: Path) -> None:
    edit_rows(labelled, 0, set_at(c.INTERACTION, 0, True))
    edit_json(labelled / IGRFT, lambda record: record["pipeline"]["steps"][1].update(shortest_phase=3))
    assert {f.check for f in validate(labelled, videos=False).errors} <= {"statistics"}


def test_nan_in_the_state_of_an_episode_set_aside_is_a_warning(labelled: Path) -> None:
    edit_rows(labelled, 2, set_at(c.STATE, 5, [0.0, float("nan"), 0.0]))
    found = validate(labelled, videos=False)
    assert found.ok
    assert "[nan]" in messages(found, "warning")


# Damage to files and metadata.


def drop_a_row(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)


def one_row_group(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    pq.write_table(pq.read_table(path), path)


def drop_column(root: Path) -> None:
    for number in range(len(DATA_FILES)):
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        table = pq.read_table(path).drop_columns([c.INTERACTION])
        lengths = [EPISODES[i][0] for i in DATA_FILES[number]]
        with pq.ParquetWriter(path, table.schema) as writer:
            start = 0
            for length in lengths:
                writer.write_table(table.slice(start, length))
                start += length


def truncate(name: str) -> Damage:
    def damage(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def remove(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def in_json(name: str, edit: Callable[[Any], Any]) -> Damage:
    def damage(root: Path) -> None:
        edit_json(root / name, lambda value: (edit(value), None)[1])

    return damage


def in_table(name: str, edit: Callable[[dict[str, list[Any]]], Any]) -> Damage:
    def damage(root: Path) -> None:
        edit_table(root / name, lambda value: (edit(value), None)[1])

    return damage


def put(columns: dict[str, list[Any]], name: str, row: int, value: Any) -> None:
    columns[name][row] = value


def float64_rewards(root: Path) -> None:
    for episode in (0, 2):
        edit_rows(root, episode, lambda columns: None, types={c.REWARD: pa.float64()})


def stray_file(root: Path) -> None:
    (root / "data/chunk-000/file-009.parquet").write_bytes((root / "data/chunk-000/file-001.parquet").read_bytes())


def segments(episode: int, at: int, **values: Any) -> Damage:
    return in_json(IGRFT, lambda record: record["episodes"][str(episode)]["subtasks"][at].update(values))


FILES: dict[str, tuple[Damage, str, str]] = {
    "frames in info": (in_json(INFO, lambda i: i.update(total_frames=146)), "counts", "total_frames is 146, but"),
    "episodes in info": (in_json(INFO, lambda i: i.update(total_episodes=5)), "counts", "total_episodes is 5, but"),
    "tasks in info": (in_json(INFO, lambda i: i.update(total_tasks=2)), "counts", "total_tasks is 2, but"),
    "rows": (drop_a_row, "counts", "file-001.parquet holds 74 rows, but the episodes in it (2 to 3) have 75"),
    "a data file gone": (remove("data/chunk-000/file-001.parquet"), "files", "file-001.parquet is missing"),
    "a data file cut": (truncate("data/chunk-000/file-001.parquet"), "files", "file-001.parquet cannot be read"),
    "a stray data file": (stray_file, "files", "file-009.parquet belongs to no episode"),
    "an empty cell": (in_table(TABLE, lambda t: put(t, "length", 1, None)), "episodes", "'length' is empty in row 1"),
    "a column of the table": (
        in_table(TABLE, lambda t: t.pop("dataset_to_index")),
        "episodes",
        "no column 'dataset_to_index'",
    ),
    "a needed column of the table": (in_table(TABLE, lambda t: t.pop("length")), "episodes", "no column 'length'"),
    "to_index": (
        in_table(TABLE, lambda t: put(t, "dataset_to_index", 1, 71)),
        "indices",
        "dataset_to_index is 71, but",
    ),
    "task of the table": (
        in_table(TABLE, lambda t: put(t, "tasks", 1, ["other"])),
        "tasks",
        "episodes' table says 'other'",
    ),
    "undeclared": (in_json(INFO, lambda i: i["features"].pop(c.ACTION)), "columns", "'action' is not declared"),
    "declared and absent": (drop_column, "columns", "'interaction' is declared in meta/info.json and missing"),
    "dtype in info": (
        in_json(INFO, lambda i: i["features"][c.RETURN].update(dtype="int64")),
        "columns",
        "'return_to_go' is float, but",
    ),
    "dtype in parquet": (float64_rewards, "columns", "'reward' is double, but"),
    "shape in info": (
        in_json(INFO, lambda i: i["features"][c.RETURN].update(shape=[2])),
        "columns",
        "declares float32 [2]",
    ),
    "no stats": (remove(STATS), "statistics", "stats.json is missing"),
    "stats of a label": (in_json(STATS, lambda s: s.pop(c.RETURN)), "statistics", "has nothing of 'return_to_go'"),
    "a statistic": (in_json(STATS, lambda s: s[c.RETURN].pop("std")), "statistics", "has no std of 'return_to_go'"),
    "stale stats": (
        in_json(STATS, lambda s: s[c.RETURN].update(max=[0.9])),
        "statistics",
        "max[0] is 0.9 where the frames give 1 of",
    ),
    "count": (
        in_json(STATS, lambda s: s[c.RETURN].update(count=[145])),
        "statistics",
        "count[0] is 145 where the frames give 120",
    ),
    "stats in the table": (
        in_table(TABLE, lambda t: t.pop(f"stats/{c.RETURN}/q50")),
        "statistics",
        "no column 'stats/return_to_go/q50'",
    ),
    "count in the table": (
        in_table(TABLE, lambda t: put(t, f"stats/{c.RETURN}/count", 2, [25])),
        "statistics",
        "count is 25, expected 0",
    ),
    "no subtasks": (remove("meta/subtasks.parquet"), "subtasks", "subtasks.parquet is missing"),
    "subtask indices": (
        in_table("meta/subtasks.parquet", lambda t: put(t, c.SUBTASK_INDEX, 2, 5)),
        "subtasks",
        "should be 0 … 2",
    ),
    "record without an episode": (in_json(IGRFT, lambda r: r["episodes"].pop("1")), "record", "says nothing of it"),
    "record of another": (in_json(IGRFT, lambda r: r["episodes"].update({"9": {}})), "record", "describes episode 9"),
    "record of a column": (in_json(IGRFT, lambda r: r["columns"].append("value")), "columns", "'value' was written"),
    "overlap": (segments(0, 1, start=11), "subtasks", "'grasp' starts at frame 11 and overlaps what ends at 12"),
    "no cover": (segments(0, 0, start=1), "subtasks", "frames 0 to 1 before 'reach' belong to no subtask"),
    "weights": (segments(1, 1, weight=0.5), "subtasks", "sum to 1.16667, not to 1"),
    "done and never begun": (
        segments(1, 2, done=True, weight=0.0),
        "subtasks",
        "has no frame (30 to 30) and yet is done",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_damaged_files(name: str, labelled: Path) -> None:
    damage, check, text = FILES[name]
    damage(labelled)
    found = validate(labelled, videos=False)
    assert {f.check for f in found.errors} - _FOLLOWS.get(name, set()) == {check}, messages(found)
    assert text in messages(found)


#: What cannot but be wrong, too.
_FOLLOWS = {
    "declared and absent": {"statistics"},
    "done and never begun": {"rewards"},
    "no cover": {"language"},
    "overlap": {"language", "rewards"},
}


def test_an_index_that_jumps(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "episode_index", 3, 4))
    assert "row 3 holds episode 4, expected 3" in messages(validate(labelled, videos=False))


def test_a_wrong_start(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "dataset_from_index", 1, 41))
    assert "dataset_from_index is 41, but the episodes before it hold 40 frames" in messages(
        validate(labelled, videos=False)
    )


def test_an_episode_without_frames(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, "length", 3, 0))
    assert "episode 3: has 0 frames" in messages(validate(labelled, videos=False))


def test_an_undone_subtask_in_a_success(labelled: Path) -> None:
    segments(0, 1, done=False)(labelled)
    assert "'grasp' is not done in a success" in messages(validate(labelled, videos=False))


WARNINGS: dict[str, tuple[Damage, str, str]] = {
    "row groups": (one_row_group, "row groups", "file-001.parquet has 1 row groups for 2 episodes"),
    "foreign stats": (
        in_json(STATS, lambda s: s.update(x=s[c.RETURN])),
        "statistics",
        "statistics of 'x', which no column holds",
    ),
    "quantiles": (in_json(STATS, lambda s: s[c.ACTION].pop("q01")), "statistics", "no quantiles of action"),
    "stale recorded stats": (in_json(STATS, lambda s: s[c.ACTION].update(max=[9.0] * 3)), "statistics", "max[0] is 9"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warnings(name: str, labelled: Path) -> None:
    damage, check, text = WARNINGS[name]
    damage(labelled)
    found = validate(labelled, videos=False)
    assert found.ok, messages(found)
    assert {f.check for f in found.warnings} == {check, "set aside"}
    assert text in messages(found, "warning")


def test_a_subtask_that_earns_nothing_is_a_warning(labelled: Path) -> None:
    segments(0, 1, weight=0.0)(labelled)
    assert "'grasp' is done and earns nothing" in messages(validate(labelled, videos=False), "warning")


# Videos.

MP4 = f"videos/{CAMERA}/chunk-000/file-%03d.mp4"


def repaint(number: int, frames: int, shade: int) -> Damage:
    def damage(root: Path) -> None:
        rng = np.random.default_rng(0)
        pictures = [np.full((48, 64, 3), shade, dtype=np.uint8) for _ in range(frames)]
        if shade:
            pictures = [p + rng.integers(0, 50, p.shape, dtype=np.uint8) for p in pictures]
        encode(root / (MP4 % number), pictures)

    return damage


def scribble(root: Path) -> None:
    """Noise over the middle of the first file: the header stays whole, some frames do not."""
    path = root / (MP4 % 0)
    data = bytearray(path.read_bytes())
    at = data.find(b"mdat") + 1600
    data[at : at + 100] = np.random.default_rng(0).bytes(100)
    path.write_bytes(bytes(data))


VIDEOS: dict[str, tuple[Damage, list[int], str]] = {
    "missing": (remove(MP4 % 1), [3], "file-001.mp4 is missing"),
    "truncated": (truncate(MP4 % 1), [3], "file-001.mp4 cannot be read"),
    "too short": (repaint(1, 45, 100), [3], "shows nothing at 4.5000 s, the time of frame 45 (5 of 50 frames"),
    "damaged": (scribble, [0], "of its 40 frames do not decode"),
    "codec": (
        in_json(INFO, lambda i: i["features"][CAMERA]["info"].update({"video.codec": "av1"})),
        [-1],
        "it is h264, but video.codec says 'av1'",
    ),
    "size": (
        in_json(INFO, lambda i: i["features"][CAMERA].update(shape=[480, 640, 3])),
        [-1],
        "it is 64x48, but the shape declared is [480, 640, 3]",
    ),
    "window": (
        in_table(TABLE, lambda t: put(t, f"videos/{CAMERA}/to_timestamp", 3, 9.0)),
        [3],
        "holds 90 frames, not 50",
    ),
    "no window": (in_table(TABLE, lambda t: put(t, f"videos/{CAMERA}/chunk_index", 3, None)), [3], "no video of"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_damaged_videos(name: str, labelled: Path) -> None:
    damage, episodes, text = VIDEOS[name]
    damage(labelled)
    found = validate(labelled)
    assert {f.check for f in found.errors} == {"videos"}, messages(found)
    assert [-1 if f.episode is None else f.episode for f in found.errors] == episodes
    assert text in messages(found)


def test_a_video_too_short_is_found_without_decoding(labelled: Path) -> None:
    repaint(1, 45, 100)(labelled)
    assert "5 of 50 frames" in messages(validate(labelled, videos=False))


def test_a_missing_video_of_an_episode_set_aside_is_a_warning(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, f"videos/{CAMERA}/chunk_index", 2, None))
    assert validate(labelled).ok


def test_frames_of_no_episode_are_a_warning(labelled: Path) -> None:
    repaint(1, 55, 100)(labelled)
    found = validate(labelled)
    assert found.ok
    assert "file-001.mp4 has 55 frames, but its episodes have 50" in messages(found, "warning")


def test_a_black_camera_is_a_warning(labelled: Path) -> None:
    repaint(1, 50, 0)(labelled)
    found = validate(labelled)
    assert found.ok
    assert [(f.check, f.episode) for f in found.warnings] == [("set aside", 2), ("black", 3)]
    repaint(0, 95, 0)(labelled)
    assert "is black in all 4 episodes" in messages(validate(labelled, videos=False), "warning")
