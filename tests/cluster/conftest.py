"""Clusters that the tests of this folder share; each test finds them idle, with all nodes up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from slurm_cluster import SlurmCluster, missing, slurm_cluster


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    if problem := missing():
        pytest.skip(problem)
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Two idle nodes of 4 CPUs, the first with a GPU; this process' environment names the cluster."""
    slurm_session.reset()
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm_session.env[name])
    yield slurm_session
    print(slurm_session.logs())  # seen of a test that fails
