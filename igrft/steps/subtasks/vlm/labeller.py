"""Labels one episode by asking the model: describe, then segment, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from igrft.columns import IMAGE_PREFIX
from igrft.dataset.reader import DatasetReader
from igrft.errors import EpisodeError, IgrftError, NotApplicable
from igrft.steps.base import Episode
from igrft.steps.interaction.camera import choose_camera
from igrft.steps.subtasks.segments import Segment
from igrft.steps.subtasks.vlm import prompts
from igrft.steps.subtasks.vlm.answers import read_description, read_json_answer, read_spans, read_success
from igrft.steps.subtasks.vlm.prompts import Question
from igrft.steps.subtasks.vlm.session import Message, Session
from igrft.steps.subtasks.vlm.settings import VlmSettings, sample_interval
from igrft.steps.subtasks.vlm.sheets import Sheet, make_sheets, sheet_parts
from igrft.steps.subtasks.vlm.windows import Span, Window, join_windows, windows_of
from igrft.steps.task_file import Task


@dataclass(frozen=True)
class Seen:
    """What the model said of an episode.

    Attributes:
        segments: covering the episode; ``done`` as the model judged each.
        success: as the model judged it, or None where it was not asked.
        skipped: names of the task that it did not see.
    """

    segments: list[Segment]
    success: bool | None
    skipped: tuple[str, ...]


def cameras_of(dataset: DatasetReader, settings: VlmSettings, task: Task | None) -> tuple[str, ...]:
    """The cameras that the model sees.

    Raises:
        IgrftError: one that was asked for is not there, or there is none.
    """
    try:
        if settings.cameras:
            return tuple(choose_camera(dataset, _full_name(dataset, name)) for name in settings.cameras)
        hint = _full_name(dataset, getattr(task, "camera", None) or "")
        # A task file serves many datasets: a camera that this one lacks is no mistake.
        known = hint in dataset.cameras and dataset.camera_has_files(hint)
        return (choose_camera(dataset, hint if known else None),)
    except NotApplicable:
        raise IgrftError(
            f"{dataset.root} has no camera with files, and source: vlm needs one; use source: proprio"
        ) from None
    except IgrftError as error:
        raise IgrftError(str(error).replace("step 'interaction'", "step 'subtasks'")) from None


def refuse_missing_cameras(dataset: DatasetReader, settings: VlmSettings) -> None:
    """Before any work. Raises IgrftError, as :func:`cameras_of`."""
    cameras_of(dataset, settings, None)


def _full_name(dataset: DatasetReader, name: str) -> str:
    return IMAGE_PREFIX + name if name not in dataset.cameras and IMAGE_PREFIX + name in dataset.cameras else name


def episode_windows(settings: VlmSettings, length: int, fps: float) -> list[Window]:
    """The questions that an episode is asked in."""
    return windows_of(length, fps, rate=settings.frames_per_second, longest=settings.window, overlap=settings.overlap)


class EpisodeAsker:
    """Asks the model about one episode after another. Threads may share it."""

    def __init__(self, session: Session, shortest: float) -> None:
        self._session, self._settings, self._shortest = session, session.settings, shortest

    def see(self, episode: Episode, task: Task | None, success: bool | None) -> Seen:
        """Ask about an episode.

        Args:
            task: its task file, which closes the vocabulary; None for an open one.
            success: known success, or None.

        Raises:
            EpisodeError: the pictures cannot be read, the server failed, or an answer was refused twice.
        """
        s = self._settings
        cameras = cameras_of(episode.dataset, s, task)
        windows = episode_windows(s, episode.length, episode.fps)
        found: list[list[Span]] = []
        judged: bool | None = None
        for window in windows:
            before = tuple(join_windows(windows, found, self._shortest)) if found else ()
            question = self.question(episode, task, success, window, before)
            spans, verdict = self._ask(episode, question, cameras)
            found.append(spans)
            judged = verdict if verdict is not None else judged
        spans = join_windows(windows, found, self._shortest)
        segments = self._segments(episode, spans)
        names = {seg.name for seg in segments}
        skipped = tuple(n for n in task.subtasks if n not in names) if task else ()
        return Seen(segments, judged, skipped)

    def question(
        self, episode: Episode, task: Task | None, success: bool | None, window: Window, before: tuple[Span, ...]
    ) -> Question:
        goal = (task.goal if task else "") or "; ".join(episode.tasks)
        asked = self._settings.judge_success and success is None and window.last
        return Question(
            window=window,
            goal=goal,
            names=task.subtasks if task else (),
            known=() if task else tuple(dict.fromkeys(span[0] for span in before)),
            success=success,
            criterion=((task.success if task else "") or f"the task is done ({goal})") if asked else None,
            shortest=self._shortest,
            duration=episode.length / episode.fps,
            before=before,
        )

    def _ask(self, episode: Episode, question: Question, cameras: Sequence[str]) -> tuple[list[Span], bool | None]:
        s = self._settings
        interval = sample_interval(s, episode.fps)
        sheets = make_sheets(episode, question.window, cameras, s)

        def read(text: str) -> tuple[list[Span], bool | None]:
            answer = read_json_answer(text, "subtasks")
            spans = read_spans(answer, question, interval)
            return spans, read_success(answer) if question.criterion is not None else None

        try:
            description = None
            if s.describe:
                messages = chat(question, sheets, interval, len(cameras), prompts.describe(question))
                description = self._session.answer(messages, None, read_description)
            messages = chat(question, sheets, interval, len(cameras), prompts.segment(question, description))
            return self._session.answer(messages, prompts.segment_schema(question), read)
        except EpisodeError as error:
            part = "" if question.window.count == 1 else f" (part {question.window.number + 1})"
            raise EpisodeError(f"episode {episode.index}{part}: {error}") from None

    def _segments(self, episode: Episode, spans: Sequence[Span]) -> list[Segment]:
        """Seconds to frames; boundaries are moved where that is asked for."""
        length, fps = episode.length, episode.fps
        starts = [round(start * fps) for _, start, _, _ in spans]
        starts[0] = 0
        if self._settings.snap_window > 0 and len(starts) > 1:
            from igrft.steps.subtasks.proprio import read_signals
            from igrft.steps.subtasks.snap import snap_boundaries

            signals = read_signals(episode.dataset, episode.row)
            window, shortest = self._settings.snap_window, self._shortest
            moved = snap_boundaries(starts[1:], signals, fps, window=window, shortest=shortest, length=length)
            starts = [0, *moved]
        out: list[Segment] = []
        for (name, _, _, done), start, end in zip(spans, starts, [*starts[1:], length], strict=True):
            if end <= start:
                # Two boundaries of one frame: only where subtasks may be shorter than a frame.
                continue
            out.append(Segment(name, start, end, done))
        return out


def chat(question: Question, sheets: Sequence[Sheet], interval: float, cameras: int, text: str) -> list[Message]:
    """The messages of a question: how to read the sheets, the sheets, what is asked."""
    start = {"type": "text", "text": prompts.opening(question, len(sheets), interval, cameras)}
    return [{"role": "user", "content": [start, *sheet_parts(sheets), {"type": "text", "text": text}]}]
