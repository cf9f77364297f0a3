"""The three-tier one-way placement as one minimum cut (papers: DADS' construction, widened to three tiers), in integer ns.

Per vertex v two nodes: q_v on the source side means "not in the cloud", p_v on the source side means "on the device". Arcs:
s->q_v pays cloud seconds, q_v->p_v edge seconds, p_v->t device seconds; infinite p_v->q_v, and for every tensor u->w infinite
p_w->p_u and q_w->q_u (one-way flow). A tensor pays each boundary once through an auxiliary node behind p_u (device-edge) or
q_u (edge-cloud). Both nodes of the input are the source itself: it is pinned to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from ortools.graph.python import max_flow

from d3node.graph import INPUT, LayerGraph
from testbed.errors import PlannerError
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices

NANO = 1e9
_SOURCE, _SINK = 0, 1
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FlowNetwork:
    """Arcs of a graph's flow network; `price[i]` says which entry of the price vector arc i gets as its capacity."""

    tails: Ints
    heads: Ints
    price: Ints


def flow_network(graph: LayerGraph, direct: bool) -> FlowNetwork:
    """Built once per graph and route, and kept on the graph. The price vector is cloud, edge, device seconds of all vertices,
    then device-edge, edge-cloud (and, for direct, what device-cloud costs beyond their sum) of all tensors, then infinity."""
    key = f"_planner_cut_{direct}"
    found = graph.__dict__.get(key)
    if found is not None:
        return cast(FlowNetwork, found)
    size = len(graph)
    infinity = size * 6
    arcs: list[tuple[int, int, int]] = []
    nodes = 2 * size

    def q(v: int) -> int:
        return _SOURCE if v == INPUT else 2 * v

    def p(v: int) -> int:
        return _SOURCE if v == INPUT else 2 * v + 1

    for v in range(1, size):
        arcs += [(_SOURCE, q(v), v), (q(v), p(v), size + v), (p(v), _SINK, 2 * size + v), (p(v), q(v), infinity)]
    for u, w in graph.edges:
        if u != INPUT:
            arcs += [(p(w), p(u), infinity), (q(w), q(u), infinity)]
    for u, consumers in enumerate(graph.successors):
        moves = [(p(u), p, 3 * size + u), (q(u), q, 4 * size + u)]
        if direct:
            moves.append((p(u), q, 5 * size + u))
        for start, reach, price in moves:
            if len(consumers) == 1:
                arcs.append((start, reach(consumers[0]), price))
            elif consumers:
                arcs.append((start, nodes, price))
                arcs.extend((nodes, reach(w), infinity) for w in consumers)
                nodes += 1
    tails, heads, price_index = (np.array(column, dtype=np.int64) for column in zip(*arcs, strict=True))
    found = FlowNetwork(tails, heads, price_index)
    graph.__dict__[key] = found
    return found


def nanoseconds(seconds: Sequence[float] | npt.NDArray[np.float64]) -> Ints:
    """Seconds as whole nanoseconds."""
    return cast(Ints, np.rint(np.asarray(seconds, dtype=np.float64) * NANO).astype(np.int64))


def price_vector(priced: Prices, exact: int = EDGE) -> Ints:
    """The finite prices that the network's arcs refer to, none negative.

    Where the direct path is cheaper than both hops, a device tensor's way to the edge and its way on to the cloud cannot both
    have their true price; the one to the tier `exact` does as far as possible, the other is too low.
    """
    up, across, far = (np.asarray(row) for row in (priced.hop[DEVICE][EDGE], priced.hop[EDGE][CLOUD], priced.hop[DEVICE][CLOUD]))
    if not priced.relay and exact == EDGE:
        up = np.minimum(up, far)
        across = np.minimum(across, far - up)
    elif not priced.relay:
        across = np.minimum(across, far)
        up = np.minimum(up, far - across)
    compute = (priced.compute[CLOUD], priced.compute[EDGE], priced.compute[DEVICE])
    beyond = np.maximum(far - up - across, 0.0)
    return np.concatenate([nanoseconds(row) for row in (*compute, up, across, beyond)])


def minimum_cut(graph: LayerGraph, priced: Prices, exact: int = EDGE) -> tuple[list[int], int]:
    """Ranks of the least cut and its value in nanoseconds; among equal cuts the one with most vertices on lower tiers.

    With route "relay" the value is the objective's optimum. With "direct" it is a lower bound: a device tensor that both edge
    and cloud consume is charged for its way to the cloud only, and cheap direct paths lower a price (`price_vector`).
    """
    direct = not priced.relay
    network = flow_network(graph, direct)
    finite = price_vector(priced, exact)
    infinity = int(finite.sum()) + 1
    capacity = np.append(finite, infinity)[network.price]
    flow: Any = max_flow.SimpleMaxFlow()
    flow.add_arcs_with_capacity(network.tails, network.heads, capacity)
    status = flow.solve(_SOURCE, _SINK)
    if status != flow.OPTIMAL:
        raise PlannerError(f"maximum flow failed on graph {graph.name!r} ({status}): costs too large for 64-bit nanoseconds?")
    behind = set(flow.get_sink_side_min_cut())
    ranks = [DEVICE] * len(graph)
    for v in range(1, len(graph)):
        if 2 * v + 1 in behind:
            ranks[v] = CLOUD if 2 * v in behind else EDGE
    return ranks, int(flow.optimal_flow())
