"""What the page says of robot masks: how much of the picture they cover, what is odd, and which frames to paint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import frames_at
from igrft.errors import IgrftError
from igrft.reports.pictures import data_uri
from igrft.reports.summary import pipeline_step
from igrft.reports.text import percent, plural
from igrft.steps.interaction.camera import choose_camera
from igrft.steps.interaction.counts import COVERAGE, InteractionCounts
from igrft.steps.interaction.robot_mask.facts import complaints
from igrft.steps.interaction.robot_mask.kept import kept
from igrft.steps.interaction.robot_mask.suggest import suggest_frames

#: Frames that are suggested. Three are enough for an arm in simulation; thin fingers and real rooms want more.
_SUGGESTED = 6
_QUALITY = 92


def coverage(dataset: DatasetReader, row: int) -> np.ndarray | None:
    """Share of the picture that is robot, float32 [T]; None where no masks were used, or nothing is kept of them."""
    found = kept(dataset, row, InteractionCounts.type)
    return None if found is None else found[0].get(COVERAGE)


def mask_fact(interaction: Mapping[str, Any]) -> list[str]:
    """A short fact beside an episode's heading, from what the step recorded of it."""
    facts = interaction.get("mask") or {}
    if facts.get("coverage") is None:
        return []
    return [
        f"robot on {percent(facts['coverage'])} of the picture ({percent(facts['least'])} to {percent(facts['most'])})"
    ]


def mask_warnings(record: Mapping[str, Any]) -> Iterator[str]:
    """One line for each thing that is odd about the masks, with how many episodes have it."""
    odd: dict[str, list[tuple[str, str]]] = {}
    for episode, entry in (record.get("episodes") or {}).items():
        for kind, text in complaints((entry.get("interaction") or {}).get("mask") or {}):
            odd.setdefault(kind, []).append((episode, text))
    for found in odd.values():
        episode, text = found[0]
        yield f"In {plural(len(found), 'episode')} the robot mask is odd, e.g. in episode {episode}: it {text}."


@dataclass(frozen=True)
class ToPaint:
    """A frame to paint: the picture as a data URI, what it shows, and the name of the mask."""

    picture: str
    episode: int
    frame: int
    name: str


def frames_to_paint(dataset: DatasetReader) -> list[ToPaint]:
    """Frames for ``robot_mask: exemplar``; none where masks come from elsewhere, or there are no pictures."""
    settings = pipeline_step(dataset.igrft or {}, "interaction") or {}
    if settings.get("robot_mask", "none") not in ("none", "exemplar"):
        return []
    try:
        camera = choose_camera(dataset, settings.get("camera"))
        found = []
        for row, frame in suggest_frames(dataset, camera, _SUGGESTED):
            episode = int(dataset.episode_indices[row])
            picture = data_uri(frames_at(dataset, row, camera, [frame])[0], _QUALITY)
            found.append(ToPaint(picture, episode, frame, f"episode_{episode:06d}/{frame:06d}.png"))
        return found
    except IgrftError:
        # The page says elsewhere what is wrong with the pictures.
        return []
