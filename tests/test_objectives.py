"""The other two objectives, smallest bottleneck and shortest critical path: exact against brute force, bounds never above it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_problems import HOSTS, random_problem

from d3node.graph import LayerGraph, Vertex
from testbed.costs.network import NetworkState, Path
from testbed.costs.table import Costs, TierCosts
from testbed.errors import PlannerError
from testbed.planners.base import Problem
from testbed.planners.critical_optimum import fastest, latency_of
from testbed.planners.evaluate import critical_path
from testbed.planners.exhaustive import Exhaustive
from testbed.planners.hpa import Hpa, HpaThroughput
from testbed.planners.lagrange import smallest_bottleneck
from testbed.planners.level_cuts import is_chain, level_cuts, ranks_of
from testbed.planners.loads import busy, cost, loads
from testbed.planners.optimal import Optimal, OptimalCriticalPath, OptimalThroughput
from testbed.planners.prices import prices
from testbed.planners.throughput import smallest

ROUTES = ("relay", "direct")


def chain(route: str = "relay") -> Problem:
    """Three layers of 90 ms on the device, 30 on the edge, 10 in the cloud; every tensor takes 8 ms up and 20 across."""
    size = round((1e6 - 66) * 1448 / 1514) - 160  # 1 MB in frames
    vertices = (
        Vertex(0, "input", "input", (), (1, 3, 8, 8), size),
        *(Vertex(v, f"v{v}", "conv2d", (v - 1,), (1, 1), size) for v in (1, 2)),
        Vertex(3, "v3", "linear", (2,), (1, 1), 40),
    )
    tiers = {t: TierCosts((0.0,) * 4, (0.0, s, s, s)) for t, s in (("device", 0.09), ("edge", 0.03), ("cloud", 0.01))}
    network = NetworkState(Path(1e9, 0.001), Path(4e8, 0.005), Path(4e8, 0.006), {}, route)  # type: ignore[arg-type]
    return Problem(LayerGraph("chain", vertices, (3,)), Costs(tiers), network, dict(HOSTS), ("e1",))  # type: ignore[arg-type]


def brute(problem: Problem, objective: str) -> float:
    return float(Exhaustive().plan(replace(problem, options={"objective": objective})).plan.notes["value_s"])


def test_of_equal_bottlenecks_the_least_sum_is_taken():
    problem = chain()
    latency = Optimal().plan(problem)
    assert latency.plan.tiers == ("device", "cloud", "cloud", "cloud")
    split = OptimalThroughput().plan(problem)
    notes = split.plan.notes
    # all in the cloud keeps it busy for 30 ms; one layer on the edge and two in the cloud: 30 and 20 ms, but more in all
    assert notes["bottleneck_s"] == pytest.approx(0.03)
    assert notes["status"] == "optimal"
    assert split.plan.tiers == ("device", "cloud", "cloud", "cloud")  # the same bottleneck at the least sum


def test_with_a_faster_edge_three_tiers_share_the_load():
    problem = chain()
    tiers = {t: TierCosts((0.0,) * 4, (0.0, s, s, s)) for t, s in (("device", 0.03), ("edge", 0.03), ("cloud", 0.03))}
    problem = replace(problem, costs=Costs(tiers))  # type: ignore[arg-type]
    assert Optimal().plan(problem).plan.tiers == ("device",) * 4
    found = OptimalThroughput().plan(problem)
    assert found.plan.tiers == ("device", "device", "edge", "cloud")
    assert found.plan.notes["bottleneck_s"] == pytest.approx(0.03)
    assert Hpa().plan(replace(problem, options={"objective": "throughput"})).plan.tiers == found.plan.tiers


def test_a_rate_asks_for_no_more_than_it_needs():
    problem = chain()
    tiers = {t: TierCosts((0.0,) * 4, (0.0, s, s, s)) for t, s in (("device", 0.03), ("edge", 0.03), ("cloud", 0.03))}
    problem = replace(problem, costs=Costs(tiers))  # type: ignore[arg-type]

    def at(rate: float) -> tuple[tuple[str, ...], bool]:
        plan = OptimalThroughput().plan(replace(problem, options={"rate": rate})).plan
        return plan.tiers, plan.notes["sustained"]

    assert at(11.0) == (("device", "device", "device", "device"), True)  # 90 ms each
    assert at(16.0) == (("device", "device", "edge", "edge"), True)  # 60 ms on the edge; one crossing, as cheap as any
    assert at(33.0) == (("device", "device", "edge", "cloud"), True)
    assert at(34.0) == (("device", "device", "edge", "cloud"), False)


@pytest.mark.parametrize("route", ROUTES)
def test_the_smallest_bottleneck_is_that_of_brute_force(route: str):
    methods = set()
    for seed in range(15):
        problem = random_problem(seed, route=route, ordered=False, size=2 + seed % 6)  # type: ignore[arg-type]
        priced = prices(problem)
        best = brute(problem, "throughput")
        found = smallest(problem, priced, 20.0)
        assert found.loads.bottleneck_s == pytest.approx(best, rel=1e-6, abs=1e-7)
        assert found.proven
        assert found.bound_s <= best * (1 + 1e-6) + 1e-7
        methods.add(found.method)
        sums = [o for b, o in every(problem) if b <= best * (1 + 1e-6) + 1e-7]
        if found.sum_status == "optimal":
            assert found.sum_s == pytest.approx(min(sums), rel=1e-4)
        assert smallest_bottleneck(problem.graph, priced, busy(problem, priced)).bound <= best * (1 + 1e-9) + 1e-9
        notes = HpaThroughput().plan(problem).plan.notes
        assert notes["bottleneck_bound_s"] <= best * (1 + 1e-6) + 1e-7
        assert notes["bottleneck_s"] >= best * (1 - 1e-6) - 1e-7
        if is_chain(priced.facts):
            assert notes["bottleneck_s"] == pytest.approx(best, rel=1e-9)
            assert notes["status"] == "optimal"
    assert {"all cuts", "cp-sat"} <= methods


def every(problem: Problem) -> list[tuple[float, float]]:
    """(bottleneck, sum) of all legal placements."""
    priced = prices(problem)
    resources = busy(problem, priced)
    found, ranks = [], [0] * len(problem.graph)

    def place(v: int) -> None:
        if v == len(ranks):
            found.append((loads(resources, priced, ranks).bottleneck_s, priced.objective(ranks)))
            return
        for rank in range(priced.floor(v, ranks), 3):
            ranks[v] = rank
            place(v + 1)
        ranks[v] = 0

    place(1)
    return found


@pytest.mark.parametrize("route", ROUTES)
def test_under_a_rate_the_least_sum_is_that_of_brute_force(route: str):
    for seed in range(10):
        problem = random_problem(seed, route=route, size=5)  # type: ignore[arg-type]
        placements = every(problem)
        limit = sorted(b for b, _ in placements)[len(placements) // 3]
        best = min(total for b, total in placements if b <= limit * (1 + 1e-6))
        found = smallest(problem, prices(problem), 20.0, 1.0 / limit)
        assert found.sustained
        assert found.sum_status == "optimal"
        assert found.sum_s == pytest.approx(best, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("route", ROUTES)
def test_loads_are_those_of_the_programs(route: str):
    for seed in range(20):
        problem = random_problem(seed, route=route, ordered=False)  # type: ignore[arg-type]
        plan = (
            Exhaustive().plan(replace(problem, graph=problem.graph)).plan if len(problem.graph) < 7 else Hpa().plan(problem).plan
        )
        priced = prices(problem)
        found = loads(busy(problem, priced), priced, [("device", "edge", "cloud").index(tier) for tier in plan.tiers])
        predicted = critical_path(problem, plan)
        assert found.bottleneck_s == pytest.approx(predicted.bottleneck_s, rel=1e-9)
        for name, seconds in predicted.path_busy_s.items():
            assert found.seconds[name] == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize("route", ROUTES)
def test_level_cuts_price_every_pair_of_cuts(route: str):
    for seed in range(15):
        problem = random_problem(seed, route=route)  # type: ignore[arg-type]
        priced = prices(problem)
        for resource in (*busy(problem, priced), cost(priced)):
            table = level_cuts(priced, resource)
            for i in range(len(table)):
                for j in range(i, len(table)):
                    assert table[i, j] == pytest.approx(resource.of(priced, ranks_of(priced.facts, i, j)), abs=1e-12)
        assert level_cuts(priced, cost(priced)).min() >= Optimal().plan(problem).objective_s - 1e-9


@pytest.mark.parametrize("route", ROUTES)
def test_the_shortest_critical_path_is_that_of_brute_force(route: str):
    methods = set()
    for seed in range(15):
        problem = random_problem(seed, route=route, ordered=False, size=2 + seed % 6)  # type: ignore[arg-type]
        best = brute(problem, "critical-path")
        found = fastest(problem, prices(problem), 20.0)
        assert found.bound_s <= best + 1e-7
        assert found.proven
        assert found.latency_s == pytest.approx(best, abs=1e-6)
        assert latency_of(problem, found.ranks) == found.latency_s
        methods.add(found.method)
    assert methods == {"all cuts", "cp-sat"}


def test_the_bound_of_the_critical_path_holds_when_the_effort_is_spent():
    problem = random_problem(5, size=9)
    best = brute(problem, "critical-path")
    found = fastest(problem, prices(problem), 1e-4)
    assert found.bound_s <= best + 1e-9
    assert found.latency_s >= best - 1e-9
    assert found.notes()["status"] in ("optimal", "feasible")


def test_the_sum_is_not_the_critical_path():
    """Both branches can run at the same time on two tiers; the sum does not see that."""
    vertices = (
        Vertex(0, "input", "input", (), (1, 3, 8, 8), 1_000),
        Vertex(1, "a", "conv2d", (0,), (1, 1), 1_000),
        Vertex(2, "b", "conv2d", (0,), (1, 1), 1_000),
        Vertex(3, "cat", "cat", (1, 2), (1, 1), 1_000),
    )
    seconds = {"device": (0.0, 0.1, 0.1, 0.0), "edge": (0.0, 0.11, 0.11, 0.0), "cloud": (0.0, 9.0, 9.0, 9.0)}
    network = NetworkState(Path(1e9, 0.0), Path(1e6, 0.1), Path(1e6, 0.1))
    tiers = {tier: TierCosts((0.0,) * 4, row) for tier, row in seconds.items()}
    problem = Problem(LayerGraph("y", vertices, (3,)), Costs(tiers), network, dict(HOSTS), ("e1",))  # type: ignore[arg-type]
    serial = Optimal().plan(problem)
    assert set(serial.plan.tiers) == {"device"}
    parallel = OptimalCriticalPath().plan(problem)
    assert sorted(parallel.plan.tiers) == ["device", "device", "edge", "edge"]
    assert critical_path(problem, parallel.plan).latency_s == pytest.approx(0.11, abs=1e-3)
    assert parallel.objective_s > serial.objective_s
    assert parallel.plan.notes["status"] == "optimal"


def test_an_unknown_objective_is_refused():
    with pytest.raises(PlannerError, match="did you mean 'throughput'"):
        Optimal().plan(replace(chain(), options={"objective": "thoughput"}))
