"""HPA's pass over the graph layers, without visiting those in which nothing can happen: what a re-partition takes by default.

With `horizon = "rest"` all vertices of a graph layer weigh the same: the compute seconds from their layer on, and the tensors
alive there. Where all of those are at one rank, and no higher rank is cheaper, the layer stays at that rank and so does SIS, as
nobody that it could be tied to is anywhere else. Such runs of layers are found by comparing arrays; a layer is decided vertex
by vertex only where the cut is, and behind it while tensors from both sides are alive. The outcome is that of the full pass
(but for ties that rounding decides), so it does not depend on the plan before.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Floats, Prices, TierTimes, facts
from testbed.planners.repartition import Decided


class LayerRule(Protocol):
    """What the sweep needs of a rule: the highest step up that one vertex may take, and the second look at a layer."""

    @property
    def priced(self) -> Prices: ...

    @property
    def reach(self) -> int: ...

    def second_look(self, layer: Sequence[int], ranks: MutableSequence[int], decided: Decided) -> None: ...


@dataclass
class Layers:
    """Per layer: how many tensors are alive there and their wire bits (two rows); all vertices by layer, and where each
    begins."""

    alive: Floats
    order: npt.NDArray[np.int64]
    begins: list[int]
    saved: tuple[tuple[TierTimes, TierTimes, TierTimes], Floats] | None = None


def sweep(graph: LayerGraph, rule: LayerRule) -> tuple[bytes, list[int]]:
    """Ranks as `hpa.partition` would give them, and the vertices that were decided one by one."""
    priced = rule.priced
    known, layers, arrays = priced.facts, priced.facts.layers, arrays_of(graph)
    ranks = bytearray(len(graph))
    by_vertex = np.frombuffer(ranks, dtype=np.uint8)
    decided = _UpToLayer(known.levels)
    looked: list[int] = []
    leaves = _leaves(priced, arrays, rule.reach)
    q, rank = 1, DEVICE
    while q < len(layers):
        first = len(layers)
        if rank != CLOUD:
            ahead = leaves[rank][q:]
            step = int(ahead.argmax())
            if ahead[step]:
                first = q + step
        if rank != DEVICE:
            by_vertex[arrays.order[arrays.begins[q] : arrays.begins[first]]] = rank
        q = first
        while q < len(layers):
            layer = layers[q]
            _decide(rule, layer, ranks)
            decided.layer = q
            rule.second_look(layer, ranks, decided)
            looked += layer
            q += 1
            if q < len(layers):
                alive = {ranks[u] for u in known.live[layers[q][0]]}
                if len(alive) == 1:
                    rank = alive.pop()
                    break
    return bytes(ranks), looked


def _leaves(priced: Prices, arrays: Layers, reach: int) -> list[npt.NDArray[np.bool_]]:
    """By rank, for every layer: whether a higher rank is cheaper than this one, when all that is alive there is at this one."""
    line = priced.line
    lines = np.array((line[DEVICE][EDGE], line[DEVICE][CLOUD], line[EDGE][CLOUD]))
    cheaper = _saved(priced, arrays) > lines @ arrays.alive
    return [cheaper[0] | cheaper[1] if reach == CLOUD else cheaper[0], cheaper[2]]


def _saved(priced: Prices, arrays: Layers) -> Floats:
    """Compute seconds that each of the three ways up saves from every layer on; kept for the tables of times last asked for."""
    kept, times = arrays.saved, priced.times
    if kept is not None and kept[0][0] is times[0] and kept[0][1] is times[1] and kept[0][2] is times[2]:
        return kept[1]
    device, edge, cloud = (each.layer_rest for each in times)
    found = np.stack((device - edge, device - cloud, edge - cloud))
    arrays.saved = (times, found)
    return found


def _decide(rule: LayerRule, layer: Sequence[int], ranks: MutableSequence[int]) -> None:
    """HPA's greedy choice for all vertices of a layer: they differ in the lowest rank that is left to them only."""
    priced = rule.priced
    producers = priced.facts.producers
    alive = priced.facts.live[layer[0]]
    prices: list[float] = []
    chosen: dict[int, int] = {}
    for v in layer:
        floor = DEVICE
        for u in producers[v]:
            if ranks[u] > floor:
                floor = ranks[u]
        if floor not in chosen:
            if not prices:
                prices = [_price(priced, layer[0], rank, alive, ranks) for rank in range(CLOUD + 1)]
            options = range(floor, min(floor + rule.reach, CLOUD) + 1)
            chosen[floor] = min(options, key=prices.__getitem__)  # the lowest among equals
        ranks[v] = chosen[floor]


def _price(priced: Prices, v: int, rank: int, alive: Sequence[int], ranks: Sequence[int]) -> float:
    seconds = priced.rest[rank][v]
    for u in alive:
        if ranks[u] < rank:
            seconds += priced.hop[ranks[u]][rank][u]
    return seconds


class _UpToLayer:
    """Which vertices count as decided: those of the layer in hand and of earlier ones."""

    def __init__(self, levels: Sequence[int]) -> None:
        self._levels = levels
        self.layer = 0

    def __getitem__(self, v: int) -> bool:
        return self._levels[v] <= self.layer


def arrays_of(graph: LayerGraph) -> Layers:
    """What the sweep asks of a graph, worked out once and kept on it."""
    found = graph.__dict__.get("_planner_layers")
    if found is None:
        known = facts(graph)
        alive = [known.live[layer[0]] for layer in known.layers]
        found = graph.__dict__["_planner_layers"] = Layers(
            alive=np.array(
                [[len(tensors) for tensors in alive], [sum(known.wire_bits[u] for u in tensors) for tensors in alive]]
            ),
            order=np.array([v for layer in known.layers for v in layer], dtype=np.int64),
            begins=np.cumsum([0, *(len(layer) for layer in known.layers)]).tolist(),
        )
    return cast(Layers, found)
