"""Training data as a stream against the same set read frame by frame from anywhere.

    python benchmarks/streaming.py memory                     # peak memory by the size of the set, both ways
    python benchmarks/streaming.py memory --frames 50000 3200000
    python benchmarks/streaming.py speed                      # samples a second, by how the videos are encoded

Memory is that of one process that opens a labelled set, with the labels of every frame recombined, and takes 300
batches of 64 without pictures; what it took before (Python, PyTorch, LeRobot) is subtracted. Speed is of three 224×224
cameras with one worker, after it has started and the buffers are full.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from loading import with_statistics
from synthetic import write_dataset
from values import CAMERAS, write_set

from igrft import columns as c

BATCHES = 300


def recipe_of(root: Path, streaming: bool, batch: int, pictures: bool, buffer: int) -> Any:
    """IG-AWR, so that every label is made, on values from columns or, without pictures, in the loop."""
    from igrft.training.recipe_file import recipe_from

    entry = {"root": str(root), "streaming": streaming, "buffer_size": buffer}
    value: dict[str, Any] = {
        "policy": {"type": "pi05_tiny" if pictures else "state_flow", "device": "cpu", "chunk_size": 30},
        "datasets": [entry],
        "batch_size": batch,
        "objective": {"type": "sft" if pictures else "ig_awr", "text_weight": 0.0, "insulate": False},
        "critic": {"enabled": not pictures},
        "text": {"tokenizer": "bytes"},
    }
    value["policy"]["n_action_steps"] = 30
    return recipe_from(value)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def take(root: Path, streaming: bool) -> dict[str, float]:
    """Memory that opening and batches take, in this process."""
    import lerobot.datasets.streaming_dataset  # noqa: F401

    from igrft.training.data import TrainingData

    recipe = recipe_of(root, streaming, 64, False, 2048)
    before, start = peak_mb(), time.perf_counter()
    data = TrainingData.open(recipe, image_policy=False, chunk=30, has_text=False)
    _ = data.digest
    opened = time.perf_counter() - start
    stream = data.loader(0, BATCHES)
    next(stream)
    start = time.perf_counter()
    for _ in stream:
        pass
    rate = (BATCHES - 1) * 64 / (time.perf_counter() - start)
    return {"mb": peak_mb() - before, "base_mb": before, "open_s": opened, "samples_per_s": rate}


def measured(root: Path, streaming: bool) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "take", str(root), *(["--streaming"] if streaming else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def labelled(folder: Path, frames: int) -> Path:
    """A labelled set of episodes of about 400 frames, in files of 200 episodes."""
    import igrft

    source = folder / f"source_{frames}"
    write_dataset(source, max(4, frames // 400), frames, episodes_per_file=200)
    steps = [
        {"type": "subtasks", "source": "file", "path": f"{source.name}.subtasks.json"},
        {"type": "rewards"},
        {"type": "returns"},
    ]
    (folder / "pipeline.yaml").write_text(json.dumps({"steps": steps}))
    target = folder / f"labelled_{frames}"
    igrft.annotate(source, target, pipeline=folder / "pipeline.yaml")
    add_interaction(target)
    return target


def add_interaction(root: Path) -> None:
    """A column that the critic needs: true on every third frame."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted(root.glob("data/*/*.parquet")):
        parquet = pq.ParquetFile(path)
        out = path.with_suffix(".new")
        writer = None
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group)
            rows = rows.append_column(c.INTERACTION, pa.array(np.arange(len(rows)) % 3 == 0))
            writer = writer or pq.ParquetWriter(out, rows.schema)
            writer.write_table(rows)
        if writer is not None:
            writer.close()
        out.replace(path)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][c.INTERACTION] = {"dtype": "bool", "shape": [1], "names": None}
    (root / "meta/info.json").write_text(json.dumps(info))


def memory(sizes: list[int]) -> None:
    for frames in sizes:
        with tempfile.TemporaryDirectory() as name:
            root = labelled(Path(name), frames)
            for streaming in (False, True):
                found = measured(root, streaming)
                way = "stream" if streaming else "map"
                rate = f"opened in {found['open_s']:6.2f} s  {found['samples_per_s']:7.0f} samples/s"
                print(
                    f"{frames:9,d} frames  {way:6s} {found['mb']:7.1f} MB over {found['base_mb']:.0f}  {rate}",
                    flush=True,
                )


def encoded(root: Path, gop: int) -> None:
    """Encode a set's videos again as h264 with a key frame every ``gop`` pictures."""
    import av

    for path in root.glob("videos/*/*/*.mp4"):
        out = path.with_suffix(".new.mp4")
        with av.open(str(path)) as source, av.open(str(out), "w") as target:
            frames = source.decode(video=0)
            stream = target.add_stream(
                "libx264", rate=30, options={"g": str(gop), "crf": "30", "bf": "0", "sc_threshold": "0"}
            )
            stream.width, stream.height = source.streams.video[0].width, source.streams.video[0].height
            stream.pix_fmt = "yuv420p"
            for number, frame in enumerate(frames):
                picture = frame.reformat(format="yuv420p")
                picture.pts, picture.time_base = number, Fraction(1, 30)
                target.mux(stream.encode(picture))
            target.mux(stream.encode())
        out.replace(path)
    info = json.loads((root / "meta/info.json").read_text())
    for camera in CAMERAS:
        info["features"][camera]["info"]["video.codec"] = "h264"
    (root / "meta/info.json").write_text(json.dumps(info))


def speed(buffer: int, batches: int) -> None:
    from igrft.training.data import TrainingData

    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        dataset = write_set(root, 10, 3000, (224, 224))
        with_statistics(root, int(np.prod(dataset.features[c.STATE]["shape"])))
        for kind in ("AV1, a key frame every 2", "h264, a key frame every 250"):
            if "h264" in kind:
                encoded(root, 250)
            for streaming in (False, True):
                recipe = recipe_of(root, streaming, 8, True, buffer)
                data = TrainingData.open(recipe, image_policy=True, chunk=30, has_text=True)
                start = time.perf_counter()
                stream = data.loader(0, batches, workers=1)
                for _ in range(4):
                    next(stream)
                first, start = time.perf_counter() - start, time.perf_counter()
                count = sum(1 for _ in stream)
                rate = count * 8 / (time.perf_counter() - start)
                way = "stream" if streaming else "map"
                print(f"{kind:28s} {way:6s} {rate:7.1f} samples/s; the first 4 batches after {first:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    sizes = kinds.add_parser("memory")
    sizes.add_argument("--frames", type=int, nargs="+", default=[200_000, 800_000, 3_200_000])
    rates = kinds.add_parser("speed")
    rates.add_argument("--buffer", type=int, default=512)
    rates.add_argument("--batches", type=int, default=60)
    one = kinds.add_parser("take")
    one.add_argument("root", type=Path)
    one.add_argument("--streaming", action="store_true")
    arguments = parser.parse_args()
    if arguments.kind == "memory":
        memory(arguments.frames)
    elif arguments.kind == "speed":
        speed(arguments.buffer, arguments.batches)
    else:
        print(json.dumps(take(arguments.root, arguments.streaming)))


if __name__ == "__main__":
    main()
