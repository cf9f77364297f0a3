"""Where the vertices and edges of a layer graph go on a page: layers from top to bottom, folded into columns like newsprint.

The usual steps of layered drawing (Sugiyama, Tagawa and Toda 1981): layers by longest path; an edge over several layers takes a
bend in each; orders within layers by barycentres; positions by pulling everything towards its neighbours. What boxes look
like is `drawing.py`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from d3node.graph import LayerGraph

Spot = tuple[int, int]
"""(vertex, layer): the vertex itself on its own layer, a bend of its tensor on a later one."""

BOX = (158.0, 34.0)
"""Width and height of a vertex."""
PITCH = 62.0
"""From one layer to the next."""
BEND = 16.0
"""Width that a bend takes."""
GAP = 14.0
GUTTER = 54.0
"""Between two columns; edges from one to the next run there."""
TALL = 26
"""Layers in a column, about."""
SWEEPS = 12


@dataclass(frozen=True)
class Page:
    """Centres of all spots, the column of each layer, the spots that each edge passes, and the size of the whole."""

    centre: dict[Spot, tuple[float, float]]
    column: list[int]
    routes: dict[tuple[int, int], list[Spot]]
    edges_x: list[tuple[float, float]]
    """Left and right edge of every column."""
    width: float
    height: float


def lay_out(graph: LayerGraph) -> Page:
    """The page of a graph."""
    levels = graph.levels
    layers: list[list[Spot]] = [[] for _ in range(max(levels) + 1)]
    routes: dict[tuple[int, int], list[Spot]] = {}
    links: list[tuple[Spot, Spot]] = []
    for u in range(len(graph)):
        layers[levels[u]].append((u, levels[u]))
    for u, consumers in enumerate(graph.successors):
        last = max((levels[w] for w in consumers), default=levels[u])
        way = [(u, level) for level in range(levels[u], last)]
        for level in range(levels[u] + 1, last):
            layers[level].append((u, level))
        links += list(pairwise(way))
        for w in consumers:
            routes[u, w] = [*way[: levels[w] - levels[u]], (w, levels[w])]
            links.append((routes[u, w][-2], routes[u, w][-1]))
    above: dict[Spot, list[Spot]] = {}
    below: dict[Spot, list[Spot]] = {}
    for a, b in dict.fromkeys(links):
        below.setdefault(a, []).append(b)
        above.setdefault(b, []).append(a)
    _order(layers, above, below)
    x = _spread(layers, above, below, levels)
    return _fold(layers, x, routes, levels)


def _order(layers: list[list[Spot]], above: dict[Spot, list[Spot]], below: dict[Spot, list[Spot]]) -> None:
    """Sort every layer by the mean place of its neighbours, downwards and upwards in turn."""
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for layer in layers[1:] if down else reversed(layers[:-1]):
            if len(layer) < 2:
                continue
            place = {spot: i for other in _around(layers, layer[0][1]) for i, spot in enumerate(other)}
            own = {spot: i for i, spot in enumerate(layer)}

            means = {spot: _mean([place[near] for near in neighbours.get(spot, ())], own[spot]) for spot in layer}
            layer.sort(key=means.__getitem__)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _around(layers: list[list[Spot]], level: int) -> list[list[Spot]]:
    return [layers[other] for other in (level - 1, level + 1) if 0 <= other < len(layers)]


def _wide(spot: Spot, levels: Sequence[int]) -> float:
    return BOX[0] if levels[spot[0]] == spot[1] else BEND


def _spread(
    layers: list[list[Spot]], above: dict[Spot, list[Spot]], below: dict[Spot, list[Spot]], levels: Sequence[int]
) -> dict[Spot, float]:
    """Centres across: near the neighbours' mean, in order, without overlap."""
    x: dict[Spot, float] = {}
    for layer in layers:
        for spot, at in zip(layer, _packed([0.0] * len(layer), [_wide(s, levels) for s in layer]), strict=True):
            x[spot] = at
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = []
            for spot in layer:
                near = (above if down else below).get(spot) or (below if down else above).get(spot, [])
                wanted.append(_mean([x[n] for n in near], x[spot]))
            for spot, at in zip(layer, _packed(wanted, [_wide(s, levels) for s in layer]), strict=True):
                x[spot] = at
    return x


def _packed(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Places as near to the wanted ones as the widths allow: the mean of pushing everything right and pushing it left."""
    right, left = list(wanted), list(wanted)
    for i in range(1, len(right)):
        right[i] = max(right[i], right[i - 1] + (widths[i - 1] + widths[i]) / 2 + GAP)
    for i in range(len(left) - 2, -1, -1):
        left[i] = min(left[i], left[i + 1] - (widths[i + 1] + widths[i]) / 2 - GAP)
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _fold(
    layers: list[list[Spot]], x: dict[Spot, float], routes: dict[tuple[int, int], list[Spot]], levels: Sequence[int]
) -> Page:
    """Cut the long strip into columns, where few edges pass, and put them side by side."""
    starts = [0]
    while len(layers) - starts[-1] > TALL * 1.3:
        near = range(starts[-1] + TALL - 8, min(starts[-1] + TALL + 8, len(layers) - 1))
        starts.append(min(near, key=lambda level: (len(layers[level - 1]) + len(layers[level]), abs(level - starts[-1] - TALL))))
    ends = [*starts[1:], len(layers)]
    centre: dict[Spot, tuple[float, float]] = {}
    column = [0] * len(layers)
    edges_x: list[tuple[float, float]] = []
    offset, tallest = 0.0, 0
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        spots = [spot for layer in layers[start:end] for spot in layer]
        low = min(x[spot] - _wide(spot, levels) / 2 for spot in spots)
        high = max(x[spot] + _wide(spot, levels) / 2 for spot in spots)
        for spot in spots:
            column[spot[1]] = number
            centre[spot] = (offset + x[spot] - low, (spot[1] - start) * PITCH + BOX[1] / 2)
        edges_x.append((offset, offset + high - low))
        offset += high - low + GUTTER
        tallest = max(tallest, end - start)
    return Page(centre, column, routes, edges_x, offset - GUTTER, (tallest - 1) * PITCH + BOX[1])
