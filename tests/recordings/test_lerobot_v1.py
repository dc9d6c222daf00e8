"""LeRobot v1, written by the `datasets` library as it wrote them then: embedded pictures, several episodes, damage."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at
from igrft.errors import IgrftError
from igrft.recordings.convert import convert, dry_run

LENGTHS = (5, 7)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """Two episodes with a picture, a state, an action and next.done."""
    from datasets import Dataset, Features, Image, Sequence, Value
    from PIL import Image as Pictures

    def picture(value: int) -> bytes:
        file = io.BytesIO()
        Pictures.fromarray(np.full((24, 32, 3), value, np.uint8)).save(file, "PNG")
        return file.getvalue()

    episode = [e for e, n in enumerate(LENGTHS) for _ in range(n)]
    frame = [f for n in LENGTHS for f in range(n)]
    columns = {
        "observation.images.top": [
            {"bytes": picture(10 * e + f), "path": None} for e, f in zip(episode, frame, strict=True)
        ],
        "observation.state": [[float(e), float(f)] for e, f in zip(episode, frame, strict=True)],
        "action": [[float(f)] for f in frame],
        "episode_index": episode,
        "frame_index": frame,
        "timestamp": [f / 10 for f in frame],
        "next.done": [f == LENGTHS[e] - 1 for e, f in zip(episode, frame, strict=True)],
        "index": list(range(sum(LENGTHS))),
    }
    features = Features(
        {
            "observation.images.top": Image(),
            "observation.state": Sequence(Value("float32"), length=2),
            "action": Sequence(Value("float32"), length=1),
            "episode_index": Value("int64"),
            "frame_index": Value("int64"),
            "timestamp": Value("float32"),
            "next.done": Value("bool"),
            "index": Value("int64"),
        }
    )
    root = tmp_path / "v1"
    Dataset.from_dict(columns, features=features).save_to_disk(str(root / "train"), num_shards=2)
    (root / "meta_data").mkdir()
    (root / "meta_data/info.json").write_text(json.dumps({"fps": 10, "video": 0}))
    return root


def test_embedded_pictures(v1: Path, tmp_path: Path) -> None:
    result = convert(v1, tmp_path / "out", progress=False)
    assert result.format == "lerobot-v1" and result.episodes == 2
    assert any("keeps no task" in w for w in result.warnings)
    reader = DatasetReader.open(tmp_path / "out")
    assert reader.lengths.tolist() == list(LENGTHS) and reader.fps == 10
    assert reader.column(1, "observation.state").tolist() == [[1.0, float(f)] for f in range(7)]
    assert reader.column(0, "next.done").tolist() == [False] * 4 + [True]
    assert frames_at(reader, 1, "observation.images.top", [3])[0].mean() == pytest.approx(13, abs=1)


def test_an_episode_whose_rows_are_torn_apart(v1: Path, tmp_path: Path) -> None:
    import pyarrow as pa

    first, second = sorted((v1 / "train").glob("*.arrow"))
    table = pa.ipc.open_stream(second).read_all()
    (v1 / "train/state.json").unlink()
    with (
        pa.OSFile(str(v1 / "train/data-00002-of-00003.arrow"), "w") as file,
        pa.ipc.new_stream(file, table.schema) as out,
    ):
        out.write_table(pa.ipc.open_stream(first).read_all().slice(0, 1))
    with pytest.raises(IgrftError, match="rows of an episode do not stand together"):
        convert(v1, tmp_path / "out", progress=False)


def test_damage_is_one_line(v1: Path, tmp_path: Path) -> None:
    shard = sorted((v1 / "train").glob("*.arrow"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(IgrftError, match=r"data-00000-of-00002.arrow cannot be read"):
        convert(v1, tmp_path / "out", progress=False)
    shard.unlink()
    with pytest.raises(IgrftError, match=r"data-00000-of-00002.arrow is missing"):
        convert(v1, tmp_path / "out", progress=False)
    shard.write_bytes(whole)
    (v1 / "meta_data/info.json").write_text("{}")
    with pytest.raises(IgrftError, match="has no number under 'fps'"):
        convert(v1, tmp_path / "out", progress=False)
    with pytest.raises(IgrftError, match=r"has no train/\*.arrow beside meta_data"):
        convert(v1 / "train", tmp_path / "out", format="lerobot-v1", progress=False)


def test_a_dry_run(v1: Path, tmp_path: Path) -> None:
    found = dry_run(v1, tmp_path / "out")
    assert (found.episodes, found.frames) == (2, 12) and "observation.state" in found.lines[0]
    assert found.lines[-1] == "2 episodes, 12 frames at 10 a second; nothing was written"
