"""VSM, D3's vertical separation: which stacks of the edge part to compute in tiles, on which grid and hosts.

All candidate stacks and grids are priced at once with the model of `tiling.py` (halo recomputation by reverse tile
calculation, scatter and gather behind the leader's LAN link, a fixed cost per operator and tile); dynamic programming over the
edge part's order then picks the stack boundaries. A stack is tiled only where the model says that this is faster.

Reconstruction: the patent (CN112363844B) confirms fused stacks of convolutions, pools and what lies between them, tiles by
coordinates, a leader; how D3 chooses stacks and grids is not known. Options: `shares` ("speed": tiles in proportion to the
hosts' speeds; "equal": D3's equal tiles), `grids` ("all" A x B, or strips of "rows" or "columns"), `max_hosts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from d3node.graph import INPUT, LayerGraph, Pair
from d3node.intervals import grid_boxes
from d3node.plan import Stack, Tile
from testbed.costs.network import FRAME_OVERHEAD, MESSAGE_HEADER_BYTES, SEGMENT_PAYLOAD
from testbed.planners.base import Problem
from testbed.planners.fair_link import Floats, all_through_s, evenly_through_s
from testbed.planners.prices import EDGE, prices
from testbed.planners.stack_candidates import candidates, walked_back
from testbed.planners.tile_geometry import Grid, areas
from testbed.planners.tiling import bytes_per_position, leader_bps

_KEPT = 8


@dataclass(frozen=True, slots=True)
class Offer:
    """A candidate stack that is faster in tiles than on the leader alone: vertices `first` to `last`, on a grid."""

    first: int
    last: int
    seconds: float
    gain_s: float
    grid: Grid


@dataclass(frozen=True)
class Offers:
    """All offers of a problem, by last vertex, and what every vertex takes on the leader alone."""

    by_last: dict[int, tuple[Offer, ...]]
    single_s: tuple[float, ...]


def grids_for(hosts: Sequence[str], speeds: Sequence[float], values: dict[str, Any]) -> tuple[Grid, ...]:
    """Grids worth pricing: for every number of hosts (leader first) all A x B shapes, for many hosts strips and the squarest.

    Row and column shares are the summed speeds of a row's and a column's hosts; with equal speeds this is D3's equal tiling.
    """
    found = []
    count = min(len(hosts), int(values["max_hosts"]))
    numbers = [k for k in range(2, count + 1) if k <= 8 or k % 4 == 0 or k == count]
    for k in numbers:
        shapes: list[Pair] = [(a, k // a) for a in range(1, k + 1) if k % a == 0]
        if k > 8:
            shapes = [(1, k), min(shapes, key=lambda shape: (abs(shape[0] - shape[1]), shape)), (k, 1)]
        if values["grids"] == "rows":
            shapes = [(k, 1)]
        elif values["grids"] == "columns":
            shapes = [(1, k)]
        weight = list(speeds[:k]) if values["shares"] == "speed" else [1.0] * k
        for a, b in shapes:
            rows = tuple(sum(weight[i * b : (i + 1) * b]) for i in range(a))
            columns = tuple(sum(weight[j::b]) for j in range(b))
            found.append(Grid((a, b), rows, columns, tuple(hosts[:k])))
    return tuple(found)


def usable_hosts(problem: Problem) -> list[str]:
    """Edge hosts that can take tiles: the leader, then those with a LAN path, fastest first."""
    leader, speed = problem.hosts["edge"], problem.costs.speed
    others = [host for host in problem.edge_hosts if host != leader and host in problem.network.lan]
    return [leader, *sorted(others, key=lambda host: -speed.get(host, 1.0))]


def offers(problem: Problem, values: dict[str, Any]) -> Offers:
    """Price all candidate stacks of a graph on all grids; kept on the graph for the conditions used last."""
    hosts = usable_hosts(problem)
    costs = problem.costs
    speeds = tuple(costs.speed.get(host, 1.0) for host in hosts)
    paths = tuple(problem.network.lan[host] for host in hosts[1:])
    factors = tuple(sorted((v, f) for (v, tier), f in costs.factor.items() if tier == "edge"))
    key = (tuple(hosts), speeds, paths, factors, id(costs.tiers["edge"]), values["shares"], values["grids"], values["max_hosts"])
    kept = problem.graph.__dict__.setdefault("_planner_offers", {})
    if key not in kept:
        if len(kept) >= _KEPT:
            kept.pop(next(iter(kept)))
        kept[key] = (
            costs.tiers["edge"],
            _offers(problem, grids_for(hosts, speeds, values)),
        )  # holds the table: its id stays taken
    return cast(Offers, kept[key][1])


def _offers(problem: Problem, grids: Sequence[Grid]) -> Offers:
    graph = problem.graph
    single = prices(problem).compute[EDGE]
    runs = candidates(graph)
    if not grids or not len(runs.first):
        return Offers({}, tuple(single))
    seconds, chosen = stack_seconds(problem, grids)
    summed = np.concatenate([[0.0], np.cumsum(single)])
    untiled = summed[runs.last + 1] - summed[runs.first]
    by_last: dict[int, list[Offer]] = {}
    for i in np.flatnonzero(seconds < untiled * (1.0 - 1e-9)):
        offer = Offer(
            int(runs.first[i]), int(runs.last[i]), float(seconds[i]), float(untiled[i] - seconds[i]), grids[int(chosen[i])]
        )
        by_last.setdefault(offer.last, []).append(offer)
    return Offers({last: tuple(found) for last, found in by_last.items()}, tuple(single))


def stack_seconds(problem: Problem, grids: Sequence[Grid]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """For every candidate stack its least seconds over the grids, and which grid that is (the first among equals)."""
    graph = problem.graph
    runs = candidates(graph)
    needed = areas(graph, grids)
    fixed, scaled = _edge_costs(problem)
    positions = np.array([_positions(graph, v) for v in range(len(graph))], dtype=np.float64)
    work = needed * (scaled / positions)[:, None, None]
    work = np.cumsum(work[::-1], axis=0, out=work[::-1])[::-1]
    scaled_s = work[runs.first, runs.end_index]
    before = np.concatenate([[0.0], np.cumsum(fixed)])
    fixed_s = before[runs.last + 1] - before[runs.first]
    per_position = np.array([_bytes(graph, v) for v in range(len(graph))])
    read = np.zeros_like(scaled_s)
    for column in runs.reads.T:
        real = column >= 0
        read[real] += needed[column[real], runs.end_index[real]] * per_position[column[real], None]
    made = needed[runs.last, runs.end_index]
    written = made * per_position[runs.last, None]
    best = np.full(len(runs.first), np.inf)
    chosen = np.zeros(len(runs.first), dtype=np.intp)
    start = 0
    for index, grid in enumerate(grids):
        stop = start + len(grid.hosts)
        speeds = np.array([problem.costs.speed.get(host, 1.0) for host in grid.hosts])
        used = made[:, start:stop] > 0
        compute = np.where(used, (fixed_s[:, None] + scaled_s[:, start:stop]) / speeds, 0.0)
        needs = _Needs(compute, used, read[:, start:stop], written[:, start:stop])
        link = _Link.of(problem, grid)
        hopeful = np.flatnonzero(_at_least(needs, link) < best)
        total = _makespan(needs.only(hopeful), link)
        better = total < best[hopeful]
        best[hopeful[better]], chosen[hopeful[better]] = total[better], index
        start = stop
    return best, chosen


@dataclass(frozen=True)
class _Needs:
    """Of many stacks on one grid, by tile (column 0 is the leader's): seconds to compute, whether there is anything, bytes read
    and written."""

    compute: Floats
    used: npt.NDArray[np.bool_]
    read: Floats
    written: Floats

    def only(self, rows: npt.NDArray[np.intp]) -> _Needs:
        """Those of some stacks."""
        return _Needs(self.compute[rows], self.used[rows], self.read[rows], self.written[rows])

    def bits(self, payload: Floats) -> Floats:
        """Bits on the wire of what the hosts other than the leader read or write."""
        return np.where(self.used[:, 1:], 8.0 * _frames(np.rint(payload[:, 1:])), 0.0)


@dataclass(frozen=True)
class _Link:
    """The leader's LAN link, and the paths to the other hosts of a grid."""

    rate_bps: float
    rates: Floats
    delays: Floats

    @classmethod
    def of(cls, problem: Problem, grid: Grid) -> _Link:
        """Of a grid's hosts but the leader."""
        paths = [problem.network.lan[host] for host in grid.hosts[1:]]
        rates = np.array([max(path.rate_bps, 1e3) for path in paths])
        return cls(leader_bps(problem), rates, np.array([path.delay_s for path in paths]))


def _at_least(needs: _Needs, link: _Link) -> Floats:
    """Seconds that no stack can do without: of each tile with the link to itself; of all regions, and one tile after the last."""
    scatter, there = needs.bits(needs.read), needs.used[:, 1:]
    then = needs.compute[:, 1:] + 2.0 * link.delays + needs.bits(needs.written) / link.rates
    alone = np.where(there, scatter / link.rates + then, 0.0).max(axis=1, initial=0.0)
    least = np.where(there, then, np.inf).min(axis=1, initial=np.inf)
    last = np.where(there.any(axis=1), scatter.sum(axis=1) / link.rate_bps + least, 0.0)
    return cast(Floats, np.maximum(needs.compute[:, 0], np.maximum(alone, last)) * (1.0 - 1e-9))


def _makespan(needs: _Needs, link: _Link) -> Floats:
    """`tiling.stack_times(..).total_s` of many stacks on one grid."""
    there, compute = needs.used[:, 1:], needs.compute
    scatter, gather = needs.bits(needs.read), needs.bits(needs.written)
    leader, alike = link.rate_bps, bool((link.rates == link.rate_bps).all())
    sent = evenly_through_s(scatter, leader) if alike else all_through_s(np.zeros_like(scatter), scatter, link.rates, leader)
    ready = np.where(there, sent + 2.0 * link.delays + compute[:, 1:], np.inf)
    if alike:  # the link is busy as long as in any other order
        order = np.argsort(ready, axis=1, kind="stable")
        ready, gather = np.take_along_axis(ready, order, axis=1), np.take_along_axis(gather, order, axis=1)
        free = np.zeros(len(compute))
        for j in range(ready.shape[1]):
            back = np.isfinite(ready[:, j])
            free[back] = np.maximum(free[back], ready[back, j]) + gather[back, j] / leader
    else:
        free = np.where(there, all_through_s(ready, gather, link.rates, leader), 0.0).max(axis=1, initial=0.0)
    return cast(Floats, np.maximum(compute[:, 0], free))


def _frames(payload: Floats) -> Floats:
    """`frame_bytes` of messages with the usual header."""
    whole = payload + MESSAGE_HEADER_BYTES
    return cast(Floats, whole + FRAME_OVERHEAD * np.ceil(whole / SEGMENT_PAYLOAD))


def _edge_costs(problem: Problem) -> tuple[Floats, Floats]:
    table = problem.costs.tiers["edge"]
    fixed, scaled = np.array(table.fixed_s), np.array(table.scaled_s)
    for (v, tier), factor in problem.costs.factor.items():
        if tier == "edge":
            fixed[v] *= factor
            scaled[v] *= factor
    fixed[INPUT] = scaled[INPUT] = 0.0
    return fixed, scaled


def _positions(graph: LayerGraph, v: int) -> int:
    return graph[v].rows * graph[v].columns if len(graph[v].output_shape) == 4 else 1


def _bytes(graph: LayerGraph, v: int) -> float:
    return bytes_per_position(graph, v) if len(graph[v].output_shape) == 4 else 0.0


def choose(problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]) -> tuple[tuple[Stack, ...], float]:
    """Stacks of an edge part, and the seconds they save against the leader alone (>= 0), by dynamic programming."""
    found = offers(problem, values)
    picked, gain = pick(found, on_edge)
    return tuple(build(problem.graph, offer) for offer in picked), gain


def pick(found: Offers, on_edge: Sequence[bool]) -> tuple[list[Offer], float]:
    """The non-overlapping offers within an edge part that save most; fewer stacks among equals."""
    saved = [0.0] * (len(on_edge) + 1)
    taken: list[Offer | None] = [None] * (len(on_edge) + 1)
    start = 0
    for v, here in enumerate(on_edge):
        saved[v + 1] = saved[v]
        if not here:
            start = v + 1
            continue
        for offer in found.by_last.get(v, ()):
            if offer.first >= start and (total := saved[offer.first] + offer.gain_s) > saved[v + 1] + 1e-12:
                saved[v + 1], taken[v + 1] = total, offer
    return walked_back(taken), saved[-1]


def build(graph: LayerGraph, offer: Offer) -> Stack:
    """The stack of an offer, tiles row-major."""
    output = graph[offer.last]
    boxes = grid_boxes(output.rows, output.columns, offer.grid.row_shares, offer.grid.column_shares)
    tiles = tuple(Tile(host, rows, columns) for host, (rows, columns) in zip(offer.grid.hosts, boxes, strict=True))
    return Stack(tuple(range(offer.first, offer.last + 1)), offer.grid.shape, tiles)


def tiled_seconds(problem: Problem, values: dict[str, Any]) -> list[float]:
    """Edge seconds of every vertex if the whole model ran on the edge in VSM's tiles: a stack's time shared out among its
    vertices in proportion to what each takes alone."""
    found = offers(problem, values)
    seconds = list(found.single_s)
    picked, _ = pick(found, [True] * len(seconds))
    for offer in picked:
        factor = offer.seconds / (offer.seconds + offer.gain_s)
        for v in range(offer.first, offer.last + 1):
            seconds[v] *= factor
    return seconds
