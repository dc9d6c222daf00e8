"""Cards say what is in the set, are valid for the Hub, and stand whatever a task is called."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import card_problems
from labelled_set import CAMERA, EPISODES, NAMES, REASON, make_labelled_set

from igrft import columns as c
from igrft.dataset.parquet import write_json
from igrft.dataset.reader import DatasetReader
from igrft.errors import UsageError
from igrft.publishing.card import escape
from igrft.publishing.facts import size_category
from igrft.publishing.pictures import episode_pictures
from igrft.publishing.push import file_size, push
from igrft.reports import palette
from igrft.reports.summary import summarise
from igrft.rollouts.facts import ROLLOUT

REPO = "somebody/cubes"


def card_of(root: Path, **options) -> tuple[str, dict]:
    """The rendered card and its front matter."""
    result = push(root, REPO, dry_run=True, output=root.parent / "card", **options)
    text = result.card.read_text()
    return text, yaml.safe_load(text.split("---\n")[1])


def test_a_labelled_set(labelled):
    text, data = card_of(labelled, license="mit", title="Cubes", tags=("cubes",))
    assert data == {
        "license": "mit",
        "pretty_name": "Cubes",
        "size_categories": "n<1K",
        "task_categories": ["robotics"],
        "tags": ["LeRobot", "igrft", "cubes", "testbot"],
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    assert card_problems(text, "dataset") == ([], [])
    mean = json.loads((labelled / "meta/stats.json").read_text())[c.REWARD_TRAJECTORY]["mean"][0]
    for line in (
        "| task | put the cube into the box |",
        "| robot | testbot |",
        "| cameras | `observation.images.top` 64×48 |",
        "| episodes | 4 |",
        "| frames | 145 at 10 a second |",
        "| success | 2 of 3 (67 %) |",
        f"| `reward_trajectory` | float32 | Eq. 4: 1/T on a success | 0 | {mean:.3g} | 0.025 |",
        "| 2 | grasp | 3 | 2 | 1.4 s |",
        f"| 2 | {escape(REASON)} |",
        "pixel_threshold = 400.0",
        'LeRobotDataset("somebody/cubes")',
        'igrft.load_labels("somebody/cubes")',
        "arXiv:2602.20715",
    ):
        assert line in text, line
    entries = json.loads((labelled / "meta/igrft.json").read_text())["episodes"]
    lengths = {"0": 40, "1": 30, "3": 50}
    share = sum(entries[e]["interaction"]["share"] * n for e, n in lengths.items()) / 120
    assert f"interacts with its surroundings on {100 * share:.0f} % of the frames" in text
    for episode in (0, 1, 3):
        name = f"assets/episode_{episode:06d}.jpg"
        assert f"({name})" in text and (labelled.parent / "card" / name).is_file()
    assert "\n\n\n" not in text


def test_a_set_without_labels(tmp_path):
    text, data = card_of(make_labelled_set(tmp_path / "set", labels=False))
    assert "license" not in data and "## Labels" not in text and "igrft.load_labels" not in text
    assert "4 episodes (14.5 s) of testbot in LeRobot v3.0." in text and "assets/episode_000002.jpg" in text


def test_rollouts(labelled):
    takeover = {"start": 3, "end": 5, "by": "expert", "why": "asked"}
    episodes = [
        {"success": success, "frames": frames, "seed": i, "ended": "time limit", "takeovers": [takeover] if i else []}
        for i, (frames, success, _) in EPISODES.items()
    ]
    settings = {"checkpoint": "/home/me/runs/sft/last", "exploration": {"type": "interaction", "alpha": 0.9}, "seed": 7}
    write_json(labelled / ROLLOUT, {"igrft_version": "0.1.0", "settings": settings, "episodes": episodes})
    text, data = card_of(labelled)
    assert "rollouts" in data["tags"] and "4 rollouts" in text and "with 2 takeovers" in text
    assert "| takeovers | 2 in 2 of 3 episodes |" in text and "| expert | asked | 2 | 2 | 4 | 1 |" in text
    assert "| checkpoint | last |" in text and "/home/me" not in text
    assert "| exploration | type = interaction, alpha = 0.9 |" in text
    plan = push(labelled, REPO, dry_run=True, output=labelled.parent / "card").plan
    assert plan.cleaned == [ROLLOUT]
    sent = next(f for f in plan.files if f.name == ROLLOUT)
    assert isinstance(sent.content, bytes)
    assert json.loads(sent.content)["settings"] == {**settings, "checkpoint": "last"}


@pytest.mark.parametrize(
    "name", ["a | b", "<script>alert(1)</script>", "*bold* _x_ `code`", "[x](http://y)", "line\nbreak", "打开盒子"]
)
def test_names_cannot_break_the_page(labelled, name):
    record = json.loads((labelled / "meta/igrft.json").read_text())
    for entry in record["episodes"].values():
        for s in entry.get("subtasks", []):
            s["name"] = {"grasp": name}.get(s["name"], s["name"])
    write_json(labelled / "meta/igrft.json", record)
    from igrft.publishing.facts import dataset_facts
    from igrft.reports.inspect import inspect

    dataset = DatasetReader.open(labelled)
    facts = dataset_facts(dataset, inspect(dataset), [])
    from igrft.publishing.card import dataset_card_data, find_card, render

    words = {"repo_id": REPO, "revision": "main", "title": name, "license": None, "license_text": ""}
    text = render(find_card("labelled"), dataset_card_data(facts, title=name, license=None, tags=[]), facts | words)
    rows = [r for r in text.splitlines() if r.startswith("| 2 | ") and r.endswith(" s |")]
    assert len(rows) == 1 and rows[0].count("|") - rows[0].count("\\|") == 6
    assert "<script>" not in text.split("---\n", 2)[2]
    assert card_problems(text, "dataset")[0] == []
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == name


def test_cards_of_the_users_own(labelled, tmp_path):
    (tmp_path / "mine.md.j2").write_text(
        '---\n{{ card_data }}\n---\nMine: {{ episodes }}.\n{% include "_citation.md.j2" %}'
    )
    text, _ = card_of(labelled, card=str(tmp_path / "mine.md.j2"))
    assert "Mine: 4." in text and "2602.20715" in text
    (tmp_path / "done.md").write_text("---\nlicense: mit\n---\nDone.\n")
    text, _ = card_of(labelled, card=str(tmp_path / "done.md"))
    assert text == "---\nlicense: mit\n---\nDone.\n"
    for name, content, message in (
        ("a.md.j2", "---\n{{ card_data }}\n---\n{{ nothing.here }}", "'nothing' is undefined"),
        ("b.md.j2", "---\n{{ card_data }}\n---\n{% for %}", "line 4"),
        ("c.md", "no front matter", "has no front matter"),
        ("d.md", "---\n[a\n---\n", "no YAML"),
        ("e.md", "---\n- a\n---\n", "must be a mapping"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UsageError, match=message) as caught:
            card_of(labelled, card=str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_the_picture_shows_the_labels(good_set):
    from PIL import Image

    dataset = DatasetReader.open(good_set)
    notes: list[str] = []
    found = episode_pictures(dataset, summarise(dataset), notes)
    assert not notes and [p.summary.episode for p in found] == [0, 1, 3]
    assert found[0].legend == [(1, "reach"), (2, "grasp"), (3, "place")] and found[0].camera == CAMERA
    assert found[1].legend == [(1, NAMES[0]), (2, NAMES[1])]
    picture = np.asarray(Image.open(io.BytesIO(found[0].jpeg)).convert("RGB")).astype(int)
    assert picture.shape[1] == 1200 and len(found[0].jpeg) < 200_000
    # Episode 0: reach until frame 12, grasp until 25, place until 40, in equal parts of the width.
    lane = next(y for y in range(picture.shape[0]) if near(picture[y, 110], palette.subtask_fill(0))) + 4
    room = 1200 - 108 - 12
    for frame, number in ((2, 0), (11, 0), (13, 1), (24, 1), (26, 2), (39, 2)):
        assert near(picture[lane, 108 + int(room * frame / 40)], palette.subtask_fill(number)), frame
    flags = np.asarray(DatasetReader.open(good_set).column(0, c.INTERACTION)).astype(bool)
    below = lane + 24 + 8
    for frame in (2, 12, 20, 24, 30, 38):
        colour = palette.INTERACTION if flags[frame] else palette.RULE
        assert near(picture[below, 108 + int(room * (frame + 0.5) / 40)], colour), frame


def near(pixel: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool(np.abs(pixel - wanted).max() < 24)


def test_small_words():
    assert [size_category(n) for n in (5, 1000, 999_999, 2_000_000_000)] == [
        "n<1K",
        "1K<n<10K",
        "100K<n<1M",
        "1B<n<10B",
    ]
    assert [file_size(n) for n in (0, 999, 56_700, 2_040_833, 3_000_000_000)] == [
        "0 B",
        "999 B",
        "56.7 kB",
        "2.0 MB",
        "3.0 GB",
    ]
