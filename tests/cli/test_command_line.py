"""The command line as a user meets it: exit statuses, one-line errors, overrides, speed of --help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import edit_subtasks

from igrft.cli.main import run, split_overrides

PROJECT = Path(__file__).resolve().parents[2]


def igrft(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "igrft.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)


def test_annotate_inspect_validate_report_export(source, pipeline_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["annotate", str(source), str(out), "--pipeline", str(pipeline_file()), "-q"]) == 0
    assert "6 episodes, 300 frames labelled" in capsys.readouterr().out
    assert run(["annotate", str(source), str(out), "--pipeline", str(pipeline_file()), "-q"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(["inspect", str(out)]) == 0
    assert "reach the cup" in capsys.readouterr().out
    assert run(["inspect", str(out), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert run(["validate", str(out), "-q"]) == 0
    capsys.readouterr()
    assert run(["subtasks", "export", str(out), str(tmp_path / "s.json")]) == 0
    assert len(json.loads((tmp_path / "s.json").read_text())["episodes"]) == 6
    capsys.readouterr()
    assert run(["report", str(out), "--output", str(tmp_path / "page"), "--episodes", "0,2-3", "-q"]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page.is_file() and page.parent == tmp_path / "page"


def test_set_aside_is_exit_status_1(source, subtask_file, pipeline_file, tmp_path, capsys):
    edit_subtasks(subtask_file, lambda e: e.pop("2"))
    assert run(["annotate", str(source), str(tmp_path / "out"), "--pipeline", str(pipeline_file()), "-q"]) == 1
    assert "episode 2 is not in" in capsys.readouterr().err


def test_overrides_reach_the_step(source, pipeline_file, tmp_path):
    arguments = ["annotate", str(source), str(tmp_path / "out"), "--pipeline", str(pipeline_file()), "-q"]
    assert run([*arguments, "--steps.rewards.sharpness=0.1", "--steps.returns.discount", "0.9"]) == 0
    steps = json.loads((tmp_path / "out/meta/igrft.json").read_text())["pipeline"]["steps"]
    assert steps[1]["sharpness"] == 0.1 and steps[2]["discount"] == 0.9


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["annotate"], 2, "Missing argument"),
        (["anotate", "a", "b"], 2, "Did you mean 'annotate'"),
        (["annotate", "nowhere", "target"], 2, "does not exist"),
        (["annotate", "SOURCE", "SOURCE"], 2, "same folder"),
        (["annotate", "SOURCE", "target", "--pipeline", "oflfine"], 2, "did you mean 'offline'"),
        (["annotate", "SOURCE", "target", "--steps.rewards.sharpnes=1"], 2, "did you mean 'sharpness'"),
        (["annotate", "SOURCE", "target", "--steps.reward.sharpness=1"], 2, "did you mean 'rewards'"),
        (["annotate", "SOURCE", "target", "--stepz.rewards.sharpness=1"], 2, "not of the form"),
        (["annotate", "SOURCE", "target", "--steps.rewards.sharpness"], 2, "has no value"),
        (["annotate", "SOURCE", "target", "--wrokers", "2"], 2, "No such option"),
        (["inspect", "SOURCE", "--a.b=1"], 2, "takes no dotted options"),
        (["report", "SOURCE", "--episodes", "x"], 2, "0,3,7-9"),
        (["inspect", "EMPTY"], 1, "not a LeRobot dataset"),
    ],
)
def test_errors_are_one_line(source, tmp_path, capsys, monkeypatch, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    names = {"SOURCE": str(source), "EMPTY": str(tmp_path / "empty")}
    assert run([names.get(a, a) for a in arguments]) == status
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error, re.IGNORECASE), error
    assert error.startswith("igrft: ") and error.count("\n") == 1


def test_debug_gives_the_traceback(tmp_path):
    found = igrft("inspect", tmp_path, "--debug")
    assert found.returncode == 1 and "Traceback" in found.stderr
    assert "Traceback" not in igrft("inspect", tmp_path).stderr


def test_split_overrides():
    rest, overrides = split_overrides(["annotate", "a.b", "--x.y=1", "--pipeline", "p.yaml", "--x.z", "2", "-q"])
    assert rest == ["annotate", "a.b", "--pipeline", "p.yaml", "-q"]
    assert overrides == ["x.y=1", "x.z=2"]


def test_help_of_every_verb_loads_nothing_heavy():
    code = """
import sys
from igrft.cli.app import app
from igrft.cli.main import run

groups = {"": app, **{f"{g.name} ": g.typer_instance for g in app.registered_groups}}
verbs = [p + (c.name or c.callback.__name__) for p, g in groups.items() for c in g.registered_commands]
for verb in ["", *groups, *verbs]:
    assert run([*verb.split(), "--help"]) == 0, verb
print(len(verbs), sorted({"numpy", "pyarrow", "torch", "lerobot", "cv2", "ray", "datatrove"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    verbs, heavy = found.stdout.splitlines()[-1].split(" ", 1)
    assert int(verbs) >= 15 and heavy == "[]"


def test_a_closed_pipe_is_no_failure(source, pipeline_file, tmp_path):
    command = f"{sys.executable} -m igrft.cli.main --help | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], cwd=PROJECT).returncode == 0


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("igrft.reports.inspect.inspect", stop)
    assert run(["inspect", "anything"]) == 130
    assert capsys.readouterr().err == "igrft: stopped; run the same command again to go on where it was\n"
