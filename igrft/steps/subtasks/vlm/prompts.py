"""What the model is asked, and the JSON schemas of its answers. A change here raises the step's version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from igrft.steps.subtasks.vlm.windows import Span, Window


@dataclass(frozen=True)
class Question:
    """What is asked of one window.

    Attributes:
        goal: the task in words; empty where nobody says.
        names: the closed vocabulary in its usual order; empty for an open one.
        known: names that earlier windows used, for an open vocabulary.
        success: the episode's success where it is known.
        criterion: by what success is judged; None where it is not asked for.
        shortest: seconds of the shortest subtask.
        duration: seconds of the whole episode.
        before: what earlier windows were divided into.
    """

    window: Window
    goal: str
    names: tuple[str, ...]
    known: tuple[str, ...]
    success: bool | None
    criterion: str | None
    shortest: float
    duration: float
    before: tuple[Span, ...] = ()


def opening(question: Question, sheets: int, interval: float, cameras: int) -> str:
    """What comes before the pictures: how to read them."""
    w = question.window
    views = f" from {cameras} cameras, one after the other" if cameras > 1 else ""
    part = "" if w.count == 1 else f" Shown here is part {w.number + 1} of {w.count}: {w.start:.2f} s to {w.end:.2f} s."
    goal = f' The operator\'s task was: "{question.goal.rstrip(".")}".' if question.goal else ""
    return (
        f"A robot was recorded for {question.duration:.2f} s while a person operated it.{goal}{part}\n"
        f"You see {sheets} contact sheet{'s' if sheets > 1 else ''}{views}: each is a grid of frames, to be read row "
        f"by row from left to right. The time since the start of the recording, in seconds, stands in the upper left "
        f"corner of each frame; frames are about {interval:.2f} s apart. The sheets continue one another: that a new "
        "sheet begins means nothing."
    )


def describe(question: Question) -> str:
    """The first question: what is seen, in words."""
    w = question.window
    return (
        f"Describe in the order of time what the robot does between {w.start:.2f} s and {w.end:.2f} s. Give the "
        "times, read from the frames, at which something changes: the hand starts towards an object, fingers close "
        "on it, it leaves its place, it arrives, fingers let go, a lid or door moves. Say so where an attempt fails "
        "and is made again, and where the robot waits. Report only what the frames show: the task says what was "
        "wanted, not what happened. Plain sentences, at most 200 words."
    )


def segment(question: Question, description: str | None) -> str:
    """The second question: the recording divided into subtasks, as JSON."""
    w = question.window
    lines = []
    if description is not None:
        lines += [f"This is how you described these frames:\n{description}\n"]
    if question.before:
        told = "; ".join(f"{name} from {a:.2f} s to {b:.2f} s" for name, a, b, _ in question.before)
        lines += [f"Before that, the recording was divided into: {told}.\n"]
    if question.success is not None:
        lines += [f"It is known that the robot {'succeeded' if question.success else 'failed'} in the end.\n"]
    lines += [f"Divide {w.start:.2f} s to {w.end:.2f} s into subtasks, in the order of time."]
    lines += _vocabulary(question)
    least = min(question.shortest, w.end - w.start)
    lines += [
        f"- The first starts at {w.start:.2f}, each starts where the one before it ends, the last ends at "
        f"{w.end:.2f}. Waiting belongs to the subtask that it interrupts.",
        "- A boundary is where the state of the world changes: fingers have closed, an object leaves its place or "
        "has arrived, fingers have let go. Read its time from the frames, and compare with the frame before.",
        f"- None is shorter than {least:g} s.",
        '- "done" is true if the subtask reached its aim by its end, false if the attempt failed or was cut off.',
    ]
    if question.criterion is not None:
        lines += [
            f'- "success" is true only if at the end of the recording this holds: {question.criterion}. Where the '
            "frames do not show it, it is false."
        ]
    success = ', "success": true' if question.criterion is not None else ""
    example = f'{{"name": "…", "start": {w.start:.2f}, "end": 0.0, "done": true}}'
    lines += [f'Answer with JSON alone: {{"subtasks": [{example}, …]{success}}}']
    return "\n".join(lines)


def _vocabulary(question: Question) -> list[str]:
    if question.names:
        listed = [f"  {i}. {name}" for i, name in enumerate(question.names, start=1)]
        return [
            "These are the subtasks, in their usual order:",
            *listed,
            "- Use these names and no others, spelled as they are here.",
            "- Say what is seen, not what should be: a subtask may be left out, come again after a failed attempt, "
            "or come at another place in the order.",
        ]
    known = ["- Where one of these names fits, use it: " + "; ".join(question.known) + "."] if question.known else []
    return [
        "- A subtask is one completed change: reach for an object, grasp it, carry it, place it, open or close "
        "something. Small corrections of the hand are none.",
        '- Name it by a verb and its object, as a short order in lower case: "grasp the red cup". Call the same '
        "thing by the same name throughout, and the same action too, also when it comes again.",
        *known,
    ]


def segment_schema(question: Question) -> dict[str, Any]:
    """JSON schema of the answer to :func:`segment`."""
    name: dict[str, Any] = {"type": "string"}
    if question.names:
        name["enum"] = list(question.names)
    fields = {"name": name, "start": {"type": "number"}, "end": {"type": "number"}, "done": {"type": "boolean"}}
    answer: dict[str, Any] = {"subtasks": {"type": "array", "items": _object(fields)}}
    if question.criterion is not None:
        answer["success"] = {"type": "boolean"}
    return _object(answer)


def merge_names(names: Sequence[tuple[str, int]]) -> str:
    """The question that merges names of an open vocabulary: (name, number of uses), most used first."""
    listed = "\n".join(f"- {name} ({uses} times)" for name, uses in names)
    return (
        "Recordings of a robot were divided into subtasks, each recording by itself, so that the same subtask may "
        f"have got different names. These are all names:\n{listed}\n"
        "Say which of them mean the same action on the same object, and by which of the listed names it shall go: "
        "the clearest, or else the most used. Different objects, places or actions are different subtasks. Leave "
        "out names that stay as they are.\n"
        'Answer with JSON alone: {"merge": [{"name": "…", "into": "…"}, …]}, with an empty list if nothing is to be '
        "merged."
    )


def merge_schema(names: Sequence[str]) -> dict[str, Any]:
    """JSON schema of the answer to :func:`merge_names`."""
    name = {"type": "string", "enum": list(names)}
    return _object({"merge": {"type": "array", "items": _object({"name": name, "into": name})}})


def again(reason: str) -> str:
    """What goes back with a refused answer."""
    return f"That answer cannot be used: {reason}. Look at the frames again and give the whole answer anew."


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
