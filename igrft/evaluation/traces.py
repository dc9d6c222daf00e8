"""What the critic said during one episode, for Figure 7: of an episode that is evaluated, or of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igrft import columns as c
from igrft.dataset.labels import load_labels, open_dataset
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at, picture_size
from igrft.errors import UsageError
from igrft.evaluation.value_figure import Stage, ValueTrace, picture_frames
from igrft.reports.pictures import fit
from igrft.reports.summary import pipeline_step
from igrft.reports.value_panels import reference_value
from igrft.rewards.hybrid import combine, subtask_rewards, subtask_weights, trajectory_rewards
from igrft.rewards.returns import return_to_go
from igrft.rollouts.episode import Frame

#: Width of the pictures over the chart, in pixels.
_WIDTH = 240


@dataclass
class Trace:
    """One episode, frame by frame. A value is NaN where the critic was not asked.

    Attributes:
        fps: frames a second.
        subtasks: names in order; ``completed`` counts them.
        settings: of the critic: weights, discount, kind of reward.
    """

    fps: float
    subtasks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    value: list[float] = field(default_factory=list)
    interaction: list[float] = field(default_factory=list)
    noise_scale: list[float] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)
    human: list[bool] = field(default_factory=list)
    _last: Any = None

    def add(self, frame: Frame, completed: int | None) -> None:
        """One step, and how many subtasks are done after it."""
        # The same judgement is handed on until the critic looks again.
        judged = frame.judgement if frame.judgement is not self._last else None
        self._last = frame.judgement
        self.value.append(float("nan") if judged is None else judged.value)
        self.interaction.append(float("nan") if judged is None else judged.interaction)
        self.noise_scale.append(frame.noise_scale)
        before = self.completed[-1] if self.completed else 0
        self.completed.append(before if completed is None else max(before, completed))
        self.human.append(frame.intervention)

    @property
    def judged(self) -> bool:
        return bool(np.isfinite(self.value).any())

    def stages(self) -> list[Stage]:
        """Subtasks that were begun, in order; the last may not be done."""
        ends = self._ends()
        starts = [0, *ends][: len(ends)]
        return [Stage(n, a, b) for n, a, b in zip(self.subtasks, starts, ends, strict=True) if a < b]

    def _ends(self) -> list[int]:
        """End (exclusive) of each subtask: the action of the frame before did it; T where it was not done."""
        done = np.array(self.completed)
        return [int(np.argmax(done > i)) + 1 if (done > i).any() else len(done) for i in range(len(self.subtasks))]

    def reference(self, success: bool) -> np.ndarray | None:
        """Return-to-go of what the episode earned (Eq. 4-7), float64 [T]; None where no subtask is known.

        With the critic's own weights, discount and kind of reward: the reference is what it should have said.
        """
        length = len(self.value)
        discount = float(self.settings.get("discount", 1.0))
        if self.settings.get("reward_kind") == "sparse":
            last = np.zeros(length)
            last[-1] = float(success)
            return return_to_go(last, discount)
        if not self.subtasks:
            return None
        # A success is all of it done, whether or not the last step was counted.
        done = np.array([success or self.completed[-1] > i for i in range(len(self.subtasks))])
        rewards = subtask_rewards(length, self._ends(), subtask_weights(self.subtasks, done), done)
        weights = [float(self.settings.get(f"{n}_weight", w)) for n, w in (("trajectory", 0.4), ("subtask", 0.6))]
        return return_to_go(combine(trajectory_rewards(length, success), rewards, *weights), discount)

    def figure_trace(
        self, success: bool, pictures: Sequence[np.ndarray] = (), title: str = "", most: int = 8
    ) -> ValueTrace:
        """For :func:`igrft.evaluation.value_figure.figure_7`.

        Args:
            pictures: of every frame, or none.
        """
        made = ValueTrace(
            np.array(self.value),
            self.reference(success),
            self.fps,
            self.stages(),
            np.array(self.human, dtype=bool),
            (),
            title,
        )
        if not len(pictures):
            return made
        frames = picture_frames(len(self.value), made.rises, most)
        return ValueTrace(**{**vars(made), "pictures": [(f, pictures[f]) for f in frames]})

    def to_json(self) -> dict[str, Any]:
        """As it is kept beside the video."""
        return {
            "fps": self.fps,
            "subtasks": list(self.subtasks),
            "value": [_number(v) for v in self.value],
            "interaction_probability": [_number(v) for v in self.interaction],
            "noise_scale": self.noise_scale,
            "completed": self.completed,
            "intervention": self.human,
        }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def trace_of_dataset(
    dataset: DatasetReader | Path | str, episode: int, *, camera: str | None = None, most: int = 8
) -> ValueTrace:
    """One episode of a dataset with the column ``value``: a rollout as recorded, or what the ``values`` step made.

    Args:
        episode: its ``episode_index``.
        camera: whose pictures stand above; None is the first.
        most: pictures.

    Raises:
        UsageError: no such episode or camera, or no values.
        EpisodeError: pictures that cannot be read.
    """
    reader = open_dataset(dataset)
    if c.VALUE not in reader.features:
        raise UsageError(
            f"{reader.root} has no column {c.VALUE!r}; label it with the step 'values', or roll out with a critic"
        )
    labels = load_labels(
        reader, [n for n in c.LABELS if n in reader.features and n != c.LANGUAGE_PERSISTENT], [episode]
    )
    columns, record = labels.episode(episode), labels.episode_record(episode)
    settings = pipeline_step(reader.igrft or {}, "values") or {}
    reference = reference_value(columns, settings)
    if reference is not None and not np.isfinite(reference).all():
        reference = None
    success = record.get("success", bool(columns[c.SUCCESS].any()) if c.SUCCESS in columns else None)
    told = {True: "success", False: "failure", None: "success not known"}[success]
    stages = [
        Stage(s["name"], int(s["start"]), int(s["end"])) for s in record.get("subtasks", []) if s["start"] < s["end"]
    ]
    human = columns.get(c.INTERVENTION)
    made = ValueTrace(
        columns[c.VALUE].astype(np.float64), reference, reader.fps, stages, human, (), f"episode {episode}: {told}"
    )
    cameras = [k for k in reader.cameras if reader.camera_has_files(k)]
    if camera is not None and camera not in cameras:
        raise UsageError(f"{reader.root} has no pictures of {camera!r}; it has: {', '.join(cameras) or 'none'}")
    if not cameras:
        return made
    row = int(np.flatnonzero(reader.episode_indices == episode)[0])
    chosen = camera or cameras[0]
    frames = picture_frames(len(made.predicted), made.rises, most)
    size = fit(picture_size(reader, row, chosen), _WIDTH)
    pictures = frames_at(reader, row, chosen, frames, size=size)
    return ValueTrace(**{**vars(made), "pictures": list(zip(frames, pictures, strict=True))})
