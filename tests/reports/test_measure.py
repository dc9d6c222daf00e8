"""What the page counts before a monitor is trusted, on episodes that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igrft.reports.rollouts.measure import Measured, measure, measure_grid, measure_settings
from igrft.reports.rollouts.replay import Replay, Takeover, Track
from igrft.rollouts.settings import MonitorSettings

V = np.full(100, 0.5)
CALLED, ASKED = True, False


def helped(*starts: int, success: bool | None = True, called: bool | None = ASKED) -> Track:
    return Track(V, tuple(Takeover(s, s + 5, "expert", "…", called) for s in starts), success)


def test_every_count() -> None:
    tracks = [
        Track(V, (), True),  # disturbed twice
        Track(V, (), True),  # left alone
        helped(50),  # announced, and once too early
        helped(30, 80, called=CALLED),  # the second announced on its first frame
        helped(40, success=False),  # nothing before the takeover, but it failed
        Track(V, (), False),  # a failure that it saw
        Track(V, (), False),  # one that it did not
        Track(V, (), None),  # nobody said
    ]
    fires = [[10, 20], [], [20, 45], [80], [60], [5, 6, 7], [], [9]]
    assert measure(tracks, fires, within=10) == Measured(
        episodes=8,
        fired=6,
        successes=4,
        fired_successes=3,
        failures=3,
        fired_failures=2,
        alone=2,
        fired_alone=1,
        firings=10,
        hits=1 + 1 + 1 + 3,
        false_alarms=2,
        takeovers=4,
        announced=2,
        asked=2,
        announced_asked=1,
        needs=4 + 2,
        caught=2 + 1,
    )


def test_the_two_rates() -> None:
    found = Measured(needs=4, caught=3, alone=5, fired_alone=1)
    assert (found.caught_share, found.false_share) == (0.75, 0.2)
    assert found.gain == pytest.approx(0.55)
    assert Measured().caught_share is Measured().false_share is Measured(alone=3).gain is None


@pytest.mark.parametrize(("fire", "announced"), [(39, 0), (40, 1), (50, 1), (51, 0)])
def test_the_limits_of_announcing(fire: int, announced: int) -> None:
    found = measure([helped(50)], [[fire]], within=10)
    assert (found.announced, found.hits, found.caught) == (announced,) * 3


def test_one_firing_announces_all_takeovers_within_reach() -> None:
    found = measure([helped(50, 58)], [[49]], within=10)
    assert (found.announced, found.hits) == (2, 1)


def test_of_old_recordings_nobody_knows_who_asked() -> None:
    found = measure([helped(50, called=None)], [[49]], within=10)
    assert (found.takeovers, found.announced, found.asked) == (1, 1, 0)


track_ = st.builds(
    helped, st.integers(0, 40), st.integers(50, 90), success=st.sampled_from([True, False, None]), called=st.booleans()
)
tracks_ = st.lists(st.one_of(track_, st.builds(Track, st.just(V), st.just(()), st.booleans())), max_size=8)


@settings(deadline=None)
@given(tracks_, st.randoms(use_true_random=False), st.integers(0, 30))
def test_parts_are_no_more_than_the_whole(tracks: list[Track], random, within: int) -> None:
    fires = [sorted(random.sample(range(100), random.randint(0, 6))) for _ in tracks]
    m = measure(tracks, fires, within)
    assert m.hits + m.false_alarms <= m.firings == sum(map(len, fires))
    assert m.successes + m.failures <= m.episodes == len(tracks)
    assert m.announced_asked <= m.asked <= m.takeovers and m.announced <= m.takeovers
    assert m.caught <= m.needs and m.fired_alone <= m.alone <= m.successes
    wider = measure(tracks, fires, within + 20)
    assert wider.announced >= m.announced and wider.caught >= m.caught and wider.hits >= m.hits


def test_the_grid_lies_around_the_settings() -> None:
    # One episode that falls by 1/128 a frame, and one that stands still; ten frames a second.
    falling, standing = 1 - np.arange(90) / 128, np.full(90, 0.8)
    replay = Replay([Track(falling, (), True), Track(standing, (), False)])
    asked = MonitorSettings(window=2.0, margin=0.1, rise=None, grace=0.0)
    grid = measure_grid(replay, asked, 10.0, 5.0)
    assert grid.windows == (0.5, 1.0, 2.0, 4.0, 8.0)
    assert grid.margins == (0.025, 0.05, 0.1, 0.2, 0.4)
    assert grid.cells[2][2] == measure_settings(replay, asked, 10.0, 5.0)
    rates = [[(m.caught_share, m.false_share) for m in row] for row in grid.cells]
    # It falls by 0.039 in half a second, by 0.156 in two.
    assert [f for _, f in rates[0]] == [0, 1, 1, 1, 1]
    assert [f for _, f in rates[2]] == [0, 0, 0, 1, 1]
    assert all(caught == 1 for row in rates for caught, _ in row)
    # Equals: the nearest to the settings asked for.
    assert grid.best() == (2.0, 0.1)


def test_settings_of_nothing_have_a_grid_too() -> None:
    grid = measure_grid(Replay([Track(V)]), MonitorSettings(window=0.0, margin=0.0), 10.0, 5.0)
    assert len(set(grid.windows)) == len(set(grid.margins)) == 5
    assert grid.best() is None


def test_other_settings_are_proposed_where_they_are_clearly_better() -> None:
    from igrft.reports.rollouts.monitor_section import _hint

    def hint(episodes: int, window: float) -> str:
        # Successes that fall by 0.2 every two seconds, failures that stand still for one and a half.
        good = np.repeat(1 - 0.2 * np.arange(5), 20)
        bad = np.concatenate([np.repeat(0.8, 28), 0.7 - 0.02 * np.arange(30)])
        tracks = [Track(good, (), True)] * episodes + [Track(bad, (), False)] * episodes
        replay = Replay(tracks, every=1)
        asked = MonitorSettings(window=window, margin=0.05, rise=None, grace=0.0)
        return _hint(measure_grid(replay, asked, 10.0, 5.0), measure_settings(replay, asked, 10.0, 5.0))

    # Five seconds look past the pause of the failures. Two and a half do not, and hold a fall of every success.
    assert hint(6, 5.0) == "--rollout.monitor.window=2.5 --rollout.monitor.margin=0.05"
    assert hint(6, 2.5) == ""
    assert hint(4, 5.0) == ""
