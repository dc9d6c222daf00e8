"""How good subtask boundaries from proprioception are, and what snapping does to boundaries that are a little off.

    python benchmarks/subtasks.py                 # two minutes on two cores; the real sets need ../shared/data
    python benchmarks/subtasks.py --json FILE

Three questions, each answered with the figures of `igrft subtasks score`:

1. `source: proprio` with the task file, at the settings that come with igrft, on simulated demonstrations whose true
   phases are known (four tasks, seeds that nothing was chosen on);
2. the same on real recordings, against references set by eye (benchmarks/references);
3. snapping: the true boundaries are moved as somebody would misplace them who looks at two frames a second (rounded to
   that grid, plus a normal error), then snapped within windows of several sizes. The errors are drawn, not a model's:
   they say what snapping does to errors of that size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TASKS = ("shelf-place-v3", "box-close-v3", "bin-picking-v3", "assembly-v3")
REAL = ("cr5_banana_3ep", "gr00t_robot_sim_PickNPlace", "g1_yellow_bottle_2ep")
SHARED = Path(__file__).resolve().parents[2] / "shared/data"
REFERENCES = Path(__file__).resolve().parent / "references"
#: Frames a second that whoever misplaces the boundaries looks at, and the normal error on top, seconds.
LOOKS, SIGMA = 2.0, 0.3
WINDOWS = (0.0, 0.25, 0.5, 1.0)
DRAWS = 10


def simulated(work: Path, task: str, episodes: int, seed: int) -> tuple[Path, Path, Path]:
    """A dataset without pictures, its true subtasks and its task file."""
    from igrft.recordings.convert import convert
    from igrft.resources import find
    from igrft.simulation.record import TRUE_SUBTASKS, SimulationOptions

    root = work / task
    options = SimulationOptions(episodes=episodes, seed=seed, pictures=False)
    convert(f"metaworld:{task}", root, simulation=options, progress=False)
    return root, root / TRUE_SUBTASKS, find("pipelines", f"tasks/metaworld-{task}")


def real(work: Path, name: str) -> tuple[Path, Path, Path]:
    """A converted recording, its reference and a task file of the reference's names."""
    from igrft.recordings.convert import convert

    root, reference = work / name, REFERENCES / f"{name}.json"
    convert(SHARED / name, root, rebuild_timestamps=True, progress=False, warn=lambda _: None)
    entries = json.loads(reference.read_text())["episodes"].values()
    names = max(([s["name"] for s in e["subtasks"]] for e in entries), key=len)
    task = work / f"{name}.yaml"
    task.write_text(json.dumps({"subtasks": names}))
    return root, reference, task


def proprio(root: Path, reference: Path, task: Path, shortest: float) -> dict[str, dict]:
    """Scores of `source: proprio` with a task file: of all episodes, and of the successes alone.

    In a failure the reference lists what was begun; this source knows of no success and fits every subtask.
    """
    from igrft.pipeline.run import annotate
    from igrft.steps.subtasks.compare import compare

    out = root.with_name(f"{root.name}_labelled")
    pipeline = root.with_name(f"{root.name}_pipeline.yaml")
    step = {"type": "subtasks", "source": "proprio", "task": str(task), "shortest": shortest}
    pipeline.write_text(json.dumps({"steps": [step]}))
    annotate(root, out, pipeline=str(pipeline), workers=1, show_progress=False)
    entries = json.loads(reference.read_text())["episodes"]
    succeeded = {index: entry for index, entry in entries.items() if entry["success"]}
    found = {"": compare(out, reference).to_json()}
    if len(succeeded) < len(entries):
        of_successes = root.with_name(f"{root.name}_successes.json")
        of_successes.write_text(json.dumps({"episodes": succeeded}))
        found[", successes"] = compare(out, of_successes).to_json()
    return found


def snapping(root: Path, reference: Path, window: float, rng: np.random.Generator, shortest: float) -> dict:
    """Scores of misplaced boundaries after snapping within ``window`` seconds."""
    from igrft.dataset.reader import DatasetReader
    from igrft.steps.subtasks.file import read_subtask_file
    from igrft.steps.subtasks.proprio import read_signals
    from igrft.steps.subtasks.score import score_episodes
    from igrft.steps.subtasks.segments import Segment, parse_segments
    from igrft.steps.subtasks.snap import snap_boundaries

    dataset = DatasetReader.open(root)
    fps, pairs = dataset.fps, []
    rows = {int(index): row for row, index in enumerate(dataset.episode_indices)}
    for index, entry in read_subtask_file(str(reference)).items():
        length = int(dataset.lengths[rows[index]])
        true = [s for s in parse_segments(entry["subtasks"], "") if s.end > s.start]
        signals = read_signals(dataset, rows[index])
        for _ in range(DRAWS):
            starts = misplaced([s.start for s in true[1:]], fps, length, rng)
            starts = snap_boundaries(starts, signals, fps, window=window, shortest=shortest, length=length)
            edges = [0, *starts, length]
            found = [Segment(s.name, a, b) for s, a, b in zip(true, edges[:-1], edges[1:], strict=True)]
            pairs.append((found, true))
    return score_episodes(pairs, fps).to_json()


def misplaced(starts: Sequence[int], fps: float, length: int, rng: np.random.Generator) -> list[int]:
    """Boundaries as seen on a coarse grid and a little off; their order and number are kept."""
    seconds = np.asarray(starts) / fps + rng.normal(0, SIGMA, len(starts))
    frames = np.round(np.round(seconds * LOOKS) / LOOKS * fps).astype(int)
    out: list[int] = []
    for i, frame in enumerate(frames):
        low, high = (out[-1] if out else 0) + 1, length - (len(frames) - i)
        out.append(int(np.clip(frame, low, high)))
    return out


def line(name: str, found: dict) -> str:
    o = found["overall"]
    figures = [o["f1"], o["frame_accuracy"], o["boundary_error_median"], o["boundary_error_p90"]]
    return f"| {name} | {found['episodes']} | " + " | ".join("–" if f is None else f"{f:.2f}" for f in figures) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=40, help="simulated, a task")
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, dict] = {"proprio": {}, "snapping": {}}
    header = (
        "| | episodes | F1 | frame accuracy | boundary error, median s | 90th percentile s |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        # A simulated motion is quick: the shortest subtask is that of pipelines/simulation.yaml.
        sets = [(task, *simulated(work, task, options.episodes, options.seed), 0.15) for task in TASKS]
        if SHARED.is_dir():
            sets += [(name, *real(work, name), 0.5) for name in REAL]
        print(f"source: proprio with the task file\n\n{header}")
        for name, root, reference, task, shortest in sets:
            for which, scores in proprio(root, reference, task, shortest).items():
                found["proprio"][name + which] = scores
                print(line(name + which, scores), flush=True)
        print(f"\nmisplaced by N(0, {SIGMA} s) on a grid of {LOOKS:g} looks a second, then snapped\n\n{header}")
        for name, root, reference, _, shortest in sets:
            for window in WINDOWS:
                rng = np.random.default_rng(options.seed)
                key = f"{name}, window {window:g} s"
                found["snapping"][key] = snapping(root, reference, window, rng, shortest)
                print(line(key, found["snapping"][key]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
