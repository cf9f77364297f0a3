"""Placements that cut the model between graph layers: layers to i on the device, to j on the edge, the rest in the cloud.

On a chain these are all legal placements, so the best of them is exact there; on a DAG they are good starting points. Any
additive resource (`loads.py`) is worked out for all pairs at once.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from testbed.planners.loads import Resource, Row
from testbed.planners.prices import CLOUD, DEVICE, EDGE, GraphFacts, Prices

Table = npt.NDArray[np.float64]

MOST = 600
"""Layers behind which is cut, at most."""


def is_chain(known: GraphFacts) -> bool:
    """Whether every graph layer has one vertex, and there are not too many: then level cuts are all legal placements.

    A vertex always reads the layer below its own, so with one vertex a layer one-way flow orders the tiers by layer.
    """
    return len(known.layers) <= MOST and all(len(layer) == 1 for layer in known.layers)


def positions(known: GraphFacts) -> npt.NDArray[np.int64]:
    """Layers behind which is cut: all of them, or `MOST` spread evenly (a table has the square of that)."""
    count = len(known.layers)
    return np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64))


def ranks_of(known: GraphFacts, i: int, j: int) -> list[int]:
    """The placement of one pair of cuts, i <= j, counted in `positions`."""
    at = positions(known)
    low, high = int(at[i]), int(at[j])
    return [DEVICE if level <= low else EDGE if level <= high else CLOUD for level in known.levels]


def level_cuts(priced: Prices, resource: Resource) -> Table:
    """`found[i, j]`: what the placement of (i, j), counted in `positions`, takes of a resource; infinite where j < i."""
    known = priced.facts
    at = positions(known)
    levels = np.asarray(known.levels)
    top = int(levels.max())
    last = np.array([max((known.levels[w] for w in consumers), default=-1) for consumers in known.consumers])
    device, edge, cloud = (_to(levels, resource.compute[rank], top) for rank in (DEVICE, EDGE, CLOUD))
    own = device - edge
    above = edge + cloud[-1] - cloud
    if priced.relay:
        up, across = _alive(levels, last, resource.up, top), _alive(levels, last, resource.across, top)
        found = (own + up)[at, None] + (above + across)[None, at]
    else:
        found = own[at, None] + above[None, at] + _direct(priced, resource, levels, last, at)
    return cast(Table, np.where(np.tri(len(at), k=-1, dtype=bool), np.inf, found))


def _to(levels: npt.NDArray[np.int64], row: Row, top: int) -> Row:
    """Sums of a row over the layers up to each."""
    return np.cumsum(np.bincount(levels, weights=row, minlength=top + 1))


def _alive(levels: npt.NDArray[np.int64], last: npt.NDArray[np.int64], row: Row, top: int) -> Row:
    """Sum of a row over the tensors that cross a cut behind each layer."""
    crossing = last > levels
    begin = np.bincount(levels[crossing], weights=row[crossing], minlength=top + 1)
    end = np.bincount(last[crossing], weights=row[crossing], minlength=top + 1)
    return np.cumsum(begin - end)


def _direct(
    priced: Prices, resource: Resource, levels: npt.NDArray[np.int64], last: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
) -> Table:
    """Transfers of all pairs with route "direct": a tensor goes to each tier that reads it, from where it was made."""
    top = int(levels.max())
    found = np.zeros((len(at), len(at)))
    consumers = [np.array([priced.facts.levels[w] for w in each], dtype=np.int64) for each in priced.facts.consumers]
    across = _alive(levels, last, resource.across, top)
    for row, i in enumerate(at):
        low = np.flatnonzero((levels <= i) & (last > i))
        if len(low):
            following = np.array([consumers[u][consumers[u] > i].min() for u in low])
            found[row] += np.cumsum(np.bincount(following, weights=resource.up[low], minlength=top + 1))[at]
            far = np.cumsum(np.bincount(last[low], weights=(resource.far - resource.across)[low], minlength=top + 1))
            found[row] += (resource.far - resource.across)[low].sum() - far[at]
        found[row] += across[at]
    return found
