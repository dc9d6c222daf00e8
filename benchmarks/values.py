"""The `values` step, from video to staged columns, against a bare prefix forward of the same model.

    python benchmarks/values.py            # a tiny π0.5 on the CPU, three 224x224 cameras
    python benchmarks/values.py --full     # π0.5 at full size with random weights on a GPU, bf16

In one run, in turns (best of ``--rounds``):
- bare: ``actor.prefix`` over batches that lie ready on the device, decoded, scaled, tokenised;
- critic: the same with the critic behind it;
- step: ours as the engine runs it, over episodes of several lengths: decoding, preprocessing, prefix, critic,
  advantage, staging. Loading the model is left out of all three.
And how fast frames alone come from the videos. The aim is 0.9 of bare for the step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from interaction import repeat_clip
from synthetic import write_dataset

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.models.actors import build_policy, make_actor, register_policy
from igrft.models.critic import Critic, CriticConfig
from igrft.models.load import Loaded
from igrft.models.processors import make_processors
from igrft.models.protocol import at_fractions
from igrft.models.text import byte_tokenizer
from igrft.pipeline.workers import Job, Task, run_tasks
from igrft.steps.base import Labeller, StepDefaults
from igrft.steps.values.checkpoint import Inputs
from igrft.steps.values.frames import EpisodeFrames
from igrft.steps.values.labeller import Judging, ValueLabeller

CAMERAS = tuple(c.IMAGE_PREFIX + name for name in ("base", "left_wrist", "right_wrist"))
#: Batches that bare walks over again and again.
READY = 3


# The recording.


def clip(path: Path, size: tuple[int, int], seed: int, frames: int = 60) -> Path:
    """A texture that drifts, encoded as LeRobot encodes (AV1)."""
    import av
    import cv2

    rng = np.random.default_rng(seed)
    wide = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (2 * size[0], size[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libsvtav1", rate=30, options={"g": "2", "crf": "30", "preset": "8"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for i in range(frames):
            left = round(size[0] * (1 - np.cos(2 * np.pi * i / frames)) / 2)
            picture = np.ascontiguousarray(wide[:, left : left + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_set(root: Path, episodes: int, frames: int, size: tuple[int, int]) -> DatasetReader:
    """Random state, rewards, and a video of ``size`` for each of three cameras."""
    lengths = write_dataset(root, episodes, frames)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    info = json.loads((root / "meta/info.json").read_text())
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for number, camera in enumerate(CAMERAS):
        feature = {"dtype": "video", "shape": [size[1], size[0], 3], "names": ["height", "width", "channels"]}
        info["features"][camera] = feature | {"info": {"video.codec": "av1", "video.fps": 30}}
        for key in ("chunk_index", "file_index"):
            table = table.append_column(f"videos/{camera}/{key}", pa.array(np.zeros(episodes, np.int64)))
        for key, at in (("from", starts), ("to", starts + lengths)):
            table = table.append_column(f"videos/{camera}/{key}_timestamp", pa.array(at / 30))
        short = clip(root.parent / f"{number}.mp4", size, number)
        repeat_clip(short, root / f"videos/{camera}/chunk-000/file-000.mp4", frames)
    pq.write_table(table, path)
    for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK):
        info["features"][name] = {"dtype": "float32", "shape": [1], "names": None}
        for data in root.glob("data/*/*.parquet"):
            rows = pq.read_table(data)
            pq.write_table(rows.append_column(name, pa.array(np.full(len(rows), 0.01, np.float32))), data)
    (root / "meta/info.json").write_text(json.dumps(info))
    return DatasetReader.open(root)


# The model.


def load(full: bool, device: str, width: int, seed: int = 0) -> Loaded:
    """π0.5 with random weights and processors for the set, and a critic of the paper's size."""
    from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig

    kind = "pi05" if full else "pi05_tiny"
    register_policy(kind)
    # Tiny, but so that the prefix outweighs the critic, as it does at full size.
    tiny = {"image_resolution": (224, 224), "tokenizer_max_length": 200, "width": 128, "mlp_width": 512}
    sizes: dict[str, Any] = {"dtype": "bfloat16"} if full else tiny
    config: Any = PreTrainedConfig.get_choice_class(kind)(chunk_size=30, n_action_steps=30, device=device, **sizes)
    pictures = {k: PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for k in CAMERAS}
    config.input_features = {c.STATE: PolicyFeature(FeatureType.STATE, (width,))} | pictures
    config.output_features = {c.ACTION: PolicyFeature(FeatureType.ACTION, (width,))}
    torch.manual_seed(seed)
    # Billions of random numbers are drawn where that is quick.
    with torch.device(device):
        policy = build_policy(config)
    policy.to(device).eval()
    stats = {k: {"q01": torch.full((width,), -2.0), "q99": torch.full((width,), 2.0)} for k in (c.STATE, c.ACTION)}
    # PaliGemma's own tokenizer has to be downloaded; one token a byte makes prompts a little longer.
    pre, post, tokenizer = make_processors(config, stats, byte_tokenizer())
    actor = make_actor(policy, tokenizer=tokenizer)
    layers = at_fractions((11, 14, 17), actor.depth)
    critic = Critic(CriticConfig(actor.feature_width, len(layers))).to(device).eval()
    return Loaded(actor, pre, post, critic, layers, {})


# What is timed.


@dataclass(frozen=True)
class Ready(StepDefaults):
    """The step with its model loaded already."""

    type: ClassVar[str] = "values"
    label: Any = None

    def open(self, dataset: DatasetReader, reduced: Any) -> Labeller:
        found: Labeller = self.label
        return found


def step(loaded: Loaded, dataset: DatasetReader, inputs: Inputs, batch: int, folder: Path) -> None:
    """All episodes through the engine, in this process."""
    shutil.rmtree(folder, ignore_errors=True)
    label = ValueLabeller(loaded, dataset, inputs, Judging(0.4, 0.6, 1.0, 30), batch)
    tasks = [Task(row, str(row), ()) for row in np.argsort(-dataset.lengths).tolist()]
    reasons = [s.reason for s in run_tasks(Job(Ready(label), dataset.root, None, folder), tasks, 1)]
    assert not any(reasons), reasons


def ready_batches(loaded: Loaded, dataset: DatasetReader, inputs: Inputs, batch: int) -> list[Any]:
    """A few processed batches on the device."""
    device = next(loaded.actor.policy.parameters()).device
    out = []
    for raw in itertools.islice(EpisodeFrames(dataset, 0, inputs, batch), READY):
        pictures = {k: raw[k].to(device).permute(0, 3, 1, 2).contiguous().float() / 255 for k in inputs.cameras}
        out.append(loaded.preprocess({**raw, **pictures}))
    return out


def bare(loaded: Loaded, batches: list[Any], count: int, critic: bool) -> None:
    """``count`` passes over batches that are ready."""
    last = None
    with torch.inference_mode():
        for batch in itertools.islice(itertools.cycle(batches), count):
            features = loaded.actor.prefix(batch, loaded.critic_layers).features
            assert loaded.critic is not None
            last = loaded.critic(features).trajectory if critic else features.mask
    assert last is not None
    last.cpu()


def decode(dataset: DatasetReader, inputs: Inputs, batch: int) -> None:
    """Every frame of every camera, one episode after the other."""
    for row in range(dataset.num_episodes):
        for _ in EpisodeFrames(dataset, row, inputs, batch):
            pass


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """By the clock, and of all processors' work: the second tells more where others use the machine."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun, worked = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun, time.process_time() - worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="π0.5 at full size, on the GPU")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--frames", type=int, help="of all episodes together; default 2400, or 160 for the tiny model")
    parser.add_argument("--batch", type=int, help="frames a pass; default 64, or 16 for the tiny model")
    parser.add_argument("--picture", default="224x224", help="size of the recorded pictures")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default one a core")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.full and not torch.cuda.is_available():
        raise SystemExit("--full needs a GPU: torch finds none here")
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if options.full else "cpu"
    frames, batch = options.frames or (2400 if options.full else 160), options.batch or (64 if options.full else 16)
    width, height = (int(n) for n in options.picture.split("x"))
    with tempfile.TemporaryDirectory(prefix="igrft-values-") as name:
        folder = Path(name)
        dataset = write_set(folder / "set", options.episodes, frames, (width, height))
        inputs = Inputs(CAMERAS, {c.STATE: 14})
        loaded = load(options.full, device, 14)
        batches = ready_batches(loaded, dataset, inputs, batch)
        count = -(-frames // batch)
        runs: dict[str, tuple[Callable[[], None], int]] = {
            "bare": (lambda: bare(loaded, batches, count, critic=False), count * batch),
            "critic": (lambda: bare(loaded, batches, count, critic=True), count * batch),
            "step": (lambda: step(loaded, dataset, inputs, batch, folder / "staged"), frames),
            "decode": (lambda: decode(dataset, inputs, batch), frames),
        }
        bare(loaded, batches, 2, critic=True)  # warm
        spent: dict[str, list[tuple[float, float]]] = {kind: [] for kind in runs}
        for _ in range(options.rounds):
            for kind, (run, _) in runs.items():
                spent[kind].append(seconds(run))
    rate = {kind: n / min(s for s, _ in spent[kind]) for kind, (_, n) in runs.items()}
    work = {kind: n / min(w for _, w in spent[kind]) for kind, (_, n) in runs.items()}
    parameters = sum(p.numel() for p in loaded.actor.policy.parameters())
    print(
        json.dumps(
            {
                "machine": torch.cuda.get_device_name() if options.full else platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
                "threads": torch.get_num_threads(),
                "model": f"{loaded.actor.policy.config.type}, {parameters / 1e6:.1f} M parameters",
                "pictures": f"{len(CAMERAS)} x {options.picture}",
                "episodes": options.episodes,
                "frames": frames,
                "batch": batch,
                "frames_per_second": {kind: round(value, 1) for kind, value in rate.items()},
                "critic_over_bare": round(rate["critic"] / rate["bare"], 3),
                "step_over_critic": round(rate["step"] / rate["critic"], 3),
                "step_over_bare": round(rate["step"] / rate["bare"], 3),
                "aim": 0.9,
                "step_over_bare_by_processor_time": None if options.full else round(work["step"] / work["bare"], 3),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
