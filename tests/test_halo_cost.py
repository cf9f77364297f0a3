"""The work that tiles do twice is what their regions say, tile by tile."""

from __future__ import annotations

import pytest

from analysis import figures
from analysis.tiles import Vsm, halo
from d3node.intervals import area, grid_boxes, reverse
from d3node.model import ModelSpec, load_graph
from testbed import registry
from testbed.orchestrator.world import prepare
from testbed.planners.base import Problem
from testbed.report.forecast import problems_at
from testbed.scenario.load import load


def test_work_of_a_stack_is_the_sum_over_its_tiles_regions() -> None:
    graph = load_graph(ModelSpec("vgg16"))
    found = halo(graph, [(1, 1), (2, 2), (1, 8)])
    whole_maps = found[found["grid"] == "1x1"]["work"].tolist()
    assert whole_maps == pytest.approx([1.0] * len(whole_maps))
    deep = found[(found["grid"] == "2x2") & (found["depth"] == 10)].iloc[0]
    vertices = tuple(range(1, 11))
    whole = sum(graph[v].flops for v in vertices)
    each = []
    for box in grid_boxes(graph[10].rows, graph[10].columns, [1.0] * 2, [1.0] * 2):
        produced = reverse(graph, vertices, box).produced
        each.append(sum(graph[v].flops * area(produced[v]) / (graph[v].rows * graph[v].columns) for v in vertices))
    assert deep["work"] == pytest.approx(sum(each) / whole)
    assert deep["largest"] == pytest.approx(max(each) / whole)
    by_grid = found[found["depth"] == 10].set_index("grid")["work"]
    assert 1.0 < by_grid["2x2"] < by_grid["1x8"]
    lines = {line.get_label(): list(line.get_ydata()) for line in figures.halo_lines(found).axes[0].lines}
    assert lines == {grid: rows["work"].tolist() for grid, rows in found.groupby("grid")}


def problem(edges: int) -> Problem:
    world = prepare(load("paper", [f"topology.edges={edges}", "hosts.edge.profile=raspberry-pi-4"]))
    return problems_at(world, "vgg16")["d1"]


def test_vsm_by_itself_keeps_the_whole_model_on_the_edge() -> None:
    alone, four = Vsm().plan(problem(1)), Vsm().plan(problem(4))
    assert set(four.plan.tiers[1:]) == {"edge"}
    assert four.plan.stacks
    assert not alone.plan.stacks
    assert alone.objective_s == pytest.approx(registry.planner("edge-only").plan(problem(1)).objective_s)
    assert four.objective_s < 0.6 * alone.objective_s
