"""Stacks that hand over to one another: what every host holds, lacks and gets from the others, superstep by superstep.

Geometry only, shared by the agents (`d3node.supersteps`) and the planners' cost model. The idea of exchanging borders between the
layers is MoDNN's (through the owner) and CoEdge's (between neighbours); that any stack and any cut may be used is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from d3node.graph import LayerGraph
from d3node.intervals import Box, area, intersection, reverse, union
from d3node.plan import Plan

Place = tuple[int, int]
"""(index of the stack, index of the tile)."""


@dataclass(frozen=True, slots=True)
class Halo:
    """Part of a tile's output map that another host needs: sent once, as soon as the tile is computed."""

    place: Place
    source: str
    target: str
    vertex: int
    box: Box


@dataclass(frozen=True, slots=True)
class Superstep:
    """One tile of one stack of the chain. `outside[u]`: regions of tensors that the leader has whole, sent by it; `inside[u]`:
    regions of maps of earlier stacks of the chain; `waits`: the tiles of other hosts whose halos they are made of."""

    place: Place
    host: str
    box: Box
    outside: dict[int, Box]
    inside: dict[int, Box]
    waits: frozenset[Place]


@dataclass(frozen=True)
class Chain:
    """All non-empty tiles of a chain in the order of its stacks, and all halos between them."""

    stacks: tuple[int, ...]
    supersteps: tuple[Superstep, ...]
    halos: tuple[Halo, ...]

    def of(self, host: str) -> tuple[Superstep, ...]:
        """The tiles of one host, in order."""
        return tuple(step for step in self.supersteps if step.host == host)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Everybody who computes a tile, in the order of the tiles."""
        return tuple(dict.fromkeys(step.host for step in self.supersteps))


def chain_of(graph: LayerGraph, plan: Plan, stacks: Sequence[int]) -> Chain:
    """Work out a chain of a legal plan."""
    made: dict[int, list[tuple[Place, str, Box]]] = {}
    supersteps: list[Superstep] = []
    needed: dict[tuple[Place, str], Halo] = {}
    for index in stacks:
        stack = plan.stacks[index]
        for number, tile in enumerate(stack.tiles):
            if tile.empty:
                continue
            box = (tile.rows, tile.columns)
            read = reverse(graph, stack.vertices, box).read
            waits: set[Place] = set()
            for u, region in read.items():
                for place, host, have in made.get(u, ()):
                    part = intersection(have, region)
                    if host == tile.host or not area(part):
                        continue
                    known = needed.get((place, tile.host))
                    part = part if known is None else union(known.box, part)
                    needed[place, tile.host] = Halo(place, host, tile.host, u, part)
                    waits.add(place)
            inside = {u: region for u, region in read.items() if u in made}
            outside = {u: region for u, region in read.items() if u not in made}
            supersteps.append(Superstep((index, number), tile.host, box, outside, inside, frozenset(waits)))
        made[stack.output] = [
            ((index, number), tile.host, (tile.rows, tile.columns)) for number, tile in enumerate(stack.tiles) if not tile.empty
        ]
    return Chain(tuple(stacks), tuple(supersteps), tuple(needed.values()))
