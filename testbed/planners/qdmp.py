"""QDMP (Zhang et al., IMWUT 2020): DADS' optimum, by minimum cuts between neighbouring cut vertices instead of over the whole
graph.

A cut vertex is on every path from the input to an answer. If it is low so is all before it, if it is high so is all behind it;
hence the optimum's frontier lies between two neighbours among them. Only its abstract could be read, so how the
block is found is ours: every block gets a lower bound, the cuts at the cut vertices themselves an upper one, and only blocks
whose bound is below the best known are cut. On a chain none is.

- `tiers`: as for `dads`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.mincut import FlowNetwork, Ints, nanoseconds
from testbed.planners.options import read
from testbed.planners.prices import DEVICE, Floats, TierTimes, facts, prices
from testbed.planners.two_tier_cut import Cutter, block_network, price_vector
from testbed.planners.two_tiers import TwoTiers, decision, two_tiers


class Qdmp:
    """The least sum of compute and transfer seconds on two tiers, block by block."""

    name = "qdmp"

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch; the blocks are found once per graph, their sums of compute times once per table of times."""
        values = read(problem, self.name)
        priced = prices(problem, sparse=True)
        pair = two_tiers(priced, values["tiers"])
        ranks, notes = block_cut(problem.graph, pair)
        return decision(self.name, problem, priced, ranks, {"tiers": values["tiers"], **notes})

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch, as in the paper."""
        return self.plan(problem)


@dataclass(frozen=True)
class Sums:
    """Nanoseconds of compute under one pair of tables: `at_cut` with everything up to each cut vertex low and all behind it high;
    `around` each block with vertices, and `bounds` the same with each of its vertices at its cheaper tier."""

    times: tuple[TierTimes, TierTimes]
    at_cut: Ints
    around: Ints
    bounds: Ints


@dataclass
class Blocks:
    """A graph's cut vertices, ascending, the input first, and the blocks between them that hold a vertex: from `first` to `last`,
    both outside (the last block may end at len(graph)).

    `cut_bits`: wire bits of the cut vertices' tensors, `first_bits` of those before a block. `paths` and `path_bits`: where
    `first` is not sent, one tensor on each of so many separate paths is, of so many bits in all at least (infinitely many where
    an edge leads past the block, none where a path may end in it). `networks` and `sums`: those in use so far.
    """

    cuts: list[int]
    cut_bits: Floats
    first: Ints
    last: Ints
    first_bits: Floats
    paths: Floats
    path_bits: Floats
    networks: dict[tuple[int, bool], FlowNetwork]
    sums: Sums | None = None


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
        cuts, bits = cut_vertices(graph), facts(graph).wire_bits
        inner = [(a, b) for a, b in itertools.pairwise([*cuts, len(graph)]) if b - a > 1]
        first, last = np.array(inner, dtype=np.int64).reshape(-1, 2).T
        paths, path_bits = np.array([_through(graph, a, b) for a, b in inner]).reshape(-1, 2).T
        cut_bits, first_bits = (np.array([bits[v] for v in vertices]) for vertices in (cuts, first.tolist()))
        kept = Blocks(cuts, cut_bits, first, last, first_bits, paths, path_bits, {})
        graph.__dict__["_planner_blocks"] = kept
    return cast(Blocks, kept)


def _through(graph: LayerGraph, first: int, last: int) -> tuple[float, float]:
    """How many paths with no vertex in common lead through a block, and the sum of the smallest tensors on each: what is sent at
    least where `first` itself is not. Found greedily, so there may be more."""
    if last == len(graph):
        return 0.0, 0.0
    if last in graph.successors[first]:
        return 0.0, float("inf")
    bits = facts(graph).wire_bits
    used: set[int] = set()

    def to_the_end(v: int) -> list[int]:
        path, waiting = [v], [iter(graph.successors[v])]
        used.add(v)
        while path:
            w = next(waiting[-1], None)
            if w is None:
                path.pop()  # a dead end of the search: what it used stays used, which can only lose paths
                waiting.pop()
            elif w == last:
                return path
            elif w not in used:
                used.add(w)
                path.append(w)
                waiting.append(iter(graph.successors[w]))
        return []

    found = [path for path in (to_the_end(v) for v in graph.successors[first] if v not in used) if path]
    return float(len(found)), sum(min(bits[v] for v in path) for path in found)


def block_cut(graph: LayerGraph, pair: TwoTiers) -> tuple[list[int], dict[str, Any]]:
    """Ranks of an optimal placement, and notes: how many cut vertices there are, and vertices in the blocks that were cut."""
    known, size = blocks(graph), len(graph)
    sums = _sums(known, size, pair)
    entry = int(nanoseconds((pair.entry_s,))[0])
    delay_s, s_per_bit = pair.priced.line[pair.low][pair.high]
    at_cut = sums.at_cut + nanoseconds(delay_s + known.cut_bits * s_per_bit)
    at_cut[0] = sums.at_cut[0] + int(nanoseconds((pair.up_s[INPUT],))[0])
    at_cut[1:] += entry  # behind a later cut vertex the input's readers are all low
    if known.cuts[-1] == size - 1:
        at_cut[-1] = sums.at_cut[-1] + (entry if size > 1 else 0)  # nothing is behind the last vertex
    best_ns = int(at_cut.min())
    end = known.cuts[int(np.flatnonzero(at_cut == best_ns)[-1])] + 1  # the first vertex that is high
    inside: set[int] = set()
    solved = 0
    if len(known.first):
        bounds = _bounds(known, sums, pair, entry)
        for i in np.argsort(bounds, kind="stable") if bounds.min() < best_ns else ():
            if bounds[i] >= best_ns:
                break
            first, last = int(known.first[i]), int(known.last[i])
            behind, value_ns = _cut_block(graph, pair, known, first, last)
            total = int(sums.around[i]) + value_ns + (entry if first else 0)
            solved += last - first - 1
            if total < best_ns:
                best_ns, end = total, last
                inside = {v for v in range(first + 1, last) if v - first + 1 in behind}
    ranks = [DEVICE, *[pair.low] * (end - 1), *[pair.high] * (size - end)]
    for v in inside:
        ranks[v] = pair.high
    return ranks, {"cut_vertices": len(known.cuts), "vertices_cut": solved}


def _sums(known: Blocks, size: int, pair: TwoTiers) -> Sums:
    """Worked out where a table of times is new."""
    times = (pair.priced.times[pair.low], pair.priced.times[pair.high])
    kept = known.sums
    if kept is not None and kept.times[0] is times[0] and kept.times[1] is times[1]:
        return kept
    low, high = (nanoseconds(each.row) for each in times)
    below, above = np.cumsum(low), high.sum() - np.cumsum(high)  # of all up to v, of all behind it
    cheaper = np.cumsum(np.minimum(low, high))
    around = below[known.first] + np.where(known.last < size, above[known.last - 1], 0)
    found = Sums(times, below[known.cuts] + above[known.cuts], around, around + cheaper[known.last - 1] - cheaper[known.first])
    known.sums = found
    return found


def _bounds(known: Blocks, sums: Sums, pair: TwoTiers, entry: int) -> Ints:
    """A lower bound for every block with vertices: each of them at its cheaper tier; and sent is the cut vertex before it, or one
    tensor on each path through it."""
    delay_s, s_per_bit = pair.priced.line[pair.low][pair.high]
    before = delay_s + known.first_bits * s_per_bit
    if known.first[0] == INPUT:
        before[0] = pair.up_s[INPUT]  # the input may have a way up of its own
    within = known.paths * (delay_s - 1e-9) + known.path_bits * s_per_bit  # each is rounded by itself
    sent = nanoseconds(np.minimum(before, within)) - 1
    return sums.bounds + np.maximum(sent, 0) + np.where(known.first > INPUT, entry, 0)


def _cut_block(graph: LayerGraph, pair: TwoTiers, known: Blocks, first: int, last: int) -> tuple[set[int], int]:
    """Minimum cut of one block, its first cut vertex low and its last one high."""
    entry = pair.entry_s > 0.0 and first == INPUT
    network = known.networks.get((first, entry))
    if network is None:
        network = known.networks[first, entry] = block_network(graph, first, last, entry)
    return Cutter(network, graph.name).cut(price_vector(pair, first, last))
