"""Promises of the random and the greedy planner: legal, repeatable, and what their names say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import random_problem

from d3node.graph import LayerGraph, Vertex
from d3node.program import Route
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.planners.base import Change, Problem
from testbed.planners.evaluate import objective_s
from testbed.planners.exhaustive import Exhaustive
from testbed.planners.hpa import Hpa
from testbed.planners.yardsticks import Greedy, Random

SEEDS = st.integers(min_value=0, max_value=1 << 30)


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    route=st.sampled_from(("relay", "direct")),
    draw=st.sampled_from(("cuts", "vertices")),
    draws=st.integers(1, 5),
)
def test_random_plans_are_legal_the_same_again_and_no_better_than_the_best(
    seed: int, route: Route, draw: str, draws: int
) -> None:
    problem = replace(
        random_problem(seed, route=route, size=7), options={"random_draw": draw, "random_seed": seed, "random_draws": draws}
    )
    decision = Random().plan(problem)
    decision.plan.check(problem.graph)
    assert decision.plan == Random().plan(problem).plan
    assert decision.objective_s == pytest.approx(objective_s(problem, decision.plan))
    assert decision.objective_s >= Exhaustive().plan(problem).objective_s - 1e-9
    elsewhere = replace(problem, network=replace(problem.network, edge_cloud=Path(1e5)))
    if draws == 1:
        assert Random().replan(elsewhere, decision.plan, Change()).plan.same_placement(decision.plan)


@pytest.mark.parametrize("draw", ["cuts", "vertices"])
def test_other_seeds_draw_other_plans_and_all_tiers_are_drawn(draw: str) -> None:
    problem = random_problem(2, size=9)
    plans = [Random().plan(replace(problem, options={"random_draw": draw, "random_seed": s})).plan.tiers for s in range(60)]
    assert len(set(plans)) > 10
    assert {tier for plan in plans for tier in plan[1:]} == {"device", "edge", "cloud"}
    assert len({plan[-1] for plan in plans}) > 1


def test_more_draws_keep_the_cheapest() -> None:
    problem = random_problem(5, size=9)
    prices = [Random().plan(replace(problem, options={"random_draws": n})).objective_s for n in (1, 3, 30, 300)]
    assert prices == sorted(prices, reverse=True)
    assert prices[-1] < prices[0]


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, route=st.sampled_from(("relay", "direct")), ordered=st.booleans())
def test_greedy_plans_are_legal_and_no_better_than_the_best(seed: int, route: Route, ordered: bool) -> None:
    problem = random_problem(seed, route=route, ordered=ordered, size=7)
    decision = Greedy().plan(problem)
    decision.plan.check(problem.graph)
    assert decision.objective_s == pytest.approx(objective_s(problem, decision.plan))
    assert decision.objective_s >= Exhaustive().plan(problem).objective_s - 1e-9


def branches(sizes: tuple[int, int]) -> Problem:
    """The input feeds a and b, both feed c. Edge twice, cloud four times as fast as the device's 0.4 s; 8 Mbit/s everywhere."""
    vertices = (
        Vertex(0, "input", "input", (), (1, 3, 8, 8), sizes[0]),
        Vertex(1, "a", "linear", (0,), (1, 8), sizes[1]),
        Vertex(2, "b", "linear", (0,), (1, 8), sizes[1]),
        Vertex(3, "c", "add", (1, 2), (1, 8), 10),
    )
    zeros = (0.0,) * 4
    tiers = {tier: TierCosts(zeros, (0.0, *[seconds] * 3)) for tier, seconds in (("device", 0.4), ("edge", 0.2), ("cloud", 0.1))}
    network = NetworkState(Path(8e6), Path(8e6), Path(8e6))
    hosts = {"device": "d1", "edge": "e1", "cloud": "c"}
    return Problem(LayerGraph("branches", vertices, (3,)), Costs(tiers), network, hosts, ("e1",))  # type: ignore[arg-type]


def test_greedy_by_hand() -> None:
    """150 kB take about 0.158 s a hop. a: 0.4 on the device, 0.358 on the edge, 0.416 in the cloud: edge. b: the device is idle
    (0.4), the edge busy until 0.358 (0.558), the cloud has the input at 0.316 (0.416): device. c reads a (edge) and b (device,
    0.4): 0.001 s for 100 bytes, 0.6 on the edge; in the cloud 0.5."""
    problem = branches((150_000, 100))
    assert Greedy().plan(problem).plan.tiers == ("device", "edge", "device", "cloud")


def test_greedy_is_not_hpa_with_the_horizon_of_one_vertex() -> None:
    different = 0
    for seed in range(50):
        problem = random_problem(seed, size=9)
        plain = Hpa().plan(replace(problem, options={"horizon": "vertex", "sis": "off"})).plan.tiers
        different += Greedy().plan(problem).plan.tiers != plain
    assert different
    problem = branches((150_000, 100))  # HPA charges each vertex the input's way by itself and knows of no busy host
    assert Hpa().plan(replace(problem, options={"horizon": "vertex"})).plan.tiers == ("device", "edge", "edge", "cloud")
