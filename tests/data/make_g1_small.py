"""Cuts ``g1_small`` from the real recording ``g1_yellow_bottle_2ep``.

Usage: python tests/data/make_g1_small.py ../shared/data/g1_yellow_bottle_2ep

Frames are copied as recorded, packet by packet: nothing is decoded or encoded. That is possible
anywhere at an even frame, since every second frame of these AV1 files is a key frame.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igrft.dataset.files import to_numpy
from igrft.recordings.pictures import video_pictures
from igrft.recordings.statistics import as_json, numeric_statistics, picture_statistics, sampled_rows

TARGET = Path(__file__).parent / "g1_small"
CAMERA = "observation.images.cam_high"
FPS = 30
#: First frame and the one after the last, of each episode: the hand closes around the can and carries it.
WINDOWS = {0: (40, 160), 1: (56, 156)}

README = """\
# A small real recording

Two cuts from a LeRobot v2.1 dataset of a Unitree G1 with hands that picks up a yellow can (camera 640x480,
30 frames a second), published under the MIT licence by Yifan Tian; the licence is beside this file. Frames
{w0[0]} to {w0[1]} of episode 0 and {w1[0]} to {w1[1]} of episode 1. The frames are unaltered: their AV1
packets were copied as recorded, and the rows of the tables with them, times and indices counting from 0
again. Made by `tests/data/make_g1_small.py`.
"""


def cut_video(source: Path, target: Path, start: int, stop: int) -> None:
    """Copy the packets of frames ``start`` to ``stop`` (which comes after the last)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as given, av.open(str(target), "w", options={"movflags": "faststart"}) as made:
        stream = given.streams.video[0]
        copied = made.add_stream_from_template(stream, opaque=True)
        copied.time_base = stream.time_base
        step = round(1 / (FPS * stream.time_base))
        packets = [p for p in given.demux(stream) if p.pts is not None][start:stop]
        if not packets[0].is_keyframe:
            raise SystemExit(f"frame {start} of {source} is no key frame; choose another start")
        for packet in packets:
            packet.pts -= start * step
            packet.dts = packet.pts
            packet.stream = copied
            made.mux(packet)


def cut_rows(source: Path, target: Path, start: int, stop: int, first_index: int) -> pa.Table:
    """Copy rows, counting times and indices from 0 again."""
    table = pq.read_table(source).slice(start, stop - start)
    frame = np.arange(stop - start)
    for name, values in {
        "timestamp": (frame / FPS).astype(np.float32),
        "frame_index": frame,
        "index": first_index + frame,
    }.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target)
    return table


def statistics(table: pa.Table, video: Path) -> dict[str, Any]:
    """As v2.1 has them: without quantiles."""
    stats = {name: numeric_statistics(to_numpy(table.column(name))) for name in table.column_names}
    stats[CAMERA] = picture_statistics(video_pictures(video, sampled_rows(table.num_rows), start=0.0, fps=FPS))
    plain = {"min", "max", "mean", "std", "count"}
    return as_json({name: {k: v for k, v in s.items() if k in plain} for name, s in stats.items()})


def _shown(episode: int) -> tuple[int, int]:
    start, stop = WINDOWS[episode]
    return start, stop - 1


def main(source: Path) -> None:
    """Write TARGET anew from ``source``."""
    shutil.rmtree(TARGET, ignore_errors=True)
    (TARGET / "meta").mkdir(parents=True)
    info = json.loads((source / "meta/info.json").read_text())
    given = [json.loads(line) for line in (source / "meta/episodes.jsonl").read_text().splitlines()]
    episodes, stats, first = [], [], 0
    for index, (start, stop) in WINDOWS.items():
        data = info["data_path"].format(episode_chunk=0, episode_index=index)
        video = info["video_path"].format(episode_chunk=0, episode_index=index, video_key=CAMERA)
        cut_video(source / video, TARGET / video, start, stop)
        table = cut_rows(source / data, TARGET / data, start, stop, first)
        episodes.append({**given[index], "length": stop - start})
        stats.append({"episode_index": index, "stats": statistics(table, TARGET / video)})
        first += stop - start
    info["total_frames"] = first
    (TARGET / "meta/info.json").write_text(json.dumps(info, indent=4) + "\n")
    for name, lines in {"episodes": episodes, "episodes_stats": stats}.items():
        (TARGET / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copyfile(source / "meta/tasks.jsonl", TARGET / "meta/tasks.jsonl")
    shutil.copyfile(source / "LICENSE", TARGET / "LICENSE")
    (TARGET / "README.md").write_text(README.format(w0=_shown(0), w1=_shown(1)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
