"""All prices of one problem as flat lists, and D3's sum objective over them: the inner loop of every planner.

What a stack of tiles costs is in `tiling.py`; the same objective, computed from what a plan's programs really send, is in
`objective.py`, and the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from d3node.graph import INPUT, LayerGraph
from d3node.plan import TIERS, Plan, Stack, Tier
from testbed.costs.network import MESSAGE_HEADER_BYTES, Path, frame_bytes
from testbed.costs.table import TierCosts
from testbed.planners.base import Problem

DEVICE, EDGE, CLOUD = 0, 1, 2
"""Ranks of the tiers, as in `d3node.plan.RANK`; planners compute with ranks and write tier names into plans."""


Floats = npt.NDArray[np.float64]
Rows = tuple[list[float], list[float], list[float]]
"""Seconds by rank and vertex."""


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What planners ask of a graph again and again: neighbours, D3's graph layers, wire bits of every output, all vertices.

    `coproducers[v]` share a consumer with v (the input left out), `siblings[v]` share a producer: D3's SIS vertices, in two
    readings. `live[v]`: tensors from before v's graph layer that it or a later one uses (what a cut there would move).
    `wire_row` is `wire_bits` as an array.
    """

    producers: tuple[tuple[int, ...], ...]
    consumers: tuple[tuple[int, ...], ...]
    layers: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    coproducers: tuple[tuple[int, ...], ...]
    siblings: tuple[tuple[int, ...], ...]
    live: tuple[tuple[int, ...], ...]
    wire_bits: tuple[float, ...]
    wire_row: Floats
    everything: frozenset[int]


def facts(graph: LayerGraph) -> GraphFacts:
    """Facts of a graph, worked out once and kept on it."""
    found = graph.__dict__.get("_planner_facts")
    if found is None:
        layers: list[list[int]] = [[] for _ in range(max(graph.levels) + 1)]
        for v, level in enumerate(graph.levels):
            layers[level].append(v)
        last = [max((graph.levels[w] for w in consumers), default=0) for consumers in graph.successors]
        live: list[tuple[int, ...]] = []
        alive: list[int] = []
        for q, layer in enumerate(layers):
            alive = [u for u in alive if last[u] >= q]
            live.append(tuple(alive))
            alive += layer
        wire_bits = tuple(8.0 * frame_bytes(vertex.output_bytes + MESSAGE_HEADER_BYTES) for vertex in graph)
        found = GraphFacts(
            producers=tuple(vertex.inputs for vertex in graph),
            consumers=graph.successors,
            layers=tuple(tuple(layer) for layer in layers),
            levels=graph.levels,
            coproducers=tuple(
                tuple(sorted({w for s in graph.successors[v] for w in graph[s].inputs} - {v, INPUT})) for v in range(len(graph))
            ),
            siblings=tuple(
                tuple(sorted({w for u in vertex.inputs for w in graph.successors[u]} - {vertex.index})) for vertex in graph
            ),
            live=tuple(live[level] for level in graph.levels),
            wire_bits=wire_bits,
            wire_row=np.array(wire_bits),
            everything=frozenset(range(len(graph))),
        )
        graph.__dict__["_planner_facts"] = found
    return cast(GraphFacts, found)


def totals(costs: TierCosts) -> list[float]:
    """Fixed plus scaled seconds of every vertex on a tier's reference host, worked out once and kept on the table."""
    found = costs.__dict__.get("_totals")
    if found is None:
        found = [fixed + scaled for fixed, scaled in zip(costs.fixed_s, costs.scaled_s, strict=True)]
        costs.__dict__["_totals"] = found
    return cast("list[float]", found)


@dataclass(frozen=True, slots=True)
class TierTimes:
    """Seconds on one tier's leading host: `seconds[v]` of every vertex, `rest[v]` of its graph layer and all later ones. `row`
    and `layer_rest` are the same as arrays, by vertex and by layer."""

    seconds: list[float]
    rest: list[float]
    row: Floats
    layer_rest: Floats


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one problem in seconds: `compute[rank][v]` on the tier's leading host, `rest[rank][v]` of v's graph layer and
    all later ones there, `hop[a][b][u]` to move u's output from rank a to a higher rank b (with route "relay" device -> cloud
    is the sum of both hops): `line[a][b]` has the delay and the seconds per bit. Lists are shared between problems: read only."""

    facts: GraphFacts
    times: tuple[TierTimes, TierTimes, TierTimes]
    hop: tuple[tuple[list[float], ...], ...]
    line: tuple[tuple[tuple[float, float], ...], ...]
    relay: bool
    compute: Rows
    rest: Rows

    def incoming(self, v: int, rank: int, ranks: Sequence[int]) -> float:
        """Seconds to bring all inputs of v to a rank, each consumer paying for itself."""
        hop = self.hop
        return sum(hop[ranks[u]][rank][u] for u in self.facts.producers[v] if ranks[u] < rank)

    def floor(self, v: int, ranks: Sequence[int]) -> int:
        """Lowest rank that one-way flow leaves to v."""
        return max((ranks[u] for u in self.facts.producers[v]), default=DEVICE)

    def sent(self, u: int, ranks: Sequence[int]) -> float:
        """Seconds that u's output takes in all: over each boundary at most once ("relay"), or once per tier ("direct")."""
        own, hop = ranks[u], self.hop
        if self.relay:
            far = max((ranks[w] for w in self.facts.consumers[u]), default=own)
            return hop[own][far][u] if far > own else 0.0
        return sum(hop[own][far][u] for far in {ranks[w] for w in self.facts.consumers[u]} if far > own)

    def objective(self, ranks: Sequence[int]) -> float:
        """D3's objective for an untiled placement: sum of compute and transfer seconds."""
        compute = self.compute
        total = sum([compute[rank][v] for v, rank in enumerate(ranks)])
        if self.relay:
            consumers = self.facts.consumers
            for u, own in enumerate(ranks):
                if own != CLOUD:
                    for w in consumers[u]:
                        if ranks[w] != own:
                            total += self.sent(u, ranks)
                            break
            return total
        return total + sum(self.sent(u, ranks) for u in range(len(ranks)))


def prices(problem: Problem, edge_s: Sequence[float] | None = None, sparse: bool = False) -> Prices:
    """Prices of a problem; `edge_s` replaces the edge tier's compute seconds (they may count tiling).

    `sparse`: for who looks at few tensors only; those of `hop` are then worked out as they are asked for, by index.
    """
    known = facts(problem.graph)
    device, edge, cloud = _times(problem, "device", known), _times(problem, "edge", known), _times(problem, "cloud", known)
    if edge_s is not None:
        edge = _tier_times(known, list(edge_s))
    network = problem.network
    relay = network.route == "relay"
    up, across = _line(network.device_edge), _line(network.edge_cloud)
    far = (up[0] + across[0], up[1] + across[1]) if relay else _line(network.device_cloud)

    moves = few_moves if sparse else _all_moves
    return Prices(
        facts=known,
        times=(device, edge, cloud),
        hop=(([], moves(known, up), moves(known, far)), ([], [], moves(known, across)), _NOWHERE),
        line=((_NO_LINE, up, far), (_NO_LINE, _NO_LINE, across), (_NO_LINE, _NO_LINE, _NO_LINE)),
        relay=relay,
        compute=(device.seconds, edge.seconds, cloud.seconds),
        rest=(device.rest, edge.rest, cloud.rest),
    )


_NOWHERE: tuple[list[float], ...] = ([], [], [])
_NO_LINE = (0.0, 0.0)


def _all_moves(known: GraphFacts, line: tuple[float, float]) -> list[float]:
    """Seconds to move every tensor over one line."""
    delay_s, s_per_bit = line
    return [delay_s + bits * s_per_bit for bits in known.wire_bits]


def few_moves(known: GraphFacts, line: tuple[float, float]) -> list[float]:
    """The same, each worked out when it is first asked for by its index."""
    found = _Moves()
    found.wire_bits = known.wire_bits
    found.line = line
    return cast("list[float]", found)  # it is one for all that callers do with it


class _Moves(dict[int, float]):
    __slots__ = ("line", "wire_bits")
    wire_bits: Sequence[float]
    line: tuple[float, float]

    def __missing__(self, u: int) -> float:
        self[u] = found = self.line[0] + self.wire_bits[u] * self.line[1]
        return found


def _line(path: Path) -> tuple[float, float]:
    """Delay and seconds per bit of `Path.transfer_s`."""
    return path.delay_s, 1.0 / max(path.rate_bps, 1e3)


_KEPT = 8


def make_room(kept: dict[Any, Any], most: int) -> None:
    """Forget the oldest entry of a full store; planners of several devices may be at it in threads of their own."""
    if len(kept) >= most:
        kept.pop(list(kept)[0], None)  # noqa: RUF015 - next(iter()) may meet a change by another thread


def _times(problem: Problem, tier: Tier, known: GraphFacts) -> TierTimes:
    """Times on a tier's leading host, worked out once per graph, speed and factors, and kept on the tier's table."""
    costs = problem.costs
    speed = costs.speed.get(problem.hosts[tier], 1.0)
    factors = tuple((v, factor) for (v, where), factor in costs.factor.items() if where == tier) if costs.factor else ()
    kept = costs.tiers[tier].__dict__.setdefault("_times", {})
    key = (id(known), speed, factors)
    found = kept.get(key)
    if found is None:
        seconds = [each / speed for each in totals(costs.tiers[tier])]
        for v, factor in factors:
            seconds[v] *= factor
        seconds[INPUT] = 0.0  # the virtual input vertex costs nothing, whatever a table says
        make_room(kept, _KEPT)
        found = kept[key] = (_tier_times(known, seconds), known)  # holds the facts: their id stays taken
    return cast(TierTimes, found[0])


def _tier_times(known: GraphFacts, seconds: list[float]) -> TierTimes:
    rest = rest_of(known, seconds)
    by_layer = np.array([rest[layer[0]] for layer in known.layers])
    return TierTimes(seconds, rest, np.array(seconds), by_layer)


def rest_of(known: GraphFacts, row: Sequence[float]) -> list[float]:
    """For every vertex the sum of a row over its graph layer and all later ones."""
    rest, seconds = [0.0] * len(row), 0.0
    for layer in reversed(known.layers):
        for v in layer:
            seconds += row[v]
        for v in layer:
            rest[v] = seconds
    return rest


def make_plan(
    planner: str, problem: Problem, ranks: Sequence[int], stacks: tuple[Stack, ...] = (), notes: dict[str, Any] | None = None
) -> Plan:
    """A plan from ranks."""
    return Plan(
        planner=planner,
        model=problem.graph.name,
        tiers=tuple([TIERS[rank] for rank in ranks]),
        hosts=dict(problem.hosts),
        stacks=stacks,
        notes=notes or {},
    )
