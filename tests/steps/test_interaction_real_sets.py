"""The step on real recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from interaction_runs import label
from picture_sets import real_set

from igrft import columns as c
from igrft.errors import EpisodeError
from igrft.steps.interaction import Interaction


def test_a_fixed_camera_comes_out_static(shared_data: Path, tmp_path: Path) -> None:
    """g1: a third of its pictures repeat the one before, so that the label flickers until gaps are closed."""
    dataset = real_set(shared_data, "g1_yellow_bottle_2ep", tmp_path)
    found = label(dataset, Interaction(), row=1)
    record = found.record[c.INTERACTION]
    assert record["camera"] == "observation.images.cam_high"
    assert record["camera_motion"] == "static" and not record["moves"] and record["clear_share"] < 0.03
    assert 0.2 < record["share"] < 0.6
    assert record["repeated_share"] > 0.2 and record["phases"] > 50
    closed = label(dataset, Interaction(close_gaps=2), row=1).record[c.INTERACTION]
    assert closed["phases"] < 15


def test_a_camera_on_the_wrist_is_found_out(shared_data: Path, tmp_path: Path) -> None:
    dataset = real_set(shared_data, "cr5_banana_3ep", tmp_path, episodes=1)
    record = label(dataset, Interaction()).record[c.INTERACTION]
    assert record["camera"] == "observation.images.top"
    assert record["camera_motion"] == "compensate" and record["moving_share"] > 0.5
    with pytest.raises(EpisodeError, match="episode 0: camera 'observation.images.top' moves"):
        label(dataset, Interaction(camera_motion="refuse"))
    with pytest.raises(EpisodeError, match="min_inlier_share is 95%"):
        label(dataset, Interaction(min_inlier_share=0.95))


@pytest.mark.slow
def test_a_camera_that_rides_for_a_short_way_is_found_out(shared_data: Path, tmp_path: Path) -> None:
    """cr5_cube5: the wrist pans to the table in the first second and stands still; episode 2 never moves."""
    dataset = real_set(shared_data / "cr5_cube5", "badts", tmp_path)
    modes = [label(dataset, Interaction(), row=r).record[c.INTERACTION]["camera_motion"] for r in range(5)]
    assert modes == ["compensate", "compensate", "static", "compensate", "compensate"]


def test_a_simulated_robot(shared_data: Path, tmp_path: Path) -> None:
    """gr00t: the camera that info.json declares and that has no file is passed over."""
    dataset = real_set(shared_data, "gr00t_robot_sim_PickNPlace", tmp_path, episodes=5)
    found = label(dataset, Interaction(), row=4)
    record = found.record[c.INTERACTION]
    assert record["camera"] == "observation.images.ego_view" and record["flow_size"] == [240, 240]
    assert record["camera_motion"] == "static" and record["moving_share"] == 0
    assert 0.05 < record["share"] < 0.8


@pytest.mark.slow
def test_fast_flow_finds_the_motion_that_slow_flow_finds(shared_data: Path, tmp_path: Path) -> None:
    """Above the specks of noise that the slow one sees (see igrft.steps.interaction.flow)."""
    dataset = real_set(shared_data, "g1_yellow_bottle_2ep", tmp_path)
    slower = Interaction(flow="dis_medium", flow_height=480)
    fast, slow = (label(dataset, s, row=1).columns[c.INTERACTION_PIXELS] for s in (Interaction(), slower))
    assert np.mean((fast > 10_000) == (slow > 10_000)) > 0.9
    assert np.mean(slow[fast > 400] > 400) > 0.99
    assert np.corrcoef(fast, slow)[0, 1] > 0.95
