"""Where the pixels are that count while nothing but the robot moves.

    python benchmarks/interaction_bleed.py FOLDER      # the folder of interaction_quality.py; two minutes

With exact masks, DIS at 240 lines and δ = 2, at 26.7 frames/s: reference pixels that count on frames on which no thing
moves, by their distance from the robot's mask in reference pixels; mean over frames.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from interaction_quality import CAMERA, EPISODES, KEY, STRIDES, TASKS
from interaction_tables import FLOW, MOVES

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames
from igrft.steps.interaction.flow import DIS_PRESETS, Dis
from igrft.steps.interaction.masks import Keep, folder_masks
from igrft.steps.interaction.scale import Counter, Scale

SIZE = (320, 240)
EDGES = (0, 4, 8, 16, 32, 64, 1000)


def bleeding(root: Path) -> np.ndarray:
    """Pixels by distance, of every such frame: float64 [frames, 6]."""
    dataset, stride = DatasetReader.open(root), STRIDES[0]
    scale = Scale.of(*SIZE, dataset.fps / stride, 30.0)
    counter, flow = Counter(*SIZE, (FLOW,), scale), Dis(DIS_PRESETS["dis"])
    fit = Keep(KEY, (640, 480), SIZE, allow_resize=False, threshold=None)
    found = []
    for row in range(1, EPISODES):
        pictures = list(episode_frames(dataset, row, KEY, size=SIZE, color="gray"))[::stride]
        masks = list(folder_masks(root / "robot_masks" / CAMERA, row, int(dataset.lengths[row])))[::stride]
        motion = dataset.column(row, "truth.object_motion").reshape(-1)
        for i, field in enumerate(flow.stream(pictures)):
            way = motion[i * stride : (i + 1) * stride].sum() * 1000 * (dataset.fps / stride) / 30
            if way < MOVES / 10:
                keep = np.subtract(1.0, fit.robot(masks[i], row, i), dtype=np.float32)
                x, y = cv2.split(field)
                counted = counter.energy(x, y, keep) > FLOW * scale.squared
                away = cv2.distanceTransform(keep.astype(np.uint8), cv2.DIST_L2, 3) / scale.area**0.5
                found.append(np.histogram(away[counted], EDGES)[0] / scale.area)
    return np.array(found)


def line(name: str, found: np.ndarray) -> str:
    cells = [len(found), found.sum(axis=1).mean(), *found.mean(axis=0)]
    return f"| {name} | " + " | ".join(f"{v:.0f}" for v in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    names = [f"{a} to {b}" for a, b in pairwise(EDGES[:-1])] + [f"over {EDGES[-2]}"]
    print("| task | still frames | all | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 3) + "|")
    every = []
    for task in TASKS:
        found = bleeding(options.folder / "sets" / task)
        every.append(found)
        print(line(task, found), flush=True)
    print(line("all", np.concatenate(every)))


if __name__ == "__main__":
    main()
