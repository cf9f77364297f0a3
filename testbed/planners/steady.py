"""How far conditions may move before a re-partition would come out differently: most changes are answered by that alone.

With `horizon = "rest"` every decision of HPA's pass compares sums that are linear in each delay, each second per bit, each host's
seconds per unit of work and each vertex's seconds. So the conditions under which all of them come out as they did form a convex
region. Kept of it is how far each value alone may move. Several may move at once while the shares that they use up of their ways
add to less than one: such a point lies between points of the region (convexity), so the full pass would make the same plan there.
Our addition to D3's partial re-partition; what is done where conditions have left the region is in `hpa.py` and `sweep.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph
from d3node.plan import TIERS, Plan, Tier
from testbed.costs.network import Path
from testbed.costs.table import TierCosts
from testbed.planners.base import Problem
from testbed.planners.placement import Placement
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Floats, Prices, facts, make_room

_KEPT = 8
_AT_FIRST, _PATIENCE = 4, 64
"""Sweeps that move nothing before a region is worked out, which takes as long as two or three of them; at most."""
_SURE = 1.0 - 1e-6
"""Share of a way that counts: the rest is left to rounding."""

Way = tuple[float, float]
"""How far a value may move down (negative) and up (positive)."""


@dataclass(slots=True)
class Steady:
    """A placement, the conditions that it was confirmed under, and how far each of them may move alone.

    By path (device-edge, edge-cloud, device-cloud): the ways of the delay and of the seconds per bit; the tensors and bits
    that cross. By rank: the way of the factor on the tier's seconds, and their sum. What the ways of a single vertex's time
    are worked out from: the comparisons' `margin` (by alternative rank and vertex), which of them were made, the pass's own
    ranks, and the margin of staying where the pass would have gone elsewhere at a higher price.
    """

    tiers: tuple[Tier, ...]
    ranks: bytes
    relay: bool
    paths: tuple[Path, ...]
    tables: tuple[TierCosts, ...]
    speeds: tuple[float, ...]
    factor: Mapping[tuple[int, Tier], float]
    objective_s: float
    ways: tuple[tuple[Way, Way], ...]
    crossing: tuple[tuple[float, float], ...]
    pace: tuple[Way, ...]
    seconds: tuple[float, ...]
    levels: npt.NDArray[np.int64]
    margin: Floats
    compared: npt.NDArray[np.bool_]
    passed: npt.NDArray[np.int64]
    guarded: float
    later: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def objective_under(self, problem: Problem) -> float | None:
        """D3's objective of this placement under a problem's conditions; None where these may call for another one."""
        network, costs = problem.network, problem.costs
        if (network.route == "relay") is not self.relay:
            return None
        used, total = 0.0, self.objective_s
        now = (network.device_edge, network.edge_cloud) if self.relay else network_paths(problem)
        for path, base, (delay_way, bit_way), (count, bits) in zip(now, self.paths, self.ways, self.crossing, strict=False):
            if path is not base and path != base:
                moved = 1.0 / max(path.rate_bps, 1e3) - 1.0 / max(base.rate_bps, 1e3)
                later = path.delay_s - base.delay_s
                used += _share(moved, bit_way) + _share(later, delay_way)
                total += bits * moved + count * later
        tiers, speed, hosts = costs.tiers, costs.speed, problem.hosts
        paced = False
        for rank, tier in enumerate(TIERS):
            if tiers[tier] is not self.tables[rank]:
                return None
            own = speed.get(hosts[tier], 1.0)
            if own != self.speeds[rank]:
                paced = True
                moved = self.speeds[rank] / own - 1.0
                used += _share(moved, self.pace[rank])
                total += moved * self.seconds[rank]
        if costs.factor != self.factor:
            if paced:
                return None  # the two act on one another
            for v, tier in dict(costs.factor.items() ^ self.factor.items()):
                rank = TIERS.index(tier)
                table = self.tables[rank]
                change = costs.factor.get((v, tier), 1.0) - self.factor.get((v, tier), 1.0)
                moved = change * (table.fixed_s[v] + table.scaled_s[v]) / self.speeds[rank]
                used += _share(moved, self._vertex_way(v, rank))
                total += moved if self.ranks[v] == rank else 0.0
        return total if used < _SURE else None

    def _vertex_way(self, v: int, rank: int) -> Way:
        """Of one vertex's time on a tier: it is in the rest of its layer and of all before it."""
        if not self.later:
            margins, size = np.where(self.compared, self.margin, inf), int(self.levels.max()) + 1
            for tier, there in enumerate(margins):
                against, own = np.full(size, self.guarded), np.full(size, self.guarded)
                np.minimum.at(against, self.levels, there)
                np.minimum.at(own, self.levels, np.where(self.passed == tier, margins.min(axis=0), inf))
                ways = np.minimum.accumulate(against)[self.levels], np.minimum.accumulate(own)[self.levels]
                self.later.append(((-ways[0]).tolist(), ways[1].tolist()))
        down, up = self.later[rank]
        return down[v], up[v]


@dataclass(slots=True)
class _Watch:
    """The region kept last, how many sweeps have moved nothing since, and after how many of them the next is worth its price."""

    steady: Steady | None = None
    missed: int = 0
    patience: int = _AT_FIRST


def network_paths(problem: Problem) -> tuple[Path, Path, Path]:
    """The paths between tiers, in the order of `Steady.paths`."""
    network = problem.network
    return network.device_edge, network.edge_cloud, network.device_cloud


def still(problem: Problem, current: Plan, values: Mapping[str, Any]) -> float | None:
    """The objective of the current plan where what is kept proves that a sweep would leave it as it is; otherwise None."""
    watch: _Watch | None = problem.graph.__dict__.get("_planner_steady", {}).get(_key(problem, values))
    if watch is None or (known := watch.steady) is None or (known.tiers is not current.tiers and known.tiers != current.tiers):
        return None
    objective_s = known.objective_under(problem)
    if objective_s is not None:
        watch.missed, watch.patience = 0, _AT_FIRST
    return objective_s


def confirm(problem: Problem, values: Mapping[str, Any], priced: Prices, stays: Placement, swept: Placement) -> None:
    """Keep the region in which a placement stays: a sweep has just come out with it, or with another that the guard refused.
    Nothing is kept where SIS vertices had a say in it; and where regions kept before were of no use, ever more seldom."""
    kept = problem.graph.__dict__.setdefault("_planner_steady", {})
    key = _key(problem, values)
    watch = kept.get(key)
    if watch is None:
        make_room(kept, _KEPT)
        watch = kept[key] = _Watch()
    watch.missed += 1
    if watch.missed >= watch.patience:
        watch.steady = _steady(problem, values, priced, stays, swept)
        watch.missed, watch.patience = 0, min(2 * watch.patience, _PATIENCE)


def _key(problem: Problem, values: Mapping[str, Any]) -> tuple[str, ...]:
    hosts = problem.hosts
    return values["sis"], values["candidates"], values["guard"], hosts["device"], hosts["edge"], hosts["cloud"]


def _share(moved: float, way: Way) -> float:
    """Which share of its way a value has used up."""
    if moved == 0.0:
        return 0.0
    return moved / way[1] if moved > 0.0 else moved / way[0]


def _steady(problem: Problem, values: Mapping[str, Any], priced: Prices, stays: Placement, swept: Placement) -> Steady | None:
    costs, relay, arrays = problem.costs, priced.relay, _arrays(problem.graph)
    ranks = np.frombuffer(swept.ranks, dtype=np.uint8).astype(np.int64)
    if _sis_had_a_say(values["sis"], arrays, ranks):
        return None
    line = priced.line
    lines = (line[DEVICE][EDGE], line[EDGE][CLOUD], line[DEVICE][CLOUD])
    terms = _terms(priced, arrays, ranks)
    at = np.array([*(delay for delay, _ in lines), *(s_per_bit for _, s_per_bit in lines), 1.0, 1.0, 1.0])
    prices = (at @ terms.reshape(9, -1)).reshape(3, -1)
    margin = prices - prices[ranks, arrays.every]
    floor = np.zeros(len(ranks), dtype=np.int64)
    np.maximum.at(floor, arrays.readers, ranks[arrays.read])
    reach = CLOUD if values["candidates"] == "any" else 1
    steps = _RANKS - floor
    compared = (steps >= 0) & (steps <= reach) & (ranks != _RANKS) & (arrays.levels > 0)
    margins = margin[compared]
    moves = (terms - terms[:, ranks, arrays.every][:, None])[:, compared]
    crossing, seconds = _sums(stays, priced)
    guarded = inf
    if swept is not stays:
        guarded = swept.objective(priced) - stays.objective(priced)
        others, others_s = _sums(swept, priced)
        row = np.concatenate((np.subtract(others, crossing).T.ravel(), np.subtract(others_s, seconds)))
        margins, moves = np.append(margins, guarded), np.column_stack((moves, row))
    if len(margins) and float(margins.min()) <= 1e-12 * float(prices.max()):
        return None  # a tie, or not what a pass comes out with
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = margins / moves
    down = (-np.where(moves > 0.0, reached, inf).min(axis=1, initial=inf)).tolist()
    up = np.where(moves < 0.0, -reached, inf).min(axis=1, initial=inf).tolist()
    ways = list(zip(down, up, strict=True))
    return Steady(
        tiers=stays.tiers,
        ranks=stays.ranks,
        relay=relay,
        paths=network_paths(problem),
        tables=tuple(costs.tiers[tier] for tier in TIERS),
        speeds=tuple(costs.speed.get(problem.hosts[tier], 1.0) for tier in TIERS),
        factor=dict(costs.factor),
        objective_s=stays.objective(priced),
        ways=tuple(zip(ways[:3], ways[3:6], strict=True)),
        crossing=crossing,
        pace=tuple(ways[6:]),
        seconds=seconds,
        levels=arrays.levels,
        margin=margin,
        compared=compared,
        passed=ranks,
        guarded=guarded,
    )


_RANKS = np.arange(CLOUD + 1)[:, None]


def _terms(priced: Prices, arrays: _Arrays, ranks: npt.NDArray[np.int64]) -> Floats:
    """What every vertex weighs (last axis) for every rank (middle), as coefficients of the three delays, the three seconds per
    bit and the factors on the three tiers' seconds."""
    width = len(priced.facts.layers) + 1
    born, dead = ranks * width + arrays.born, ranks * width + arrays.dead
    terms = np.zeros((9, 3, len(ranks)))
    for first, weights in ((0, None), (3, priced.facts.wire_row)):
        changes = np.bincount(born, weights, 3 * width) - np.bincount(dead, weights, 3 * width)
        alive = changes.reshape(3, width).cumsum(axis=1)[:, arrays.levels]  # of tensors alive at a vertex's layer, by their rank
        terms[first, EDGE] = alive[DEVICE]
        terms[first + 1, CLOUD] = alive[EDGE]
        if priced.relay:
            terms[first, CLOUD] = alive[DEVICE]
            terms[first + 1, CLOUD] += alive[DEVICE]
        else:
            terms[first + 2, CLOUD] = alive[DEVICE]
    for rank, times in enumerate(priced.times):
        terms[6 + rank, rank] = times.layer_rest[arrays.levels]
    return terms


def _sums(found: Placement, priced: Prices) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    """Tensors and bits that cross, by path; compute seconds, by rank."""
    hops = {(low, high): (float(count), bits) for low, high, count, bits in found.crossings(priced.relay)}
    ranks = np.frombuffer(found.ranks, dtype=np.uint8)
    device, edge, cloud = priced.times
    seconds = np.bincount(ranks, np.choose(ranks, (device.row, edge.row, cloud.row)), 3)
    return tuple(hops.get(hop, (0.0, 0.0)) for hop in ((DEVICE, EDGE), (EDGE, CLOUD), (DEVICE, CLOUD))), tuple(seconds.tolist())


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Of a graph: every vertex's layer, from and up to (not including) which layer its output is alive, who reads what, and pairs
    of vertices that SIS "successor" ties, the one that is decided later (or with it) first; who has siblings."""

    every: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    born: npt.NDArray[np.int64]
    dead: npt.NDArray[np.int64]
    read: npt.NDArray[np.int64]
    readers: npt.NDArray[np.int64]
    later: npt.NDArray[np.int64]
    tied: npt.NDArray[np.int64]
    sibling: npt.NDArray[np.bool_]


def _arrays(graph: LayerGraph) -> _Arrays:
    found: _Arrays | None = graph.__dict__.get("_planner_steady_arrays")
    if found is None:
        known = facts(graph)
        levels = known.levels
        last = [max((levels[w] for w in consumers), default=levels[u]) for u, consumers in enumerate(known.consumers)]
        edges = [(u, w) for u, consumers in enumerate(known.consumers) for w in consumers]
        ties = [(v, w) for v, others in enumerate(known.coproducers) for w in others if levels[w] <= levels[v]]
        found = graph.__dict__["_planner_steady_arrays"] = _Arrays(
            every=np.arange(len(graph)),
            levels=np.array(levels, dtype=np.int64),
            born=np.array(levels, dtype=np.int64) + 1,
            dead=np.array(last, dtype=np.int64) + 1,
            read=np.array([u for u, _ in edges], dtype=np.int64),
            readers=np.array([w for _, w in edges], dtype=np.int64),
            later=np.array([v for v, _ in ties], dtype=np.int64),
            tied=np.array([w for _, w in ties], dtype=np.int64),
            sibling=np.array([bool(siblings) for siblings in known.siblings]),
        )
    return found


def _sis_had_a_say(sis: str, arrays: _Arrays, ranks: npt.NDArray[np.int64]) -> bool:
    """Whether vertices were, or may have been, decided once more in the light of others."""
    if sis == "successor":
        return bool((ranks[arrays.tied] < ranks[arrays.later]).any())
    return sis == "predecessor" and bool((arrays.sibling & (ranks < CLOUD) & (arrays.levels > 0)).any())
