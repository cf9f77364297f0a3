"""DINA-P: how one user's model is shared out over itself and a set of fog nodes, the fog nodes' part in strips where that gains.

The model is cut behind one vertex that all paths pass (`dominators.py`): what comes before runs on the user, what follows on the
fog nodes (with the cloud allowed, behind a second such vertex in the cloud). Stacks of spatial vertices of the fog part are cut
along the largest dimension of the input, in as many strips as pay, sized by the nodes' speeds; everything else runs on the node
that leads. Every pair of cuts is tried, so the partition is the best of its kind by the sum of compute and transfer times; cuts
that would give the user, its fog nodes or the cloud more work than time at the user's rate of requests are passed over while
others do not.

Reconstruction: that tensors are cut along their largest dimension, by number and capability of the nodes, is from a third-party
summary; where the cuts lie is ours. The paper also cuts fully connected layers by neurons; our runtime has no such parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.costs.network import NetworkState
from testbed.planners.base import Problem
from testbed.planners.dominators import dominators
from testbed.planners.evaluate import critical_path
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan, prices
from testbed.planners.vsm import Offers, build, offers, pick


@dataclass(frozen=True)
class Partition:
    """A user's plan on some nodes: seconds of one request on idle hosts, and how long it keeps every host busy."""

    plan: Plan
    alone_s: float
    busy_s: dict[str, float]


def on_nodes(problem: Problem, nodes: Sequence[str]) -> Problem:
    """The problem as it is when the first of these nodes leads and only the others help."""
    network: NetworkState = problem.leaders.get(nodes[0], problem.network)
    return replace(problem, network=network, hosts={**problem.hosts, "edge": nodes[0]}, edge_hosts=tuple(nodes))


def partition(problem: Problem, nodes: Sequence[str], cloud: bool, name: str) -> Partition:
    """The best partition over the user and these nodes, the first of which leads. Raises PlannerError for an unknown LAN host."""
    own = on_nodes(problem, nodes)
    graph = own.graph
    found = offers(own, strips(graph, len(nodes)))
    first, second = _cuts(own, found, cloud)
    ranks = [DEVICE if v <= first else EDGE if v <= second else CLOUD for v in range(len(graph))]
    picked, _ = pick(found, [rank == EDGE for rank in ranks])
    plan = make_plan(name, own, ranks, tuple(build(graph, offer) for offer in picked))
    predicted = critical_path(own, plan)
    return Partition(plan, predicted.latency_s, predicted.busy_s)


def strips(graph: LayerGraph, count: int) -> dict[str, Any]:
    """Options of VSM's tiling that make strips along the input's largest dimension, in proportion to speeds."""
    shape = graph[INPUT].output_shape
    wide = len(shape) == 4 and shape[-1] > shape[-2]
    return {"shares": "speed", "grids": "columns" if wide else "rows", "max_hosts": max(1, count)}


def _cuts(problem: Problem, found: Offers, cloud: bool) -> tuple[int, int]:
    """The last vertex on the user and the last on fog nodes: with nobody overloaded, if that can be; then for the least sum of
    seconds, the answer's way included."""
    rate = problem.requests_per_s or 0.0
    graph, network = problem.graph, problem.network
    last = len(graph) - 1
    ends = [v for v in dominators(graph) if v != last]
    compute = prices(problem).compute
    up_to = [[0.0] for _ in compute]
    for rank, row in enumerate(compute):
        for seconds in row:
            up_to[rank].append(up_to[rank][-1] + seconds)

    def between(rank: int, start: int, end: int) -> float:
        return up_to[rank][end + 1] - up_to[rank][start + 1]

    sizes = [vertex.output_bytes for vertex in graph]
    fog_answer = sum(network.device_edge.transfer_s(sizes[v]) for v in graph.outputs)
    cloud_answer = sum(network.device_cloud.transfer_s(sizes[v]) for v in graph.outputs)
    best, chosen = (True, float("inf")), (last, last)

    def offer(first: int, second: int, total: float, *work: float) -> None:
        nonlocal best, chosen
        if (key := (rate * max(work) >= 1.0, total)) < best:
            best, chosen = key, (first, second)

    whole = between(DEVICE, INPUT, last)
    offer(last, last, whole, whole)
    for first in ends:
        local = between(DEVICE, INPUT, first)
        saved = savings(found, first + 1, len(graph))
        there = local + network.transfer_s(sizes[first], "device", "edge")
        fog = between(EDGE, first, last) - saved[last]
        offer(first, last, there + fog + fog_answer, local, fog)
        for second in [v for v in ends if v >= first] if cloud else ():
            rest = between(CLOUD, second, last)
            if second == first:
                fog, way = 0.0, local + network.transfer_s(sizes[first], "device", "cloud")
            else:
                fog = between(EDGE, first, second) - saved[second]
                way = there + fog + network.transfer_s(sizes[second], "edge", "cloud")
            offer(first, second, way + rest + cloud_answer, local, fog, rest)
    return chosen


def savings(found: Offers, start: int, size: int) -> list[float]:
    """Most seconds that non-overlapping stacks from `start` on save, by the last vertex that they may use."""
    saved = [0.0] * size
    for v in range(start, size):
        saved[v] = saved[v - 1] if v > start else 0.0
        for offer in found.by_last.get(v, ()):
            if offer.first >= start:
                before = saved[offer.first - 1] if offer.first > start else 0.0
                saved[v] = max(saved[v], before + offer.gain_s)
    return saved
