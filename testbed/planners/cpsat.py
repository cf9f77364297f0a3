"""Exact placements by CP-SAT, where one minimum cut does not suffice: a cheap direct device-cloud path, or tiles on the edge.

One worker, a fixed seed and a limit in CP-SAT's deterministic time, so the same problem gives the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from ortools.sat.python import cp_model

from d3node.graph import INPUT, LayerGraph
from testbed.errors import PlannerError
from testbed.planners.mincut import Ints, nanoseconds
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
    on_device = [model.new_bool_var(f"d{v}") for v in range(size)]
    on_cloud = [model.new_bool_var(f"c{v}") for v in range(size)]
    model.add(on_device[INPUT] == 1)
    for v in range(size):
        model.add_at_most_one(on_device[v], on_cloud[v])
        model.add_hint(on_device[v], known[v] == DEVICE)
        model.add_hint(on_cloud[v], known[v] == CLOUD)
    for u, w in graph.edges:
        model.add_implication(on_device[w], on_device[u])
        model.add_implication(on_cloud[u], on_cloud[w])
    ceiling = int(priced.objective(known) * 1e9) + 4 * size  # no price above a known total can be part of the optimum
    device, cloud = _capped(priced.compute[DEVICE], ceiling), _capped(priced.compute[CLOUD], ceiling)
    edge = nanoseconds(priced.compute[EDGE])  # not capped: a gain takes some of it back
    terms: list[Any] = [int(edge.sum())]
    for v in range(size):
        terms.append(int(device[v] - edge[v]) * on_device[v])
        terms.append(int(cloud[v] - edge[v]) * on_cloud[v])
    terms += _transfers(model, graph, priced, on_device, on_cloud, ceiling)
    chosen = _gains(model, gains, on_device, on_cloud)
    terms += [-int(gain.gain_s * 1e9) * taken for gain, taken in zip(gains, chosen, strict=True)]
    model.minimize(sum(terms))
    solver: Any = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.relative_gap_limit = 0.0
    solver.parameters.max_deterministic_time = EFFORT
    status = solver.solve(model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise PlannerError(f"CP-SAT found no placement for {graph.name!r}: {solver.status_name(status)}")
    ranks = [DEVICE if solver.value(on_device[v]) else CLOUD if solver.value(on_cloud[v]) else EDGE for v in range(size)]
    taken_indices = tuple(i for i, taken in enumerate(chosen) if solver.value(taken))
    return Solution(ranks, taken_indices, round(solver.best_objective_bound), status == cp_model.OPTIMAL)


def _transfers(
    model: Any, graph: LayerGraph, priced: Prices, on_device: Sequence[Any], on_cloud: Sequence[Any], ceiling: int
) -> list[Any]:
    """Cost terms of every tensor's way up: once over each boundary ("relay") or once to each tier ("direct")."""
    up, across, far = (
        _capped(row, ceiling) for row in (priced.hop[DEVICE][EDGE], priced.hop[EDGE][CLOUD], priced.hop[DEVICE][CLOUD])
    )
    terms: list[Any] = []
    for u, consumers in enumerate(graph.successors):
        if not consumers:
            continue
        to_edge, edge_cloud = model.new_bool_var(f"de{u}"), model.new_bool_var(f"ec{u}")
        terms += [int(up[u]) * to_edge, int(across[u]) * edge_cloud]
        if priced.relay:
            for w in consumers:
                model.add(to_edge >= on_device[u] - on_device[w])
                model.add(edge_cloud >= on_cloud[w] - on_cloud[u])
            continue
        to_cloud = model.new_bool_var(f"dc{u}")
        terms.append(int(far[u]) * to_cloud)
        for w in consumers:
            model.add(to_edge >= on_device[u] - on_device[w] - on_cloud[w])
            model.add(edge_cloud >= on_cloud[w] - on_cloud[u] - on_device[u])
            model.add(to_cloud >= on_device[u] + on_cloud[w] - 1)
            model.add(to_edge + to_cloud >= on_device[u] - on_device[w])  # implied; they make the relaxation tight
            model.add(edge_cloud + to_cloud >= on_cloud[w] - on_cloud[u])
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
