"""JPEGs that go to the encoder without becoming RGB, the encoder's settings, and what runs side by side."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import av
import cv2
import numpy as np
import pytest
import stream_sets as s
from recording_sets import info_json, open_in_lerobot, picture
from recording_sets import shown as in_lerobot

from igrft.errors import EpisodeError, UsageError
from igrft.recordings.convert import convert
from igrft.recordings.statistics import picture_statistics, sampled_rows
from igrft.recordings.streams.cameras import StoppedError, encode_cameras
from igrft.recordings.streams.encode import encode, encoder
from igrft.recordings.streams.episodes import together
from igrft.recordings.streams.frame import Frame, shown
from igrft.recordings.streams.jpeg import Jpeg, JpegDecoder
from igrft.recordings.streams.keep import kind

SAMPLINGS = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("420", "422", "444", "440")}
COLOURS = [
    (0, 0, 0),
    (255, 255, 255),
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (128, 128, 128),
    (9, 60, 200),
]


def jpeg(bgr: np.ndarray, *options: int) -> np.ndarray:
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95, *options])[1].ravel()


def by_opencv(data: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decoded(data: np.ndarray) -> Jpeg:
    found = JpegDecoder()(data)
    assert found is not None
    return found


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.fixture(scope="module")
def real(g1_small: Path) -> list[np.ndarray]:
    """Pictures of a real robot, BGR, 640x480."""
    with av.open(str(sorted(g1_small.rglob("*.mp4"))[0])) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    return [cv2.resize(frame, (640, 480)) for frame in frames[:40]]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_colours_of_a_jpeg(sampling: str) -> None:
    """Even patches, so that only range and colours count: black stays 16, white 235, and nothing is off by a tint."""
    patches = np.zeros((64, 64 * len(COLOURS), 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        patches[:, 64 * number : 64 * (number + 1)] = colour
    data = jpeg(patches[..., ::-1], cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling])
    frame = decoded(data).frame
    assert (frame.format.name, frame.width, frame.height, frame.pict_type) == ("yuv420p", 64 * len(COLOURS), 64, 0)
    luma = np.frombuffer(frame.planes[0], np.uint8).reshape(64, frame.planes[0].line_size)
    assert luma[32, 32] == 16 and luma[32, 96] == 235
    back, expected = frame.to_ndarray(format="rgb24").astype(int), by_opencv(data)
    for number in range(len(COLOURS)):
        inside = np.s_[8:-8, 64 * number + 8 : 64 * (number + 1) - 8]
        assert np.abs(back[inside] - expected[inside]).max() <= 3, COLOURS[number]


@pytest.mark.parametrize("width", [640, 630, 98])
@pytest.mark.parametrize("sampling", [*SAMPLINGS, "progressive"])
def test_a_real_jpeg_is_what_opencv_makes_of_it(real: list[np.ndarray], sampling: str, width: int) -> None:
    """To the rounding of 8 bits, at widths that decoders pad; statistics are of OpenCV's own picture."""
    how = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS.get(sampling, SAMPLINGS["420"]))
    data = jpeg(cv2.resize(real[0], (width, 480)), *how, cv2.IMWRITE_JPEG_PROGRESSIVE, int(sampling == "progressive"))
    found, expected = decoded(data), by_opencv(data)
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.rgb, expected)
    # What OpenCV's picture comes to on the way through yuv420p and back, which halves the resolution of colours.
    through = av.VideoFrame.from_ndarray(expected, format="rgb24").reformat(format="yuv420p")
    back, usual = (frame.to_ndarray(format="rgb24").astype(float) for frame in (found.frame, through))
    assert psnr(back, expected) > psnr(usual, expected) - (0.5 if width > 600 else 2)
    assert np.abs((back - usual).mean((0, 1))).max() < 0.3


def test_what_is_left_to_opencv(real: list[np.ndarray]) -> None:
    """Gray, an orientation to follow, damage, other files."""
    good = jpeg(real[0])
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned = np.frombuffer(
        good[:2].tobytes() + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + good[2:].tobytes(), np.uint8
    )
    assert by_opencv(turned).shape == (640, 480, 3)
    decoder = JpegDecoder()
    for data in (jpeg(real[0][:, :, 0]), turned, good[:5000], good[:10], np.zeros(0, np.uint8)):
        assert decoder(data) is None
    assert decoder(cv2.imencode(".png", real[0])[1].ravel()) is None
    assert decoder(good) is not None
    broken = good.copy()
    broken[2000:2200] = 0
    found = decoder(broken)
    with pytest.raises(EpisodeError, match="damaged JPEG"):
        _ = Jpeg(found.frame if found else None, good[:5000]).rgb


@pytest.mark.parametrize("sampling", ["420", "422"])
def test_a_video_of_jpegs_is_as_good_as_one_of_rgb(tmp_path: Path, real: list[np.ndarray], sampling: str) -> None:
    """Same layout, statistics, key frames and, to a fifth of a decibel, the same distance from what was recorded."""
    files = [jpeg(p, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]) for p in real]
    expected = [by_opencv(data) for data in files]
    found = {}
    for name, pictures in (("jpeg", [decoded(data) for data in files]), ("rgb", expected)):
        path = tmp_path / f"{name}.mp4"
        made = encode(path, pictures, len(real), 30, encoder(), 1)
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
            assert [i for i, frame in enumerate(frames) if frame.key_frame] == [0, 10, 20, 30]
            assert [frame.time for frame in frames] == pytest.approx([i / 30 for i in range(len(real))], abs=1e-4)
        quality = np.mean([psnr(f.to_ndarray(format="rgb24"), e) for f, e in zip(frames, expected, strict=True)])
        found[name] = (made, kind(path), quality, path.stat().st_size)
    (one, one_kind, one_quality, one_size), (two, two_kind, two_quality, two_size) = found["jpeg"], found["rgb"]
    assert one_kind == two_kind and (one.height, one.width) == (480, 640)
    assert one_quality > two_quality - 0.2 and one_quality > 35
    assert one_size < 1.05 * two_size
    wanted = picture_statistics(expected[i] for i in sampled_rows(len(real)))
    for name, value in wanted.items():
        np.testing.assert_array_equal(one.statistics[name], value)
        np.testing.assert_array_equal(two.statistics[name], value)


def test_frames_of_a_video_go_on_as_they_are(tmp_path: Path, real: list[np.ndarray]) -> None:
    """Unless they are of other colours than the encoder's; nothing of the first video's key pictures remains."""
    plain = av.VideoFrame.from_ndarray(real[0], format="bgr24").reformat(format="yuv420p")
    same = shown(plain)
    assert isinstance(same, Frame) and same.frame is plain and same.shape == (480, 640, 3)
    np.testing.assert_array_equal(same.rgb, plain.to_ndarray(format="rgb24"))
    for form, colours, span in (("yuv444p", 2, 1), ("yuvj420p", 2, 2), ("yuv420p", 2, 2), ("yuv420p", 1, 1)):
        other = av.VideoFrame.from_ndarray(real[0], format="bgr24").reformat(format=form)
        other.colorspace, other.color_range = colours, span
        assert isinstance(shown(other), np.ndarray), (form, colours, span)
    source = tmp_path / "source.mp4"
    encode(source, [picture[..., ::-1] for picture in real], len(real), 30, encoder(), 1)
    found = {}
    for name in ("frames", "rgb"):
        with av.open(str(source)) as container:
            decoded = container.decode(video=0)
            given = [shown(f) if name == "frames" else f.to_ndarray(format="rgb24") for f in decoded]
        assert all(isinstance(picture, Frame) for picture in given) == (name == "frames")
        made = encode(tmp_path / f"{name}.mp4", given, len(real), 30, encoder(), 1)
        with av.open(str(tmp_path / f"{name}.mp4")) as container:
            frames = list(container.decode(video=0))
        assert [i for i, frame in enumerate(frames) if frame.key_frame] == [0, 10, 20, 30]
        expected = [picture.rgb if isinstance(picture, Frame) else picture for picture in given]
        quality = np.mean([psnr(f.to_ndarray(format="rgb24"), e) for f, e in zip(frames, expected, strict=True)])
        found[name] = (quality, kind(tmp_path / f"{name}.mp4"), made.statistics)
    assert found["frames"][0] > found["rgb"][0] - 0.1 and found["frames"][1] == found["rgb"][1]
    for name, value in found["rgb"][2].items():
        np.testing.assert_array_equal(found["frames"][2][name], value)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_settings_are_lerobots(codec: str) -> None:
    for settings in (encoder(codec), encoder(codec, 40, "8" if codec == "av1" else "slow")):
        theirs = settings.for_lerobot()
        assert (theirs.vcodec, theirs.pix_fmt, theirs.g) == (settings.vcodec, "yuv420p", 10)
        for threads in (1, 3):
            assert settings.options(threads) == theirs.get_codec_options(threads, as_strings=True)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--codec vp9 is unknown \(known: h264, hevc, av1\)"):
        encoder("vp9")
    with pytest.raises(UsageError, match="--crf 52: the quality of h264 is from 0, the best, to 51"):
        encoder(crf=52)
    with pytest.raises(UsageError, match="h264 cannot encode 64x48 with --preset fastest"):
        encode(tmp_path / "a.mp4", [picture(0, 0)], 1, 10, encoder(preset="fastest"), 1)
    with pytest.raises(UsageError, match="does not choose its encoder; leave out --codec"):
        (tmp_path / "v21/meta").mkdir(parents=True)
        (tmp_path / "v21/meta/info.json").write_text('{"codebase_version": "v2.1"}')
        convert(tmp_path / "v21", tmp_path / "out", codec="av1", progress=False)


def test_another_codec(tmp_path: Path) -> None:
    """What is noted in the dataset is what was asked for, and a changed quality is encoded anew."""
    (tmp_path / "m.yaml").write_text(s.MAPPING)
    source = s.write_mcap(tmp_path / "a.mcap", s.messages())
    how: dict[str, Any] = {"mapping": tmp_path / "m.yaml", "task": s.TASK, "progress": False, "codec": "av1"}
    convert(source, tmp_path / "out", **how, crf=20)
    told = info_json(tmp_path / "out")["features"][s.HEAD]["info"]
    assert (told["video.codec"], told["video.crf"], told["video.preset"], told["video.g"]) == ("av1", 20, 12, 10)
    item = open_in_lerobot(tmp_path / "out")[9]
    assert np.abs(in_lerobot(item, s.HEAD).astype(int) - picture(0, 9))[4:-4:8, 16:].max() < 20
    convert(source, tmp_path / "small", **how, crf=60)
    size = {name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.mp4")) for name in ("out", "small")}
    assert size["small"] < size["out"]


def test_as_many_recordings_as_keep_the_cores_busy() -> None:
    """(recordings at a time, threads of each encoder) of (recordings, cameras, cores)."""
    assert together(100, 3, 2) == (2, 1)
    assert together(1, 3, 2) == (1, 1)
    assert together(1, 1, 8) == (1, 8)
    assert together(100, 0, 2) == (3, 1)
    assert together(100, 3, 16) == (5, 1)
    assert together(2, 2, 32) == (2, 8)
    assert together(100, 40, 64) == (1, 1)
    assert together(100, 1, 64) == (16, 4)


def test_a_run_that_is_stopped_leaves_no_reason() -> None:
    """It raises what is no reason to set an episode aside, and closes what it read."""
    closed = []

    class Endless:
        times, late, encoded = np.arange(1000) / 10, 0, None

        def read(self, indices: Any) -> Any:
            try:
                while True:
                    yield picture(0, 0)
            finally:
                closed.append(True)

    stop = Event()
    stop.set()
    cameras: Any = {"a": (Endless(), np.arange(1000)), "b": (Endless(), np.arange(1000))}
    with pytest.raises(StoppedError):
        encode_cameras(Path("/nowhere"), cameras, 10, frozenset(), encoder(), 1, stop)
