"""QDMP (Zhang et al., IMWUT 2020): DADS' optimum, by minimum cuts between neighbouring cut vertices instead of over the whole
graph.

A cut vertex is on every path from the input to an answer. If it is low so is all before it, if it is high so is all behind it;
hence the optimum's frontier lies between two neighbours among them. Only its abstract could be read, so how the
block is found is ours: every block gets a lower bound, the cuts at the cut vertices themselves an upper one, and only blocks
whose bound is below the best known are cut. On a chain none is.

- `tiers`: as for `dads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.mincut import FlowNetwork, Ints, nanoseconds
from testbed.planners.options import read
from testbed.planners.prices import prices
from testbed.planners.two_tier_cut import Cutter, block_network, price_vector
from testbed.planners.two_tiers import TwoTiers, decision, two_tiers


class Qdmp:
    """The least sum of compute and transfer seconds on two tiers, block by block."""

    name = "qdmp"

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch; the blocks are found once per graph."""
        values = read(problem, self.name)
        priced = prices(problem)
        pair = two_tiers(priced, values["tiers"])
        ranks, notes = block_cut(problem.graph, pair)
        return decision(self.name, problem, priced, ranks, {"tiers": values["tiers"], **notes})

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch, as in the paper."""
        return self.plan(problem)


@dataclass(frozen=True)
class Blocks:
    """A graph's cut vertices, ascending, the input first; block i lies between `first[i]` and `last[i]` (the last block ends at
    len(graph)). `inner` are the positions of blocks that hold a vertex; `networks` those of them built so far."""

    first: Ints
    last: Ints
    inner: Ints
    networks: dict[tuple[int, bool], FlowNetwork]


def cut_vertices(graph: LayerGraph) -> list[int]:
    """Vertices that every path from the input to a dead end passes: those that no edge spans, in any topological order."""
    found, reach = [], INPUT
    for v, consumers in enumerate(graph.successors):
        if reach <= v:
            found.append(v)
        reach = max(reach, consumers[-1] if consumers else len(graph))
    return found


def blocks(graph: LayerGraph) -> Blocks:
    """A graph's blocks, found once and kept on it."""
    kept = graph.__dict__.get("_planner_blocks")
    if kept is None:
        ends = np.array([*cut_vertices(graph), len(graph)], dtype=np.int64)
        kept = Blocks(ends[:-1], ends[1:], np.flatnonzero(np.diff(ends) > 1), {})
        graph.__dict__["_planner_blocks"] = kept
    return cast(Blocks, kept)


def block_cut(graph: LayerGraph, pair: TwoTiers) -> tuple[list[int], dict[str, Any]]:
    """Ranks of an optimal placement, and notes: how many cut vertices there are, and vertices in the blocks that were cut."""
    known, size = blocks(graph), len(graph)
    low, high, up = (nanoseconds(row) for row in (pair.low_s, pair.high_s, pair.up_s))
    entry = int(nanoseconds((pair.entry_s,))[0])
    low[INPUT] = high[INPUT] = 0
    below = np.cumsum(low)  # of all up to v
    above = high.sum() - np.cumsum(high)  # of all behind v
    at_cut = below[known.first] + above[known.first] + up[known.first]
    at_cut[1:] += entry  # behind a later cut vertex the input's readers are all low
    if known.first[-1] == size - 1:
        at_cut[-1] -= up[size - 1]  # nothing is behind the last vertex
    best_ns = int(at_cut.min())
    where = int(np.flatnonzero(at_cut == best_ns)[-1])
    end, inside, solved = int(known.first[where]) + 1, set[int](), 0
    bounds = _bounds(known, low, high, up, below, above, entry)
    for i in np.argsort(bounds, kind="stable"):
        if bounds[i] >= best_ns:
            break
        block = int(known.inner[i])
        first, last = int(known.first[block]), int(known.last[block])
        behind, value_ns = _cut_block(graph, pair, known, first, last)
        around = int(below[first]) + (int(above[last - 1]) if last < size else 0) + (entry if first else 0)
        solved += last - first - 1
        if around + value_ns < best_ns:
            best_ns, end = around + value_ns, last
            inside = {v for v in range(first + 1, last) if v - first + 1 in behind}
    on_high = [v >= end or v in inside for v in range(size)]
    return pair.ranks(on_high), {"cut_vertices": len(known.first), "vertices_cut": solved}


def _cut_block(graph: LayerGraph, pair: TwoTiers, known: Blocks, first: int, last: int) -> tuple[set[int], int]:
    """Minimum cut of one block, its first cut vertex low and its last one high."""
    entry = pair.entry_s > 0.0 and first == INPUT
    network = known.networks.get((first, entry))
    if network is None:
        network = known.networks[first, entry] = block_network(graph, first, last, entry)
    return Cutter(network, graph.name).cut(price_vector(pair, first, last))


def _bounds(known: Blocks, low: Ints, high: Ints, up: Ints, below: Ints, above: Ints, entry: int) -> Ints:
    """A lower bound for every block with vertices: each of them at its cheaper tier, and the cheapest tensor sent up (none, for a
    last block that ends with the graph)."""
    if not len(known.inner):
        return np.zeros(0, dtype=np.int64)
    first, last = known.first[known.inner], known.last[known.inner]
    cheaper = np.cumsum(np.minimum(low, high))
    inner_end = last < len(low)
    spans = np.stack(
        (first, last), axis=1
    ).ravel()  # reduceat takes the runs from each index to the next: every other one is ours
    least_sent = np.minimum.reduceat(np.append(up, 0), spans)[::2]
    around = below[first] + np.where(inner_end, above[last - 1], 0) + np.where(first > INPUT, entry, 0)
    return cast(Ints, around + cheaper[last - 1] - cheaper[first] + np.where(inner_end, least_sent, 0))
