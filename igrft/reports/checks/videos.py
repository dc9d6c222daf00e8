"""Videos: there, as declared, a frame for every row, decodable, and not black."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from igrft.dataset.files import INFO
from igrft.errors import EpisodeError, IgrftError
from igrft.recordings.video_facts import TOLERANCE_S, frame_times, video_facts
from igrft.remote.mirror import here, is_there
from igrft.reports.checks.decode import Damage, Shown, decode_all, decode_at
from igrft.reports.checks.findings import Context

#: An episode is black where no pixel is brighter than this, of 255.
BLACK = 12
#: Without decoding every frame, so many episodes of a file have their middle frame decoded.
SAMPLES = 5
#: Encoders and containers name a codec in their own ways.
_CODECS = {
    "libsvtav1": "av1",
    "libaom-av1": "av1",
    "libdav1d": "av1",
    "av01": "av1",
    "libx264": "h264",
    "h264_nvenc": "h264",
    "avc": "h264",
    "avc1": "h264",
    "libx265": "hevc",
    "hevc_nvenc": "hevc",
    "h265": "hevc",
    "hvc1": "hevc",
    "mp4v": "mpeg4",
}


@dataclass(frozen=True)
class Held:
    """An episode's share of a video file: table row, index, frames, first second."""

    row: int
    episode: int
    length: int
    start: float


def check_videos(context: Context, *, decode: bool, advance: Callable[[int, int], None]) -> None:
    """Check every camera that is held in mp4 files.

    Args:
        decode: decode every frame once; else only a few, and count packets.
        advance: called with (episodes, frames) as they are done.
    """
    brightest: dict[str, dict[int, float]] = {}
    for camera in context.dataset.video_keys:
        brightest[camera] = {}
        declared: set[str] = set()
        for path, held in _files(context, camera).items():
            brightest[camera] |= _file(context, camera, path, held, decode, declared)
            advance(len(held), sum(h.length for h in held))
    for camera, found in brightest.items():
        report_black(context, camera, found)


def _files(context: Context, camera: str) -> dict[Path, list[Held]]:
    """Episodes by video file, in order of time."""
    files: dict[Path, list[Held]] = {}
    dataset = context.dataset
    for row in range(dataset.num_episodes):
        episode, length = int(dataset.episode_indices[row]), int(dataset.lengths[row])
        try:
            window = dataset.video(row, camera)
        except EpisodeError as error:
            _say(context, [episode], str(error).partition(": ")[2] + "; restore it from the source")
            continue
        except IgrftError as error:
            context.error("videos", str(error))
            return {}
        if abs((window.end - window.start) * dataset.fps - length) > 0.5:
            _say(
                context,
                [episode],
                f"{camera}: its window from {window.start:.3f} to {window.end:.3f} s holds "
                f"{round((window.end - window.start) * dataset.fps)} frames, not {length}; restore the episodes' table",
            )
        files.setdefault(window.path, []).append(Held(row, episode, length, window.start))
    return {path: sorted(held, key=lambda h: h.start) for path, held in sorted(files.items())}


def _say(context: Context, episodes: list[int], message: str) -> None:
    """An error at the first episode that has labels; a warning where all of them are set aside."""
    counted = [e for e in episodes if e not in context.aside]
    if len(episodes) > 1:
        message += f" (episodes {episodes[0]} to {episodes[-1]})"
    if counted:
        context.error("videos", message, counted[0])
    elif episodes:
        context.warn("videos", message, episodes[0])


def _file(
    context: Context, camera: str, path: Path, held: list[Held], decode: bool, declared: set[str]
) -> dict[int, float]:
    """Check one file; return the greatest brightness by episode, of those looked at."""
    name = path.relative_to(context.dataset.root)
    everyone = [h.episode for h in held]
    if not is_there(path):
        _say(context, everyone, f"{name} is missing; restore it from the source")
        return {}
    try:
        facts = video_facts(here(path))
        times = frame_times(path)
    except EpisodeError as error:
        _say(context, everyone, f"{error}; restore {name} from the source")
        return {}
    for problem in declaration_problems(context.dataset.features[camera], facts):
        if problem not in declared:
            declared.add(problem)
            context.error("videos", f"{name}: {problem}; correct {INFO}")
    covered = _windows(context, camera, name, held, times)
    rows = sum(h.length for h in held)
    if covered and len(times) != rows:
        context.warn(
            "videos", f"{name} has {len(times)} frames, but its episodes have {rows}; the rest belongs to none"
        )
    spans = {h.episode: _span(h, times, context.dataset.fps) for h in held}
    if decode:
        shown, damage = decode_all(path)
        _undecoded(context, name, spans, times, shown, damage)
    else:
        chosen = [held[i] for i in np.unique(np.linspace(0, len(held) - 1, SAMPLES).astype(int))]
        shown, damage = decode_at(path, [h.start + (h.length // 2) / context.dataset.fps for h in chosen])
        for h in chosen:
            reason = next((r for t, r in damage if spans[h.episode][0] <= t < spans[h.episode][1]), None)
            if reason is not None:
                _say(
                    context, [h.episode], f"{name} does not decode at its middle ({reason}); restore it from the source"
                )
    return _brightest(shown, spans)


def _brightest(shown: Shown, spans: dict[int, tuple[float, float]]) -> dict[int, float]:
    """The greatest brightness within each episode's span of seconds; ``shown`` is in order of time."""
    if not shown:
        return {}
    times, light = np.array(shown).T
    found: dict[int, float] = {}
    for episode, (start, end) in spans.items():
        first, last = np.searchsorted(times, (start - TOLERANCE_S, end - TOLERANCE_S))
        if last > first:
            found[episode] = float(light[first:last].max())
    return found


def declaration_problems(feature: dict[str, Any], facts: Any) -> list[str]:
    """How meta/info.json misdescribes a file; a wrong codec misleads whoever picks a decoder by it, or joins files."""
    info = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    found = []
    said = info.get("video.codec", info.get("codec"))
    if said is not None and _CODECS.get(str(said).lower(), str(said).lower()) != facts.codec:
        found.append(f"it is {facts.codec}, but video.codec says {said!r}")
    shape, names = list(feature.get("shape") or []), [str(n) for n in feature.get("names") or []]
    if len(shape) == 3:
        height, width = (shape[1], shape[2]) if names[:1] in (["channel"], ["channels"]) else (shape[0], shape[1])
        if (int(width), int(height)) != (facts.width, facts.height):
            found.append(f"it is {facts.width}x{facts.height}, but the shape declared is {list(shape)}")
    return found


def _span(held: Held, times: np.ndarray, fps: float) -> tuple[float, float]:
    return held.start, held.start + held.length / fps


def _windows(context: Context, camera: str, name: Path, held: list[Held], times: np.ndarray) -> bool:
    """Every row has a frame shown at its time, to LeRobot's tolerance. Returns whether all have."""
    fps = context.dataset.fps
    covered = True
    for h in held:
        wanted = h.start + np.arange(h.length) / fps
        if not len(times):
            off = np.full(h.length, np.inf)
        else:
            right = np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)
            off = np.minimum(np.abs(times[right] - wanted), np.abs(times[np.maximum(right - 1, 0)] - wanted))
        wrong = off > TOLERANCE_S
        if not wrong.any():
            continue
        covered = False
        frame = int(np.argmax(wrong))
        count = int(wrong.sum())
        _say(
            context,
            [h.episode],
            f"{name} shows nothing at {wanted[frame]:.4f} s, the time of frame {frame} ({count} of {h.length} frames; "
            f"the nearest of the file's {len(times)} is {_milliseconds(off[frame])} off); restore it from the source",
        )
    return covered


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _undecoded(
    context: Context, name: Path, spans: dict[int, tuple[float, float]], times: np.ndarray, shown: Shown, damage: Damage
) -> None:
    """Say which episodes have frames that the file lists and that do not decode, or only with damage."""
    decoded = np.array([t for t, _ in shown])
    for episode, span in spans.items():
        listed, good = (np.diff(np.searchsorted(t, np.array(span) - TOLERANCE_S))[0] for t in (times, decoded))
        reasons = [(t, r) for t, r in damage if span[0] - TOLERANCE_S <= t < span[1] - TOLERANCE_S]
        if good < listed or reasons:
            at, reason = reasons[0] if reasons else (damage[0] if damage else (span[0], "the stream ends early"))
            _say(
                context,
                [episode],
                f"{name}: {listed - good} of its {listed} frames do not decode ({reason} at {at:.2f} s of the file); "
                "restore it from the source",
            )


def report_black(context: Context, camera: str, brightest: dict[int, float]) -> None:
    """Warn of episodes whose brightest pixel (0 to 255, by ``episode_index``) is black."""
    dark = sorted(e for e, light in brightest.items() if light <= BLACK)
    if dark and len(dark) == len(brightest) and len(dark) > 1:
        context.warn(
            "black", f"{camera} is black in all {len(dark)} episodes looked at; drop the camera or record again"
        )
        return
    for episode in dark:
        context.warn("black", f"{camera} is black throughout; check the camera, or leave the episode out", episode)
