"""`pipelines/igrft.yaml`, the paper's own choice, from end to end on the real recording of the repository.

A server on loopback stands in for the model, a package of the same interface for RoboEngine, and RAFT has random
weights from a file: what is shown is that the parts fit, not what they are worth.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from roboengine_package import forget_roboengine, put_roboengine
from vlm_server import vlm_server
from vlm_sets import answer_evenly

import igrft
from igrft import columns as c
from igrft.cli.main import run
from igrft.dataset.reader import DatasetReader

SMALL = Path(__file__).resolve().parents[1] / "data/g1_small"
SUBTASKS = ["reach for the can", "lift the can"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recording") / "converted"
    igrft.convert(SMALL, root, progress=False)
    return root


def options(folder: Path, base_url: str) -> list[str]:
    import torch
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), folder / "small.pth")
    (folder / "task.yaml").write_text(json.dumps({"goal": "lift the can", "subtasks": SUBTASKS}))
    given = {
        "subtasks.task": folder / "task.yaml",
        "subtasks.base_url": base_url,
        "subtasks.cache": folder / "cache",
        "subtasks.model": "seer",
        # The smaller network, on smaller pictures, on a CPU: seconds instead of an hour.
        "interaction.flow": "raft_small",
        "interaction.flow_height": 128,
        "interaction.raft_weights": folder / "small.pth",
        "interaction.raft_updates": 1,
        "interaction.device": "cpu",
    }
    return [f"--steps.{key}={value}" for key, value in given.items()]


@pytest.mark.slow
def test_from_end_to_end(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    put_roboengine(tmp_path, monkeypatch)
    out = tmp_path / "labelled"
    with vlm_server(answer=answer_evenly(SUBTASKS)) as server:
        command = ["annotate", str(recording), str(out), "--pipeline", "igrft", "--workers", "1"]
        assert run([*command, *options(tmp_path, server.base_url)]) == 0
        asked = len(server.bodies)
        assert run([*command, *options(tmp_path, server.base_url)]) == 0
        assert len(server.bodies) == asked, "nothing is asked twice"
    assert "frames of 2 episodes go to" in capsys.readouterr().err
    assert run(["validate", str(out), "-q"]) == 0
    record = DatasetReader.open(out).igrft
    assert record["episodes"]["0"]["interaction"]["robot_mask"] == "roboengine"
    assert [s["name"] for s in record["episodes"]["0"]["subtasks"]] == SUBTASKS
    labels = igrft.load_labels(out)
    for index in labels.episode_indices.tolist():
        assert labels.episode(index)[c.RETURN][0] == pytest.approx(1.0, abs=1e-6)
        assert np.isfinite(labels.episode(index)[c.INTERACTION_PIXELS]).all()


def test_what_is_missing_is_said_before_anything_is_sent(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    forget_roboengine(monkeypatch)
    with vlm_server(answer=answer_evenly(SUBTASKS)) as server:
        command = ["annotate", str(recording), str(tmp_path / "labelled"), "--pipeline", "igrft"]
        assert run([*command, *options(tmp_path, server.base_url)]) == 2
        assert not server.bodies
    assert "needs the package 'robo_engine', which is not installed; run: git clone" in capsys.readouterr().err


def test_weights_that_cannot_be_had_are_said_before_anything_is_sent(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    put_roboengine(tmp_path, monkeypatch)
    # An empty cache, and a proxy that nobody answers at.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with vlm_server(answer=answer_evenly(SUBTASKS)) as server:
        command = ["annotate", str(recording), str(tmp_path / "labelled"), "--pipeline", "igrft"]
        given = [o for o in options(tmp_path, server.base_url) if "raft_weights" not in o]
        assert run([*command, *given]) == 1
        assert not server.bodies
    assert "raft_small needs weights, and https://" in capsys.readouterr().err


@pytest.mark.slow
def test_kept_results_need_no_package_and_no_key(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_roboengine(tmp_path, monkeypatch)
    monkeypatch.setenv("A_KEY", "secret")
    out = tmp_path / "labelled"
    with vlm_server(answer=answer_evenly(SUBTASKS)) as server:
        command = ["annotate", str(recording), str(out), "--pipeline", "igrft", "--workers", "1"]
        command += [*options(tmp_path, server.base_url), "--steps.subtasks.api_key_env=A_KEY"]
        assert run(command) == 0
    forget_roboengine(monkeypatch)
    monkeypatch.setattr("sys.path", [p for p in sys.path if not p.startswith(str(tmp_path))])
    monkeypatch.delenv("A_KEY")
    before = igrft.load_labels(out)[c.INTERACTION]
    assert run([*command, "--steps.interaction.pixel_threshold=1e9"]) == 0
    assert before.any() and not igrft.load_labels(out)[c.INTERACTION].any()
    # Where masks are to be found anew, the package is asked for.
    assert run([*command, "--steps.interaction.mask_every=7"]) == 2
