"""Clusters that the tests of this folder share; each test finds them idle, with all nodes up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import ray_cluster as of_ray
import slurm_cluster as of_slurm
from ray_cluster import RayCluster
from slurm_cluster import SlurmCluster


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    if problem := of_slurm.missing():
        pytest.skip(problem)
    with of_slurm.slurm_cluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """Two idle nodes of 4 CPUs, the first with a GPU; this process' environment names the cluster."""
    slurm_session.reset()
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm_session.env[name])
    yield slurm_session
    print(slurm_session.logs())  # seen of a test that fails


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RayCluster]:
    if problem := of_ray.missing():
        pytest.skip(problem)
    with of_ray.ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def ray_nodes(ray_session: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Two idle nodes of 4 CPUs, the second with a GPU; this process' environment names the cluster."""
    # Ray reads whether tokens are used when it is imported, which another test may have done.
    from ray._private.authentication_test_utils import reset_auth_token_state

    ray_session.reset()
    for name in (*(n for n in ray_session.env if n.startswith("RAY_")), "PATH"):
        monkeypatch.setenv(name, ray_session.env[name])
    reset_auth_token_state()
    yield ray_session
    monkeypatch.undo()
    reset_auth_token_state()
    print(ray_session.logs())  # seen of a test that fails
