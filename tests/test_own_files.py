"""A model and a topology given as `file.py:NAME`: found beside the scenario, called by their file's name, mistakes named.

That they run is shown by the tutorial's test.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.cli import main
from testbed.errors import ScenarioError
from testbed.orchestrator.world import prepare
from testbed.scenario.load import load
from testbed.sweep import plan, read

MODEL = """
from torch import nn

def build():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))
    net.input_shape = (1, 3, 8, 8)
    return net
"""
TOPOLOGY = """
from topologies.layout import Host, Layout, Link

def line(table):
    hosts = (Host("d", "device"), Host("e", "edge"), Host("c", "cloud"))
    links = (Link("near", "near", "d", "s"), Link("mid", "mid", "e", "s"), Link("far", "far", "s", "c"))
    return Layout("line", hosts, ("s",), links)

def nothing(table):
    return None

def broken(table):
    return 1 / 0
"""
SCENARIO = """
[model]
names = ["net.py:build"]
[topology]
name = "place.py:line"
[links.near]
rate = "10 Mbit/s"
[links.mid]
rate = "10 Mbit/s"
[links.far]
rate = "10 Mbit/s"
[compute]
tensors = "sizes"
[requests]
count = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "place.py").write_text(TOPOLOGY)
    (tmp_path / "own.toml").write_text(SCENARIO)
    return tmp_path


def test_files_are_found_beside_the_scenario_from_any_folder(folder, monkeypatch):
    monkeypatch.chdir("/")
    world = prepare(load(folder / "own.toml"))
    assert world.layout.name == "line"
    assert [facts.label for facts in world.models.values()] == ["net.py:build"]
    assert len(next(iter(world.models.values())).graph) > 2


def test_results_call_them_without_their_folder(folder, capsys):
    assert main(["run", str(folder / "own.toml"), "--backend", "sim", "--out", str(folder / "run")]) == 0
    assert str(folder) not in (folder / "run" / "inferences.csv").read_text()
    assert (folder / "run" / "inferences.csv").read_text().count("net.py:build,d3,") == 2


def test_a_changed_topology_file_is_another_cell(folder):
    (folder / "sweep.toml").write_text('scenario = "own.toml"\nbackend = "sim"\n[axes]\nseeds = [1]\n')
    (before,) = plan(read(folder / "sweep.toml")).cells
    (folder / "place.py").write_text(TOPOLOGY + "\n# another one\n")
    (after,) = plan(read(folder / "sweep.toml")).cells
    assert before.key != after.key
    assert before.model == "net.py:build"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("topology.name=nowhere.py:line", "topology.name: no such file: .*nowhere.py"),
        ("topology.name=place.py:circle", "has no attribute 'circle'"),
        ("topology.name=place.py:nothing", 'topology "place.py:nothing": it returned NoneType, not a Layout'),
        ("topology.name=place.py:broken", 'topology "place.py:broken": it failed: ZeroDivisionError'),
        ('model.names=["nowhere.py:build"]', "model.names: no such file: .*nowhere.py"),
    ],
)
def test_mistakes_are_named(folder, override, said):
    with pytest.raises(ScenarioError, match=said):
        prepare(load(folder / "own.toml", [override]))


def test_two_models_of_one_label_are_refused(folder):
    other = folder / "other"
    other.mkdir()
    os.link(folder / "net.py", other / "net.py")
    with pytest.raises(ScenarioError, match=r"two models would be called 'net\.py:build'"):
        prepare(load(folder / "own.toml", ['model.names=["net.py:build", "other/net.py:build"]']))


def test_check_says_where_it_could_run_and_runs_nothing(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["scenario", "check", "own.toml"]) == 0
    printed = capsys.readouterr().out
    assert "net.py:build (3 vertices)" in printed
    assert "line, 3 hosts, 3 links" in printed
    assert "on sim" in printed
    assert not Path("runs").exists()


def test_a_shipped_scenario_is_a_start(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["scenario", "show", "quickstart", "--out", "mine.toml"]) == 0
    assert load("mine.toml").model == load("quickstart").model
    assert main(["scenario", "show", "quickstart", "--out", "mine.toml"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["scenario", "show", "quickstrat"]) == 2
    assert 'did you mean "quickstart"?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('Host("e", "edge")', 'Host("d", "edge")'), "more than one host or switch is called 'd'"),
        (('Host("e", "edge")', 'Host("an-edge-host", "edge")'), "'an-edge-host' cannot name a host or switch"),
        (('Link("far", "far", "s", "c")', 'Link("far", "far", "s", "t")'), "link 'far' leads to 't', which is no host or switch"),
        (('Host("e", "edge"), ', ""), "link 'mid' leads to 'e'"),
        (('"mid", "mid", "e", "s"', '"mid", "mid", "e", "d"'), "link 'mid' joins two hosts"),
    ],
)
def test_a_layout_that_no_network_can_have_is_refused(folder, change, said):
    (folder / "place.py").write_text(TOPOLOGY.replace(*change))
    with pytest.raises(ScenarioError, match=said):
        prepare(load(folder / "own.toml"))
