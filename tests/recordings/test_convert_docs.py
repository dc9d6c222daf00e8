"""docs/convert.md: every command in it is run as it stands, on recordings made by the writers of each kind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import recording_sets
import stream_sets as s
from recording_sets import info_json, write_aloha

from igrft.cli.main import run as command

LENGTHS = (30, 24)

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs/convert.md").read_text(encoding="utf-8")


def bags(kind: str) -> Callable[[], None]:
    def write() -> None:
        for episode, length in enumerate(LENGTHS):
            s.BAGS[kind](Path("bags"), f"take_{episode}", s.messages(episode, length / 10))

    return write


def marked() -> None:
    """Two episodes in one bag, the second one a success."""
    sent = s.messages(0, 6)
    sent += [s.flag("/recording", t, on) for t, on in ((0.45, True), (2.05, False), (3.05, True), (5.05, False))]
    sent += [s.flag("/success", t, won) for t, won in ((2.0, False), (5.0, True))]
    s.write_mcap(Path("bags/a.mcap"), sent)


def galaxea() -> None:
    s.write_mcap(Path("bags/a.mcap"), s.galaxea_messages(frames=30))


def aloha() -> None:
    for episode, length in enumerate(LENGTHS):
        write_aloha(Path(f"episodes/episode_{episode}.hdf5"), length, episode=episode, compress=True)


SECTIONS: dict[str, Callable[[], object]] = {
    "MCAP files": bags("mcap"),
    "ROS 1 bags": bags("ros1"),
    "ROS 2 bags": bags("ros2"),
    "Galaxea": galaxea,
    "Replay buffers": lambda: s.write_replay_buffer(Path("pusht.zarr"), LENGTHS),
    "UMI": lambda: s.write_umi(Path("cup.zarr.zip"), LENGTHS),
    "robomimic": lambda: s.write_robomimic(Path("image.hdf5"), LENGTHS),
    "ALOHA": aloha,
    "Videos with tables": lambda: s.write_video_folder(Path("takes"), LENGTHS),
    "The mapping file": marked,
}


def section(title: str) -> str:
    return DOCS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def commands(text: str) -> list[list[str]]:
    """Indented lines that call igrft, as a shell splits them."""
    return [shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (igrft .*)$", text, re.MULTILINE)]


def write_mappings() -> None:
    for name, text in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", DOCS, re.DOTALL):
        Path(name).write_text(text)


def test_no_command_is_left_out() -> None:
    """The two at the head stand in every section, too."""
    head = commands(DOCS.split("\n## ", 1)[0])
    assert head == [["annotate", "converted", "labelled"], ["validate", "labelled"]]
    assert sum(len(commands(section(title))) for title in SECTIONS) == len(commands(DOCS)) - len(head) == 30


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_what_the_docs_say_works(
    tmp_path: Path, title: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (s, recording_sets):
        monkeypatch.setattr(module, "picture", s.scene)
    SECTIONS[title]()
    write_mappings()
    for words in commands(section(title)):
        assert command(words) == 0, words
    if title == "MCAP files":
        exec(re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)[0], {})
        assert "/wrist/image" in capsys.readouterr().out
    features = info_json(Path("labelled" if Path("labelled").is_dir() else "converted"))["features"]
    assert "action" in features and "observation.state" in features
    assert Path("labelled").is_dir() == ("return_to_go" in features) == (title != "The mapping file")


@pytest.mark.slow
def test_what_the_readme_says_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_mappings()
    bags("mcap")()
    s.write_umi(Path("cup.zarr.zip"), LENGTHS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    said = commands(readme.split("(docs/convert.md)", 1)[1].split("\n\n`SOURCE`", 1)[0])
    assert len(said) == 3
    for words in said:
        assert command(words) == 0, words
