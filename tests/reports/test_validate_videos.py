"""Damage to videos: each kind is found, and nothing else is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import INFO, TABLE, Damage, edit_table, in_json, in_table, messages, put, remove, truncate
from labelled_set import CAMERA, encode

from igrft.reports.validate import validate

MP4 = f"videos/{CAMERA}/chunk-000/file-%03d.mp4"


def repaint(number: int, frames: int, shade: int) -> Damage:
    def damage(root: Path) -> None:
        rng = np.random.default_rng(0)
        pictures = [np.full((48, 64, 3), shade, dtype=np.uint8) for _ in range(frames)]
        if shade:
            pictures = [p + rng.integers(0, 50, p.shape, dtype=np.uint8) for p in pictures]
        encode(root / (MP4 % number), pictures)

    return damage


def scribble(root: Path) -> None:
    """Noise over the middle of the first file: the header stays whole, some frames do not."""
    path = root / (MP4 % 0)
    data = bytearray(path.read_bytes())
    at = data.find(b"mdat") + 1600
    data[at : at + 100] = np.random.default_rng(0).bytes(100)
    path.write_bytes(bytes(data))


VIDEOS: dict[str, tuple[Damage, list[int], str]] = {
    "missing": (remove(MP4 % 1), [3], "file-001.mp4 is missing"),
    "truncated": (truncate(MP4 % 1), [3], "file-001.mp4 cannot be read"),
    "too short": (repaint(1, 45, 100), [3], "shows nothing at 4.5000 s, the time of frame 45 (5 of 50 frames"),
    "damaged": (scribble, [0], "of its 40 frames do not decode"),
    "codec": (
        in_json(INFO, lambda i: i["features"][CAMERA]["info"].update({"video.codec": "av1"})),
        [-1],
        "it is h264, but video.codec says 'av1'",
    ),
    "size": (
        in_json(INFO, lambda i: i["features"][CAMERA].update(shape=[480, 640, 3])),
        [-1],
        "it is 64x48, but the shape declared is [480, 640, 3]",
    ),
    "window": (
        in_table(TABLE, lambda t: put(t, f"videos/{CAMERA}/to_timestamp", 3, 9.0)),
        [3],
        "holds 90 frames, not 50",
    ),
    "no window": (in_table(TABLE, lambda t: put(t, f"videos/{CAMERA}/chunk_index", 3, None)), [3], "no video of"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_damaged_videos(name: str, labelled: Path) -> None:
    damage, episodes, text = VIDEOS[name]
    damage(labelled)
    found = validate(labelled)
    assert {f.check for f in found.errors} == {"videos"}, messages(found)
    assert [-1 if f.episode is None else f.episode for f in found.errors] == episodes
    assert text in messages(found)


def test_a_video_too_short_is_found_without_decoding(labelled: Path) -> None:
    repaint(1, 45, 100)(labelled)
    assert "5 of 50 frames" in messages(validate(labelled, videos=False))


def test_a_missing_video_of_an_episode_set_aside_is_a_warning(labelled: Path) -> None:
    edit_table(labelled / TABLE, lambda t: put(t, f"videos/{CAMERA}/chunk_index", 2, None))
    assert validate(labelled).ok


def test_frames_of_no_episode_are_a_warning(labelled: Path) -> None:
    repaint(1, 55, 100)(labelled)
    found = validate(labelled)
    assert found.ok
    assert "file-001.mp4 has 55 frames, but its episodes have 50" in messages(found, "warning")


def test_a_black_camera_is_a_warning(labelled: Path) -> None:
    repaint(1, 50, 0)(labelled)
    found = validate(labelled)
    assert found.ok
    assert [(f.check, f.episode) for f in found.warnings] == [("set aside", 2), ("black", 3)]
    repaint(0, 95, 0)(labelled)
    assert "is black in all 4 episodes" in messages(validate(labelled, videos=False), "warning")
