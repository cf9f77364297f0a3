"""Promises of the exact planners: legal always, equal to brute force, and a bound that no other planner beats."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import random_problem, spatial_problem

from d3node.graph import LayerGraph
from d3node.program import Route
from testbed.costs.network import Path
from testbed.errors import PlannerError
from testbed.planners.base import Planner, Problem
from testbed.planners.d3 import D3
from testbed.planners.dads import Dads
from testbed.planners.evaluate import objective_s
from testbed.planners.exhaustive import Exhaustive
from testbed.planners.hpa import Hpa
from testbed.planners.mincut import minimum_cut
from testbed.planners.neurosurgeon import Neurosurgeon
from testbed.planners.optimal import Optimal, OptimalTiles
from testbed.planners.optimal_tiles import undominated
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, EDGE, prices
from testbed.planners.qdmp import Qdmp
from testbed.planners.single import CloudOnly, DeviceOnly, EdgeOnly
from testbed.planners.vsm import Offers, offers, pick
from testbed.planners.yardsticks import Greedy, Random

EVERYBODY: tuple[type[Planner], ...] = (
    *(DeviceOnly, EdgeOnly, CloudOnly, Hpa, D3, Optimal, OptimalTiles, Exhaustive),
    *(Neurosurgeon, Dads, Qdmp, Random, Greedy),
)
NANOSECONDS = 1e-7  # every price is rounded to one, and there are up to about forty of them
SEEDS = st.integers(min_value=0, max_value=1 << 30)
ROUTES: tuple[Route, ...] = ("relay", "direct")


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, ordered=st.booleans(), route=st.sampled_from(ROUTES))
def test_every_planner_returns_a_legal_plan_at_the_price_it_states(seed: int, ordered: bool, route: Route) -> None:
    problem = random_problem(seed, route=route, ordered=ordered)
    for planner in EVERYBODY:
        decision = planner().plan(problem)
        decision.plan.check(problem.graph)
        assert decision.plan.planner == planner.name
        assert decision.objective_s == pytest.approx(objective_s(problem, decision.plan), abs=1e-9)
        assert decision.touched == frozenset(range(len(problem.graph)))


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, ordered=st.booleans(), route=st.sampled_from(ROUTES))
def test_optimal_equals_brute_force(seed: int, ordered: bool, route: Route) -> None:
    problem = random_problem(seed, route=route, ordered=ordered)
    best = Exhaustive().plan(problem)
    found = Optimal().plan(problem)
    assert found.objective_s == pytest.approx(best.objective_s, abs=NANOSECONDS)
    assert objective_s(problem, found.plan) == pytest.approx(best.objective_s, abs=NANOSECONDS)


@pytest.mark.parametrize("route", ROUTES)
def test_optimal_equals_brute_force_on_a_fixed_batch(route: Route) -> None:
    methods = set()
    for seed in range(150):
        problem = random_problem(seed, route=route, ordered=seed % 2 == 0)
        found = Optimal().plan(problem)
        methods.add(found.plan.notes["method"])
        assert found.objective_s == pytest.approx(Exhaustive().plan(problem).objective_s, abs=NANOSECONDS), seed
    assert methods == ({"min-cut"} if route == "relay" else {"min-cut", "cp-sat"})


def test_a_cheap_direct_path_is_used() -> None:
    problem = random_problem(3, route="direct", size=8)
    fast = replace(problem, network=replace(problem.network, device_cloud=Path(1e10, 0.0)))
    found = Optimal().plan(fast)
    assert "cloud" in found.plan.tiers
    assert "edge" not in found.plan.tiers


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, ordered=st.booleans(), exact=st.sampled_from((EDGE, CLOUD)))
def test_the_cut_is_a_lower_bound_on_the_direct_route(seed: int, ordered: bool, exact: int) -> None:
    problem = random_problem(seed, route="direct", ordered=ordered)
    bound_ns = minimum_cut(problem.graph, prices(problem), exact)[1]
    assert bound_ns / 1e9 <= Exhaustive().plan(problem).objective_s + NANOSECONDS


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, route=st.sampled_from(ROUTES))
def test_nobody_beats_the_optimum(seed: int, route: Route) -> None:
    problem = random_problem(seed, route=route)
    best = Optimal().plan(problem).objective_s
    for planner in (DeviceOnly, EdgeOnly, CloudOnly, Hpa, Neurosurgeon, Dads, Qdmp, Random, Greedy):
        assert planner().plan(problem).objective_s >= best - NANOSECONDS


def test_the_same_problem_gives_the_same_plan() -> None:
    for seed in range(20):
        for planner in EVERYBODY:
            first = planner().plan(random_problem(seed, route="direct")).plan
            again = planner().plan(random_problem(seed, route="direct")).plan
            assert first == again


def test_exhaustive_refuses_graphs_beyond_nine_vertices() -> None:
    Exhaustive().plan(random_problem(1, size=9))
    with pytest.raises(PlannerError, match="up to 9 vertices"):
        Exhaustive().plan(random_problem(1, size=10))


def legal_placements(graph: LayerGraph) -> list[tuple[int, ...]]:
    """All placements with the input on the device and one-way flow, by filtering every combination."""
    return [
        (0, *ranks)
        for ranks in itertools.product(range(3), repeat=len(graph) - 1)
        if all((0, *ranks)[u] <= (0, *ranks)[w] for u, w in graph.edges)
    ]


def best_gain(found: Offers, on_edge: list[bool]) -> float:
    """Most that non-overlapping offers inside an edge part save, by trying every combination recursively."""
    usable = [o for group in found.by_last.values() for o in group if all(on_edge[o.first : o.last + 1])]

    def best(after: int) -> float:
        return max((o.gain_s + best(o.last) for o in usable if o.first > after), default=0.0)

    return best(0)


def tiny_spatial_problems(count: int) -> list[Problem]:
    problems = (
        spatial_problem(seed, blocks=1 + seed % 3, hosts=2 + seed % 3, pace=(1.0, 20.0)[seed % 2]) for seed in range(10 * count)
    )
    return [problem for problem in problems if len(problem.graph) <= 8][:count]


def test_the_optimum_with_tiles_equals_brute_force_over_placements_and_stacks() -> None:
    tiled = 0
    for problem in tiny_spatial_problems(12):
        values = read(problem, "optimal-tiles")
        found, priced = offers(problem, values), prices(problem)
        best = min(
            priced.objective(ranks) - best_gain(found, [rank == EDGE for rank in ranks])
            for ranks in legal_placements(problem.graph)
        )
        decision = OptimalTiles().plan(problem)
        decision.plan.check(problem.graph)
        assert decision.plan.notes["proven"]
        assert decision.objective_s == pytest.approx(best, abs=NANOSECONDS)
        assert decision.plan.notes["bound_s"] == pytest.approx(best, abs=NANOSECONDS)
        tiled += len(decision.plan.stacks)
    assert tiled


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, hosts=st.integers(1, 4), edge_costs=st.sampled_from(("single", "tiled")), pace=st.sampled_from((1.0, 10.0)))
def test_no_d3_plan_beats_the_bound_with_tiles(seed: int, hosts: int, edge_costs: str, pace: float) -> None:
    problem = spatial_problem(seed, hosts=hosts, pace=pace)
    problem = replace(problem, options={"edge_costs": edge_costs})
    bound = OptimalTiles().plan(problem)
    assert objective_s(problem, bound.plan) == pytest.approx(bound.objective_s, abs=1e-9)
    assert bound.objective_s >= bound.plan.notes["bound_s"] - NANOSECONDS
    assert D3().plan(problem).objective_s >= bound.plan.notes["bound_s"] - NANOSECONDS
    assert Optimal().plan(problem).objective_s >= bound.objective_s - NANOSECONDS
    if hosts == 1:
        assert not bound.plan.stacks


def test_dropping_dominated_offers_keeps_the_best_combination() -> None:
    for problem in tiny_spatial_problems(6) + [spatial_problem(seed, pace=10.0) for seed in range(10)]:
        found = offers(problem, read(problem, "d3"))
        kept: dict[int, list[object]] = {}
        for offer in undominated(found, len(problem.graph)):
            kept.setdefault(offer.last, []).append(offer)
        fewer = Offers({last: tuple(group) for last, group in kept.items()}, found.single_s)  # type: ignore[misc]
        rng = random.Random(1)
        for _ in range(5):
            on_edge = [rng.random() < 0.9 for _ in problem.graph]
            assert pick(fewer, on_edge)[1] == pytest.approx(pick(found, on_edge)[1], abs=1e-9)
