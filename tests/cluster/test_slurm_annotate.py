"""`igrft annotate` on a real Slurm of two nodes: the same labels as here, whatever dies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_runs import Sets, igrft, sets
from helpers import tree_digest
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return sets(tmp_path_factory.mktemp("slurm"))


def test_labels_are_those_of_a_local_run_though_a_node_dies(slurm: SlurmCluster, made: Sets, tmp_path: Path) -> None:
    target = tmp_path / "labelled"
    submitted = igrft("annotate", made.source, target, "--pipeline", made.pipeline, *made.slurm, "--json")
    assert json.loads(submitted.stdout)["tasks"] == {"interaction_counts": 4, "finish": 1}
    staged = target.with_name("labelled.staging") / "steps" / "interaction_counts"
    slurm.wait_until(lambda: len(list(staged.glob("*.arrow"))) >= 2, 120, "two episodes are staged")
    slurm.kill_node("node1")
    found = igrft("status", target, "--json")
    stages = {s["name"]: s for s in json.loads(found.stdout)["stages"]}
    assert stages["interaction_counts"]["state"] == "running" and stages["finish"]["state"] == "waiting"
    slurm.wait_nodes(120, "node2")
    slurm.revive_node("node1")
    slurm.wait_idle(300)
    ended = igrft("status", target, "--json")
    assert json.loads(ended.stdout)["state"] == "done", ended.stdout
    assert tree_digest(target) == tree_digest(made.labelled)
    assert tree_digest(made.source) == made.before
    assert not target.with_name("labelled.staging").exists()
