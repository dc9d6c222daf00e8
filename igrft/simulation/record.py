"""``igrft convert metaworld:TASK TARGET``: demonstrations, recorded by LeRobot's own writer.

Beside what LeRobot writes there are, in the dataset's folder:

- ``meta/igrft_simulation.json``: the settings of the simulation and of its operators, and for every episode its
  start, its operator, skill and outcome;
- ``meta/true_subtasks.json``: the true subtasks as a subtask file (``annotate --steps.subtasks.source=file
  --steps.subtasks.path=…``), where the task has ordered subtasks;
- ``robot_masks/CAMERA/episode_000000.mp4``, where asked for: the robot is white (``annotate
  --steps.interaction.robot_mask=folder --steps.interaction.mask_path=…``). They are no feature of the dataset, since
  LeRobot would take them for a camera and give them to a policy.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.parquet import write_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import IgrftError, UsageError
from igrft.recordings.finish import correct_video_starts
from igrft.recordings.options import Options, Outcome
from igrft.recordings.quiet import lerobot_quietly
from igrft.simulation.catalogue import known_task
from igrft.simulation.episode import Demonstration, start_seed
from igrft.simulation.metaworld import MetaWorld
from igrft.simulation.operators import OperatorSettings, turns
from igrft.simulation.produce import Job, demonstrations
from igrft.simulation.truth import TRUTH

SIMULATION = "meta/igrft_simulation.json"
TRUE_SUBTASKS = "meta/true_subtasks.json"
MASKS = "robot_masks"


@dataclass(frozen=True)
class SimulationOptions:
    """What is recorded.

    Attributes:
        episodes: demonstrations.
        seed: of everything: starts, operators, what goes wrong.
        pictures: whether cameras are recorded; without, a dataset takes seconds.
        cameras, width, height: which, and the size of a picture in pixels.
        max_steps: control steps after which an episode is a failure; None is the task's own.
        settle: success must hold for so many steps in a row.
        truth: whether the columns of :data:`igrft.simulation.truth.TRUTH` are written.
        masks: whether the robot's masks are written as videos.
        workers: processes; None is one a core.
        operators: how bad they are.
    """

    episodes: int = 60
    seed: int = 0
    pictures: bool = True
    cameras: tuple[str, ...] = ("corner2",)
    width: int = 320
    height: int = 240
    max_steps: int | None = None
    settle: int = 1
    truth: bool = False
    masks: bool = False
    workers: int | None = None
    operators: OperatorSettings = field(default_factory=OperatorSettings)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UsageError(f"--episodes must be at least 1, got {self.episodes}")
        if self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")
        if self.masks and not self.pictures:
            raise UsageError("--masks are the robot's pixels, and there are no pictures; leave out --no-pictures")


def simulate(
    source: str, work: Path, options: Options, simulation: SimulationOptions, warn: Callable[[str], None]
) -> Outcome:
    """Record demonstrations inside the folder ``work``.

    Args:
        source: ``metaworld:TASK``.
        options: ``task`` and ``robot_type`` replace what the simulation says of itself.

    Raises:
        UsageError: no such task or camera, or an option that a simulation does not take.
        IgrftError: metaworld is not installed, or nothing can be rendered here.
    """
    task = known_task(source.partition(":")[2])
    if options.fps is not None or options.rebuild_timestamps:
        raise UsageError("a simulation has a frame rate of its own; leave out --fps and --rebuild-timestamps")
    world = _world(task, simulation)
    sentence = options.task or world.task
    jobs = [
        Job(number, turn, start_seed(simulation.seed, number))
        for number, turn in enumerate(turns(simulation.operators, simulation.episodes, simulation.seed))
    ]
    target = work / "dataset"
    kept: list[Demonstration] = []
    with lerobot_quietly(work / "scratch"), ExitStack() as stack:
        dataset = _create(target, world, simulation, options.robot_type or world.robot_type)
        stack.callback(_stop_writing, dataset)
        scratch = work / "scratch"
        made = stack.enter_context(_closing(demonstrations(task, world, simulation, jobs, scratch)))
        with _bar(len(jobs), show=options.progress) as bar:
            for number, demonstration in enumerate(made):
                _add(dataset, demonstration, sentence, truth=simulation.truth)
                if simulation.masks:
                    _write_masks(target / MASKS, number, demonstration, world.fps)
                bar.update()
                demonstration.pictures = demonstration.masks = {}
                kept.append(demonstration)
        dataset.finalize()
    shutil.rmtree(target / "images", ignore_errors=True)
    _check_videos(target, world, kept)
    _write_facts(target, task, world, simulation, kept)
    failed = sum(not d.success for d in kept)
    if failed == len(kept):
        warn("no demonstration succeeded; take operators of more skill (--operators.skill_low=0.5)")
    return Outcome(
        dataset=target, kept=[str(i) for i in range(len(kept))], frames=sum(d.length for d in kept), set_aside={}
    )


def _world(task: str, simulation: SimulationOptions) -> MetaWorld:
    return MetaWorld(
        task,
        cameras=simulation.cameras if simulation.pictures else (),
        width=simulation.width,
        height=simulation.height,
        max_steps=simulation.max_steps,
        settle=simulation.settle,
    )


def _create(target: Path, world: MetaWorld, simulation: SimulationOptions, robot_type: str) -> Any:
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    features: dict[str, dict[str, Any]] = {name: dict(feature) for name, feature in world.features.items()}
    flags = dict.fromkeys((c.DONE, c.SUCCESS), "bool") | (TRUTH if simulation.truth else {})
    features |= {name: {"dtype": dtype, "shape": (1,), "names": None} for name, dtype in flags.items()}
    return LeRobotDataset.create(
        repo_id="igrft/convert",
        fps=int(world.fps),
        features=features,
        root=target,
        robot_type=robot_type,
        # H.264 is decoded everywhere (AV1, LeRobot's default, is not) and encoded as fast as is rendered.
        rgb_encoder=RGBEncoderConfig(vcodec="h264", preset="veryfast", crf=20, g=10),
        # Without this every picture is first written as a PNG, which costs more than to render it.
        streaming_encoding=simulation.pictures,
        # LeRobot drops pictures when the queue is full; an episode fits into this one.
        encoder_queue_maxsize=world.max_steps + 1,
    )


def _bar(episodes: int, *, show: bool) -> Any:
    """Counts episodes: how many frames there will be nobody knows."""
    from tqdm import tqdm

    slow = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=episodes, unit="episode", desc="record", dynamic_ncols=True, mininterval=slow, disable=not show)


def _stop_writing(dataset: Any) -> None:
    if dataset.writer is not None:
        dataset.writer.stop_image_writer()
        dataset.writer.close_writer()


class _closing:
    """Ends a generator, and with it its processes, when the block ends."""

    def __init__(self, made: Iterator[Demonstration]) -> None:
        self._made = made

    def __enter__(self) -> Iterator[Demonstration]:
        return self._made

    def __exit__(self, *_: object) -> None:
        close = getattr(self._made, "close", None)
        if close is not None:
            close()


def _add(dataset: Any, demonstration: Demonstration, task: str, *, truth: bool) -> None:
    columns = {n: v for n, v in demonstration.columns.items() if truth or n not in TRUTH}
    flat = {
        n: v.reshape(len(v), 1).astype(TRUTH.get(n, v.dtype)) if v.ndim == 1 else v for n, v in columns.items()
    } | demonstration.pictures
    for frame in range(demonstration.length):
        dataset.add_frame({**{name: values[frame] for name, values in flat.items()}, "task": task})
    try:
        dataset.save_episode(parallel_encoding=False)
    except OSError:
        raise
    except Exception as error:
        raise IgrftError(f"LeRobot could not write an episode ({type(error).__name__}: {error})") from error


def _check_videos(target: Path, world: MetaWorld, kept: list[Demonstration]) -> None:
    """Every picture is there, and where LeRobot's table says that it is."""
    if world.cameras.names:
        lengths = {i: d.length for i, d in enumerate(kept)}
        cameras = [c.IMAGE_PREFIX + name for name in world.cameras.names]
        correct_video_starts(DatasetReader.open(target), {(k, i): n for k in cameras for i, n in lengths.items()})


def _write_masks(folder: Path, number: int, demonstration: Demonstration, fps: float) -> None:
    import av

    for camera, masks in demonstration.masks.items():
        path = folder / camera / f"episode_{number:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=int(fps), options={"crf": "10", "preset": "veryfast"})
            stream.height, stream.width = masks.shape[1:]
            stream.pix_fmt = "yuv420p"
            for mask in masks:
                frame = av.VideoFrame.from_ndarray(mask.astype(np.uint8) * 255, format="gray")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def _write_facts(
    target: Path, task: str, world: MetaWorld, simulation: SimulationOptions, kept: list[Demonstration]
) -> None:
    facts = {
        "environment": {"type": "metaworld", "task": task, "max_steps": world.max_steps, "settle": simulation.settle},
        "seed": simulation.seed,
        "operators": simulation.operators.record(),
        "episodes": {str(i): d.facts for i, d in enumerate(kept)},
    }
    write_json(target / SIMULATION, facts)
    if world.subtasks:
        episodes = {str(i): {"success": d.success, "subtasks": d.subtasks} for i, d in enumerate(kept)}
        write_json(target / TRUE_SUBTASKS, {"episodes": episodes})
