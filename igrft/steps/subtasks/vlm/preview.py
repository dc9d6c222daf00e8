"""What a run would send: counted for the user before it is sent, and one question shown in full."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igrft import columns as c
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import picture_size
from igrft.errors import EpisodeError
from igrft.steps.base import Episode, Preview
from igrft.steps.subtasks.success import known_success, success_of
from igrft.steps.subtasks.vlm import prompts
from igrft.steps.subtasks.vlm.labeller import EpisodeAsker, cameras_of, chat, episode_windows
from igrft.steps.subtasks.vlm.prompts import Question
from igrft.steps.subtasks.vlm.session import Session
from igrft.steps.subtasks.vlm.settings import about, sample_interval
from igrft.steps.subtasks.vlm.sheets import Sheet, make_sheets, token_count
from igrft.steps.task_file import Task, load_tasks

if TYPE_CHECKING:
    from igrft.steps.subtasks.step import Subtasks

#: Tokens of a prompt's text and of an answer, about.
_TEXT_TOKENS, _ANSWER_TOKENS = 600, 350
#: Stands in a prompt that is shown before any call was made.
_DESCRIPTION = "(here stands the answer to the first question)"


@dataclass(frozen=True)
class Estimate:
    """What a run sends at most, as nothing was in the cache and no answer sent back.

    Attributes:
        host: where it goes.
        frames: pictures of the recording that leave this machine; each may go twice, in two questions.
        sheets: contact sheets that they stand on.
        calls: questions.
        input_tokens, output_tokens: about; models count pictures differently.
    """

    host: str
    model: str
    episodes: int
    frames: int
    sheets: int
    calls: int
    input_tokens: int
    output_tokens: int

    def to_line(self) -> str:
        return (
            f"subtasks: {self.frames} frames of {self.episodes} episodes go to {self.host} ({self.model}): "
            f"{self.sheets} contact sheets, {self.calls} calls, about {self.input_tokens} tokens in and "
            f"{self.output_tokens} out; what is in the cache is not sent again"
        )


def estimate(entry: Subtasks, dataset: DatasetReader, rows: Sequence[int], *, open_names: bool = False) -> Estimate:
    """Count what labelling ``rows`` sends; ``open_names``: with the question that merges names."""
    tasks = load_tasks(entry.task) if entry.task else None
    frames = sheets = calls = tokens = 0
    sizes: dict[str, tuple[int, int]] = {}
    each = 2 if entry.describe else 1
    for row in rows:
        cameras = cameras_of(dataset, entry, _task(tasks, dataset, row))
        for window in episode_windows(entry, int(dataset.lengths[row]), dataset.fps):
            calls += each
            tokens += each * _TEXT_TOKENS
            for camera in cameras:
                frames += len(window.frames)
                if camera not in sizes:
                    sizes[camera] = _size(dataset, row, camera)
                per_sheet = entry.sheet_columns * entry.sheet_rows
                for start in range(0, len(window.frames), per_sheet):
                    count = min(per_sheet, len(window.frames) - start)
                    columns = min(entry.sheet_columns, count)
                    width, height = sizes[camera]
                    tile = entry.tile_width, max(1, round(height * entry.tile_width / width))
                    sheets += 1
                    tokens += each * token_count(columns * tile[0], math.ceil(count / columns) * tile[1])
    calls += bool(open_names and rows)
    answers = calls * _ANSWER_TOKENS
    host = entry.host
    return Estimate(host, str(entry.model), len(rows), frames, sheets, calls, about(tokens), about(answers))


def _task(tasks: Any, dataset: DatasetReader, row: int) -> Task | None:
    try:
        return tasks.of(int(dataset.episode_indices[row]), dataset.episode_tasks(row)) if tasks else None
    except EpisodeError:
        # It will be set aside; what it would have sent does not matter.
        return None


def _size(dataset: DatasetReader, row: int, camera: str) -> tuple[int, int]:
    try:
        return picture_size(dataset, row, camera)
    except EpisodeError:
        return 640, 480


def preview(entry: Subtasks, dataset: DatasetReader, rows: Sequence[int], folder: Path, *, open_names: bool) -> Preview:
    """Show what a run would ask, and write one episode's first window to ``folder``, as the model would see it.

    Args:
        entry: the resolved step.
        rows: episodes that would be asked about.

    Returns:
        Text for people, and the same for programs.

    Raises:
        EpisodeError: the pictures of no episode can be read.
    """
    counted = estimate(entry, dataset, rows, open_names=open_names)
    if not rows:
        return Preview("subtasks: every episode is labelled already; nothing would be sent", asdict(counted))
    episode, question, sheets, cameras = _first_question(entry, dataset, rows)
    interval = sample_interval(entry, dataset.fps)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sheet-*.jpg"):
        old.unlink()
    files = []
    for number, sheet in enumerate(sheets, start=1):
        files.append(folder / f"sheet-{number:02d}.jpg")
        files[-1].write_bytes(sheet.jpeg)
    texts = [prompts.describe(question)] if entry.describe else []
    texts.append(prompts.segment(question, _DESCRIPTION if entry.describe else None))
    shown = []
    for number, text in enumerate(texts, start=1):
        lines, images = [f"--- question {number} of {len(texts)} about episode {episode.index} ---"], iter(files)
        for part in chat(question, sheets, interval, len(cameras), text)[0]["content"]:
            lines.append(part["text"] if part["type"] == "text" else f"[{next(images)}]")
        shown.append("\n".join(lines))
    prompt = "\n\n".join(shown)
    (folder / "prompt.txt").write_text(prompt + "\n", encoding="utf-8")
    schema = prompts.segment_schema(question)
    (folder / "schema.json").write_text(json.dumps(schema, indent=1, ensure_ascii=False), encoding="utf-8")
    text = f"{prompt}\n\nThe prompt, its pictures and the schema of the answer lie in {folder}\n{counted.to_line()}"
    numbers = {**asdict(counted), "prompt": prompt, "schema": schema, "pictures": [str(f) for f in files]}
    return Preview(text, numbers)


def _first_question(
    entry: Subtasks, dataset: DatasetReader, rows: Sequence[int]
) -> tuple[Episode, Question, list[Sheet], tuple[str, ...]]:
    """The first window of the first episode whose pictures can be read."""
    tasks = load_tasks(entry.task) if entry.task else None
    columns = [n for n in c.SUCCESS_SPELLINGS if n in dataset.features]
    asker = EpisodeAsker(Session(entry), entry.shortest)
    failed: EpisodeError | None = None
    for row in rows:
        episode, task = Episode(dataset, row), _task(tasks, dataset, row)
        try:
            success = known_success(success_of(entry.given(episode.index), episode, columns))
            window = episode_windows(entry, episode.length, episode.fps)[0]
            question = asker.question(episode, task, success, window, ())
            cameras = cameras_of(dataset, entry, task)
            return episode, question, make_sheets(episode, window, cameras, entry), cameras
        except EpisodeError as error:
            # A run would set it aside, and go on.
            failed = failed or error
    assert failed is not None
    raise failed
