"""Reverse tile calculation for all ends, grids and tiles of a graph at once: how much of every map each tile touches.

The same arithmetic as `d3node.intervals.reverse`, on arrays; the tests compare the two. No costs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from d3node.graph import LayerGraph, Pair
from d3node.intervals import split
from testbed.planners.stack_candidates import candidates

_NOWHERE = 1 << 24
"""Bounds of an empty interval, so that minimum and maximum unite intervals without asking which are empty."""

Areas = npt.NDArray[np.float64]
Bounds = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Grid:
    """A way to cut a map: A x B tiles, rows cut by `row_shares`, columns by `column_shares`; tile i runs on `hosts[i]`."""

    shape: Pair
    row_shares: tuple[float, ...]
    column_shares: tuple[float, ...]
    hosts: tuple[str, ...]


def areas(graph: LayerGraph, grids: Sequence[Grid]) -> Areas:
    """Shape [vertices, ends, tiles of all grids]: positions of each vertex's map that a tile of each end's map needs.

    0 where a vertex is not needed, or no map. Kept on the graph for the grids used last.
    """
    key = tuple((grid.shape, grid.row_shares, grid.column_shares) for grid in grids)
    kept = graph.__dict__.setdefault("_planner_areas", {})
    if key not in kept:
        if len(kept) >= 4:
            kept.pop(next(iter(kept)))
        kept[key] = _areas(graph, grids)
    return cast(Areas, kept[key])


def _areas(graph: LayerGraph, grids: Sequence[Grid]) -> Areas:
    ends = candidates(graph).ends
    tiles = sum(grid.shape[0] * grid.shape[1] for grid in grids)
    result = np.zeros((len(graph), len(ends), tiles))
    low: dict[int, Bounds] = {}
    high: dict[int, Bounds] = {}
    cuts: dict[Pair, tuple[Bounds, Bounds]] = {}
    for v in range(int(ends[-1]) if len(ends) else 0, -1, -1):
        vertex = graph[v]
        first = int(np.searchsorted(ends, v))
        if vertex.spatial is not None and first < len(ends) and ends[first] == v:
            if (vertex.rows, vertex.columns) not in cuts:
                cuts[vertex.rows, vertex.columns] = _boxes(vertex.rows, vertex.columns, grids)
            box = cuts[vertex.rows, vertex.columns]
            if v not in low:
                low[v], high[v] = _empty(len(ends), tiles)
            low[v][:, first], high[v][:, first] = box
        if v not in low:
            continue
        lows, highs = low.pop(v), high.pop(v)
        np.prod(np.maximum(highs - lows, 0), axis=0, out=result[v], dtype=np.float64)
        if vertex.spatial is None:
            continue
        same: dict[Pair, tuple[Bounds, Bounds]] = {}
        for u in vertex.inputs:
            size = (graph[u].rows, graph[u].columns)
            if size not in same:
                same[size] = _needed(graph, v, size, lows[:, first:], highs[:, first:])
            if u not in low:
                low[u], high[u] = _empty(len(ends), tiles)
            np.minimum(low[u][:, first:], same[size][0], out=low[u][:, first:])
            np.maximum(high[u][:, first:], same[size][1], out=high[u][:, first:])
    return result


def _needed(graph: LayerGraph, v: int, size: Pair, lows: Bounds, highs: Bounds) -> tuple[Bounds, Bounds]:
    spatial = graph[v].spatial
    assert spatial is not None
    if spatial.kind != "window" or (
        spatial.kernel == (1, 1)
        and spatial.stride == (1, 1)
        and spatial.padding == (0, 0)
        and size == (graph[v].rows, graph[v].columns)
    ):
        return lows, highs

    def column(pair: Pair) -> Bounds:
        return np.array(pair, dtype=np.int32).reshape(2, 1, 1)

    stride, padding = column(spatial.stride), column(spatial.padding)
    reach = column(spatial.dilation) * (column(spatial.kernel) - 1)
    low = np.maximum(stride * lows - padding, 0)
    high = np.minimum(stride * (highs - 1) - padding + reach + 1, column(size))
    nothing = ((low >= high) | (lows >= highs)).any(axis=0)
    low[:, nothing] = _NOWHERE
    high[:, nothing] = -_NOWHERE
    return low, high


def _boxes(rows: int, columns: int, grids: Sequence[Grid]) -> tuple[Bounds, Bounds]:
    lows, highs = [], []
    for grid in grids:
        across = split(columns, grid.column_shares)
        for row in split(rows, grid.row_shares):
            for col in across:
                empty = row[0] >= row[1] or col[0] >= col[1]
                lows.append((_NOWHERE, _NOWHERE) if empty else (row[0], col[0]))
                highs.append((-_NOWHERE, -_NOWHERE) if empty else (row[1], col[1]))
    return np.array(lows, dtype=np.int32).T, np.array(highs, dtype=np.int32).T


def _empty(ends: int, tiles: int) -> tuple[Bounds, Bounds]:
    shape = (2, ends, tiles)
    return np.full(shape, _NOWHERE, dtype=np.int32), np.full(shape, -_NOWHERE, dtype=np.int32)
