"""Memory of hosts is a hard limit: what a plan needs, who says no, and the best placement within the limits."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from orchestration import scenario
from planner_problems import HOSTS, random_problem, spatial_problem

from d3node.graph import LayerGraph, Vertex
from testbed.costs.table import Costs, TierCosts
from testbed.errors import CapacityError, PlannerError
from testbed.orchestrator.world import prepare
from testbed.planners.base import Problem
from testbed.planners.capacitated import Capacitated, within_capacities
from testbed.planners.cpsat import EFFORT
from testbed.planners.exhaustive import Exhaustive
from testbed.planners.hpa import Hpa
from testbed.planners.level_cuts import MOST, is_chain, level_cuts, ranks_of
from testbed.planners.loads import cost
from testbed.planners.memory import check_capacities, held_bytes, host_needs, tier_needs
from testbed.planners.optimal import Optimal
from testbed.planners.options import read
from testbed.planners.prices import make_plan, prices
from testbed.planners.vsm import choose
from testbed.report.forecast import forecasts

MB = 1_000_000


def branched() -> LayerGraph:
    """input -> a -> b -> d, a -> c -> d -> e: a's output waits while b and c are computed."""
    made = [
        Vertex(0, "input", "input", (), (1, 3, 100, 100), 30_000),  # uint8 on the wire: 120 kB in memory
        Vertex(1, "a", "conv2d", (0,), (1, 1), 200_000, parameter_bytes=1_000),
        Vertex(2, "b", "conv2d", (1,), (1, 1), 50_000, parameter_bytes=2_000),
        Vertex(3, "c", "conv2d", (1,), (1, 1), 70_000, parameter_bytes=4_000),
        Vertex(4, "d", "cat", (2, 3), (1, 1), 120_000),
        Vertex(5, "e", "linear", (4,), (1, 1), 40, parameter_bytes=900_000),
    ]
    return LayerGraph("branched", tuple(made), (5,))


def test_memory_of_a_worked_example():
    graph = branched()
    assert held_bytes(graph, 0) == 4 * 3 * 100 * 100
    whole = tier_needs(graph, [0] * 6, True)[0]
    assert (whole.parameters, whole.tensors, whole.at) == (907_000, 200_000 + 120_000, 1)  # input and a, when a is computed
    device, edge, cloud = tier_needs(graph, [0, 0, 1, 1, 1, 2], True)
    assert (device.parameters, device.tensors) == (1_000, 120_000 + 200_000)
    # a is there from the start until c is computed, b and c until d; d is sent on, so it stays
    assert (edge.parameters, edge.tensors, edge.at) == (6_000, 200_000 + 50_000 + 70_000, 3)
    assert (cloud.parameters, cloud.tensors) == (900_000, 120_040)


def test_a_relayed_tensor_counts_on_the_edge_only_with_route_relay():
    graph = branched()
    ranks = [0, 0, 2, 2, 2, 2]
    assert tier_needs(graph, ranks, True)[1].total == 200_000
    assert tier_needs(graph, ranks, False)[1].total == 0


def limited(seed: int, route: str) -> Problem:
    """A random problem with parameters, and limits on most hosts."""
    problem = random_problem(seed, route=route, ordered=False, size=6)  # type: ignore[arg-type]
    rng = random.Random(seed)
    sized = [replace(v, parameter_bytes=rng.choice((0, 1_000, 200_000, 900_000)) if v.index else 0) for v in problem.graph]
    graph = LayerGraph("random", tuple(sized), problem.graph.outputs)
    whole = sum(v.parameter_bytes + held_bytes(graph, v.index) for v in graph)
    capacities = {host: whole * rng.uniform(0.1, 0.9) for host in HOSTS.values() if rng.random() < 0.7}
    return replace(problem, graph=graph, capacities=capacities)


def test_the_best_placement_within_limits_is_that_of_brute_force():
    outcomes = []
    for seed in range(15):
        for route in ("relay", "direct"):
            problem = limited(seed, route)
            priced = prices(problem)
            try:
                best = Exhaustive().plan(problem).objective_s
            except CapacityError:
                with pytest.raises(CapacityError, match=r"no placement fits \(proven\)"):
                    within_capacities(problem, priced, EFFORT)
                outcomes.append("none")
                continue
            found = within_capacities(problem, priced, EFFORT)
            assert found.status == "optimal"
            assert found.value_s == pytest.approx(best, abs=1e-6)
            outcomes.append(found.method)
            decision = Optimal().plan(problem)
            assert decision.objective_s == pytest.approx(best, abs=1e-6)
            check_capacities(problem, decision.plan)
    assert {"none", "min-cut", "cp-sat"} <= set(outcomes)


def test_without_the_exact_search_the_bound_holds_and_the_plan_fits():
    closed = total = 0
    for seed in range(40):
        problem = replace(limited(seed, "relay"), options={"exact_up_to": 0})
        try:
            best = Exhaustive().plan(replace(problem, options={})).objective_s
            decision = Capacitated().plan(problem)
        except CapacityError:
            continue
        check_capacities(problem, decision.plan)
        bound = decision.plan.notes["bound_s"]
        assert bound <= best + 1e-6 <= decision.objective_s + 2e-6
        assert decision.plan.notes["gap"] == pytest.approx(decision.objective_s / bound - 1.0)
        total += 1
        closed += decision.objective_s <= best + 1e-6
    assert total >= 15
    assert closed >= 0.7 * total


def test_a_plan_that_does_not_fit_is_refused_in_words():
    problem = limited(3, "relay")
    plan = Hpa().plan(replace(problem, capacities={})).plan
    needs = host_needs(problem, plan)
    host = max(needs, key=lambda name: needs[name].total)
    tight = replace(problem, capacities={host: needs[host].total - 1})
    with pytest.raises(CapacityError) as caught:
        check_capacities(tight, plan)
    assert caught.value.exit_code == 2
    for part in ("'hpa'", host, f"{needs[host].total / 1e6:,.1f} MB", "its limit is", f"hosts.{host}.memory"):
        assert part in str(caught.value)
    check_capacities(replace(problem, capacities={host: needs[host].total}), plan)


def test_tiles_count_where_they_are_computed():
    for seed in range(20):
        problem = spatial_problem(seed, blocks=4, pace=30.0, side=64)
        sized = [replace(v, parameter_bytes=1_000 * v.index) for v in problem.graph]
        problem = replace(problem, graph=LayerGraph("spatial", tuple(sized), problem.graph.outputs))
        ranks = [0, *[1] * (len(problem.graph) - 1)]
        stacks = choose(problem, read(problem, "d3"), [rank == 1 for rank in ranks])[0]
        plan = make_plan("d3", problem, ranks, stacks)
        helpers = {tile.host for stack in plan.stacks for tile in stack.tiles if not tile.empty} - {"e1"}
        if helpers:
            break
    needs = host_needs(problem, plan)
    assert helpers <= set(needs)
    tiled = {v for stack in plan.stacks for v in stack.vertices}
    for host in helpers:
        stacks = [s for s in plan.stacks if any(t.host == host and not t.empty for t in s.tiles)]
        assert needs[host].parameters == sum(1_000 * v for stack in stacks for v in stack.vertices)
        assert 0 < needs[host].tensors < sum(held_bytes(problem.graph, v) for v in (0, *tiled))
    host = min(helpers)
    with pytest.raises(CapacityError, match=rf"host {host} needs"):
        check_capacities(replace(problem, capacities={host: needs[host].total - 1}), plan)


def test_the_optimum_says_when_it_is_not_proven():
    for seed in range(40):
        problem = replace(limited(seed, "relay"), options={"effort": 0})
        try:
            Capacitated().plan(replace(problem, options={"exact_up_to": 0}))
        except CapacityError:
            continue
        if Capacitated().plan(replace(problem, options={"exact_up_to": 0})).plan.notes["status"] == "feasible":
            with pytest.raises(PlannerError, match="no optimum within memory limits was proven"):
                Optimal().plan(problem)
            return
    pytest.fail("every problem was solved without search")


def test_limits_of_a_scenario_reach_the_planners():
    limits = {"device": {"memory": "1 GB"}, "e1": {"memory": "300 kB"}}
    world = prepare(scenario(hosts=limits, planning={"planners": ["capacitated"]}))
    assert world.capacities == {"d1": 1e9, "e1": 3e5}
    (forecast,) = forecasts(world)
    assert forecast.problem.capacities == world.capacities
    needs = host_needs(forecast.problem, forecast.decision.plan)
    assert needs.get("e1") is None or needs["e1"].total <= 3e5


def test_a_deep_graph_is_cut_at_some_of_its_layers():
    """Beyond `MOST` layers the pairs of cuts are thinned out, and nothing is called exact that is not."""
    size = MOST + 150
    base = random_problem(1, size=4)
    vertices = [base.graph[0], *(Vertex(v, f"v{v}", "linear", (v - 1,), (1, 1), 1_000, 0, 10_000) for v in range(1, size))]
    tiers = {
        t: TierCosts((0.0,) * size, (0.0, *[s] * (size - 1))) for t, s in (("device", 6e-3), ("edge", 1e-3), ("cloud", 2e-3))
    }
    graph = LayerGraph("deep", tuple(vertices), (size - 1,))
    problem = replace(base, graph=graph, costs=Costs(tiers), capacities={"e1": 3e6})  # type: ignore[arg-type]
    priced = prices(problem)
    table = level_cuts(priced, cost(priced))
    assert table.shape == (MOST, MOST)
    assert not is_chain(priced.facts)
    for i, j in ((0, 0), (3, 200), (MOST - 1, MOST - 1)):
        assert table[i, j] == pytest.approx(priced.objective(ranks_of(priced.facts, i, j)))
    plan = Capacitated().plan(problem)
    check_capacities(problem, plan.plan)
    assert plan.plan.notes["gap"] < 0.2
