"""AOFL (Zhou et al., SEC 2019): fused blocks of layers chosen by dynamic programming from bandwidth and host speeds.

A deep block exchanges seldom but computes halos again, a shallow one the other way round; the best cut of the network into
blocks is best[j] = min over i of best[i] + cost(i+1 .. j). Strips are sized by speed, all hosts take part in every block.
Options: `aofl_exchange`: "maps" (a block's map goes whole to the leader, who scatters it again; its cost is that of VSM's
model, `tiling.py`) or "borders" (hosts keep their strips and get what they lack from their neighbours); `aofl_alone`, with
"maps": whether a block may also be one layer on the leader alone ("off", as published: every layer that can be tiled is);
`max_hosts`, `edge_part`.

The algorithm is from memory of the paper (its full text was not available), on chains. On a graph with branches a block is any
run with one output (`stack_candidates.py`); a join that no block holds is left to the leader, who has its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d3node.graph import LayerGraph
from d3node.intervals import Box, area, intersection, needed, reverse, union
from d3node.plan import Handover, Stack
from testbed.planners.base import Problem
from testbed.planners.lan import Lan
from testbed.planners.prices import EDGE, prices
from testbed.planners.stack_candidates import candidates, walked_back
from testbed.planners.tile_geometry import Grid
from testbed.planners.tilers import Tiler, is_window, linked, runs, strips, wide, workers
from testbed.planners.tiling import bytes_per_position, serialise_s
from testbed.planners.vsm import stack_seconds


@dataclass(frozen=True, slots=True)
class Block:
    """A fused block and its seconds."""

    first: int
    last: int
    seconds: float


def blocks_of(problem: Problem, hosts: Sequence[str], speeds: Sequence[float]) -> dict[int, list[Block]]:
    """All possible blocks by last vertex, each in strips along the longer dimension of its output."""
    found: dict[int, list[Block]] = {}
    table = candidates(problem.graph)
    if not len(table.first):
        return found
    one = (1.0 * sum(speeds),)
    grids = (Grid((len(hosts), 1), tuple(speeds), one, tuple(hosts)), Grid((1, len(hosts)), one, tuple(speeds), tuple(hosts)))
    rows, columns = (stack_seconds(problem, [grid])[0] for grid in grids)
    across = np.array([wide(problem.graph, int(v)) for v in table.last])
    seconds = np.where(across, columns, rows)
    for first, last, took in zip(table.first.tolist(), table.last.tolist(), seconds.tolist(), strict=True):
        found.setdefault(last, []).append(Block(first, last, took))
    return found


def best_blocks(
    blocks: dict[int, list[Block]], alone_s: Sequence[float], on_edge: Sequence[bool], alone: Sequence[bool]
) -> tuple[list[Block], float]:
    """The cut of an edge part into blocks that takes least, and its seconds with what the leader does alone (`alone_s[v]`).

    `alone[v]`: whether the leader may compute v by itself; where nothing else is possible it does. Fewer blocks among equals.
    """
    size = len(on_edge)
    best = [0.0] * (size + 1)
    taken: list[Block | None] = [None] * (size + 1)
    start = 0
    for v, here in enumerate(on_edge):
        if not here:
            best[v + 1] = best[v]
            start = v + 1
            continue
        possible = [block for block in blocks.get(v, ()) if block.first >= start]
        best[v + 1] = best[v] + alone_s[v] if alone[v] or not possible else float("inf")
        for block in possible:
            total = best[block.first] + block.seconds
            if total < best[v + 1] - 1e-12:
                best[v + 1], taken[v + 1] = total, block
    return walked_back(taken), best[-1]


def bordering_blocks(
    problem: Problem, run: Sequence[int], hosts: Sequence[str], speeds: Sequence[float], columns: bool
) -> dict[int, list[Block]]:
    """All blocks of a run by last vertex when blocks hand over to one another: borders from the neighbours, then the slowest
    strip; the first ones also pay the scatter, the last one the gather. Summed as if there were a barrier between blocks."""
    graph, leader, lan = problem.graph, problem.hosts["edge"], Lan(problem)
    inside = set(run)
    own = {v: [(t.rows, t.columns) for t in strips(graph, (v,), hosts, speeds, columns).tiles] for v in run}
    delays = max(lan.path(leader, host).delay_s for host in hosts if host != leader)
    possible: dict[int, dict[int, tuple[int, ...]]] = {v: {v: graph.boundary((v,))[0]} for v in run}
    table = candidates(graph)
    for first, last, reads in zip(table.first.tolist(), table.last.tolist(), table.reads.tolist(), strict=True):
        if first in inside and last in inside:
            possible[last][first] = tuple(u for u in reads if u >= 0)
    found: dict[int, list[Block]] = {}
    for last, runs_here in possible.items():
        slowest = dict.fromkeys(runs_here, 0.0)
        scatter = dict.fromkeys(runs_here, 0.0)
        gather = 0.0
        for i, (host, box) in enumerate(zip(hosts, own[last], strict=True)):
            if not area(box):
                continue
            regions = back_from(graph, last, box, run[0])
            seconds, beyond = 0.0, last + 1
            for first in sorted(runs_here, reverse=True):
                needed_of = reverse(graph, (last,), box).read if first == last else regions
                for v in range(first, beyond):
                    if positions := area(regions[v]):
                        share = positions / (graph[v].rows * graph[v].columns)
                        seconds += problem.costs.vertex_s(v, "edge", host, share)
                beyond = first
                lacks = brought = 0.0
                for u in runs_here[first]:
                    size, part = bytes_per_position(graph, u), needed_of[u]
                    if u in inside:
                        lacks += size * (area(part) - area(intersection(part, own[u][i])))
                    elif host != leader:
                        brought += size * area(part)
                path = lan.path(hosts[i - 1] if i else hosts[1], host)
                slowest[first] = max(slowest[first], seconds + (serialise_s(path, lacks) + path.delay_s if lacks else 0.0))
                scatter[first] += serialise_s(lan.path(leader, host), brought) if brought else 0.0
            if host != leader and last == run[-1]:
                gather += serialise_s(lan.path(host, leader), area(box) * bytes_per_position(graph, last))
        for first, seconds in slowest.items():
            ends = (scatter[first] + delays if scatter[first] else 0.0) + (gather + delays if gather else 0.0)
            found.setdefault(last, []).append(Block(first, last, seconds + ends))
    return found


def back_from(graph: LayerGraph, last: int, box: Box, start: int) -> dict[int, Box]:
    """Regions of all maps that a box of the last vertex's map needs, back to the vertex `start` and what that reads: one walk for
    all blocks with this last vertex (`stack_candidates.py` has left out those for which it would not do)."""
    regions = {last: box}
    for v in range(last, start - 1, -1):
        spatial = graph[v].spatial
        if v in regions and spatial is not None:
            for u in graph[v].inputs:
                part = needed(spatial, regions[v], graph[u].rows, graph[u].columns)
                regions[u] = union(regions[u], part) if u in regions else part
    return regions


class Aofl(Tiler):
    """Optimally fused blocks."""

    name = "aofl"

    def stacks(
        self, problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """The blocks of least time."""
        hosts, speeds = workers(problem, values)
        if len(hosts) < 2:
            return (), {"hosts": hosts}
        alone_s = prices(problem).compute[EDGE]
        if values["aofl_exchange"] == "borders":
            return self._bordering(problem, on_edge, hosts, speeds)
        blocks = blocks_of(problem, hosts, speeds)
        alone = [values["aofl_alone"] == "on" or not is_window(problem.graph, v) for v in range(len(problem.graph))]
        picked, seconds = best_blocks(blocks, alone_s, on_edge, alone)
        found = tuple(
            strips(problem.graph, range(b.first, b.last + 1), hosts, speeds, wide(problem.graph, b.last)) for b in picked
        )
        return found, {"hosts": hosts, "blocks": [[b.first, b.last] for b in picked], "edge_s": seconds}

    def _bordering(
        self, problem: Problem, on_edge: Sequence[bool], hosts: Sequence[str], speeds: Sequence[float]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """Blocks that hand over to one another, run by run of the edge part; every vertex of a run is in one."""
        graph = problem.graph
        found: list[Stack] = []
        notes: dict[str, Any] = {"hosts": list(hosts), "blocks": [], "edge_s": 0.0}
        for run in runs(graph, on_edge):
            columns = wide(graph, run[0])
            blocks = bordering_blocks(problem, run, hosts, speeds, columns)
            here = [v in run for v in range(len(graph))]
            picked, seconds = best_blocks(blocks, [float("inf")] * len(graph), here, [False] * len(graph))

            def cut(block: Sequence[int], handover: Handover, columns: bool = columns) -> Stack:
                return strips(graph, block, hosts, speeds, columns, handover)

            found += linked([tuple(range(b.first, b.last + 1)) for b in picked], cut, "neighbours")
            notes["blocks"] += [[b.first, b.last] for b in picked]
            notes["edge_s"] += seconds
        return tuple(found), notes
