"""`igrft demo`, small: the whole way, and the page that tells it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from igrft.demo.run import DemoSettings, demo
from igrft.errors import UsageError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="metaworld is not installed")


@pytest.mark.slow
def test_the_whole_way_and_run_again_it_goes_on(tmp_path: Path) -> None:
    settings = DemoSettings(
        demonstrations=12, episodes=4, width=96, height=72, overrides=("steps=60", "batch_size=64", "save_every=60")
    )
    said: list[str] = []
    page = demo(tmp_path / "demo", settings, say=said.append)
    text = page.read_text(encoding="utf-8")
    assert "succeed after one round" in text and text.count("data:image/png;base64,") >= 1
    for name in ("labels", "rollouts", "sft", "offline_rl", "round_0"):
        assert f'href="report/{name}/index.html"' in text
        assert (page.parent / "report" / name / "index.html").is_file()
    summary = json.loads((tmp_path / "demo/evaluation/summary.json").read_text())
    assert {row["name"]: row["n"] for row in summary["results"]} == {"SFT": 4, "offline RL": 4, "one round": 4}
    assert demo(tmp_path / "demo", settings, say=said.append) == page
    with pytest.raises(UsageError, match="a demo with other settings"):
        demo(tmp_path / "demo", DemoSettings(demonstrations=13))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds something that is no demo"):
        demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
