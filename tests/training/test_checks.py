"""What is refused before training starts, and what the message says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_set import CAMERA, make_labelled_set
from lerobot.configs import NormalizationMode
from synthetic import write_dataset
from training_sets import add_column, drop_columns, edit_column, edit_info, edit_json, make_recipe, set_success

import igrft
from igrft import columns as c
from igrft.errors import IgrftError, UsageError
from igrft.training.checks import check_recipe
from igrft.training.data import TrainingData
from igrft.training.recipe import DatasetEntry

Copy = Callable[..., Path]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_set(tmp_path_factory.mktemp("original") / "set")


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Copy:
    return lambda name="set": Path(shutil.copytree(original, tmp_path / name))


def opened(*roots: Path | DatasetEntry, images: bool = False, has_text: bool = False, **settings: Any) -> TrainingData:
    recipe = make_recipe(*roots, **settings)
    return TrainingData.open(recipe, image_policy=images, chunk=6, has_text=has_text)


def refused(*roots: Path | DatasetEntry, match: str, kind: type[IgrftError] = IgrftError, **settings: Any) -> str:
    with pytest.raises(IgrftError, match=match) as error:
        opened(*roots, **settings)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    return str(error.value)


# The recipe alone.


def test_no_dataset() -> None:
    refused(match="names no dataset; give --datasets.0.root=FOLDER", kind=UsageError)
    refused(DatasetEntry(), match=r"datasets.0 names no dataset.*--datasets.0.repo_id=ID", kind=UsageError)


def test_an_unknown_kind() -> None:
    match = "datasets.0: unknown kind 'rollout'; did you mean 'rollouts'"
    refused(DatasetEntry(root="x", kind="rollout"), match=match, kind=UsageError)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive(weight: float) -> None:
    entries = [DatasetEntry(root="x"), DatasetEntry(root="y", weight=weight)]
    refused(*entries, match=r"datasets.1.weight must be above 0, got .*; take the dataset out", kind=UsageError)


def test_hil_without_rollouts(original: Path) -> None:
    match = r"lists none; record some .*--datasets.1.root=FOLDER --datasets.1.kind=rollouts"
    refused(original, stage="hil", match=match, kind=UsageError)
    opened(original, DatasetEntry(root=str(original), kind="rollouts"), stage="hil")


def test_episode_numbers(original: Path) -> None:
    def entry(episodes: list[int]) -> DatasetEntry:
        return DatasetEntry(root=str(original), episodes=episodes)

    refused(entry([0, 3, 0]), match="datasets.0.episodes lists episode 0 twice", kind=UsageError)
    refused(entry([0, 7]), match=r"set has no episode 7; it has 4 episodes", kind=UsageError)
    refused(entry([]), match="datasets.0.episodes is empty", kind=UsageError)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"objective__type": "awrr"}, "unknown objective.type 'awrr'; did you mean 'awr'"),
        ({"objective__frames": "success"}, "did you mean 'successes'"),
        ({"rewards__kind": "sparce"}, "did you mean 'sparse'"),
        ({"advantage__source": "column"}, "did you mean 'columns'"),
        ({"rewards__discount": 0.0}, r"rewards.discount must lie in \(0, 1\], got 0.0"),
        ({"rewards__subtask_weight": -0.1}, "rewards.subtask_weight must not be negative"),
        ({"rewards__idle_speed": float("nan")}, "rewards.idle_speed must not be negative, got nan"),
        ({"critic__holdout": 1.0}, r"critic.holdout must lie in \[0, 1\), got 1.0"),
        ({"advantage__steps": 0}, "advantage.steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        check_recipe(make_recipe(Path("x"), **settings))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", match="does not exist; give an existing folder, or a Hub id", kind=UsageError)


# Columns.


@pytest.mark.parametrize(
    ("column", "step", "settings", "without"),
    [
        (c.REWARD_TRAJECTORY, "rewards", {}, "--critic.enabled=false"),
        (c.REWARD_SUBTASK, "rewards", {"objective__type": "awr"}, "--objective.type=sft --critic.enabled=false"),
        (c.INTERACTION, "interaction", {}, "--critic.enabled=false"),
        (c.SUBTASK_INDEX, "subtasks", {"has_text": True}, "--objective.text_weight=0"),
    ],
)
def test_a_column_that_is_missing(copy: Copy, column: str, step: str, settings: dict[str, Any], without: str) -> None:
    root = copy()
    drop_columns(root, column)
    message = refused(root, match=f"set has no column '{column}'", **settings)
    assert without in message and f"igrft annotate {root} TARGET, whose step '{step}' makes it" in message


def test_a_set_without_labels_serves_plain_imitation(tmp_path: Path) -> None:
    root = make_labelled_set(tmp_path / "plain", labels=False, videos=False)
    refused(root, match=r"no column 'reward_trajectory'.*critic.enabled=false")
    data = opened(root, critic__enabled=False)
    assert data.summary[0].frames_used == 145 and data.summary[0].successes is None and data.warnings == []
    refused(root, critic__enabled=False, objective__frames="successes", match="no record of which episodes succeeded")


def test_a_set_from_the_pipeline_without_pictures(tmp_path: Path) -> None:
    write_dataset(tmp_path / "source", 6, 300, width=3, with_subtasks=True)
    igrft.annotate(tmp_path / "source", tmp_path / "set", pipeline="rewards", workers=1)
    message = refused(tmp_path / "set", match="no column 'interaction': the critic learns it")
    assert "--critic.enabled=false" in message and "step 'interaction'" in message
    add_column(tmp_path / "set", c.VALUE_TRAJECTORY, lambda n, e: np.zeros(n))
    columns = {"critic__enabled": False, "objective__type": "awr", "advantage__source": "columns"}
    refused(tmp_path / "set", match=r"no column 'value_subtask'.*--advantage.source=critic", **columns)
    add_column(tmp_path / "set", c.VALUE_SUBTASK, lambda n, e: np.zeros(n))
    opened(tmp_path / "set", **columns)


def test_until_failure_needs_the_record(copy: Copy) -> None:
    root = copy()
    edit_json(root / "meta/igrft.json", lambda r: [e.pop("subtasks", None) for e in r["episodes"].values()])
    refused(root, objective__frames="until_failure", match=r"does not say where subtasks begin.*igrft annotate")


# Labels.


def test_no_successful_episode(copy: Copy) -> None:
    root = copy()
    set_success(root, {0: False, 3: False})
    match = r"no episode of .*set succeeded.*allow_no_success=true"
    refused(root, match=match)
    refused(root, match=match, objective__type="awr")
    opened(root, allow_no_success=True)
    opened(root, critic__enabled=False)
    # Another dataset of the list may have them.
    opened(root, copy("other"))
    refused(
        root,
        match="has no successful episode and objective.frames is successes",
        objective__frames="successes",
        allow_no_success=True,
        critic__enabled=False,
    )


def test_no_frame_before_a_failure(copy: Copy) -> None:
    root = copy()

    def change(record: dict) -> None:
        for entry in record["episodes"].values():
            for subtask in entry.get("subtasks", []):
                subtask["done"] = False
            entry["success"] = False

    edit_json(root / "meta/igrft.json", change)
    settings = {"objective__frames": "until_failure", "critic__enabled": False}
    refused(root, match=r"has no frame before a first failure", **settings)


def test_one_frame(tmp_path: Path) -> None:
    write_frames(tmp_path / "one", [1])
    refused(tmp_path / "one", match=r"one has 1 frame\(s\), so nothing happens in it", critic__enabled=False)
    write_frames(tmp_path / "short", [1, 1, 1])
    refused(tmp_path / "short", match="short has only episodes of one frame", critic__enabled=False)
    write_frames(tmp_path / "mixed", [1, 9])
    chosen = DatasetEntry(root=str(tmp_path / "mixed"), episodes=[0])
    refused(chosen, match="no episode to use: the ones named are empty or one frame long", critic__enabled=False)
    assert opened(tmp_path / "mixed", critic__enabled=False).summary[0].frames_used == 10


def write_frames(root: Path, lengths: list[int]) -> None:
    """A set of episodes that short; the synthetic writer's have five frames at least."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_dataset(root, len(lengths), 10 * len(lengths), width=2)
    data, episodes = root / "data/chunk-000/file-000.parquet", root / "meta/episodes/chunk-000/file-000.parquet"
    starts = np.cumsum([0, *lengths])
    table = pq.read_table(data).slice(0, starts[-1])
    numbers = {
        c.EPISODE_INDEX: np.repeat(np.arange(len(lengths)), lengths),
        c.FRAME_INDEX: np.concatenate([np.arange(n) for n in lengths]),
        c.INDEX: np.arange(starts[-1]),
    }
    for name, values in numbers.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, data)
    rows = pq.read_table(episodes)
    places = {"length": lengths, "dataset_from_index": starts[:-1], "dataset_to_index": starts[1:]}
    for name, values in places.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(np.asarray(values)))
    pq.write_table(rows, episodes)


def test_returns_that_are_constant(copy: Copy) -> None:
    root = copy()
    for name in (c.REWARD_TRAJECTORY, c.REWARD_SUBTASK):
        edit_column(root, name, lambda v, e: np.where(np.isnan(v), v, 0.0))
    match = r"set: the return is the same on every frame, so the critic cannot learn from it; label the dataset again"
    refused(root, match=match)
    opened(root, critic__enabled=False)
    # Successes alone, and a reward of 1 at their end: every return is 1.
    only = DatasetEntry(root=str(root), episodes=[0, 3])
    refused(only, match="set rewards.discount below 1", rewards__kind="sparse")
    opened(only, rewards__kind="sparse", rewards__discount=0.99)
    # One head of two that has nothing to learn is no obstacle.
    opened(root, rewards__kind="sparse")


def test_interaction_that_is_constant_is_a_warning(copy: Copy) -> None:
    root = copy()
    edit_column(root, c.INTERACTION, lambda v, e: np.full(len(v), e != 2))
    assert any("'interaction' is True on every frame" in w for w in opened(root).warnings)
    assert not any("'interaction'" in w for w in opened(copy("other")).warnings)


def test_nan_in_a_label(copy: Copy) -> None:
    root = copy()
    edit_column(root, c.REWARD_TRAJECTORY, lambda v, e: np.where((np.arange(len(v)) > 6) & (e == 1), np.nan, v))
    refused(root, match=r"set: episode 1, frame 7: 'reward_trajectory' is not finite \(23 such frames\)")


@pytest.mark.parametrize("name", [c.STATE, c.ACTION])
@pytest.mark.parametrize("images", [False, True])
def test_nan_in_what_was_recorded(copy: Copy, name: str, images: bool) -> None:
    root = copy()

    def hole(values: np.ndarray, episode: int) -> np.ndarray:
        if episode in (1, 2):
            values[8, 1] = np.nan
        return values

    edit_column(root, name, hole)
    match = rf"set: episode 1, frame 8: '{name}' is not finite \(1 such frames\)"
    refused(root, match=match, images=images)
    # Episode 2 was set aside: what it holds harms nobody.
    opened(DatasetEntry(root=str(root), episodes=[0, 2, 3]), images=images)


def test_episodes_set_aside_are_said(copy: Copy) -> None:
    root = copy()
    assert opened(root).warnings == [
        f"{root}: 1 of 4 episodes (25%) were set aside and are not used; the first: episode 2: the video of {CAMERA} "
        "ends at frame 7; restore it from the source"
    ]
    entry = DatasetEntry(root=str(root), episodes=[2])
    refused(entry, match=r"set has no episode to use: every one was set aside \(episode 2: the video")


def test_a_critic_that_sees_no_failure_is_a_warning(original: Path) -> None:
    warnings = opened(original, objective__frames="successes").warnings
    assert any("the critic sees no failure" in w for w in warnings)


# Several datasets.


def test_rates_that_differ(copy: Copy) -> None:
    other = copy("other")
    edit_info(other, lambda i: i.update(fps=20))
    refused(copy(), other, match=r"other has 20 frames/s and .*set has 10; .*leave one out")


@pytest.mark.parametrize("name", [c.STATE, c.ACTION])
def test_widths_that_differ(copy: Copy, name: str) -> None:
    other = copy("other")
    edit_column(other, name, lambda v, e: v[:, :2])
    edit_info(other, lambda i: i["features"][name].update(shape=[2]))
    refused(copy(), other, match=rf"'{name}' has 2 numbers a frame in .*other and 3 in .*set; .*the same robot")


def test_a_state_that_only_one_has(copy: Copy) -> None:
    other = copy("other")
    add_column(other, "observation.environment_state", lambda n, e: np.zeros((n, 2)))
    refused(copy(), other, match="'observation.environment_state' has 2 numbers a frame in .*other and none in")


def test_cameras_that_differ(copy: Copy) -> None:
    root, other = copy(), copy("other")
    edit_info(other, lambda i: i["features"][CAMERA].update(shape=[96, 128, 3]))
    match = r"pictures of camera 'observation.images.top' are \(96, 128, 3\) in .*other and \(48, 64, 3\) in .*set"
    refused(root, other, match=match, images=True)
    opened(root, other)
    shutil.rmtree(other / "videos")
    refused(root, other, images=True, match=r"other has no pictures, and the policy looks at cameras")


def test_a_camera_that_one_lacks(copy: Copy) -> None:
    root, other = copy(), copy("other")
    extra = "observation.images.wrist"
    shutil.copytree(other / "videos" / CAMERA, other / "videos" / extra)
    edit_info(other, lambda i: i["features"].update({extra: i["features"][CAMERA]}))
    refused(root, other, images=True, match=rf"set has no pictures of camera '{extra}', which .*other has")
    refused(other, root, images=True, match=rf"set has no pictures of camera '{extra}', which .*other has")


# What LeRobot needs.


def test_timestamps_that_lerobot_refuses(copy: Copy) -> None:
    root = copy()
    edit_column(root, c.TIMESTAMP, lambda v, e: v + (np.arange(len(v)) > 4) * (e == 3) * 0.02)
    match = r"set: episode 3, frame \d+: the timestamp is 20.0 ms off frame / fps \(the worst of 45 frames\)"
    message = refused(root, images=True, match=match)
    assert "igrft convert SOURCE TARGET --rebuild-timestamps" in message
    opened(root)
    opened(DatasetEntry(root=str(root), episodes=[0, 1]), images=True)


class Policy:
    """Of a policy's configuration, what is looked at here."""

    def __init__(self, **modes: NormalizationMode) -> None:
        self.normalization_mapping = modes


def test_statistics_that_the_policy_normalises_by(copy: Copy) -> None:
    root = copy()
    edit_json(root / "meta/stats.json", lambda s: [s[c.ACTION].pop(q) for q in ("q01", "q99")])
    quantiles = Policy(STATE=NormalizationMode.QUANTILES, ACTION=NormalizationMode.QUANTILES)
    match = r"stats.json has no q01 of 'action', by which the policy normalises; convert the recording again"
    refused(root, policy=quantiles, match=match)
    opened(root, policy=Policy(STATE=NormalizationMode.QUANTILES, ACTION=NormalizationMode.MEAN_STD))
    # A checkpoint may bring its own.
    data = opened(root, policy=quantiles, init_from="runs/sft")
    with pytest.raises(IgrftError, match=match):
        data.check_normalisation(quantiles.normalization_mapping)
    refused(root, policy=quantiles, init_from="runs/sft", normalisation="dataset", match=match)
    # Pictures that are not normalised need no statistics.
    edit_json(root / "meta/stats.json", lambda s: s.pop(CAMERA))
    assert set(opened(root, images=True).stats) == {c.STATE, c.ACTION}
    visual = Policy(VISUAL=NormalizationMode.MEAN_STD)
    refused(root, images=True, policy=visual, match=f"no mean of '{CAMERA}', by which the policy normalises")
    edit_json(root / "meta/stats.json", lambda s: s[c.STATE].update(q99=[1.0, float("nan"), 1.0]))
    refused(root, policy=quantiles, match="q99 of 'observation.state' is not finite")
    (root / "meta/stats.json").unlink()
    refused(root, match=r"stats.json has no min of 'observation.state'")


def test_every_normalisation_of_lerobot_is_known() -> None:
    from igrft.training.checks import NORMALISATIONS

    assert set(NORMALISATIONS) == {mode.value for mode in NormalizationMode}


@pytest.mark.parametrize(
    ("step", "changes", "match"),
    [
        ({"value": "single"}, {}, "are those of an IQL critic"),
        ({"value": "weighted", "reward": "sparse"}, {}, "a critic of sparse rewards, and rewards.kind is hybrid"),
        ({"value": "weighted", "reward": "hybrid", "discount": 1.0}, {"rewards__discount": 0.9}, "with discount 1.0"),
    ],
)
def test_value_columns_of_another_reward_are_refused(copy: Copy, step, changes, match):
    root = copy()
    for name in (c.VALUE_TRAJECTORY, c.VALUE_SUBTASK, c.VALUE):
        add_column(root, name, lambda n, _: np.linspace(1, 0, n))

    def record(value: dict[str, Any]) -> None:
        value.setdefault("pipeline", {}).setdefault("steps", []).append({"type": "values", **step})

    edit_json(root / "meta/igrft.json", record)
    settings = {"objective__type": "awr", "advantage__source": "columns", **changes}
    refused(root, match=match, **settings)
