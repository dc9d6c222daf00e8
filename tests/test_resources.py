"""Pipelines are found in a checkout and in a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from igrft.errors import UsageError
from igrft.pipeline.config import load_pipeline
from igrft.resources import find, folder

PROJECT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted(PROJECT.glob("pipelines/*.yaml")), ids=lambda p: p.stem)
def test_every_pipeline_loads(path):
    assert load_pipeline(path.stem).steps == load_pipeline(str(path)).steps


def test_an_unknown_name_has_a_near_miss():
    with pytest.raises(UsageError, match="did you mean 'offline'"):
        find("pipelines", "ofline")


def test_a_wheel_carries_what_the_checkout_has(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    code = (
        "import igrft.resources as r; from igrft.pipeline.config import load_pipeline;"
        "load_pipeline('offline');"
        "print(*map(r.folder, ('pipelines', 'recipes', 'mappings', 'dataset_cards')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout.count(str(installed)) == 4
    for kind in ("pipelines", "recipes", "mappings", "dataset_cards"):
        ours = {p.relative_to(folder(kind)) for p in folder(kind).rglob("*") if p.is_file()}
        theirs = installed / "igrft/_resources" / kind
        assert ours == {p.relative_to(theirs) for p in theirs.rglob("*") if p.is_file()}
    assert (installed / "igrft/reports/templates").is_dir()
