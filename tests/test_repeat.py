"""A run folder is a scenario, too: run again it gives the same bytes. And planners come from a file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_words import refused, said
from test_bad_input import SCENARIO

from testbed.report import load
from testbed.scenario.load import load as read

PLANNER = """\
from dataclasses import dataclass

from testbed.planners.single import EdgeOnly


@dataclass
class Mine(EdgeOnly):
    calls: int = 0


class Clumsy(EdgeOnly):
    def plan(self, problem):
        return 1 / 0


class Picky(EdgeOnly):
    def __init__(self, how):
        self.how = how


class Half:
    def plan(self, problem):
        return None
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "swing.csv").write_text("time_s,rate_mbps\n0,20\n1,2\n2,20\n3,2\n")
    (tmp_path / "mine.py").write_text(PLANNER)
    (tmp_path / "s.toml").write_text(SCENARIO + 'probe_interval = "0.3 s"\noptions = { sis = "off" }\n')
    return tmp_path / "s.toml"


def first(capsys: Any, file: Path) -> Path:
    folder = file.parent / "first"
    changes = ("--set", "links.backbone.trace=swing.csv", "--set", "requests.arrival=poisson", "--set", "requests.rate=1.5 /s")
    words = ("--planner", "mine.py:Mine", "--planner", "d3", "--seed", "11", *changes)
    said(capsys, "run", file, "--backend", "sim", "--out", folder, *words, code=0)
    return folder


@pytest.mark.parametrize("again", ["first", "first/manifest.json"])
def test_a_run_folder_run_again_gives_the_same_bytes(capsys, file, monkeypatch, again):
    folder = first(capsys, file)
    (file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(file.parent / "elsewhere")
    _, err = said(capsys, "run", f"../{again}", "--out", "second", code=0)
    assert "backend sim: as in the earlier run" in err
    for name in ("inferences.csv", "links.csv"):
        assert (folder / name).read_bytes() == Path("second", name).read_bytes()
    assert json.loads(Path("second/manifest.json").read_text())["scenario"] == load(folder).manifest["scenario"]


def test_a_recorded_scenario_is_the_one_that_was_run(capsys, file):
    folder = first(capsys, file)
    again = read(folder)
    assert again.model_dump() == read(folder, []).model_dump()
    assert again.links["backbone"].rate == 20e6
    assert again.seed == 11
    assert again.planning.options == {"sis": "off"}


def test_overrides_of_a_recorded_scenario_need_their_units_too(capsys, file):
    folder = first(capsys, file)
    assert "is a string with a unit" in refused(capsys, "run", folder, "--set", "links.backbone.rate=30")
    said(capsys, "run", folder, "--out", "third", "--set", "links.backbone.rate=30 Mbit/s", "--planner", "d3", code=0)
    assert load(Path("third")).manifest["scenario"]["links"]["backbone"]["rate"] == 30e6


def test_what_is_no_run_is_refused(capsys, file):
    folder = first(capsys, file)
    assert "it has no scenario" in refused(capsys, "run", folder / "fidelity.json")
    (folder / "manifest.json").write_text('{"scenario": ')
    assert "not a manifest" in refused(capsys, "run", folder)
    (folder / "manifest.json").unlink()
    assert "a folder without a run" in refused(capsys, "run", folder)


def test_another_version_is_mentioned(capsys, file):
    folder = first(capsys, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, err = said(capsys, "run", folder, "--out", "second", code=0)
    assert "the earlier run had torch 1.0" in err


def test_a_planner_of_ones_own_is_a_file_and_a_class(capsys, file):
    found = load(first(capsys, file))
    assert list(dict.fromkeys(found.measured["planner"])) == ["mine.py:Mine", "d3"]
    out, _ = said(capsys, "plan", file, "--planner", "mine.py:Mine", code=0)
    assert "mine.py:Mine" in out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mine.py:Yours", "cannot be loaded: AttributeError"),
        ("nowhere.py:Mine", "no such file"),
        ("mine.py:Half", "needs methods plan and replan"),
        ("mine.py:Picky", "it must be made without arguments"),
        ("broken.py:Mine", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_planners_file_that_will_not_do_is_named(capsys, file, name, says):
    (file.parent / "broken.py").write_text("class Mine(\n")
    err = refused(capsys, "run", file, "--backend", "sim", "--planner", name)
    assert name.split(":")[0] in err
    assert says in err


def test_a_planner_that_fails_ends_the_run_by_its_name(capsys, file):
    words = ("--planner", "mine.py:Clumsy", "--out", "out")
    _, err = said(capsys, "run", file, "--backend", "sim", "--set", "planning.options={}", *words, code=1)
    assert "planner 'mine.py:Clumsy' failed on 'alexnet': ZeroDivisionError" in err


def test_two_planners_of_one_name_are_refused(capsys, file):
    (file.parent / "other").mkdir()
    (file.parent / "other" / "mine.py").write_text(PLANNER)
    words = ("--planner", "mine.py:Mine", "--planner", "other/mine.py:Mine")
    assert "two planners would be called 'mine.py:Mine'" in refused(capsys, "run", file, "--backend", "sim", *words)
