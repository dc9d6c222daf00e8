"""How good robot masks are: learned from few painted frames, and carried by the flow between known ones.

    python benchmarks/robot_masks.py                          # twenty minutes on two cores
    python benchmarks/robot_masks.py --tasks shelf-place-v3   # one simulated task instead of six

Sets:
- metaworld:TASK, recorded by ``igrft convert``: exact masks; two episodes to paint frames of, two others;
- cosmos: ../shared/data's simulated GR1, one clip, exact masks;
- roboengine: ../shared/data's real Franka before a moving camera, one clip; its "truth" is a model's output.

Everything is compared at 240 lines, by intersection over union (mean over frames; the 5th percentile in brackets).
Painted frames are the true masks of those that ``igrft report`` would suggest; no painted frame is scored. "Thin parts"
is the share found of those robot pixels that no disc of 17 pixels inside the robot covers: fingers, mostly, which is
where things are. Milliseconds are of one core, by the process's own clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from video_set import CAMERA, video_set

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames, open_frames, picture_size, probe
from igrft.steps.interaction.flow import DIS_PRESETS, Dis
from igrft.steps.interaction.masks import folder_masks
from igrft.steps.interaction.robot_mask.carry import Warp, overlap, planes
from igrft.steps.interaction.robot_mask.exemplar import PixelClassifier, learn
from igrft.steps.interaction.robot_mask.packed import anchors
from igrft.steps.interaction.robot_mask.suggest import suggest_frames
from igrft.steps.interaction.scale import flow_size

SHARED = Path(__file__).resolve().parents[2] / "shared/data"
TASKS = ("shelf-place-v3", "box-close-v3", "bin-picking-v3", "assembly-v3", "hammer-v3", "drawer-open-v3")
HEIGHT = 240
GIVEN = (1, 3, 10)
STRIDES = (1, 2, 5, 10, 30)
#: Every so many frames are scored for the classifier alone.
SCORED = 5


@dataclass
class Truth:
    """A dataset with the robot's masks.

    Attributes:
        masks: by row, bool [T, h, w] at the pictures' own size.
        painted: rows whose frames may be painted; the others are the unseen episodes.
    """

    name: str
    dataset: DatasetReader
    camera: str
    masks: dict[int, list[np.ndarray]]
    painted: list[int]

    def size(self) -> tuple[int, int]:
        return flow_size(*picture_size(self.dataset, 0, self.camera), HEIGHT)

    def small(self, row: int) -> list[np.ndarray]:
        """Masks at 240 lines."""
        return [shrunk(m, self.size()) for m in self.masks[row]]

    def pictures(self, row: int) -> list[np.ndarray]:
        return list(episode_frames(self.dataset, row, self.camera, size=self.size()))


def shrunk(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) >= 128)


def metaworld(folder: Path, task: str) -> Truth:
    root = folder / task
    if not root.is_dir():
        command = [sys.executable, "-m", "igrft.cli.main", "convert", f"metaworld:{task}", str(root)]
        command += ["--episodes", "4", "--masks"]
        subprocess.run(command, check=True, env={**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")})
    dataset = DatasetReader.open(root)
    camera = dataset.cameras[0]
    place = root / "robot_masks" / camera.rpartition(".")[2]
    masks = {r: [m > 127 for m in folder_masks(place, r, int(dataset.lengths[r]))] for r in range(4)}
    return Truth(task, dataset, camera, masks, [0, 1])


def cosmos(folder: Path) -> Truth:
    source = SHARED / "cosmos_gr1_sim_gtmask"
    frames = json.loads((source / "cosmos_example1_gt.json").read_text())
    masks = []
    for number in (entry["png"] for entry in frames):
        png = cv2.imread(str(source / f"segmentation/semantic_segmentation_{number:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert png is not None
        names = json.loads((source / f"segmentation_label/semantic_segmentation_labels_{number:06d}.json").read_text())
        code = png[..., 2] + 256 * png[..., 1].astype(np.int32)
        robot = [key for key, value in names.items() if value["class"].startswith(("gripper0", "robot0"))]
        masks.append(np.isin(code, [int(k.strip("()").split(",")[0]) + 256 * int(k.split(",")[1]) for k in robot]))
    root = video_set(folder / "cosmos", source / "input_video.mp4", len(frames))
    return Truth("cosmos", DatasetReader.open(root), CAMERA, {0: masks}, [0])


def roboengine(folder: Path) -> Truth:
    source = SHARED / "roboengine_examples"
    facts = probe(source / "video_mask_robot.mp4")
    root = video_set(folder / "roboengine", source / "video_original.mp4", facts.frames)
    found = open_frames(source / "video_mask_robot.mp4", start=0.0, fps=facts.fps, count=facts.frames, color="gray")
    return Truth("roboengine", DatasetReader.open(root), CAMERA, {0: [m > 127 for m in found]}, [0])


# The classifier alone.


def paint(truth: Truth, folder: Path, count: int) -> list[tuple[int, int]]:
    places = suggest_frames(truth.dataset, truth.camera, count, truth.painted)
    for row, frame in places:
        path = folder / f"episode_{int(truth.dataset.episode_indices[row]):06d}/{frame:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), truth.masks[row][frame].astype(np.uint8) * 255)
    return places


def trained(truth: Truth, folder: Path, count: int) -> tuple[PixelClassifier, list[tuple[int, int]], float]:
    places = paint(truth, folder, count)
    begun = time.process_time()
    classifier = learn(truth.dataset, truth.camera, folder, HEIGHT)
    return classifier, places, time.process_time() - begun


_DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (17, 17))


def thin(mask: np.ndarray) -> np.ndarray:
    """The parts of a mask, bool [h, w], that a disc of 17 pixels does not fit into."""
    return mask & (cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, _DISC) == 0)


def score(truth: Truth, folder: Path, count: int) -> dict[str, Any]:
    classifier, places, seconds = trained(truth, folder, count)
    seen: dict[str, list[float]] = {"same": [], "other": [], "same thin": [], "other thin": []}
    spent = frames = 0.0
    for row in truth.masks:
        kind = "same" if row in truth.painted else "other"
        exact, pictures = truth.small(row), truth.pictures(row)
        for frame in range(0, len(pictures), SCORED):
            if (row, frame) in places:
                continue
            begun = time.process_time()
            mask = classifier([pictures[frame]])[0]
            spent, frames = spent + time.process_time() - begun, frames + 1
            seen[kind].append(overlap(mask, exact[frame]))
            parts = thin(exact[frame])
            if parts.any():
                seen[kind + " thin"].append(float(mask[parts].mean()))
    return {"seconds": seconds, "ms": 1000 * spent / frames, **seen}


# Masks at every n-th frame.


def strides(truth: Truth, folder: Path) -> list[dict[str, Any]]:
    """Exact masks and learned ones (three painted frames) at every n-th frame, the others carried."""
    classifier, places, _ = trained(truth, folder, 3)
    estimator, warp = Dis(DIS_PRESETS["dis"]), Warp(*truth.size())
    rows = [r for r in truth.masks if r not in truth.painted] or truth.painted
    out = [
        {"every": n, "exact": [], "carried": [], "learned": [], "agreement": [], "carry": 0.0, "find": 0.0, "frames": 0}
        for n in STRIDES
    ]
    for row in rows:
        exact, pictures = truth.small(row), truth.pictures(row)
        gray = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures]
        flows = [planes(flow) for flow in estimator.stream(gray)]
        begun = time.process_time()
        learned = [classifier([p])[0] for p in pictures]
        each = (time.process_time() - begun) / len(pictures)
        for found in out:
            known = anchors(len(exact), found["every"])
            found["frames"] += len(exact)
            found["find"] += each * len(known)
            for source, masks in (("exact", exact), ("learned", learned)):
                begun = time.process_time()
                for a, b in pairwise(known):
                    between, agreement = warp.between(masks[a].astype(np.uint8), masks[b].astype(np.uint8), flows[a:b])
                    if source == "exact":
                        found["agreement"].append(agreement)
                        found["carried"] += [overlap(m > 0, exact[a + i]) for i, m in enumerate(between) if i]
                    found[source] += [
                        overlap(m > 0, exact[a + i]) for i, m in enumerate(between) if (row, a + i) not in places
                    ]
                if source == "learned":
                    found["carry"] += time.process_time() - begun
    return out


def spell(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({np.percentile(values, 5):.3f})" if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="simulated tasks")
    parser.add_argument("--work", type=Path, help="folder that keeps the recordings")
    parser.add_argument("--no-strides", action="store_true", help="the classifier alone")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="igrft-robot-masks-") as name:
        scratch, work = Path(name), options.work or Path(name)
        makers: list[Any] = [lambda task=task: metaworld(work, task) for task in options.tasks]
        if SHARED.is_dir():
            makers += [lambda: cosmos(scratch), lambda: roboengine(scratch)]
        print(f"{os.cpu_count()} cores, {platform.machine()}\n")
        few: list[str] = []
        many: list[str] = []
        for make in makers:
            truth = make()
            share = np.mean([m.mean() for row in truth.masks for m in truth.masks[row]])
            for count in GIVEN:
                got = score(truth, scratch / f"{truth.name}-{count}", count)
                few.append(
                    f"| {truth.name} ({share:.0%}) | {count} | {spell(got['same'])} | {spell(got['other'])} | "
                    f"{spell(got['other thin'] or got['same thin'])} | {got['seconds']:.1f} | {got['ms']:.0f} |"
                )
                print(few[-1], flush=True)
            for got in () if options.no_strides else strides(truth, scratch / f"{truth.name}-3"):
                flicker = np.mean(np.array(got["agreement"]) < 0.5)
                many.append(
                    f"| {truth.name} | {got['every']} | {spell(got['exact'])} | {spell(got['carried'])} | "
                    f"{spell(got['learned'])} | {1000 * got['find'] / got['frames']:.1f} | "
                    f"{1000 * got['carry'] / got['frames']:.1f} | {np.median(got['agreement']):.2f} | {flicker:.1%} |"
                )
                print(many[-1], flush=True)
    print("\n| set (robot's share) | painted | other frames | other episodes | thin parts | s to learn | ms a frame |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(few))
    print(
        "\n| set | every | exact masks, all frames | those carried | exemplar (3), all frames | ms to find, a frame | "
        "ms to carry, a frame | agreement | under 0.5 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(many))


if __name__ == "__main__":
    main()
