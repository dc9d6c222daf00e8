"""The reader of video and pictures: the right ones, in order, or an error that says what is wrong."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_sets import CAMERA, encode, picture_set, real_set, texture

from igrft.dataset import decoders, video
from igrft.dataset.reader import DatasetReader
from igrft.dataset.video import episode_frames, frames_at, open_frames, picture_size, probe
from igrft.errors import EpisodeError, IgrftError, UsageError

LENGTHS = (13, 21, 9)


def level(number: int) -> np.ndarray:
    """A flat picture that names itself by its gray level."""
    return np.full((64, 96), 20 + 5 * number, np.uint8)


def numbers(pictures: list[np.ndarray]) -> list[int]:
    return [round((float(np.mean(p)) - 20) / 5) for p in pictures]


def numbered_set(root: Path, **options: object) -> DatasetReader:
    flat = [level(i) for i in range(sum(LENGTHS))]
    bounds = np.concatenate([[0], np.cumsum(LENGTHS)])
    episodes = [flat[a:b] for a, b in pairwise(bounds)]
    return picture_set(root, episodes, **options)  # type: ignore[arg-type]


def torchcodec_loads() -> bool:
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_episodes_that_share_a_file_get_their_own_pictures(tmp_path: Path, codec: str) -> None:
    dataset = numbered_set(tmp_path, codec=codec)
    first = 0
    for row, length in enumerate(LENGTHS):
        for color in ("gray", "rgb"):
            found = list(episode_frames(dataset, row, CAMERA, color=color))  # type: ignore[arg-type]
            assert numbers(found) == list(range(first, first + length))
            assert found[0].shape == ((64, 96) if color == "gray" else (64, 96, 3)) and found[0].dtype == np.uint8
        first += length


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_other_backends_give_the_same_pictures(tmp_path: Path, backend: str) -> None:
    if backend == "torchcodec" and not torchcodec_loads():
        pytest.skip("torchcodec cannot be loaded here")
    dataset = numbered_set(tmp_path, bf="2")
    for row in range(len(LENGTHS)):
        for color in ("gray", "rgb"):
            ours = list(episode_frames(dataset, row, CAMERA, color=color))  # type: ignore[arg-type]
            other = list(episode_frames(dataset, row, CAMERA, color=color, backend=backend))  # type: ignore[arg-type]
            assert len(ours) == len(other)
            assert np.abs(np.stack(ours).astype(int) - np.stack(other)).max() <= 4


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv444p"])
def test_gray_is_what_opencv_makes_of_rgb(tmp_path: Path, pixels: str) -> None:
    picture = np.stack([texture(128, 96, seed=s) for s in range(3)], axis=2)
    path = encode(tmp_path / "a.mp4", [picture] * 3, pixels=pixels)
    (gray,) = open_frames(path, start=0, fps=30, count=1, color="gray")
    (rgb,) = open_frames(path, start=0, fps=30, count=1, color="rgb")
    difference = np.abs(gray.astype(int) - cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    assert difference.mean() < 2
    assert np.quantile(difference, 0.99) < 8


def test_black_and_white_are_0_and_255(tmp_path: Path) -> None:
    picture = np.zeros((64, 64), np.uint8)
    picture[:, 32:] = 255
    path = encode(tmp_path / "a.mp4", [picture], crf="1")
    (gray,) = open_frames(path, start=0, fps=30, count=1, color="gray")
    assert gray[:, :24].max() <= 2 and gray[:, 40:].min() >= 253


def test_seeks_to_the_key_frame_before_the_start(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [level(i % 40) for i in range(200)], g="10", bf="2")
    for first in (0, 7, 10, 95, 151, 199):
        seen = [t for t, _ in zip(decoders.pyav(path, first / 30, 30, None, "gray", 1), range(1), strict=False)]
        assert first - 30 <= seen[0][0] * 30 <= first + 0.01
        found = list(open_frames(path, start=first / 30, fps=30, count=1, color="gray"))
        assert numbers(found) == [first % 40]


def test_size_and_picture_size(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path)
    assert picture_size(dataset, 0, CAMERA) == (96, 64)
    assert next(episode_frames(dataset, 0, CAMERA, size=(48, 32))).shape == (32, 48, 3)
    facts = probe(dataset.video(0, CAMERA).path)
    assert (facts.codec, facts.width, facts.height, facts.fps, facts.frames) == ("h264", 96, 64, 30, sum(LENGTHS))
    assert facts.duration == pytest.approx(sum(LENGTHS) / 30, abs=0.05)


@pytest.mark.parametrize("dtype", ["video", "image"])
def test_frames_at_are_those_of_the_stream(tmp_path: Path, dtype: str) -> None:
    flat = [level(i % 40) for i in range(130)]
    dataset = picture_set(tmp_path, [flat[:10], flat[10:]], dtype=dtype)
    wanted = [119, 0, 3, 3, 60, 61, 59]
    assert numbers(frames_at(dataset, 1, CAMERA, wanted)) == [(10 + i) % 40 for i in wanted]
    with pytest.raises(EpisodeError, match="episode 1 has no frame 120: its frames are 0 to 119"):
        frames_at(dataset, 1, CAMERA, [120])


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_images_in_parquet(tmp_path: Path, color: str) -> None:
    dataset = numbered_set(tmp_path, dtype="image")
    assert numbers(list(episode_frames(dataset, 1, CAMERA, color=color))) == list(range(13, 34))  # type: ignore[arg-type]
    assert picture_size(dataset, 1, CAMERA) == (96, 64)


def test_an_image_that_does_not_decode(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"a picture \(x.png\) does not decode"):
        decoders_image(tmp_path, {"bytes": b"no picture", "path": "x.png"})
    with pytest.raises(EpisodeError, match=r"a picture \(x.png\) is missing"):
        decoders_image(tmp_path, {"bytes": None, "path": "x.png"})


def decoders_image(root: Path, value: dict[str, object]) -> np.ndarray:
    from igrft.dataset.pictures import decode_image

    return decode_image(numbered_set(root), CAMERA, value, None, "gray")


# Bad input.


def test_missing_file(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path)
    path = dataset.video(0, CAMERA).path
    path.unlink()
    for read in (lambda: list(episode_frames(dataset, 1, CAMERA)), lambda: picture_size(dataset, 1, CAMERA)):
        with pytest.raises(EpisodeError, match=r"^episode 1: .*file-000.mp4 is missing"):
            read()


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_truncated_file(tmp_path: Path, backend: str) -> None:
    if backend == "torchcodec" and not torchcodec_loads():
        pytest.skip("torchcodec cannot be loaded here")
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 96), dtype=np.uint8) for _ in range(60)]
    whole = encode(tmp_path / "whole.mp4", noise).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])  # the index lies at the end
    with pytest.raises(EpisodeError, match=r"cut.mp4 cannot be decoded .* it is damaged or truncated"):
        list(open_frames(cut, start=0, fps=30, count=60, backend=backend))  # type: ignore[arg-type]
    front = encode(tmp_path / "front.mp4", noise, container={"movflags": "faststart"}).read_bytes()
    cut.write_bytes(front[: len(front) // 2])  # the index lies at the front
    with pytest.raises(EpisodeError, match=r"cut.mp4.* (holds \d+ of the 60 pictures|cannot be decoded|damaged)"):
        list(open_frames(cut, start=0, fps=30, count=60, backend=backend))  # type: ignore[arg-type]


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no video at all")
    for read in (lambda: probe(path), lambda: list(open_frames(path, start=0, fps=30, count=1))):
        with pytest.raises(EpisodeError, match=r"a.mp4 cannot be decoded"):
            read()


def test_fewer_pictures_than_wanted_says_how_many(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [level(i) for i in range(20)])
    with pytest.raises(EpisodeError, match="holds 8 of the 10 pictures expected from 0.400 s on"):
        list(open_frames(path, start=12 / 30, fps=30, count=10))
    with pytest.raises(EpisodeError, match="holds 0 of the 3 pictures"):
        list(open_frames(path, start=2.0, fps=30, count=3))


def test_a_gap_and_a_wrong_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", [level(i) for i in range(20)], skip=(9,))
    with pytest.raises(EpisodeError, match=r"pictures are missing: number 4 of 10 is expected at 0.300 s"):
        list(open_frames(path, start=5 / 30, fps=30, count=10))
    whole = encode(tmp_path / "b.mp4", [level(i) for i in range(20)])
    with pytest.raises(EpisodeError, match="more than 15 pictures a second"):
        list(open_frames(whole, start=0, fps=15, count=10))
    with pytest.raises(EpisodeError, match="pictures are missing: number 1 of 10"):
        list(open_frames(whole, start=0, fps=60, count=10))


def test_an_episode_does_not_run_into_the_next(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path)
    dataset.__dict__["lengths"] = np.array([15, 21, 9])
    with pytest.raises(EpisodeError, match=r"episode 0: .* has 13 pictures before the next episode's begin.* 15 rows"):
        list(episode_frames(dataset, 0, CAMERA))


def test_a_codec_that_info_json_names_wrongly(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path)
    dataset.features[CAMERA]["info"]["video.codec"] = "av1"
    with pytest.raises(EpisodeError, match=r"episode 0: .*file-000.mp4 is h264, but meta/info.json says 'av1'"):
        list(episode_frames(dataset, 0, CAMERA))
    dataset.features[CAMERA]["info"]["video.codec"] = "libx264"  # another name for the same
    assert len(list(episode_frames(dataset, 0, CAMERA))) == 13


def test_decord_refuses_av1_with_a_hint(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path, codec="libsvtav1")
    with pytest.raises(EpisodeError, match="is AV1, which decord cannot decode; set video_backend: pyav"):
        list(episode_frames(dataset, 0, CAMERA, backend="decord"))


@pytest.mark.parametrize(("backend", "module"), [("torchcodec", "torchcodec.decoders"), ("decord", "decord")])
def test_a_backend_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: str
) -> None:
    dataset = numbered_set(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(IgrftError, match=f"video_backend: {backend} cannot be loaded .*video_backend: pyav") as caught:
        list(episode_frames(dataset, 0, CAMERA, backend=backend))  # type: ignore[arg-type]
    assert not isinstance(caught.value, EpisodeError)  # no other episode would fare better


def test_an_unknown_backend_names_the_near_miss(tmp_path: Path) -> None:
    dataset = numbered_set(tmp_path)
    with pytest.raises(UsageError, match="unknown video_backend 'pyva'; did you mean 'pyav'"):
        list(episode_frames(dataset, 0, CAMERA, backend="pyva"))  # type: ignore[arg-type]


# Real recordings.


@pytest.mark.parametrize(
    ("name", "camera", "codec", "size"),
    [
        ("g1_yellow_bottle_2ep", "observation.images.cam_high", "av1", (640, 480)),
        ("gr00t_robot_sim_PickNPlace", "observation.images.ego_view", "h264", (256, 256)),
    ],
)
def test_real_sets(
    shared_data: Path, tmp_path: Path, name: str, camera: str, codec: str, size: tuple[int, int]
) -> None:
    dataset = real_set(shared_data, name, tmp_path, episodes=1)
    facts = probe(dataset.video(0, camera).path)
    assert (facts.codec, facts.width, facts.height) == (codec, *size)
    assert facts.frames == int(dataset.lengths[0])
    stream = episode_frames(dataset, 0, camera, size=(64, 48), color="gray")
    found = [p for _, p in zip(range(60), stream, strict=False)]
    at = frames_at(dataset, 0, camera, [0, 31, 59], size=(64, 48), color="gray")
    for index, picture in zip((0, 31, 59), at, strict=True):
        assert np.array_equal(found[index], picture)


def test_a_truncated_real_file(shared_data: Path, tmp_path: Path) -> None:
    dataset = real_set(shared_data, "g1_yellow_bottle_2ep", tmp_path, episodes=1)
    path = dataset.video(0, "observation.images.cam_high").path
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(EpisodeError, match=r"^episode 0: .*file-000.mp4"):
        for _ in episode_frames(dataset, 0, "observation.images.cam_high", size=(64, 48), color="gray"):
            pass


def test_the_module_names_what_it_offers() -> None:
    assert all(hasattr(video, name) for name in video.__all__)
