"""What re-planning asks of a placement, worked out once and kept on the graph: tier names, and what crosses between tiers.

With it the objective under new rates and times takes no walk over the graph. Which placement is best is others' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph
from d3node.plan import RANK, TIERS, Plan, Stack, Tier
from testbed.planners.base import Problem
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, facts, make_room

_KEPT = 32

Crossing = tuple[int, int, int, float]


SMALL = 64
"""Vertices up to which a plain sum is sooner done than one with arrays."""


@dataclass
class Placement:
    """Ranks of all vertices. What is worked out of them is kept: the crossing tensors (for every hop (a, b) how many there are
    and their wire bits, over a boundary once each by "relay", once to each tier by "direct") and the compute seconds."""

    ranks: bytes
    tiers: tuple[Tier, ...]
    _known: Known = field(repr=False)
    _crossings: dict[bool, tuple[Crossing, ...]] = field(default_factory=dict, repr=False)
    _compute_s: dict[tuple[int, int, int], tuple[float, object]] = field(default_factory=dict, repr=False)
    _last: tuple[Prices, float] | None = field(default=None, repr=False)

    def objective(self, priced: Prices) -> float:
        """D3's objective, as `Prices.objective` but for the order of additions; the last one is remembered."""
        last = self._last
        if last is None or last[0] is not priced:
            last = self._last = (priced, self._sum(priced))
        return last[1]

    def _sum(self, priced: Prices) -> float:
        if len(self.ranks) <= SMALL:
            return priced.objective(self.ranks)
        total = self.compute_s(priced)
        for low, high, count, bits in self.crossings(priced.relay):
            delay_s, s_per_bit = priced.line[low][high]
            total += count * delay_s + bits * s_per_bit
        return total

    def crossings(self, relay: bool) -> tuple[Crossing, ...]:
        """The crossing tensors of every hop that has any."""
        found = self._crossings.get(relay)
        if found is None:
            found = self._crossings[relay] = _crossings(self._known, self.ranks, relay)
        return found

    def compute_s(self, priced: Prices) -> float:
        """Seconds of all vertices; kept for the tables of times last asked for."""
        device, edge, cloud = priced.times
        key = (id(device), id(edge), id(cloud))
        found = self._compute_s.get(key)
        if found is None:
            ranks = np.frombuffer(self.ranks, dtype=np.uint8)
            seconds = float(np.choose(ranks, (device.row, edge.row, cloud.row)).sum())
            make_room(self._compute_s, 4)
            found = self._compute_s[key] = (seconds, priced.times)  # holds the times: their ids stay taken
        return found[0]


@dataclass
class Known:
    """Placements of one graph met so far, the edges in arrays, and where readers begin in them."""

    producers: npt.NDArray[np.int64]
    readers: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    wire_bits: npt.NDArray[np.float64]
    by_ranks: dict[bytes, Placement]
    by_tiers: dict[int, tuple[tuple[Tier, ...], bytes]]


def ranks_of(graph: LayerGraph, tiers: tuple[Tier, ...]) -> bytes:
    """Ranks of a plan's tiers; at once for a tuple that was met before."""
    known = placements_of(graph)
    found = known.by_tiers.get(id(tiers))
    if found is not None:
        return found[1]
    ranks = bytes([RANK[tier] for tier in tiers])
    _keep_tiers(known, tiers, ranks)
    return ranks


def _keep_tiers(known: Known, tiers: tuple[Tier, ...], ranks: bytes) -> None:
    make_room(known.by_tiers, _KEPT)
    known.by_tiers[id(tiers)] = (tiers, ranks)  # holds the tuple: its id stays taken


def placement(graph: LayerGraph, ranks: bytes) -> Placement:
    """The placement with these ranks."""
    known = placements_of(graph)
    found = known.by_ranks.get(ranks)
    if found is None:
        make_room(known.by_ranks, _KEPT)
        tiers = tuple([TIERS[rank] for rank in ranks])
        found = known.by_ranks[ranks] = Placement(ranks, tiers, known)
        _keep_tiers(known, tiers, ranks)
    return found


def placed(planner: str, problem: Problem, found: Placement, stacks: tuple[Stack, ...] = (), notes: Any = None) -> Plan:
    """A plan with this placement."""
    return Plan(planner, problem.graph.name, found.tiers, dict(problem.hosts), stacks, notes=notes or {})


def _crossings(known: Known, ranks: bytes, relay: bool) -> tuple[Crossing, ...]:
    by_vertex = np.frombuffer(ranks, dtype=np.uint8)
    if not len(known.producers):
        return ()
    wanted = np.bitwise_or.reduceat(np.left_shift(1, by_vertex[known.readers]), known.starts)  # bits of the tiers that read it
    own = by_vertex[known.producers]
    hops: Sequence[tuple[int, int, npt.NDArray[np.bool_]]]
    if relay:
        hops = ((DEVICE, EDGE, (own == DEVICE) & (wanted > 1)), (EDGE, CLOUD, (own < CLOUD) & (wanted > 3)))
    else:
        hops = (
            (DEVICE, EDGE, (own == DEVICE) & (wanted & 2 > 0)),
            (DEVICE, CLOUD, (own == DEVICE) & (wanted & 4 > 0)),
            (EDGE, CLOUD, (own == EDGE) & (wanted & 4 > 0)),
        )
    found = []
    for low, high, crosses in hops:
        count = int(np.count_nonzero(crosses))
        if count:
            found.append((low, high, count, float(known.wire_bits[crosses].sum())))
    return tuple(found)


def placements_of(graph: LayerGraph) -> Known:
    """The store of a graph's placements, kept on it."""
    found = graph.__dict__.get("_planner_placements")
    if found is None:
        read = [(u, consumers) for u, consumers in enumerate(graph.successors) if consumers]
        counts = [len(consumers) for _, consumers in read]
        producers = np.array([u for u, _ in read], dtype=np.int64)
        found = graph.__dict__["_planner_placements"] = Known(
            producers=producers,
            readers=np.array([w for _, consumers in read for w in consumers], dtype=np.int64),
            starts=np.cumsum([0, *counts[:-1]], dtype=np.int64) if counts else np.zeros(0, dtype=np.int64),
            wire_bits=facts(graph).wire_row[producers],
            by_ranks={},
            by_tiers={},
        )
    return cast(Known, found)
