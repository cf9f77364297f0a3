"""What agents are told of time follows from the true costs, step by step and tile by tile."""

from __future__ import annotations

import pytest
from orchestration import chain, costs

from d3node.intervals import area, reverse
from d3node.plan import Plan, Stack, Tile
from d3node.program import lower
from testbed.orchestrator.prices import price

HOSTS = {"device": "d1", "edge": "e1", "cloud": "c1"}


def test_steps_take_the_sum_of_their_vertices_on_their_host() -> None:
    graph = chain(5)
    plan = Plan("p", "chain", ("device", "device", "device", "edge", "edge", "cloud"), HOSTS)  # type: ignore[arg-type]
    found = price(graph, plan, lower(graph, plan), costs(graph, e1=0.5, c1=2.0))
    assert {tier: pytest.approx(s) for tier, s in found.steps_s.items()} == {"device": [0.08], "edge": [0.04], "cloud": [0.0005]}
    assert found.tiles_s == []


def test_tiles_pay_all_of_the_fixed_part_and_their_area_with_halo_of_the_rest() -> None:
    graph = chain(3)
    tiles = (Tile("e1", (0, 8), (0, 16)), Tile("e2", (8, 16), (0, 16)), Tile("e3", (16, 16), (0, 16)))
    stack = Stack((1, 2), (3, 1), tiles)
    plan = Plan("p", "chain", ("device", "edge", "edge", "edge"), HOSTS, (stack,))  # type: ignore[arg-type]
    plan.check(graph)
    found = price(graph, plan, lower(graph, plan), costs(graph, e2=2.0))
    halo = area(reverse(graph, (1, 2), ((0, 8), (0, 16))).produced[1]) / 256
    assert halo == 9 / 16, "the first vertex of the stack computes one more row"
    whole = (0.001 + 0.009 * halo) + (0.001 + 0.009 * 0.5)
    assert found.tiles_s == [[pytest.approx(whole), pytest.approx(whole / 2), 0.0]]
    assert found.steps_s["edge"] == [0.0, pytest.approx(0.01)]
