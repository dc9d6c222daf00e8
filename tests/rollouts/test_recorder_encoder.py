"""Every picture is encoded, in order, however late the encoder is; what goes wrong is told."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from igrft.errors import IgrftError, UsageError
from igrft.recordings.statistics import picture_statistics
from igrft.recordings.video_facts import frame_times
from igrft.rollouts import encoder as module
from igrft.rollouts.encoder import EpisodeEncoder, encoder_settings

KEY = "observation.images.front"


def _grey(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, dtype=np.uint8)


def _decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.mark.parametrize("fields", [None, {"vcodec": "h264", "preset": "medium", "crf": 18, "g": 12}])
def test_every_picture_comes_out_in_order(tmp_path: Path, fields: dict | None) -> None:
    path = tmp_path / "a.mp4"
    encoder = EpisodeEncoder({KEY: path}, 30, encoder_settings(fields))
    values = [20 + 7 * i % 200 for i in range(500)]
    picture = _grey(0)
    for value in values:
        picture[:] = value  # the caller uses its buffer again
        encoder.add(KEY, picture)
    found = encoder.finish()[KEY]
    assert len(frame_times(path)) == 500
    np.testing.assert_allclose(_decoded(path).mean(axis=(1, 2, 3)), values, atol=3)
    expected = picture_statistics(_grey(v) for v in values)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="Linux alone tells")
def test_no_thread_gets_real_time_priority(tmp_path: Path) -> None:
    """SVT-AV1 gives it to its caller and to itself where it is opened by root."""

    def policies() -> set[int]:
        found = set()
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                found.add(os.sched_getscheduler(int(task.name)))
        return found

    encoder = EpisodeEncoder({KEY: tmp_path / "a.mp4"}, 30, encoder_settings({"vcodec": "libsvtav1", "preset": 12}))
    for value in range(40):
        encoder.add(KEY, _grey(value))
    while encoder._cameras[KEY]._waiting.qsize():  # the encoder is open, and at work
        time.sleep(0.01)
    seen = policies()
    encoder.finish()
    assert seen == {os.SCHED_OTHER}
    assert len(frame_times(tmp_path / "a.mp4")) == 40


def test_a_slow_encoder_makes_the_caller_wait_and_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a few pictures wait: memory does not grow with what the encoder is behind."""
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * _grey(0).nbytes)
    gate = threading.Event()
    original = module.picture_statistics

    def late(pictures):
        def held():
            for picture in pictures:
                gate.wait(60)
                yield picture

        return original(held())

    monkeypatch.setattr(module, "picture_statistics", late)
    encoder = EpisodeEncoder({KEY: tmp_path / "a.mp4"}, 30, encoder_settings(None))
    added = []

    def feed() -> None:
        for i in range(40):
            encoder.add(KEY, _grey(i))
            added.append(i)

    thread = threading.Thread(target=feed)
    thread.start()
    time.sleep(0.5)
    # Four may wait for room that the first, which the encoder holds, gives back.
    assert len(added) <= 5 and thread.is_alive()
    gate.set()
    thread.join(60)
    encoder.finish()
    assert len(frame_times(tmp_path / "a.mp4")) == 40


def test_cancelled_it_leaves_nothing(tmp_path: Path) -> None:
    encoder = EpisodeEncoder({KEY: tmp_path / "a.mp4", "other": tmp_path / "b.mp4"}, 30, encoder_settings(None))
    for i in range(20):
        encoder.add(KEY, _grey(i))
    encoder.cancel()
    assert list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("encode ")]


def test_a_failure_is_told_at_the_next_picture(tmp_path: Path) -> None:
    encoder = EpisodeEncoder({KEY: tmp_path / "no" / "such" / "a.mp4"}, 30, encoder_settings(None))
    with pytest.raises(IgrftError, match=f"pictures of {KEY} could not be encoded") as error:
        for i in range(100):
            encoder.add(KEY, _grey(i))
            time.sleep(0.02)
    assert "\n" not in str(error.value)
    with pytest.raises(IgrftError, match="could not be encoded"):
        encoder.finish()
    encoder.cancel()


def test_settings_that_no_encoder_has() -> None:
    for fields in ({"vcodec": "mpeg1"}, {"speed": 3}, {"vcodec": "h264", "pix_fmt": "rgb999"}):
        with pytest.raises(UsageError, match="video encoder's settings") as error:
            encoder_settings(fields)
        assert "\n" not in str(error.value)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = EpisodeEncoder({KEY: tmp_path / "a.mp4"}, 30, encoder_settings(None))
    encoder.add(KEY, _grey(1))
    encoder.finish()
    out, err = capfd.readouterr()
    assert out == err == ""
