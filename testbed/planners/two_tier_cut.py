"""DADS' graph for a placement on two tiers (INFOCOM 2019, section on DSL) and its minimum cut, in integer nanoseconds.

One node per vertex, source = the low tier, sink = the high one: s->v pays v's high seconds, v->t its low seconds, and a tensor
pays its way up once, through an auxiliary node where it has several consumers. Ours: infinite reverse arcs w->u, without which
the printed graph lets data flow back down for free wherever a vertex is faster below; and, on edge-cloud by a direct route, an
auxiliary that charges the input's way to the low tier.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from ortools.graph.python import max_flow

from d3node.graph import INPUT, LayerGraph
from testbed.errors import PlannerError
from testbed.planners.mincut import FlowNetwork, Ints, nanoseconds
from testbed.planners.two_tiers import TwoTiers

_SOURCE, _SINK = 0, 1


def block_network(graph: LayerGraph, first: int, last: int, entry: bool) -> FlowNetwork:
    """The flow network of the vertices strictly between `first` (low: the source) and `last` (high: the sink).

    No edge may lead from before `first` into the block, or from it past `last`. The whole graph is (INPUT, len(graph)). Vertex
    v is node v - first + 1. Prices, with k = last - first: high seconds of first..last-1, low seconds of the same, their
    tensors' way up, then the entry and infinity. `entry` adds the arcs for it.
    """
    size = last - first
    infinity = 3 * size + 1
    nodes = size + 1
    arcs: list[tuple[int, int, int]] = []

    def node(v: int) -> int:
        return _SOURCE if v == first else _SINK if v == last else v - first + 1

    for v in range(first + 1, last):
        arcs += [(_SOURCE, node(v), v - first), (node(v), _SINK, size + v - first)]
        arcs += [(node(v), node(u), infinity) for u in graph[v].inputs if u != first]
    for u in range(first, last):
        consumers = graph.successors[u]
        if len(consumers) == 1:
            arcs.append((node(u), node(consumers[0]), 2 * size + u - first))
        elif consumers:
            arcs.append((node(u), nodes, 2 * size + u - first))
            arcs.extend((nodes, node(w), infinity) for w in consumers)
            nodes += 1
    if entry:
        arcs.append((nodes, _SINK, 3 * size))
        arcs.extend((node(w), nodes, infinity) for w in graph.successors[INPUT] if w != last)
    tails, heads, price = (np.array(column, dtype=np.int64) for column in zip(*arcs, strict=True))
    return FlowNetwork(tails, heads, price)


def kept_network(graph: LayerGraph, entry: bool) -> FlowNetwork:
    """The flow network of the whole graph, built once and kept on the graph."""
    key = f"_planner_two_tiers_{entry}"
    found = graph.__dict__.get(key)
    if found is None:
        found = graph.__dict__[key] = block_network(graph, INPUT, len(graph), entry)
    return cast(FlowNetwork, found)


def price_vector(pair: TwoTiers, first: int, last: int) -> Ints:
    """The finite prices of a block, in the order that `block_network` states."""
    times, (delay_s, s_per_bit) = pair.priced.times, pair.priced.line[pair.low][pair.high]
    up_s = delay_s + pair.priced.facts.wire_row[first:last] * s_per_bit
    if first == INPUT:
        up_s[0] = pair.up_s[INPUT]  # the input may have a way up of its own
    return nanoseconds(np.concatenate((times[pair.high].row[first:last], times[pair.low].row[first:last], up_s, (pair.entry_s,))))


class Cutter:
    """Minimum cuts of one flow network under changing prices; the arcs are loaded once."""

    def __init__(self, network: FlowNetwork, name: str) -> None:
        self._network = network
        self._name = name
        self._flow: Any = max_flow.SimpleMaxFlow()
        self._arcs: Any = None

    def cut(self, finite: Ints) -> tuple[set[int], int]:
        """Nodes on the high side, and the cut's value in nanoseconds. Among equal cuts the one with most vertices low.

        Raises PlannerError where the prices are beyond 64-bit integers.
        """
        capacity = np.append(finite, int(finite.sum()) + 1)[self._network.price]
        if self._arcs is None:
            self._arcs = self._flow.add_arcs_with_capacity(self._network.tails, self._network.heads, capacity)
        else:
            self._flow.set_arcs_capacity(self._arcs, capacity)
        status = self._flow.solve(_SOURCE, _SINK)
        if status != self._flow.OPTIMAL:
            raise PlannerError(f"maximum flow failed on graph {self._name!r} ({status}): costs too large for 64-bit nanoseconds?")
        return set(self._flow.get_sink_side_min_cut()), int(self._flow.optimal_flow())


def least_sum(graph: LayerGraph, pair: TwoTiers) -> list[int]:
    """DSL: ranks of the placement with the least sum of compute and transfer seconds."""
    cutter = Cutter(kept_network(graph, pair.entry_s > 0.0), graph.name)
    behind, _ = cutter.cut(price_vector(pair, INPUT, len(graph)))
    return pair.ranks([False] + [v + 1 in behind for v in range(1, len(graph))])
