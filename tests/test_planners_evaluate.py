"""Promises of the evaluation of plans: examples worked by hand, and bounds that hold for any plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_problems import random_problem, spatial_problem

from d3node.errors import PlanError
from d3node.graph import LayerGraph, Spatial, Vertex
from d3node.plan import Plan, Stack, Tile
from d3node.program import Route
from testbed.costs.network import NetworkState, Path, frame_bytes
from testbed.costs.table import Costs, TierCosts
from testbed.planners.base import Problem
from testbed.planners.evaluate import critical_path, objective_s
from testbed.planners.prices import make_plan, prices
from testbed.planners.tiling import stack_times

HOSTS = {"device": "d1", "edge": "e1", "cloud": "c"}


def wire(payload: int) -> float:
    """Wire bits of a message: 160 bytes of prefix and header, 66 bytes of framing per 1448 bytes begun."""
    packets = (payload + 160 + 1447) // 1448
    return 8.0 * (payload + 160 + 66 * packets)


def two_branches(route: Route) -> Problem:
    """input -> a, b; a -> c; b -> c; c is the answer. Delays are 10, 20 and 25 ms; sizes 10 kB, 4 kB, 8 kB, 100 B."""
    vertices = (
        Vertex(0, "input", "input", (), (1, 3, 8, 8), 10_000),
        Vertex(1, "a", "linear", (0,), (1, 8), 4_000),
        Vertex(2, "b", "linear", (0,), (1, 8), 8_000),
        Vertex(3, "c", "add", (1, 2), (1, 8), 100),
    )
    zeros = (0.0,) * 4
    tiers = {
        "device": TierCosts(zeros, (0.0, 0.100, 0.200, 0.400)),
        "edge": TierCosts(zeros, (0.0, 0.050, 0.100, 0.200)),
        "cloud": TierCosts(zeros, (0.0, 0.010, 0.020, 0.040)),
    }
    network = NetworkState(Path(1e6, 0.010), Path(5e5, 0.020), Path(4e5, 0.025), {}, route)
    return Problem(LayerGraph("two", vertices, (3,)), Costs(tiers), network, dict(HOSTS), ("e1",))  # type: ignore[arg-type]


def test_relayed_branches_by_hand() -> None:
    """a on the device, b on the edge, c in the cloud: a's tensor is relayed behind b's input, b computes meanwhile."""
    problem = two_branches("relay")
    plan = make_plan("hand", problem, [0, 0, 1, 2])
    up_input = wire(10_000) / 1e6
    assert objective_s(problem, plan) == pytest.approx(
        0.100 + 0.100 + 0.040  # compute
        + (0.010 + up_input) + (0.010 + wire(4_000) / 1e6)  # device -> edge: input, a
        + (0.020 + wire(4_000) / 5e5) + (0.020 + wire(8_000) / 5e5)  # edge -> cloud: a, b
    )  # fmt: skip
    a_at_edge = 0.100 + wire(4_000) / 1e6 + 0.010  # computed at 0.100 s, when the input has long left
    b_done = up_input + 0.010 + 0.100
    a_left = a_at_edge + wire(4_000) / 5e5  # edge -> cloud sends one after the other
    assert b_done < a_left
    first = min(a_at_edge, b_done)
    if first == b_done:
        b_left = b_done + wire(8_000) / 5e5
        a_left = max(b_left, a_at_edge) + wire(4_000) / 5e5
        last = a_left
    else:
        last = max(a_left, b_done) + wire(8_000) / 5e5
    latency = last + 0.020 + 0.040 + wire(100) / 4e5 + 0.025
    found = critical_path(problem, plan)
    assert found.latency_s == pytest.approx(latency)
    assert found.backbone_bytes == pytest.approx((wire(4_000) + wire(8_000)) / 8)
    assert found.direct_bytes == 0.0
    assert found.busy_s == pytest.approx({"d1": 0.1, "e1": 0.1, "c": 0.04})
    assert found.bottleneck_s == pytest.approx((wire(4_000) + wire(8_000)) / 5e5)
    assert found.answers_s == {3: found.latency_s}


def test_direct_branches_by_hand() -> None:
    """The same placement with a path of its own from device to cloud: a's tensor goes there alone, and nothing is relayed."""
    problem = two_branches("direct")
    plan = make_plan("hand", problem, [0, 0, 1, 2])
    assert objective_s(problem, plan) == pytest.approx(
        0.240 + (0.010 + wire(10_000) / 1e6) + (0.025 + wire(4_000) / 4e5) + (0.020 + wire(8_000) / 5e5)
    )
    a = 0.100 + wire(4_000) / 4e5 + 0.025
    b = wire(10_000) / 1e6 + 0.010 + 0.100 + wire(8_000) / 5e5 + 0.020
    found = critical_path(problem, plan)
    assert found.latency_s == pytest.approx(max(a, b) + 0.040 + wire(100) / 4e5 + 0.025)
    assert found.direct_bytes == pytest.approx(wire(4_000) / 8)
    assert found.backbone_bytes == pytest.approx(wire(8_000) / 8)


def test_a_tensor_for_two_tiers_crosses_each_boundary_once_or_goes_to_each_tier_once() -> None:
    for route, expected in (
        ("relay", 0.010 + wire(10_000) / 1e6 + 0.020 + wire(10_000) / 5e5),
        ("direct", 0.010 + wire(10_000) / 1e6 + 0.025 + wire(10_000) / 4e5),
    ):
        problem = two_branches(route)  # type: ignore[arg-type]
        plan = make_plan("hand", problem, [0, 1, 2, 2])  # a on the edge, b and c in the cloud: both need the input
        moved = objective_s(problem, plan) - (0.050 + 0.020 + 0.040) - (0.020 + wire(4_000) / 5e5)
        assert moved == pytest.approx(expected)


def one_convolution() -> Problem:
    """A 3x3 convolution on an 8x8 map of 4 channels in float32; the leader e1 and a worker e2 of twice its speed."""
    vertices = (
        Vertex(0, "input", "input", (), (1, 4, 8, 8), 1_024),
        Vertex(1, "conv", "conv2d", (0,), (1, 4, 8, 8), 1_024, spatial=Spatial("window", (3, 3), (1, 1), (1, 1))),
    )
    tiers = {tier: TierCosts((0.0, 0.001), (0.0, 0.080)) for tier in ("device", "edge", "cloud")}
    network = NetworkState(Path(1e6), Path(1e6), Path(1e6), {"e2": Path(1e7, 0.0005)})
    graph = LayerGraph("one", vertices, (1,))
    return Problem(graph, Costs(tiers, {"e2": 2.0}), network, dict(HOSTS), ("e1", "e2"))  # type: ignore[arg-type]


def test_a_stack_by_hand() -> None:
    """Two strips of 4 rows; the worker's strip reads 5 rows (one of halo), 640 bytes, and 512 bytes come back."""
    problem = one_convolution()
    stack = Stack((1,), (2, 1), (Tile("e1", (0, 4), (0, 8)), Tile("e2", (4, 8), (0, 8))))
    leader = 0.001 + 0.080 / 2
    worker = wire(640) / 1e7 + 0.0005 + (0.001 + 0.080 / 2) / 2 + 0.0005 + wire(512) / 1e7
    times = stack_times(problem, stack)
    assert times.total_s == pytest.approx(max(leader, worker))
    assert [t.back_s for t in times.tiles] == pytest.approx([leader, worker])
    assert (times.tiles[1].scatter_bytes, times.tiles[1].gather_bytes) == (640, 512)
    plan = Plan("hand", "one", ("device", "edge"), HOSTS, (stack,))  # type: ignore[arg-type]
    assert objective_s(problem, plan) == pytest.approx(wire(1_024) / 1e6 + times.total_s)
    found = critical_path(problem, plan)
    assert found.latency_s == pytest.approx(2 * wire(1_024) / 1e6 + times.total_s)
    assert found.busy_s == pytest.approx({"e1": leader, "e2": (0.001 + 0.080 / 2) / 2})


def test_tiles_share_the_leaders_link_both_ways() -> None:
    """Two workers: both are sent to at once, the smaller region is through when it and as much of the larger one are; the second
    answer waits for its share of the link."""
    problem = one_convolution()
    path = Path(1e5, 0.0)
    network = replace(problem.network, lan={"e2": path, "e3": path})
    problem = replace(problem, costs=Costs(problem.costs.tiers, {}), network=network, edge_hosts=("e1", "e2", "e3"))
    stack = Stack((1,), (3, 1), (Tile("e1", (0, 2), (0, 8)), Tile("e2", (2, 5), (0, 8)), Tile("e3", (5, 8), (0, 8))))
    large, small = wire(4 * 4 * 8 * 5), wire(4 * 4 * 8 * 4)
    ready = {"e2": (large + small) / 1e5, "e3": 2 * small / 1e5}
    times = {t.host: t for t in stack_times(problem, stack).tiles}
    assert {host: times[host].ready_s for host in ready} == pytest.approx(ready)
    alone = ready["e2"] - ready["e3"]  # as long as e3's answer has the link to itself; then e2's takes half of it
    left = wire(384) / 1e5 - alone
    assert times["e3"].back_s == pytest.approx(ready["e2"] + 0.031 + 2 * left)
    assert times["e2"].back_s == pytest.approx(ready["e3"] + 0.031 + 2 * wire(384) / 1e5)


def test_empty_tiles_cost_nothing() -> None:
    problem = one_convolution()
    tiles = (Tile("e1", (0, 8), (0, 8)), Tile("e2", (8, 8), (0, 8)))
    times = stack_times(problem, Stack((1,), (2, 1), tiles))
    assert times.total_s == pytest.approx(0.081)
    assert [t.host for t in times.tiles] == ["e1"]


def test_a_uint8_input_travels_small_between_tiers_and_as_float32_between_edge_hosts() -> None:
    problem = one_convolution()
    small = replace(problem, graph=problem.graph.with_input_bytes(256))
    stack = Stack((1,), (2, 1), (Tile("e1", (0, 4), (0, 8)), Tile("e2", (4, 8), (0, 8))))
    assert stack_times(small, stack) == stack_times(problem, stack)
    assert prices(small).hop[0][1][0] == pytest.approx(wire(256) / 1e6)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 1 << 30), route=st.sampled_from(("relay", "direct")))
def test_latency_is_within_its_bounds_for_any_placement(seed: int, route: Route) -> None:
    """Overlap can only help: never above the serial sum with the answers' way back, never below any host's or path's work."""
    problem = random_problem(seed, route=route)
    rng = random.Random(seed)
    ranks = [0]
    for vertex in problem.graph.vertices[1:]:
        ranks.append(rng.randint(max(ranks[u] for u in vertex.inputs), 2))
    plan = make_plan("random", problem, ranks)
    found = critical_path(problem, plan)
    back = {1: problem.network.device_edge, 2: problem.network.device_cloud}
    returns = sum(back[ranks[v]].transfer_s(problem.graph[v].output_bytes) for v in problem.graph.outputs if ranks[v])
    assert found.latency_s <= objective_s(problem, plan) + returns + 1e-9
    assert found.latency_s >= found.bottleneck_s - 1e-9
    sent = {v for v in range(len(ranks)) if ranks[v] < 2 and any(ranks[w] == 2 for w in problem.graph.successors[v])}
    frames = sum(frame_bytes(problem.graph[v].output_bytes + 160) for v in sent)
    assert found.backbone_bytes + found.direct_bytes == pytest.approx(frames)


def test_a_chain_has_no_overlap() -> None:
    """On a chain every step waits for the one before: latency is the objective plus the answer's way back."""
    for seed in range(20):
        rng = random.Random(seed)
        problem = random_problem(seed, size=7)
        vertices = [replace(v, inputs=(v.index - 1,)) if v.index else v for v in problem.graph.vertices]
        problem = replace(problem, graph=LayerGraph("chain", tuple(vertices), (6,)))
        cuts = sorted(rng.choices(range(1, 8), k=2))
        ranks = [sum(v >= cut for cut in cuts) for v in range(7)]
        plan = make_plan("chain", problem, ranks)
        back = {0: 0.0, 1: problem.network.device_edge.transfer_s(vertices[6].output_bytes)}
        back[2] = problem.network.device_cloud.transfer_s(vertices[6].output_bytes)
        assert critical_path(problem, plan).latency_s == pytest.approx(objective_s(problem, plan) + back[ranks[6]])


def test_an_illegal_plan_is_refused() -> None:
    problem = spatial_problem(1)
    plan = make_plan("bad", problem, [0, 2, *[1] * (len(problem.graph) - 2)])
    for evaluate in (objective_s, critical_path):
        with pytest.raises(PlanError, match="data may only flow"):
            evaluate(problem, plan)
