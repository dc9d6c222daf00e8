"""A recorder that dies, at any step or at any time: whole episodes stay, the dataset opens, recording goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import small_disk
from rollout_sets import (
    CAMERAS,
    add_episode,
    check_with_lerobot,
    facts,
    features,
    frame,
    length,
    open_recorder,
    record,
    seeds_in,
    success,
)

from igrft.errors import IgrftError
from igrft.reports.validate import validate
from igrft.rollouts.facts import read_rollout


class Driver:
    """``dying_recorder.py`` at work."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": f"{here.parent}:{here.parents[1]}", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(here / "dying_recorder.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == {"ready": True}

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, *words: object) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


def _goes_on(root: Path, seeds: list[int], pictures: bool) -> None:
    """What a crash left opens with the episodes of ``seeds``, and another episode can be recorded."""
    assert seeds_in(root) == seeds
    if seeds:
        check_with_lerobot(root, seeds, pictures=pictures, every_frame=False)
    with open_recorder(root, pictures=pictures) as recorder:
        assert [f["seed"] for f in recorder.facts] == seeds
        record(recorder, 50, pictures=pictures)
    check_with_lerobot(root, [*seeds, 50], pictures=pictures, every_frame=False)
    assert [f.message for f in validate(root).findings] == []
    assert [f["seed"] for f in read_rollout(root).episodes] == [*seeds, 50]
    assert not Path(f"{root}.staging").exists()


#: Name: seeds there before, what the recorder does, seeds afterwards.
CASES: dict[str, tuple[list[int], list[object], list[int]]] = {
    "first": ([], ["record", 0], [0]),
    "third": ([0, 1], ["record", 2], [0, 1, 2]),
    "take back": ([0, 1], ["drop"], [0]),
    "take back the only one": ([0], ["drop"], []),
}


def _every_step(driver: Driver, folder: Path, case: str, pictures: bool, where: str) -> int:
    """Die before every change of the file system in turn; how many there are."""
    before, what, after = CASES[case]
    base = folder / "base"
    if before:
        with open_recorder(base, pictures=pictures) as recorder:
            record(recorder, *before, pictures=pictures)
    complete = 0
    for step in range(1, 200):
        root = folder / f"rollout_{step}"
        if before:
            shutil.copytree(base, root)
        died = driver.ask("die", root, int(pictures), step, where, *what)["died"]
        # Between two renames at the end a table may already list what info.json does not count.
        found = len(read_rollout(root).episodes) if root.exists() else 0
        if found == len(after):
            complete += 1
        assert found == len(after if complete else before), f"step {step}"
        listed = seeds_in(root)
        assert listed in (before, after), f"step {step}"
        if found:
            check_with_lerobot(root, (after if complete else before), pictures=pictures, every_frame=False)
        with open_recorder(root, pictures=pictures):
            pass
        _goes_on(root, after if complete else before, pictures)
        if not died:
            assert complete
            return step - 1
        shutil.rmtree(root)
    raise AssertionError("it never ends")


@pytest.mark.parametrize("case", CASES)
def test_dying_at_every_step_in_the_dataset(driver: Driver, tmp_path: Path, case: str) -> None:
    steps = _every_step(driver, tmp_path, case, False, "root")
    # A first and an only episode come and go with their folder.
    assert steps >= (1 if "first" in case or "only" in case else 5)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_dying_at_every_step_anywhere(driver: Driver, tmp_path: Path, case: str, pictures: bool) -> None:
    assert _every_step(driver, tmp_path, case, pictures, "all") >= 2


def _wait_for_the_end(pid: int) -> None:
    """A killed process may still finish a rename on a computer that is busy. The driver does not wait for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            time.sleep(0.005)


def _killed(driver: Driver, root: Path, times: int, pictures: bool) -> None:
    chance = random.Random(0)
    log = Path(f"{root}.log")
    held: list[int] = []
    for _ in range(times):
        log.write_text("")
        pid = driver.ask("run", root, int(pictures), len(held))["pid"]
        deadline = time.monotonic() + 60
        while not log.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1.0))
        os.kill(pid, signal.SIGKILL)
        _wait_for_the_end(pid)
        lines = log.read_text().splitlines()
        assert lines[:1] == ["begun"]
        safe = max((int(line.split()[1]) for line in lines[1:]), default=len(held))
        if root.exists():
            counted = len(read_rollout(root).episodes)
            # One may be written but not yet said to be safe, and one saved in the meantime.
            assert safe <= counted <= safe + 2
            held = list(range(counted))
            check_with_lerobot(root, held, pictures=pictures, every_frame=False)
        else:
            assert safe == 0
    assert held, "no episode was recorded in all this time"
    # Between two renames a table may already list what info.json does not count: opening mends it.
    with open_recorder(root, pictures=pictures):
        pass
    _goes_on(root, held, pictures)


def test_killed_at_any_time(driver: Driver, tmp_path: Path) -> None:
    _killed(driver, tmp_path / "rollout", 3, pictures=True)


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [False, True])
def test_killed_at_thirty_times(driver: Driver, tmp_path: Path, pictures: bool) -> None:
    _killed(driver, tmp_path / "rollout", 30, pictures=pictures)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_full_disk(tmp_path: Path, pictures: bool) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        root = disk / "rollout"
        filler = disk / "filler"
        with open_recorder(root, pictures=pictures) as recorder:
            record(recorder, 0, 1, pictures=pictures)
            recorder.flush()
            filler.write_bytes(bytes(_free(disk) - 8192))
            with pytest.raises(IgrftError, match="the disk of .* is full") as error:
                record(recorder, 2, 3, pictures=pictures)
                recorder.flush()
            assert "\n" not in str(error.value)
            check_with_lerobot(root, [0, 1], pictures=pictures)
            filler.unlink()
            recorder.discard()
            # The encoder of one episode and the writing of the one before may both have failed.
            with contextlib.suppress(IgrftError):
                recorder.flush()
            record(recorder, 4, pictures=pictures)
        check_with_lerobot(root, [0, 1, 4], pictures=pictures)
        assert [f.message for f in validate(root).findings] == []


def test_a_disk_that_fills_up_under_pictures(tmp_path: Path) -> None:
    """The encoder itself finds no room; it is told while the episode goes on, or when it is saved."""
    import numpy as np

    noise = np.random.default_rng(0)
    shape = (240, 320, 3)
    large = features(True) | {camera: {"dtype": "video", "shape": shape, "names": None} for camera in CAMERAS}
    with small_disk(tmp_path / "disk", "2m") as disk:
        root = disk / "rollout"
        with open_recorder(root, features=large) as recorder:
            still = {camera: np.zeros(shape, np.uint8) for camera in CAMERAS}
            for t in range(length(0)):
                recorder.add(frame(0, t) | still)
            recorder.save(success=success(0), facts=facts(0))
            recorder.flush()
            with pytest.raises(IgrftError, match="the disk of .* is full"):
                for t in range(200):
                    recorder.add(frame(1, t) | {c: noise.integers(0, 256, shape, np.uint8) for c in CAMERAS})
                recorder.save(success=True, facts={})
                recorder.flush()
            recorder.discard()
            with contextlib.suppress(IgrftError):
                recorder.flush()
            assert seeds_in(root) == [0]
            for t in range(length(2)):
                recorder.add(frame(2, t) | still)
            recorder.save(success=success(2), facts=facts(2))
        check_with_lerobot(root, [0, 2])


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_what_a_dead_recorder_left_does_not_stay(tmp_path: Path) -> None:
    """Its videos in the staging folder go with the next recorder."""
    root = tmp_path / "rollout"
    child = os.fork()
    if child == 0:
        try:
            recorder = open_recorder(root)
            add_episode(recorder, 0)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert Path(f"{root}.staging").exists() and not root.exists()
    with open_recorder(root) as recorder:
        assert (recorder.episodes, recorder.pending) == (0, 0)
    assert list(tmp_path.iterdir()) == []
