"""The tiles of one stack of one request that nobody has taken yet, and the overlaps that finished tiles have left.

DeepThings (TCAD 2018): a queue of tiles that idle hosts steal from; with reuse, tiles are dealt in checkerboard order, so that
the first half depends on nobody, and a tile that finds a neighbour's data missing computes it again. No messages and no clock
here: the leader's agent deals from a pool (`d3node.dealing`), and so does the planners' cost model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from d3node.graph import LayerGraph
from d3node.intervals import Box
from d3node.plan import Stack
from d3node.reuse import Part, PartialRegion, overlaps, partial

P = TypeVar("P")


@dataclass(frozen=True)
class Keep:
    """A part of a tile's inner map that the tile `neighbour` will want."""

    neighbour: int
    vertex: int
    box: Box


@dataclass(frozen=True)
class Deal(Generic[P]):
    """A tile that a host has been given: what is left to compute of it, the kept parts that this rests on (vertex, box, data; the
    tile uses `region.used` of them), and what the host is to keep for the neighbours."""

    tile: int
    region: PartialRegion
    given: tuple[tuple[int, Box, P], ...]
    keep: tuple[Keep, ...]


@dataclass
class Geometry:
    """Regions of a stack's tiles; kept, because every request asks for the same ones."""

    graph: LayerGraph
    stack: Stack
    _regions: dict[tuple[int, tuple[Part, ...]], PartialRegion] = field(default_factory=dict)
    _keeps: dict[tuple[int, tuple[Part, ...], tuple[int, ...]], tuple[Keep, ...]] = field(default_factory=dict)

    def box(self, tile: int) -> Box:
        """A tile's box of the output map."""
        found = self.stack.tiles[tile]
        return found.rows, found.columns

    def region(self, tile: int, given: tuple[Part, ...] = ()) -> PartialRegion:
        """What a tile computes when parts are given to it."""
        key = (tile, given)
        if key not in self._regions:
            self._regions[key] = partial(self.graph, self.stack.vertices, self.box(tile), given)
        return self._regions[key]

    def keeps(self, tile: int, given: tuple[Part, ...], neighbours: tuple[int, ...]) -> tuple[Keep, ...]:
        """What a tile's neighbours would use of it."""
        key = (tile, given, neighbours)
        if key not in self._keeps:
            held = self.region(tile, given).held
            self._keeps[key] = tuple(
                Keep(other, v, box)
                for other in neighbours
                for v, box in overlaps(self.graph, self.stack.vertices, self.box(other), held)
            )
        return self._keeps[key]

    def neighbours(self, tile: int) -> tuple[int, ...]:
        """Tiles above, left, right and below, where there is something to compute."""
        rows, columns = self.stack.grid
        row, column = divmod(tile, columns)
        around = ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column))
        places = [r * columns + c for r, c in around if 0 <= r < rows and 0 <= c < columns]
        return tuple(t for t in places if not self.stack.tiles[t].empty)

    def order(self) -> tuple[int, ...]:
        """Non-empty tiles in the order in which they are dealt: row by row, with reuse in a checkerboard's two colours."""
        columns = self.stack.grid[1]
        tiles = [t for t, tile in enumerate(self.stack.tiles) if not tile.empty]
        if self.stack.reuse:
            tiles.sort(key=lambda t: ((t // columns + t % columns) % 2, t))
        return tuple(tiles)


class Pool(Generic[P]):
    """Deals the tiles of one stack for one request. `P` is what stands for the data of a kept part."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._stack = geometry.stack
        self._left = list(geometry.order())
        self._kept: dict[int, list[tuple[int, Box, P]]] = {}

    def has(self, host: str) -> bool:
        """Whether there is a tile for a host: with stealing any, otherwise only its own."""
        return any(self._may(host, t) for t in self._left)

    def take(self, host: str) -> Deal[P] | None:
        """The next tile for a host; None when there is none."""
        tile = next((t for t in self._left if self._may(host, t)), None)
        if tile is None:
            return None
        self._left.remove(tile)
        if not self._stack.reuse:
            return Deal(tile, self._geometry.region(tile), (), ())
        offered = tuple(self._kept.pop(tile, ()))
        boxes = tuple((v, box) for v, box, _ in offered)
        region = self._geometry.region(tile, boxes)
        waiting = tuple(t for t in self._geometry.neighbours(tile) if t in self._left)
        return Deal(tile, region, offered, self._geometry.keeps(tile, boxes, waiting))

    def returned(self, deal: Deal[Any], parts: Sequence[P]) -> None:
        """A tile is done, and these are the parts it was to keep; those of tiles that were taken meanwhile come too late."""
        for keep, part in zip(deal.keep, parts, strict=True):
            if keep.neighbour in self._left:
                self._kept.setdefault(keep.neighbour, []).append((keep.vertex, keep.box, part))

    def _may(self, host: str, tile: int) -> bool:
        return self._stack.stealing or self._stack.tiles[tile].host == host
