"""``igrft annotate`` with ``source: vlm``, as a user meets it; and what LeRobot makes of the labels."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from vlm_server import looks, vlm_server
from vlm_sets import answer_evenly, entry, plain_truth, segments, write_set, write_task

from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.reader import DatasetReader
from igrft.recordings.convert import convert
from igrft.steps.subtasks.existing import existing_segments

G1 = Path(__file__).resolve().parents[1] / "data/g1_small"


@pytest.fixture
def made(tmp_path):
    truths = [plain_truth(e) for e in range(3)]
    return write_set(tmp_path / "source", truths), truths


def pipeline(folder: Path, base_url: str, **settings) -> str:
    path = folder / "pipeline.yaml"
    steps = [entry(base_url, folder, **settings), {"type": "rewards"}, {"type": "returns"}]
    path.write_text(json.dumps({"steps": steps}))
    return str(path)


def test_a_dry_run_shows_the_prompt_and_sends_nothing(made, tmp_path, capsys, monkeypatch):
    source, truths = made
    # Neither a key nor a server is needed to look.
    monkeypatch.delenv("TEST_VLM_KEY", raising=False)
    out = tmp_path / "out"
    file = pipeline(tmp_path, "http://127.0.0.1:9/v1", task=str(write_task(tmp_path)), api_key_env="TEST_VLM_KEY")
    assert run(["annotate", str(source), str(out), "--pipeline", file, "--dry-run"]) == 0
    text = capsys.readouterr().out
    frames = sum(t[-1][2] for t in truths)
    assert f"subtasks: 3 episodes, {frames} frames to do" in text
    assert "--- question 1 of 2 about episode 0 ---" in text and "--- question 2 of 2" in text
    assert "1. reach the cup" in text and "put the cup on the shelf" in text
    assert f"{frames} frames of 3 episodes go to http://127.0.0.1:9 (seer)" in text and "6 calls, about" in text
    assert not out.exists() and not (tmp_path / "cache").exists()
    folder = tmp_path / "out.preview"
    assert str(folder / "sheet-01.jpg") in text
    # The pictures are those that a model would see: the frames of the first episode, in order.
    sheets = sorted(folder.glob("sheet-*.jpg"))
    sizes = [Image.open(s).size for s in sheets]
    assert len(sheets) == 3 and sizes[0] == (5 * 96, 4 * 72)
    assert (folder / "prompt.txt").read_text().strip() in text
    assert json.loads((folder / "schema.json").read_text())["required"] == ["subtasks"]


def test_a_dry_run_counts_what_is_left_and_speaks_json(made, tmp_path, capsys):
    source, _ = made
    out = tmp_path / "out"
    with vlm_server() as server:
        file = pipeline(tmp_path, server.base_url, task=str(write_task(tmp_path)))
        arguments = ["annotate", str(source), str(out), "--pipeline", file]
        look = [*arguments, "--dry-run", "--json", "--output", str(tmp_path / "look")]
        assert run(look) == 0
        first = json.loads(capsys.readouterr().out)["steps"][0]
        assert (first["episodes"], first["calls"]) == (3, 6) and Path(first["pictures"][0]).is_file()
        assert first["input_tokens"] > 1000 and "Divide 0.00 s to" in first["prompt"]
        assert server.bodies == []
        assert run([*arguments, "--json", "-q"]) == 0
        captured = capsys.readouterr()
        done = json.loads(captured.out)
        assert done["spent"]["subtasks"]["answers"] == 6 and done["set_aside"] == {} and done["target"] == str(out)
        assert "frames of 3 episodes go to http://127.0.0.1" in captured.err and "6 calls of seer" in captured.err
        assert run(look) == 0
        assert json.loads(capsys.readouterr().out)["steps"][0]["episodes"] == 0


def test_mistakes_are_one_line_and_come_before_any_work(made, tmp_path, capsys, monkeypatch):
    source, _ = made
    monkeypatch.delenv("TEST_VLM_KEY", raising=False)
    file = pipeline(tmp_path, "http://127.0.0.1:9/v1", api_key_env="TEST_VLM_KEY")
    arguments = ["annotate", str(source), str(tmp_path / "out"), "--pipeline", file]
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the environment variable TEST_VLM_KEY" in error and "is not set" in error
    assert run([*arguments, "--output", "x"]) == 2
    assert "--output is for --dry-run" in capsys.readouterr().err
    assert run([*arguments, "--steps.subtasks.modell=x"]) == 2
    assert "did you mean 'model'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def g1(tmp_path_factory):
    """The small real recording, labelled."""
    root = tmp_path_factory.mktemp("g1")
    convert(G1, root / "source")
    task = write_task(root, goal="pick up the can", subtasks=["reach for the can", "lift the can"])
    with vlm_server(answer=answer_evenly(["reach for the can", "lift the can"])) as server:
        file = pipeline(root, server.base_url, task=str(task), frames_per_second=4, tile_width=224)
        assert run(["annotate", str(root / "source"), str(root / "out"), "--pipeline", file, "-q"]) == 0
    return root, server


def test_a_real_recording_is_labelled_and_valid(g1, capsys):
    root, server = g1
    assert run(["validate", str(root / "out"), "-q"]) == 0
    assert segments(root / "out", 0) == [("reach for the can", 0, 60, True), ("lift the can", 60, 120, True)]
    assert segments(root / "out", 1) == [("reach for the can", 0, 50, True), ("lift the can", 50, 100, True)]
    # Two sheets of a 640x480 camera at four frames a second: tiles of 224x168.
    parts = [p for p in server.bodies[0]["messages"][0]["content"] if p["type"] == "image_url"]
    assert len(parts) == 1 and all(len(p["image_url"]["url"]) < 200_000 for p in parts)


def test_lerobots_recipe_rendering_resolves_the_subtask(g1):
    from lerobot.configs.recipe import MessageTurn, TrainingRecipe
    from lerobot.datasets import LeRobotDataset
    from lerobot.datasets.language_render import render_sample

    root, _ = g1
    recipe = TrainingRecipe(
        messages=[
            MessageTurn(role="user", content="${task}", stream="high_level"),
            MessageTurn(role="assistant", content="Now: ${subtask}", stream="high_level", target=True),
        ]
    )
    dataset = LeRobotDataset("local/g1", root=root / "out")
    for frame, name in (
        (0, "reach for the can"),
        (59, "reach for the can"),
        (60, "lift the can"),
        (119, "lift the can"),
    ):
        item = dataset[frame]
        rendered = render_sample(
            recipe=recipe,
            persistent=item[c.LANGUAGE_PERSISTENT],
            events=[],
            t=item["timestamp"].item(),
            sample_idx=frame,
            task=item["task"],
        )
        assert rendered["messages"][-1]["content"] == f"Now: {name}"


def test_labels_of_lerobot_annotate_are_read_the_same_way(g1, tmp_path):
    """Rows written by LeRobot's own writer, over a dataset that igrft had labelled otherwise."""
    import shutil

    from lerobot.annotations.steerable_pipeline.reader import iter_episodes
    from lerobot.annotations.steerable_pipeline.staging import EpisodeStaging
    from lerobot.annotations.steerable_pipeline.writer import LanguageColumnsWriter

    root, _ = g1
    shutil.copytree(root / "out", tmp_path / "set", symlinks=False)
    records = list(iter_episodes(tmp_path / "set"))
    for record in records:
        times = record.frame_timestamps
        row = {"role": "assistant", "camera": None, "tool_calls": None, "style": "subtask"}
        rows = [
            {**row, "content": "approach", "timestamp": times[0]},
            {**row, "content": "grab", "timestamp": times[33]},
        ]
        rows.append({**row, "content": "1. approach 2. grab", "style": "plan", "timestamp": times[0]})
        EpisodeStaging(tmp_path / "staging", record.episode_index).write("plan", rows)
    LanguageColumnsWriter().write_all(records, tmp_path / "staging", tmp_path / "set")
    assert c.SUBTASK_INDEX not in pq.ParquetFile(next((tmp_path / "set/data").rglob("*.parquet"))).schema_arrow.names
    dataset = DatasetReader.open(tmp_path / "set")
    for row in range(2):
        found = [(s.name, s.start, s.end) for s in existing_segments(dataset, row)]
        assert found == [("approach", 0, 33), ("grab", 33, int(dataset.lengths[row]))]


def test_what_the_server_sees_is_what_was_recorded(made, tmp_path):
    """Frames of a video, through contact sheets and JPEG, to the server: each is the one that its time says."""
    source, truths = made
    with vlm_server() as server:
        file = pipeline(tmp_path, server.base_url, task=str(write_task(tmp_path)))
        assert run(["annotate", str(source), str(tmp_path / "out"), "--pipeline", file, "-q"]) == 0
    shown = {tuple(x.frame for x in looks(b["messages"])) for b in server.bodies}
    assert shown == {tuple(range(t[-1][2])) for t in truths}
