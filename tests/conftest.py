"""What every test may use."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from synthetic import write_dataset

# No test may reach a model hub; clients would retry for minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Read when mujoco is first imported, by whichever test does so first: MuJoCo draws without a display.
os.environ.setdefault("MUJOCO_GL", "egl")

# Read when torch is first imported, and by the programs that tests start: tiny models are slower on two threads, and
# tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has Ctrl-C ignored, and the programs that they start with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy computer is no defect of what is tested.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    _back_in_line()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    _back_in_line()


def _back_in_line() -> None:
    """SVT-AV1 gives whoever opens it as root real-time priority, for good: threads and tests beside it would starve."""
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings beside the project; absent on a user's machine."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real recordings (../shared/data) is absent")
    return SHARED_DATA


STEPS = [{"type": "subtasks", "source": "file"}, {"type": "rewards"}, {"type": "returns"}]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six episodes, 300 frames, in two files; their subtask file lies beside."""
    write_dataset(tmp_path / "source", 6, 300, width=3, episodes_per_file=4)
    return tmp_path / "source"


@pytest.fixture
def subtask_file(source: Path) -> Path:
    return source.with_name("source.subtasks.json")


@pytest.fixture
def pipeline_file(tmp_path: Path, subtask_file: Path) -> Callable[..., Path]:
    """Write a pipeline file; by default subtasks from the file, rewards, returns."""

    def write(steps: list[dict] | None = None, name: str = "pipeline.yaml") -> Path:
        chosen = [dict(s) for s in (steps or STEPS)]
        for step in chosen:
            if step.get("source") == "file":
                step.setdefault("path", subtask_file.name)
        path = tmp_path / name
        path.write_text(json.dumps({"steps": chosen}))
        return path

    return write
