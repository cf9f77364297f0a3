"""Exact placements by CP-SAT, where one minimum cut does not suffice: a cheap direct device-cloud path, or tiles on the edge.

What may be placed where, and how the search is limited, is in `placement_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ortools.sat.python import cp_model

from d3node.graph import LayerGraph
from testbed.errors import PlannerError
from testbed.planners.mincut import Ints, nanoseconds
from testbed.planners.placement_model import Placement, placement, search
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices

EFFORT = 20.0
"""Limit of the search in CP-SAT's deterministic seconds (about as many real ones)."""


class Gain(Protocol):
    """What is gained when all vertices `first` to `last` are on the edge; gains of overlapping runs exclude each other."""

    @property
    def first(self) -> int: ...

    @property
    def last(self) -> int: ...

    @property
    def gain_s(self) -> float: ...


@dataclass(frozen=True)
class Solution:
    """Ranks, indices of the gains taken, and the proven lower bound in nanoseconds; `proven` when ranks and gains reach it."""

    ranks: list[int]
    taken: tuple[int, ...]
    bound_ns: int
    proven: bool


def solve(graph: LayerGraph, priced: Prices, known: Sequence[int], gains: Sequence[Gain] = ()) -> Solution:
    """Least sum of compute and transfer seconds minus gains. `known` are ranks of any legal placement, to start from.

    Raises PlannerError if CP-SAT finds nothing (costs beyond its integers).
    """
    model: Any = cp_model.CpModel()
    size = len(graph)
    placed = placement(model, graph, priced.relay, known)
    on_device, on_cloud = placed.device, placed.cloud
    ceiling = int(priced.objective(known) * 1e9) + 4 * size  # no price above a known total can be part of the optimum
    device, cloud = _capped(priced.compute[DEVICE], ceiling), _capped(priced.compute[CLOUD], ceiling)
    edge = nanoseconds(priced.compute[EDGE])  # not capped: a gain takes some of it back
    terms: list[Any] = [int(edge.sum())]
    for v in range(size):
        terms.append(int(device[v] - edge[v]) * on_device[v])
        terms.append(int(cloud[v] - edge[v]) * on_cloud[v])
    terms += _transfers(priced, placed, ceiling)
    chosen = _gains(model, gains, on_device, on_cloud)
    terms += [-int(gain.gain_s * 1e9) * taken for gain, taken in zip(gains, chosen, strict=True)]
    model.minimize(sum(terms))
    solver, status = search(model, EFFORT)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise PlannerError(f"CP-SAT found no placement for {graph.name!r}: {solver.status_name(status)}")
    taken_indices = tuple(i for i, taken in enumerate(chosen) if solver.value(taken))
    return Solution(placed.ranks(solver), taken_indices, round(solver.best_objective_bound), status == cp_model.OPTIMAL)


def _transfers(priced: Prices, placed: Placement, ceiling: int) -> list[Any]:
    """Cost terms of every tensor's way up."""
    terms: list[Any] = []
    ways = (
        (priced.hop[DEVICE][EDGE], placed.up),
        (priced.hop[EDGE][CLOUD], placed.across),
        (priced.hop[DEVICE][CLOUD], placed.far),
    )
    for seconds, crosses in ways:
        for price, crossing in zip(_capped(seconds, ceiling), crosses, strict=True):
            if crossing is not None:
                terms.append(int(price) * crossing)
    return terms


def _gains(model: Any, gains: Sequence[Gain], on_device: Sequence[Any], on_cloud: Sequence[Any]) -> list[Any]:
    chosen = [model.new_bool_var(f"g{i}") for i in range(len(gains))]
    over: dict[int, list[Any]] = {}
    for gain, taken in zip(gains, chosen, strict=True):
        for v in range(gain.first, gain.last + 1):
            over.setdefault(v, []).append(taken)
    for v, rivals in over.items():
        model.add_at_most_one(*rivals, on_device[v], on_cloud[v])
    return chosen


def _capped(seconds: Sequence[float], ceiling: int) -> Ints:
    return np.minimum(nanoseconds(seconds), ceiling)
