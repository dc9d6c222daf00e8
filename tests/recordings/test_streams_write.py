"""The writer of whole episodes against LeRobot's own: the same dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_writer import DatasetWriter

from igrft.dataset.files import read_json
from igrft.dataset.reader import DatasetReader
from igrft.recordings.finish import correct_video_starts
from igrft.recordings.quiet import lerobot_quietly
from igrft.recordings.statistics import as_json
from igrft.recordings.streams.encode import encode, encoder
from igrft.recordings.streams.lerobot_writer import EpisodeMetadata, EpisodeWriter
from igrft.recordings.streams.parts import Episode, write_numbers
from igrft.recordings.streams.write import FinishedVideos, _buffer
from igrft.recordings.video_facts import frame_times

CAMERA = "observation.images.top"
WIDTH = 300
NAMES = [f"joint_{i}" for i in range(WIDTH)]
LENGTHS = (9, 4, 12, 30, 5, 7, 3, 11)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Episode]:
    """Finished episodes of one camera and an action."""
    out = []
    for number, length in enumerate(LENGTHS):
        folder = tmp_path_factory.mktemp("part")
        rng = np.random.default_rng(number)
        # Noise, so that a video's header is little of it.
        noise = rng.integers(0, 256, (length, 48, 64, 3), np.uint8)
        made = encode(folder / f"{CAMERA}.mp4", noise, length, 10, encoder(), threads=1)
        write_numbers(folder, {"action": rng.random((length, WIDTH), np.float32)}, {})
        size = {CAMERA: (made.height, made.width)}
        stats = as_json({CAMERA: made.statistics})
        names = {"action": NAMES}
        out.append(Episode(folder, str(number), length, {"action": WIDTH}, names, size, stats, {}, None, None, {}))
    return out


def written(root: Path, parts: list[Episode], metadata: Any, writer: Any, megabytes: dict[str, float]) -> DatasetReader:
    features = {
        "action": {"dtype": "float32", "shape": (WIDTH,), "names": NAMES},
        CAMERA: {"dtype": "video", "shape": (*parts[0].cameras[CAMERA], 3), "names": ["height", "width", "channels"]},
    }
    meta = metadata.create(repo_id="a/b", fps=10, features=features, robot_type=None, root=root, use_videos=True)
    meta.info.chunks_size = 2
    for name, value in megabytes.items():
        setattr(meta.info, name, value)
    videos = FinishedVideos(root)
    with lerobot_quietly(root.parent / "scratch"):
        made = writer(
            meta=meta,
            root=root,
            rgb_encoder=encoder().for_lerobot(),
            depth_encoder=None,
            encoder_threads=None,
            batch_encoding_size=1,
            streaming_encoder=videos,
        )
        for number, part in enumerate(parts):
            videos.give(part)
            made.save_episode(_buffer(meta, part, ("pick", "place")[number % 2], 10, success=False))
        made.finalize()
    correct_video_starts(DatasetReader.open(root), {(CAMERA, i): n for i, n in enumerate(LENGTHS)})
    return DatasetReader.open(root)


@pytest.mark.parametrize("megabytes", [0.03, 200])
def test_the_same_dataset(tmp_path: Path, parts: list[Episode], megabytes: float) -> None:
    """Rows, their files and row groups, statistics, tasks, videos and where episodes lie in them."""
    limits = {"data_files_size_in_mb": megabytes, "video_files_size_in_mb": 4 * megabytes}
    theirs = written(tmp_path / "theirs", parts, LeRobotDatasetMetadata, DatasetWriter, limits)
    ours = written(tmp_path / "ours", parts, EpisodeMetadata, EpisodeWriter, limits)
    files = {p.relative_to(theirs.root) for p in theirs.root.rglob("*") if p.is_file()}
    assert files == {p.relative_to(ours.root) for p in ours.root.rglob("*") if p.is_file()}
    for kind in ("data/*/*.parquet", f"videos/{CAMERA}/*/*.mp4"):
        count = len(list(ours.root.glob(kind)))
        assert 1 < count < len(LENGTHS) if megabytes < 1 else count == 1, (kind, count)
    assert not [p for p in ours.root.iterdir() if p.name.startswith("tmp")]
    for name in sorted(files):
        one, two = theirs.root / name, ours.root / name
        if name.suffix == ".json":
            assert read_json(one) == read_json(two), name
        elif name.suffix == ".mp4":
            np.testing.assert_allclose(frame_times(one), frame_times(two), atol=1e-5)
            assert abs(one.stat().st_size - two.stat().st_size) < 200
        else:
            first, second = pq.ParquetFile(one), pq.ParquetFile(two)
            assert first.num_row_groups == second.num_row_groups, name
            assert first.schema_arrow.equals(second.schema_arrow), name
            for column in first.schema_arrow.names:
                left, right = (f.read([column]).to_pydict()[column] for f in (first, second))
                if column.endswith("_timestamp"):
                    assert left == pytest.approx(right, abs=1e-5), column
                else:
                    assert left == right, (name, column)


def test_pictures_in_rows_are_refused(tmp_path: Path) -> None:
    meta = EpisodeMetadata.create(
        repo_id="a/b",
        fps=10,
        features={"p": {"dtype": "image", "shape": (4, 4, 3), "names": None}},
        root=tmp_path / "d",
    )
    with pytest.raises(ValueError, match="needs LeRobot's own writer"):
        EpisodeWriter(
            meta=meta, root=meta.root, rgb_encoder=None, depth_encoder=None, encoder_threads=None, batch_encoding_size=1
        )
