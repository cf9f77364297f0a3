"""Promises of MoDNN, DeepThings, AOFL and CoEdge as planners: legal plans and their own rules."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import spatial_problem

from d3node.errors import PlanError
from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.intervals import area, intersection, needed, reverse, unclipped
from d3node.model import ModelSpec, load_graph
from d3node.plan import Plan
from d3node.program import lower
from testbed import registry
from testbed.costs.network import NetworkState
from testbed.costs.network import Path as NetworkPath
from testbed.costs.table import Costs, TierCosts
from testbed.errors import PlannerError
from testbed.planners.aofl import best_blocks, blocks_of, bordering_blocks
from testbed.planners.base import Change, Problem
from testbed.planners.chain_times import chain_times
from testbed.planners.coedge import borders, high_enough, shares_of
from testbed.planners.deepthings import ftp_range
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.options import read
from testbed.planners.prices import EDGE, prices
from testbed.planners.tilers import is_window, runs, strips, wide, workers
from testbed.planners.tiling import bytes_per_position, serialise_s, stack_times

SEEDS = st.integers(min_value=0, max_value=1 << 30)
TILERS = ("modnn", "aofl", "deepthings", "coedge")


def vgg_like(layers: int = 6, speeds: tuple[float, ...] = (1.0, 1.0, 1.0), side: int = 64, lan_bps: float = 1e9) -> Problem:
    """A chain of 3x3 convolutions with a 2x2 pool after every second one, and a dense layer; equal work in every convolution."""
    vertices = [Vertex(0, "input", "input", (), (1, 3, side, side), 12 * side * side)]
    for v in range(1, layers + 1):
        pool = v % 3 == 0
        rows = vertices[-1].output_shape[-1] // (2 if pool else 1)
        window = Spatial("window", (2, 2), (2, 2), (0, 0)) if pool else Spatial("window", (3, 3), (1, 1), (1, 1))
        vertices.append(Vertex(v, f"v{v}", "conv2d", (v - 1,), (1, 8, rows, rows), 32 * rows * rows, spatial=window))
    vertices.append(Vertex(layers + 1, "dense", "linear", (layers,), (1, 10), 40))
    work = tuple(0.0 if v == 0 else 0.002 if v % 3 == 0 else 0.02 for v in range(layers + 2))
    tiers = {tier: TierCosts((0.0, *[1e-5] * (layers + 1)), work) for tier in ("device", "edge", "cloud")}
    names = tuple(f"e{i + 1}" for i in range(len(speeds)))
    network = NetworkState(NetworkPath(1e8), NetworkPath(1e7), NetworkPath(1e7), {n: NetworkPath(lan_bps) for n in names[1:]})
    costs = Costs(tiers, dict(zip(names, speeds, strict=True)))  # type: ignore[arg-type]
    hosts: Any = {"device": "d1", "edge": "e1", "cloud": "c"}
    return Problem(LayerGraph("vgg-like", tuple(vertices), (layers + 1,)), costs, network, hosts, names)


def plan_of(name: str, problem: Problem, **options: Any) -> Plan:
    decision = registry.planner(name).plan(replace(problem, options={**problem.options, **options}))
    decision.plan.check(problem.graph)
    return decision.plan


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS, hosts=st.integers(1, 4), part=st.sampled_from(("whole", "hpa")))
@pytest.mark.parametrize("name", TILERS)
def test_plans_are_legal_priced_and_only_their_own_part_is_tiled(name: str, seed: int, hosts: int, part: str) -> None:
    problem = replace(spatial_problem(seed, hosts=hosts, pace=5.0, side=32), options={"edge_part": part})
    decision = registry.planner(name).plan(problem)
    plan = decision.plan
    plan.check(problem.graph)
    assert Plan.from_json(plan.to_json()) == plan
    assert decision.objective_s == pytest.approx(objective_s(problem, plan))
    found = critical_path(problem, plan)
    assert found.latency_s >= max(found.busy_s.values()) - 1e-9
    assert bool(plan.stacks) <= (hosts > 1)
    if part == "whole":
        assert set(plan.tiers[1:]) == {"edge"}
        assert bool(plan.stacks) == (hosts > 1)
    again = registry.planner(name).replan(problem, plan, Change())
    assert again.plan.same_placement(plan)
    assert not again.touched


# -- MoDNN -------------------------------------------------------------------------------------------------------------------


def test_modnn_cuts_every_layer_along_its_longer_side_in_proportion_to_speed() -> None:
    problem = vgg_like(6, (1.0, 2.0, 1.0))
    for exchange in ("borders", "maps"):
        plan = plan_of("modnn", problem, modnn_exchange=exchange)
        assert [stack.vertices for stack in plan.stacks] == [(v,) for v in range(1, 7)]
        for stack in plan.stacks:
            rows = problem.graph[stack.output].rows
            assert stack.grid == (3, 1)
            share = {tile.host: (tile.rows[1] - tile.rows[0]) / rows for tile in stack.tiles}
            assert all(abs(share[host] - part) <= 1.0 / rows for host, part in (("e1", 0.25), ("e2", 0.5), ("e3", 0.25)))
        assert {stack.handover for stack in plan.stacks[:-1]} == {"relay" if exchange == "borders" else "leader"}
        assert len(lower(problem.graph, plan)["edge"].steps) == (2 if exchange == "borders" else 7)
    wide = [replace(v, output_shape=(*v.output_shape[:2], 32, 64)) if v.index == 0 else v for v in problem.graph.vertices]
    wide[1:] = [replace(v, output_shape=(1, 8, v.rows // 2, v.columns)) if v.spatial else v for v in wide[1:]]
    turned = plan_of("modnn", replace(problem, graph=LayerGraph("wide", tuple(wide), (7,))))
    assert {stack.grid for stack in turned.stacks} == {(1, 3)}


def test_modnn_leaves_the_dense_layer_to_its_owner() -> None:
    plan = plan_of("modnn", vgg_like())
    assert all(7 not in stack.vertices for stack in plan.stacks)
    assert plan.tiers[7] == "edge"


# -- AOFL --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lan_bps", [2e6, 2e7, 1e9])
@pytest.mark.parametrize("speeds", [(1.0, 1.0), (1.0, 0.4, 2.0)])
def test_aofl_finds_the_best_of_all_blockings(lan_bps: float, speeds: tuple[float, ...]) -> None:
    """Every way to cut a chain of six layers into consecutive blocks, each priced by the cost model of a single stack."""
    problem = vgg_like(6, speeds, lan_bps=lan_bps)
    plan = plan_of("aofl", problem)
    single = prices(problem).compute[EDGE]
    best = float("inf")
    for cuts in itertools.product((False, True), repeat=5):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 6]
        blocks = [tuple(range(a + 1, b + 1)) for a, b in itertools.pairwise(edges)]
        total = single[7]
        for block in blocks:
            (stack,) = (s for s in _as_stacks(problem, [block]))
            total += stack_times(problem, stack).total_s
        best = min(best, total)
    assert plan.notes["edge_s"] == pytest.approx(best)
    assert sum(stack_times(problem, s).total_s for s in plan.stacks) + single[7] == pytest.approx(best)


@pytest.mark.parametrize("lan_bps", [2e6, 2e7, 1e9])
def test_aofl_with_borders_finds_the_best_of_all_blockings(lan_bps: float) -> None:
    """The same, blocks priced by the sum with barriers; the plan itself takes no longer, for it has none."""
    problem = vgg_like(6, (1.0, 0.4, 2.0), lan_bps=lan_bps)
    plan = plan_of("aofl", problem, aofl_exchange="borders")
    hosts, speeds = workers(problem, {"max_hosts": 64})
    blocks = bordering_blocks(problem, range(1, 7), hosts, speeds, columns=False)
    priced = {(b.first, b.last): b.seconds for group in blocks.values() for b in group}
    best = float("inf")
    for cuts in itertools.product((False, True), repeat=5):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 6]
        best = min(best, sum(priced[a + 1, b] for a, b in itertools.pairwise(edges)))
    assert plan.notes["edge_s"] == pytest.approx(best)
    assert [stack.vertices[0] for stack in plan.stacks] == [first for first, _ in plan.notes["blocks"]]
    took = chain_times(problem, plan, range(len(plan.stacks))).total_s
    assert 0.7 * best < took < 1.03 * best


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_bordering_blocks_are_priced_by_what_their_strips_compute_and_lack(seed: int) -> None:
    """Every block by itself, by the reverse tile calculation of its own vertices, on graphs with branches."""
    problem = replace(
        spatial_problem(seed, blocks=2, pace=5.0, side=24), network=vgg_like(lan_bps=5e7, speeds=(1.0,) * 4).network
    )
    graph, hosts, speeds = problem.graph, list(problem.edge_hosts), [1.0, 2.0, 0.5, 1.0]
    for run_of in runs(graph, [True] * len(graph)):
        own = {v: [(t.rows, t.columns) for t in strips(graph, (v,), hosts, speeds).tiles] for v in run_of}
        for group in bordering_blocks(problem, run_of, hosts, speeds, columns=False).values():
            for block in group:
                vertices = range(block.first, block.last + 1)
                slowest = outside = 0.0
                for i, box in enumerate(own[block.last]):
                    if not area(box):
                        continue
                    region = reverse(graph, vertices, box)
                    parts = [(v, area(b) / (graph[v].rows * graph[v].columns)) for v, b in region.produced.items() if area(b)]
                    seconds = sum(problem.costs.vertex_s(v, "edge", hosts[i], share) for v, share in parts)
                    lacks = {u: area(b) - area(intersection(b, own[u][i])) for u, b in region.read.items() if u in own}
                    size = sum(n * bytes_per_position(graph, u) for u, n in lacks.items())
                    slowest = max(slowest, seconds + (serialise_s(NetworkPath(5e7), size) if size else 0.0))
                    if i:
                        brought = sum(area(b) * bytes_per_position(graph, u) for u, b in region.read.items() if u not in own)
                        outside += serialise_s(NetworkPath(5e7), brought) if brought else 0.0
                        if block.last == run_of[-1]:
                            outside += serialise_s(NetworkPath(5e7), area(box) * bytes_per_position(graph, block.last))
                assert block.seconds == pytest.approx(slowest + outside)


def _as_stacks(problem: Problem, blocks: list[tuple[int, ...]]) -> list[Any]:
    hosts, speeds = workers(problem, {"max_hosts": 64})
    return [strips(problem.graph, block, hosts, speeds, wide(problem.graph, block[-1])) for block in blocks]


def test_aofl_fuses_deeper_where_the_network_is_slower() -> None:
    counts = [len(plan_of("aofl", vgg_like(9, (1.0, 1.0, 1.0), lan_bps=bps)).stacks) for bps in (1e6, 1e8, 1e11)]
    assert counts[0] < counts[1] <= counts[2]


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_blocks_of_graphs_with_branches_are_the_best_of_all_combinations(seed: int) -> None:
    problem = spatial_problem(seed, blocks=2, pace=5.0, side=16)
    graph = problem.graph
    blocks = blocks_of(problem, problem.edge_hosts, [1.0] * len(problem.edge_hosts))
    everything = [b for group in blocks.values() for b in group]
    alone_s = prices(problem).compute[EDGE]
    on_edge = [False] + [True] * (len(graph) - 1)
    for free in (True, False):
        alone = [free or not is_window(graph, v) for v in range(len(graph))]
        picked, seconds = best_blocks(blocks, alone_s, on_edge, alone)
        inside = {v for b in picked for v in range(b.first, b.last + 1)}
        assert free or inside >= {v for v in range(len(graph)) if is_window(graph, v)}

        def least(v: int, alone: list[bool] = alone) -> float:
            if v == len(graph):
                return 0.0
            own = [b.seconds + least(b.last + 1, alone) for b in everything if b.first == v]
            return min([*own, alone_s[v] + least(v + 1, alone)] if alone[v] else own, default=float("inf"))

        if len(everything) <= 60:
            assert seconds == pytest.approx(least(1))


# -- DeepThings --------------------------------------------------------------------------------------------------------------


def test_deepthings_fuses_one_grid_at_the_beginning() -> None:
    problem = vgg_like(9)
    plan = plan_of("deepthings", problem, deepthings_depth=5, deepthings_rows=2, deepthings_columns=4, reuse="off")
    (stack,) = plan.stacks
    assert (stack.vertices, stack.grid, stack.stealing, stack.reuse) == ((1, 2, 3, 4, 5), (2, 4), True, False)
    assert {len([t for t in stack.tiles if t.host == host]) for host in ("e1", "e2", "e3")} == {2, 3}
    residual = spatial_problem(5, blocks=4, pace=5.0)
    (stack,) = plan_of("deepthings", residual).stacks
    assert residual.graph.boundary(stack.vertices)[1] == (stack.output,)
    assert len(stack.vertices) <= 16


def test_reuse_saves_work_and_stealing_follows_speed_in_the_prediction() -> None:
    fast = vgg_like(6, (1.0, 1.0, 1.0))
    busy = {reuse: sum(critical_path(fast, plan_of("deepthings", fast, reuse=reuse)).busy_s.values()) for reuse in ("on", "off")}
    assert busy["on"] < 0.95 * busy["off"]
    slow = vgg_like(6, (1.0, 1.0, 0.1))
    took = {
        stealing: critical_path(slow, plan_of("deepthings", slow, stealing=stealing, deepthings_rows=5, deepthings_columns=5))
        for stealing in ("on", "off")
    }
    assert took["on"].latency_s < 0.6 * took["off"].latency_s


@pytest.mark.parametrize("model", ["alexnet", "resnet18"])
def test_the_printed_ranges_of_deepthings_miss_inputs_that_tiles_need(model: str) -> None:
    """Its pool formula knows neither overlap nor padding, its convolution formula only padding of half the kernel."""
    graph = load_graph(ModelSpec(model))
    missed = []
    for vertex in graph:
        spatial = vertex.spatial
        if spatial is None or spatial.kind != "window":
            continue
        length = graph[vertex.inputs[0]].rows
        half = (vertex.rows // 2, vertex.rows)
        exact = needed(spatial, (half, half), length, length)[0]
        if "pool" in vertex.operator:
            stride = spatial.stride[0]
            printed = (max(0, stride * half[0]), min(length, stride * (half[1] - 1) + stride))
        else:
            printed = ftp_range(spatial, 0, half, length)
        if printed[0] > exact[0] or printed[1] < exact[1]:
            missed.append(vertex.name)
        assert unclipped(spatial, 0, half)[0] <= exact[0]
    assert missed, "the printed ranges hold everything"


# -- CoEdge ------------------------------------------------------------------------------------------------------------------


def test_coedge_gives_equal_hosts_equal_shares_and_fast_ones_more() -> None:
    equal = plan_of("coedge", vgg_like(6, (1.0, 1.0), lan_bps=1e11)).notes["runs"][0]["shares"]
    assert equal == {"e1": pytest.approx(0.5, abs=0.01), "e2": pytest.approx(0.5, abs=0.01)}
    biased = plan_of("coedge", vgg_like(6, (1.0, 3.0), lan_bps=1e11)).notes["runs"][0]["shares"]
    assert biased["e2"] == pytest.approx(0.75, abs=0.01)
    costly = plan_of("coedge", vgg_like(6, (1.0, 3.0), lan_bps=4e6)).notes["runs"][0]["shares"]
    assert costly == {"e1": 1.0}  # e2's rows take longer to bring than to compute


def test_coedge_shares_are_as_good_as_any_other_that_obeys_the_halo_rule() -> None:
    """Against a fine grid of shares, by the programme's own sum of supersteps."""
    for speeds in ((1.0, 2.0), (1.0, 0.5), (0.3, 1.0)):
        problem = vgg_like(4, speeds, lan_bps=5e7)
        values = read(problem, "coedge")
        run_of = tuple(range(1, 5))
        found = shares_of(problem, values, run_of, ["e1", "e2"], 0.0)
        assert found.hosts == ("e1", "e2")
        by_hand = []
        for k in range(1, 200):
            share = (k / 200, 1 - k / 200)
            if all(high_enough(problem, run_of, s) for s in share):
                by_hand.append(_supersteps(problem, run_of, share))
        assert found.seconds <= min(by_hand) + 1e-9
        assert found.seconds == pytest.approx(_supersteps(problem, run_of, found.shares))


def _supersteps(problem: Problem, run_of: tuple[int, ...], share: tuple[float, ...]) -> float:
    """Two hosts, no delay: halo and rows of the slower one in every layer, scatter and gather of e2's rows."""
    graph, costs = problem.graph, problem.costs
    path = problem.network.lan["e2"]
    total = 0.0
    for v in run_of:
        slowest = 0.0
        for host, part, rows in (("e1", share[0], borders(problem, v)[1]), ("e2", share[1], borders(problem, v)[0])):
            row = graph[v - 1].output_bytes // graph[v - 1].rows
            halo = path.transfer_s(rows * row) if rows and v > 1 else 0.0
            slowest = max(slowest, halo + costs.vertex_s(v, "edge", host, part))
        total += slowest
    return total + share[1] * (path.transfer_s(graph[0].output_bytes) + path.transfer_s(graph[run_of[-1]].output_bytes))


def test_coedge_drops_hosts_whose_share_is_lower_than_a_border() -> None:
    problem = vgg_like(6, (1.0, 1.0, 0.02), lan_bps=1e10)
    note = plan_of("coedge", problem).notes["runs"][0]
    assert note["dropped"] == ["e3"]
    assert set(note["shares"]) == {"e1", "e2"}
    for seed in range(10):
        random_one = spatial_problem(seed, pace=5.0)
        plan = plan_of("coedge", random_one)
        parts = runs(random_one.graph, [tier == "edge" for tier in plan.tiers])
        for part, note in zip(parts, plan.notes["runs"], strict=True):
            assert len(note["shares"]) == 1 or all(high_enough(random_one, part, s + 1e-5) for s in note["shares"].values())


def test_coedge_saves_energy_as_far_as_the_deadline_lets_it() -> None:
    """e2 is fast and thirsty: the longer the deadline, the less it gets."""
    problem = vgg_like(6, (1.0, 2.0), lan_bps=1e10)
    powers = {"compute_w": {"e1": 1.0, "e2": 10.0}, "transmit_w": {"e1": 0.5, "e2": 0.5}}
    fastest = plan_of("coedge", problem).notes["runs"][0]
    joules, share = [], []
    for deadline in (0.06, 0.08, 0.4):
        options = {"coedge": {"coedge_objective": "energy", "coedge_deadline_s": deadline, **powers}}
        plan = plan_of("coedge", problem, **options)
        note = plan.notes["runs"][0]
        assert note["deadline_met"]
        assert critical_path(problem, plan).latency_s <= deadline * 1.05
        joules.append(note["joules"])
        share.append(note["shares"].get("e2", 0.0))
    assert joules == sorted(joules, reverse=True)
    assert share == sorted(share, reverse=True)
    assert share[0] > share[-1]
    options = {"coedge": {"coedge_objective": "energy", "coedge_deadline_s": 1e-3, **powers}}
    late = plan_of("coedge", problem, **options).notes["runs"][0]
    assert not late["deadline_met"]
    assert late["seconds"] == pytest.approx(fastest["seconds"])


def test_coedge_asks_for_what_it_cannot_know() -> None:
    problem = vgg_like(6, (1.0, 1.0))
    with pytest.raises(PlannerError, match="coedge_deadline_s"):
        plan_of("coedge", problem, coedge_objective="energy")
    with pytest.raises(PlannerError, match=r"coedge.compute_w.e1"):
        plan_of("coedge", problem, coedge_objective="energy", coedge_deadline_s=1.0)
    powers = {"compute_w": {"e1": 1.0, "e2": 1.0}, "transmit_w": {"e1": 1.0}}
    with pytest.raises(PlannerError, match=r"coedge.transmit_w.e2"):
        plan_of("coedge", problem, coedge={"coedge_objective": "energy", "coedge_deadline_s": 1.0, **powers})
    with pytest.raises(PlannerError, match="expected a table of numbers by host"):
        plan_of("coedge", problem, coedge={"compute_w": 3.0})


# -- plans -------------------------------------------------------------------------------------------------------------------


def test_plans_without_the_new_fields_are_read_as_before() -> None:
    plan = plan_of("aofl", vgg_like())
    raw = json.loads(plan.to_json())
    for stack in raw["stacks"]:
        for key in ("stealing", "reuse", "handover"):
            del stack[key]
    assert Plan.from_dict(raw).stacks == plan.stacks


def test_stacks_that_hand_over_badly_are_refused() -> None:
    problem = vgg_like()
    plan = plan_of("modnn", problem)
    first, *middle, last = plan.stacks
    pair = replace(first, tiles=tuple(replace(tile, host="e1") for tile in first.tiles))
    for stacks, text in (
        ((first, *middle), "the last stack must hand its map over to the leader"),
        ((first, *middle[1:], last), "must be convex together"),
        ((replace(first, stealing=True), *middle, last), "one fixed tile for each host"),
        ((pair, *middle, last), "one fixed tile for each host"),
        ((middle[0], first, *middle[1:], last), "reads a map of a later one"),
    ):
        with pytest.raises(PlanError, match=text):
            replace(plan, stacks=tuple(stacks)).check(problem.graph)
    raw = plan.to_dict()
    raw["stacks"][0]["handover"] = "pigeon"
    with pytest.raises(PlanError, match="a stack is handed over to leader, relay, neighbours"):
        Plan.from_dict(raw)


def test_any_seed_draws_the_same_plan_twice() -> None:
    for name in TILERS:
        seed = random.Random(name).randrange(1000)
        one, two = (plan_of(name, spatial_problem(seed, blocks=3)) for _ in range(2))
        assert one == two
