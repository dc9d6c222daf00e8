"""A package of RoboEngine's published interface, for tests: white pixels are the robot. It prints, as that one does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_ROBOENGINE = """
import numpy as np

print("importing")


class RoboEngineRobotSegmentation:
    def __init__(self, sam_versoin="michaelyuanqwq/roboengine-sam", sam_tokenizer_version="", image_size=224,
                 device="cuda"):
        print("loading")
        if device == "cuda":
            raise RuntimeError("Found no NVIDIA driver on your system.\\nMore lines.")
        self.made_with = sam_versoin, device

    def gen_video(self, image_np_list, prompt="robot", anchor_frequency=1, preset_masks=None):
        print("segmenting")
        assert prompt.startswith("robot") and anchor_frequency == 1
        assert all(isinstance(i, np.ndarray) and i.dtype == np.uint8 for i in image_np_list)
        return np.stack([(i[..., 0] > 128).astype(np.float32) for i in image_np_list])
"""


def put_roboengine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import robo_engine` find it, until the test ends."""
    (folder / "package/robo_engine").mkdir(parents=True)
    (folder / "package/robo_engine/infer_engine.py").write_text(_ROBOENGINE)
    monkeypatch.syspath_prepend(str(folder / "package"))
    forget_roboengine(monkeypatch)


def forget_roboengine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been imported of it yet."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "robo_engine"]:
        monkeypatch.delitem(sys.modules, name)
