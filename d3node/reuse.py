"""What a tile of a stack still has to compute when parts of its maps have been computed by its neighbours already.

DeepThings' data reuse (TCAD 2018, section on FTP with reuse) as interval arithmetic over any stack: the walk back from the output
stops wherever a neighbour's part begins, so that also what would have been needed further back shrinks. Geometry only; running a
tile with given parts is in `d3node.tiles`, who gets which parts is decided in `d3node.pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from d3node.graph import LayerGraph
from d3node.intervals import Box, area, intersection, needed, union

Part = tuple[int, Box]
"""A region of a vertex's map."""


@dataclass(frozen=True)
class PartialRegion:
    """A tile with parts given: `fresh[v]` is computed, `held[v]` is what exists of v's map in the end (fresh and given together),
    `used` are the given parts cut down to what is used of them (given in this order they yield the same tile again), `read[u]` is
    needed of every tensor from outside."""

    fresh: dict[int, Box]
    held: dict[int, Box]
    used: tuple[Part, ...]
    read: dict[int, Box]

    def positions(self) -> dict[int, int]:
        """Positions of every vertex's map that the tile computes."""
        return {v: area(box) for v, box in self.fresh.items()}


def partial(graph: LayerGraph, vertices: Sequence[int], output: Box, given: Sequence[Part] = ()) -> PartialRegion:
    """Walk a stack back from a non-empty output box, with parts of inner maps given.

    A given part is used where it covers one end of what is still needed over its whole other side, so that the rest is a box.
    Without any this is `intervals.reverse`.
    """
    offered: dict[int, list[Box]] = {}
    for v, box in given:
        offered.setdefault(v, []).append(box)
    members = set(vertices)
    held: dict[int, Box] = {vertices[-1]: output}
    fresh: dict[int, Box] = {}
    used: list[Part] = []
    read: dict[int, Box] = {}
    for v in reversed(vertices):
        rest = held[v]
        for part in offered.get(v, ()):
            rest, taken = trimmed(rest, part)
            if area(taken):
                used.append((v, taken))
        fresh[v] = rest
        spatial = graph[v].spatial
        assert spatial is not None, graph[v].name
        for u in graph[v].inputs:
            box = needed(spatial, rest, graph[u].rows, graph[u].columns) if area(rest) else ((0, 0), (0, 0))
            where = held if u in members else read
            where[u] = union(where[u], box) if u in where else box
    return PartialRegion({v: fresh[v] for v in vertices}, {v: held[v] for v in vertices}, tuple(used), dict(sorted(read.items())))


def trimmed(rest: Box, part: Box) -> tuple[Box, Box]:
    """(what is left of `rest` beside a part, what of the part was taken); the part is left alone unless a box remains."""
    common = intersection(rest, part)
    if not area(common):
        return rest, common
    (top, bottom), (left, right) = rest
    (first, last), (begin, end) = common
    if (begin, end) == (left, right):
        if first == top:
            return ((last, bottom), rest[1]), common
        if last == bottom:
            return ((top, first), rest[1]), common
    if (first, last) == (top, bottom):
        if begin == left:
            return (rest[0], (end, right)), common
        if end == right:
            return (rest[0], (left, begin)), common
    return rest, ((0, 0), (0, 0))


def overlaps(graph: LayerGraph, vertices: Sequence[int], output: Box, neighbour: Mapping[int, Box]) -> tuple[Part, ...]:
    """What a tile would use of a neighbour that holds `neighbour[v]` of every vertex's map, were that the only neighbour.

    Parts of several neighbours on different sides stay useful together: the ends of an interval are walked back independently.
    """
    last = vertices[-1]
    return partial(graph, vertices, output, [(v, box) for v, box in neighbour.items() if v != last and area(box)]).used
