"""Promises of VSM: legal stacks, one cost model everywhere, tiles only where they gain, work in proportion to speed."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import spatial_graph, spatial_problem

from d3node.intervals import area, grid_boxes, reverse
from d3node.plan import Plan
from testbed.costs.network import Path
from testbed.errors import PlannerError
from testbed.planners.base import Change, Problem
from testbed.planners.d3 import D3
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.options import read
from testbed.planners.prices import EDGE, make_plan, prices
from testbed.planners.stack_candidates import candidates
from testbed.planners.tile_geometry import areas
from testbed.planners.tiling import stack_times
from testbed.planners.vsm import Offer, build, choose, grids_for, offers, pick, stack_seconds, usable_hosts

SEEDS = st.integers(min_value=0, max_value=1 << 30)


def all_on_edge(problem: Problem) -> list[int]:
    return [0] + [EDGE] * (len(problem.graph) - 1)


def grids_of(problem: Problem, **values: object):  # type: ignore[no-untyped-def]
    hosts = usable_hosts(problem)
    speeds = [problem.costs.speed.get(host, 1.0) for host in hosts]
    return grids_for(hosts, speeds, {"shares": "speed", "grids": "all", "max_hosts": 64, **values})


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_batched_geometry_equals_reverse_tile_calculation(seed: int) -> None:
    problem = spatial_problem(seed, side=24)
    graph, grids = problem.graph, grids_of(problem)
    needed, runs = areas(graph, grids), candidates(graph)
    rng = random.Random(seed)
    for i in rng.sample(range(len(runs.first)), min(12, len(runs.first))):
        first, last = int(runs.first[i]), int(runs.last[i])
        tile = 0
        for grid in grids:
            for box in grid_boxes(graph[last].rows, graph[last].columns, grid.row_shares, grid.column_shares):
                if area(box):
                    region = reverse(graph, range(first, last + 1), box)
                    for v, part in (*region.produced.items(), *region.read.items()):
                        assert needed[v, runs.end_index[i], tile] == area(part), (first, last, v)
                else:
                    assert needed[last, runs.end_index[i], tile] == 0
                tile += 1


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, hosts=st.integers(2, 4))
def test_batched_prices_equal_the_cost_model_of_a_single_stack(seed: int, hosts: int) -> None:
    problem = spatial_problem(seed, hosts=hosts)
    problem = replace(problem, costs=replace(problem.costs, factor={(1, "edge"): 1.7}))
    grids, runs = grids_of(problem), candidates(problem.graph)
    seconds, chosen = stack_seconds(problem, grids)
    rng = random.Random(seed)
    for i in rng.sample(range(len(runs.first)), min(10, len(runs.first))):
        times = [
            stack_times(problem, build(problem.graph, Offer(int(runs.first[i]), int(runs.last[i]), 0.0, 0.0, grid))).total_s
            for grid in grids
        ]
        assert seconds[i] == pytest.approx(min(times), rel=1e-12)
        assert times[int(chosen[i])] == pytest.approx(min(times), rel=1e-12)


def test_every_candidate_is_a_legal_stack() -> None:
    for seed in range(8):
        problem = spatial_problem(seed, side=16)
        grid = grids_of(problem)[0]
        runs = candidates(problem.graph)
        assert len(runs.first)
        for first, last in zip(runs.first, runs.last, strict=True):
            stack = build(problem.graph, Offer(int(first), int(last), 0.0, 0.0, grid))
            make_plan("test", problem, all_on_edge(problem), (stack,)).check(problem.graph)


def test_candidates_miss_no_run_but_those_that_share_an_input_with_what_comes_before() -> None:
    for seed in range(6):
        graph = spatial_graph(random.Random(seed), 4, side=16)
        runs = candidates(graph)
        listed = set(zip(runs.first.tolist(), runs.last.tolist(), strict=True))
        for first, last in itertools.combinations_with_replacement(range(1, len(graph)), 2):
            run = range(first, last + 1)
            legal = all(graph[v].spatial is not None for v in run) and graph.boundary(run)[1] == (last,)
            if (first, last) in listed:
                assert legal
            elif legal:
                assert any(s < first for u in graph.boundary(run)[0] for s in graph.successors[u])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, hosts=st.integers(1, 4), pace=st.sampled_from((0.1, 1.0, 10.0, 100.0)), data=st.data())
def test_tiling_never_loses_by_its_own_model(seed: int, hosts: int, pace: float, data: st.DataObject) -> None:
    problem = spatial_problem(seed, hosts=hosts, pace=pace)
    start = data.draw(st.integers(1, len(problem.graph) - 1))
    ranks = [0] * start + [EDGE] * (len(problem.graph) - start)
    stacks, gain = choose(problem, read(problem, "d3"), [rank == EDGE for rank in ranks])
    plan = make_plan("test", problem, ranks, stacks)
    plan.check(problem.graph)
    untiled = prices(problem).objective(ranks)
    assert gain >= 0.0
    assert objective_s(problem, plan) == pytest.approx(untiled - gain, abs=1e-9)
    for stack in stacks:
        assert stack_times(problem, stack).total_s < sum(problem.costs.vertex_s(v, "edge", "e1") for v in stack.vertices)
    assert hosts > 1 or not stacks
    critical_path(problem, plan)


def test_boundaries_are_the_best_of_all_combinations() -> None:
    for seed in range(12):
        problem = spatial_problem(seed, blocks=2, pace=10.0)
        found = offers(problem, read(problem, "d3"))
        everything = [o for group in found.by_last.values() for o in group]

        def best(after: int, everything: list[Offer] = everything) -> float:
            return max((o.gain_s + best(o.last) for o in everything if o.first > after), default=0.0)

        if len(everything) <= 24:
            assert pick(found, [True] * len(problem.graph))[1] == pytest.approx(best(0))


def tiled_plan(seed: int, **options: object) -> tuple[Problem, Plan]:
    """A problem whose whole model is on the edge, and VSM's stacks for it."""
    problem = replace(spatial_problem(seed, blocks=4, pace=20.0, side=64), options=options)
    stacks, _ = choose(problem, read(problem, "d3"), [rank == EDGE for rank in all_on_edge(problem)])
    assert stacks
    return problem, make_plan("test", problem, all_on_edge(problem), stacks)


def test_strips_are_proportional_to_speed_and_equal_on_request() -> None:
    for seed in range(5):
        problem, plan = tiled_plan(seed, grids="rows")
        for stack in plan.stacks:
            total = sum(problem.costs.speed[tile.host] for tile in stack.tiles)
            rows = problem.graph[stack.output].rows
            assert stack.grid[1] == 1
            for tile in stack.tiles:
                assert abs((tile.rows[1] - tile.rows[0]) - rows * problem.costs.speed[tile.host] / total) < 1.0 + 1e-6
        _, plan = tiled_plan(seed, grids="columns", shares="equal")
        for stack in plan.stacks:
            widths = [tile.columns[1] - tile.columns[0] for tile in stack.tiles]
            assert stack.grid[0] == 1
            assert max(widths) - min(widths) <= 1


def test_max_hosts_limits_the_tiles() -> None:
    seen = set()
    for limit in (2, 3, 4):
        _, plan = tiled_plan(1, max_hosts=limit)
        seen.add(max(len(stack.tiles) for stack in plan.stacks))
        assert max(len({tile.host for tile in stack.tiles}) for stack in plan.stacks) <= limit
    assert len(seen) > 1
    problem = replace(spatial_problem(1, blocks=4, pace=20.0), options={"max_hosts": 1})
    assert not D3().plan(problem).plan.stacks


def test_a_slow_lan_stops_tiling() -> None:
    problem, _ = tiled_plan(2)
    slow = replace(problem, network=replace(problem.network, lan={host: Path(1e5, 0.01) for host in problem.network.lan}))
    assert choose(slow, read(slow, "d3"), [True] * len(slow.graph)) == ((), 0.0)


def edge_problem(seed: int) -> Problem:
    """A problem for which HPA puts everything on the edge."""
    problem = spatial_problem(seed, blocks=4, pace=20.0, side=64)
    return replace(problem, network=replace(problem.network, device_edge=Path(1e9), edge_cloud=Path(1e3)))


def test_d3_cuts_stacks_anew_when_a_worker_or_its_link_changes() -> None:
    for seed in range(4):
        problem = edge_problem(seed)
        current = D3().plan(problem)
        assert current.plan.stacks
        halved = replace(problem, costs=problem.costs.with_speed("e2", problem.costs.speed["e2"] / 4))
        slower = D3().replan(halved, current.plan, Change(hosts=frozenset({"e2"})))
        slower.plan.check(problem.graph)
        assert slower.plan.tiers == current.plan.tiers
        assert slower.plan.stacks != current.plan.stacks
        assert slower.touched == {v for stack in set(slower.plan.stacks) ^ set(current.plan.stacks) for v in stack.vertices}
        assert slower.objective_s <= objective_s(halved, current.plan) + 1e-9
        broken = replace(problem, network=problem.network.with_path("e2", Path(1e4, 0.1)))
        without = D3().replan(broken, current.plan, Change(paths=frozenset({"e2"})))
        assert all(tile.host != "e2" for stack in without.plan.stacks for tile in stack.tiles if not tile.empty)


def test_d3_drops_a_worker_that_is_gone() -> None:
    problem = edge_problem(3)
    current = D3().plan(problem).plan
    lan = {host: path for host, path in problem.network.lan.items() if host != "e4"}
    smaller = replace(problem, edge_hosts=("e1", "e2", "e3"), network=replace(problem.network, lan=lan))
    decision = D3().replan(smaller, current, Change())
    decision.plan.check(problem.graph)
    assert all(tile.host != "e4" for stack in decision.plan.stacks for tile in stack.tiles)
    assert decision.objective_s == pytest.approx(objective_s(smaller, decision.plan))


def test_d3_keeps_its_stacks_when_only_the_backbone_changes_and_the_edge_part_stays() -> None:
    problem = edge_problem(1)
    current = D3().plan(problem).plan
    other = replace(problem, network=problem.network.with_path("edge_cloud", Path(2e3)))
    decision = D3().replan(other, current, Change(paths=frozenset({"edge_cloud"})))
    assert decision.plan.stacks == current.stacks
    assert decision.objective_s == pytest.approx(objective_s(other, decision.plan))


def test_edge_costs_that_count_tiling_keep_work_on_the_edge() -> None:
    """The edge alone is slower than the cloud and its link, four edge hosts are not."""
    kept = 0
    for seed in range(12):
        problem = edge_problem(seed)
        base = prices(problem).compute
        cloud_link = sum(base[EDGE]) * 0.75
        size = problem.graph[0].output_bytes
        problem = replace(problem, network=replace(problem.network, edge_cloud=Path(8 * size / cloud_link)))
        single = D3().plan(problem).plan
        tiled = D3().plan(replace(problem, options={"edge_costs": "tiled"})).plan
        kept += tiled.part("edge") > single.part("edge")
        assert tiled.notes["edge_costs"] == "tiled"
    assert kept


def test_a_host_without_a_lan_path_gets_no_tiles_and_is_named_when_a_plan_uses_it() -> None:
    problem, plan = tiled_plan(0)
    cut_off = replace(problem, network=replace(problem.network, lan={}))
    assert choose(cut_off, read(cut_off, "d3"), [True] * len(problem.graph)) == ((), 0.0)
    with pytest.raises(PlannerError, match="no LAN path from 'e1' to 'e"):
        objective_s(cut_off, plan)


def test_shares_of_speed_balance_compute_over_the_hosts() -> None:
    problem, plan = tiled_plan(4, grids="rows")
    busy = critical_path(problem, plan).busy_s
    assert set(busy) >= {tile.host for stack in plan.stacks for tile in stack.tiles}
    for stack in plan.stacks:
        alone = sum(problem.costs.vertex_s(v, "edge", "e1") for v in stack.vertices)
        assert np.mean([times.compute_s for times in stack_times(problem, stack).tiles]) < alone
