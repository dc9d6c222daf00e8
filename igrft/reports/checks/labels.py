"""Label columns against each other: rewards, returns, interaction, done and success, what is unset."""

from __future__ import annotations

from functools import partial

import numpy as np

from igrft import columns as c
from igrft.reports.checks.findings import Context
from igrft.reports.checks.part import Part
from igrft.rewards.hybrid import subtask_rewards

#: float32 rounds a number near 1 by 6e-8; three of them meet in each sum that is checked.
_ROUNDING = 1e-6
#: Reference pixels of a picture: interaction counts are scaled to 640x480.
_REFERENCE_PIXELS = 640 * 480
_AGAIN = "label the episode again"


def check_labels(context: Context, part: Part) -> None:
    """All checks of this module on some episodes."""
    aside = np.array([int(e) in context.aside for e in part.episodes], dtype=bool)
    labelled = part.spread(~aside)
    _unset(context, part, ~labelled)
    _rewards(context, part, labelled)
    _returns(context, part, labelled)
    _interaction(context, part, labelled)
    _facts(context, part, labelled)


def _report(context: Context, part: Part, mask: np.ndarray, check: str, text: str, *columns: str) -> None:
    """One error per episode with a true frame; ``text`` may name columns' values as {0}, {1} …, and {frame}."""
    for e, at, frame, count in part.bad(mask):
        values = [part.values(n)[at] for n in columns]
        context.error(
            check, f"{text.format(*values, frame=frame)} ({count} such frames); {_AGAIN}", int(part.episodes[e])
        )


def _unset(context: Context, part: Part, unlabelled: np.ndarray) -> None:
    """An episode set aside holds no labels."""
    if not unlabelled.any():
        return
    for name, column in c.LABELS.items():
        if name not in part or not context.made(name) or name == c.INTERVENTION:
            continue
        if name == c.LANGUAGE_PERSISTENT:
            continue  # with the segments
        values = part.values(name)
        is_set = ~np.isnan(values.astype(np.float64)) if column.dtype == "float32" else values != column.unset
        _report(
            context,
            part,
            is_set & unlabelled,
            "set aside",
            f"was set aside, but {name} is {{0}} at frame {{frame}}",
            name,
        )


def _rewards(context: Context, part: Part, labelled: np.ndarray) -> None:
    settings = context.step("rewards")
    if settings is None:
        return
    report = partial(_report, context, part)
    success = np.array([bool(context.entry(int(e)).get("success")) for e in part.episodes])
    if c.REWARD_TRAJECTORY in part and context.made(c.REWARD_TRAJECTORY):
        paid = part.spread(np.where(success, 1.0 / part.lengths, 0.0))
        wrong = np.abs(part.floats(c.REWARD_TRAJECTORY) - paid) > _ROUNDING * np.maximum(paid, 1e-3)
        text = "reward_trajectory is {0:.6g} at frame {frame}, which is not 1/T on a success and 0 otherwise"
        report(wrong & labelled, "rewards", text, c.REWARD_TRAJECTORY)
    if c.REWARD_SUBTASK in part and context.made(c.REWARD_SUBTASK):
        _subtask_rewards(context, part, labelled, settings)
    needed = (c.REWARD, c.REWARD_TRAJECTORY, c.REWARD_SUBTASK)
    if part.has(*needed) and all(context.made(n) for n in needed):
        w_traj, w_sub = float(settings.get("trajectory_weight", 0.4)), float(settings.get("subtask_weight", 0.6))
        total = w_traj * part.floats(c.REWARD_TRAJECTORY) + w_sub * part.floats(c.REWARD_SUBTASK)
        wrong = np.abs(part.floats(c.REWARD) - total) > _ROUNDING * max(1.0, w_traj + w_sub)
        text = (
            f"reward is {{0:.6g}} at frame {{frame}}, not {w_traj:g}·reward_trajectory + {w_sub:g}·reward_subtask "
            "({1:.6g} and {2:.6g})"
        )
        report(wrong & labelled, "rewards", text, *needed)


def _subtask_rewards(context: Context, part: Part, labelled: np.ndarray, settings: dict) -> None:
    """reward_subtask pays what the recorded segments earn, when they earn it (Eq. 5, 6)."""
    values = part.floats(c.REWARD_SUBTASK)
    sums = part.sum(np.where(labelled, values, 0.0))
    for e, (start, length) in enumerate(zip(part.starts.tolist(), part.lengths.tolist(), strict=True)):
        episode = int(part.episodes[e])
        segments = context.entry(episode).get("subtasks")
        if not segments or episode in context.aside or any("weight" not in s for s in segments):
            continue
        due = sum(s["weight"] for s in segments if s["done"])
        if abs(sums[e] - due) > 1e-5 + 1e-8 * length:
            context.error(
                "rewards",
                f"reward_subtask adds up to {sums[e]:.6g}, but the subtasks that are done weigh {due:.6g}; {_AGAIN}",
                episode,
            )
            continue
        expected = subtask_rewards(
            length,
            [s["end"] for s in segments],
            [s["weight"] for s in segments],
            [s["done"] for s in segments],
            sharpness=float(settings.get("sharpness", 0.02)),
            normalise=settings.get("normalise", "joint"),
        )
        off = np.abs(values[start : start + length] - expected)
        frame = int(np.argmax(np.nan_to_num(off)))
        if off[frame] > _ROUNDING:
            context.error(
                "rewards",
                f"reward_subtask is {values[start + frame]:.6g} at frame {frame}, but the recorded subtasks pay "
                f"{expected[frame]:.6g} there; {_AGAIN}",
                episode,
            )


def _returns(context: Context, part: Part, labelled: np.ndarray) -> None:
    """G(f) = r(f) + discount · G(f+1), and G = r on the last frame."""
    discount = float((context.step("returns") or {}).get("discount", 1.0))
    for name, source in (
        (c.RETURN_TRAJECTORY, c.REWARD_TRAJECTORY),
        (c.RETURN_SUBTASK, c.REWARD_SUBTASK),
        (c.RETURN, c.REWARD),
    ):
        if not part.has(name, source) or not context.made(name):
            continue
        total, reward = part.floats(name), part.floats(source)
        ahead = np.where(part.last, 0.0, np.append(total[1:], 0.0))
        wrong = np.abs(total - reward - discount * ahead) > _ROUNDING * np.maximum(1.0, np.abs(total))
        sums = "sum" if discount == 1 else f"sum discounted by {discount:g}"
        text = f"{name} is {{0:.6g}} at frame {{frame}}, which is not the {sums} of {source} from there on"
        _report(context, part, wrong & labelled, "returns", text, name)


def _interaction(context: Context, part: Part, labelled: np.ndarray) -> None:
    if c.INTERACTION_PIXELS in part and context.made(c.INTERACTION_PIXELS):
        pixels = part.floats(c.INTERACTION_PIXELS)
        wrong = (pixels < 0) | (pixels > _REFERENCE_PIXELS)
        text = f"interaction_pixels is {{0:g}} at frame {{frame}}, outside 0 … {_REFERENCE_PIXELS} (640x480)"
        _report(context, part, wrong & labelled, "interaction", text, c.INTERACTION_PIXELS)
    settings = context.step("interaction") or {}
    threshold = settings.get("pixel_threshold")
    names = (c.INTERACTION, c.INTERACTION_PIXELS)
    if threshold is None or smooths(settings) or not part.has(*names) or not all(context.made(n) for n in names):
        return
    wrong = part.values(c.INTERACTION).astype(bool) != (part.floats(c.INTERACTION_PIXELS) > float(threshold))
    text = f"interaction is {{0}} at frame {{frame}} with {{1:g}} pixels, against the threshold of {float(threshold):g}"
    _report(context, part, wrong & labelled, "interaction", text, *names)


def smooths(settings: dict) -> bool:
    """Whether an interaction step's settings drop short phases or close gaps."""
    return any(float(settings.get(k) or 0) > 0 for k in ("shortest_phase", "close_gaps"))


def _facts(context: Context, part: Part, labelled: np.ndarray) -> None:
    """next.done on the last frame alone; next.success as the record says."""
    for name in (c.DONE, c.SUCCESS):
        if name not in part:
            continue
        ours = context.made(name)
        values = part.values(name).astype(bool)
        expected = part.last
        if name == c.SUCCESS:
            told = [context.entry(int(e)).get("success") for e in part.episodes]
            known = part.spread(np.array([t is not None for t in told], dtype=bool))
            success = np.array([bool(t) for t in told], dtype=bool)
            expected = part.last & part.spread(success)
            if not ours:
                # A recording may mark more frames than the last; only whether any is marked can contradict.
                wrong_episode = (part.count(values) > 0) != success
                expected = np.where(part.last & part.spread(wrong_episode), ~values, values)
            expected = np.where(known, expected, values)
        for e, _, frame, count in part.bad((values != expected) & labelled):
            _say_fact(context, part, name, ours, e, frame, count)


def _say_fact(context: Context, part: Part, name: str, ours: bool, e: int, frame: int, count: int) -> None:
    episode = int(part.episodes[e])
    if name == c.DONE:
        message = f"{name} is not true on the last frame alone (frame {frame}, {count} such frames)"
    else:
        word = "a success" if context.entry(episode).get("success") else "no success"
        message = f"{name} contradicts meta/igrft.json, which records {word} (frame {frame}, {count} such frames)"
    from_source = name == c.DONE or context.entry(episode).get("success_from") == "file"
    if ours:
        context.error("facts", f"{message}; {_AGAIN}", episode)
    elif from_source:
        context.warn("facts", f"{message}; it stands so in the recording", episode)
    else:
        context.error("facts", f"{message}; correct the recording or give its success in a subtask file", episode)
