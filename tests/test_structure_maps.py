"""Maps of structures: every figure on them is that of the exact optimum, whichever way that is found."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest

from analysis import figures, structures
from analysis.figures.grids import REGIONS
from analysis.structures import STRUCTURES, THREE, TIERS_OF, Setting
from testbed import registry
from testbed.planners.base import Problem
from testbed.planners.evaluate import critical_path
from testbed.planners.objective import objective_s
from testbed.planners.prices import make_plan

SETTINGS = [
    Setting(),
    Setting(access_mbps=400.0, backbone_mbps=60.0),
    Setting(
        device="jetson-nano-fp16", edge="jetson-tx2", cloud="tesla-t4", access_mbps=20.0, backbone_mbps=200.0, edge_speed=0.25
    ),
    Setting(access_mbps=1.0, backbone_mbps=1000.0),
]


def placements(problem: Problem) -> Iterator[list[int]]:
    """All there are of a chain."""
    size = len(problem.graph)
    for i, j in itertools.combinations_with_replacement(range(1, size + 1), 2):
        yield [0] * i + [1] * (j - i) + [2] * (size - j)


@pytest.mark.parametrize("encoding", ["float32", "uint8"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_structure_s_best_is_the_least_of_all_its_placements(setting: Setting, encoding: str) -> None:
    problem = structures.problem_at("alexnet", encoding, setting)
    least: dict[str, float] = dict.fromkeys(STRUCTURES, float("inf"))
    busiest: dict[str, float] = dict.fromkeys(STRUCTURES, float("inf"))
    for ranks in placements(problem):
        plan = make_plan("any", problem, ranks)
        seconds, bottleneck = objective_s(problem, plan), critical_path(problem, plan).bottleneck_s
        for name, tiers in TIERS_OF.items():
            if set(ranks[1:]) <= set(tiers):
                least[name] = min(least[name], seconds)
                busiest[name] = min(busiest[name], bottleneck)
    one = structures.latency_map("alexnet", encoding, [setting]).iloc[0]
    many = structures.load_map("alexnet", encoding, [setting]).iloc[0]
    for name in STRUCTURES:
        assert one[name] == pytest.approx(least[name], rel=1e-6)
        assert many[name] == pytest.approx(busiest[name], rel=1e-6)
    assert many["proven"]


@pytest.mark.parametrize("model", ["resnet18", "vgg16"])
def test_points_are_the_planners_own(model: str) -> None:
    for setting in SETTINGS:
        problem = structures.problem_at(model, "float32", setting)
        row = structures.latency_map(model, "float32", [setting]).iloc[0]
        assert row[THREE] == pytest.approx(registry.planner("optimal").plan(problem).objective_s, rel=1e-6)
        assert row["hpa"] == registry.planner("hpa").plan(problem).objective_s
        assert row["hpa_loss"] >= 1.0 - 1e-6
        for tier in ("device", "edge", "cloud"):
            assert row[tier] == pytest.approx(registry.planner(f"{tier}-only").plan(problem).objective_s)


def test_the_simplest_structure_within_a_share_is_named() -> None:
    row = {"device": 9.0, "edge": 3.0, "cloud": 4.0, "device + edge": 2.2, "edge + cloud": 3.0, "device + cloud": 4.0, THREE: 2.0}
    frame = pd.DataFrame([row])
    assert structures.simplest(frame).tolist() == [THREE]
    assert structures.simplest(frame, 0.1).tolist() == ["device + edge"]
    assert structures.simplest(frame, 0.5).tolist() == ["edge"]
    assert structures.judged(frame)[["over_single", "over_pair"]].iloc[0].tolist() == pytest.approx([1.5, 1.1])
    assert structures.shares(frame.assign(model="m")).loc["m"].to_dict() == {**dict.fromkeys(STRUCTURES, 0.0), THREE: 100.0}


def test_a_demand_that_no_plan_sustains_has_no_structure() -> None:
    setting = Setting()
    most = 1.0 / structures.load_map("alexnet", "uint8", [setting]).iloc[0][THREE]
    found = structures.demand_map("alexnet", "uint8", [setting], [0.01 * most, 0.999 * most, 1.001 * most])
    least = structures.latency_map("alexnet", "uint8", [setting]).iloc[0]
    assert found["structure"].iloc[0] == least["structure"]
    assert found["seconds"].iloc[0] == pytest.approx(least[THREE], rel=1e-6)
    assert found["structure"].iloc[1] in STRUCTURES
    assert found["structure"].iloc[2] == "none"


def test_tiles_gain_on_slow_hosts_and_never_cost() -> None:
    slow = Setting(edge="raspberry-pi-4-tuned", cloud="tesla-t4", backbone_mbps=2.0, edge_hosts=4)
    one, four = (structures.tiles_map("vgg16", "float32", [each]).iloc[0] for each in (replace(slow, edge_hosts=1), slow))
    assert one["tile_gain"] == pytest.approx(1.0)
    assert four["tile_gain"] > 1.5
    assert four["proven"]
    assert four["d3"] >= four["tiled"] * (1.0 - 1e-9)


@pytest.mark.parametrize("encoding", ["float32", "uint8"])
@pytest.mark.parametrize("model", ["alexnet", "vgg16"])
def test_a_pair_of_tiers_pays_somewhere_just_where_a_cut_sends_little_enough(model: str, encoding: str) -> None:
    near = Setting(access_delay_s=0.0, backbone_delay_s=0.0)
    cuts = structures.cuts(model, encoding, near)
    assert cuts.groupby("pair")["ratio"].first().tolist() == pytest.approx(
        [1.0] * 3
    )  # behind the input: all of it, nothing given up
    rates = structures.log_steps(0.01, 1e5, 150)
    over_access = structures.latency_map(model, encoding, structures.over(near, access_mbps=rates))
    over_backbone = structures.latency_map(model, encoding, structures.over(near, backbone_mbps=rates))
    for pair, frame in (("device + edge", over_access), ("edge + cloud", over_backbone)):
        alone = frame[pair.split(" + ")].min(axis=1)
        pays = bool((frame[pair] < alone * (1 - 1e-6)).any())
        assert pays == bool((cuts[(cuts["pair"] == pair) & (cuts["layer"] > 0)]["ratio"] < 1 - 1e-3).any())


def test_maps_are_drawn_as_they_are() -> None:
    steps = structures.log_steps(1, 1000, 4)
    settings = structures.over(Setting(), access_mbps=steps, backbone_mbps=steps)
    found = pd.concat([structures.latency_map("alexnet", each, settings) for each in ("float32", "uint8")], ignore_index=True)
    figure = figures.structure_maps(found, "backbone_mbps", "access_mbps")
    for axis, encoding in zip(figure.axes, ("float32", "uint8"), strict=True):
        part = found[found["encoding"] == encoding]
        names = [name for name in REGIONS if name in set(found["structure"])]
        drawn = [names[int(code)] for code in axis.collections[0].get_array().ravel()]
        assert drawn == part.sort_values(["access_mbps", "backbone_mbps"])["structure"].tolist()
    ratios = figures.ratio_maps(found, "hpa_loss", "backbone_mbps", "access_mbps", "HPA / optimum")
    assert [axis.texts[0].get_text() for axis in ratios.axes[:2]] == [
        f"max {found.loc[found['encoding'] == each, 'hpa_loss'].max():.2f}×" for each in ("float32", "uint8")
    ]
    cuts = structures.cuts("alexnet", "float32", Setting())
    dots = figures.cut_savings(cuts).axes[0].lines[0].get_ydata()
    assert list(dots) == cuts[(cuts["pair"] == "device + edge") & (cuts["layer"] > 0)]["sent"].tolist()
