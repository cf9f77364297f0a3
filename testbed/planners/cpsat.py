"""The exact placement by CP-SAT, for networks that one minimum cut cannot price (a cheap direct device-cloud path).

One worker and a fixed seed, so the same problem gives the same plan. Nothing here knows of tiles.
"""

from __future__ import annotations

from typing import Any

from ortools.sat.python import cp_model

from d3node.graph import INPUT, LayerGraph
from testbed.errors import PlannerError
from testbed.planners.mincut import nanoseconds
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices


def solve(graph: LayerGraph, priced: Prices) -> tuple[list[int], int]:
    """Ranks of an optimal placement for route "direct" and its objective in nanoseconds, proven optimal.

    Raises PlannerError if CP-SAT ends without a proof (it has no time limit, so only for costs beyond its integers).
    """
    model: Any = cp_model.CpModel()
    size = len(graph)
    on_device = [model.new_bool_var(f"d{v}") for v in range(size)]
    on_cloud = [model.new_bool_var(f"c{v}") for v in range(size)]
    model.add(on_device[INPUT] == 1)
    for v in range(size):
        model.add(on_device[v] + on_cloud[v] <= 1)
    for u, w in graph.edges:
        model.add(on_device[w] <= on_device[u])
        model.add(on_cloud[u] <= on_cloud[w])
    compute = [nanoseconds(row) for row in priced.compute]
    up, across, far = (nanoseconds(row) for row in (priced.hop[0][1], priced.hop[1][2], priced.hop[0][2]))
    constant = 0
    terms: list[Any] = []
    for v in range(size):
        constant += int(compute[EDGE][v])
        terms.append(int(compute[DEVICE][v] - compute[EDGE][v]) * on_device[v])
        terms.append(int(compute[CLOUD][v] - compute[EDGE][v]) * on_cloud[v])
    for u, consumers in enumerate(graph.successors):
        if not consumers:
            continue
        to_edge, edge_cloud, to_cloud = (model.new_bool_var(f"{name}{u}") for name in ("de", "ec", "dc"))
        terms += [int(up[u]) * to_edge, int(across[u]) * edge_cloud, int(far[u]) * to_cloud]
        for w in consumers:
            model.add(to_edge >= on_device[u] - on_device[w] - on_cloud[w])
            model.add(edge_cloud >= on_cloud[w] - on_cloud[u] - on_device[u])
            model.add(to_cloud >= on_device[u] + on_cloud[w] - 1)
            model.add(to_edge + to_cloud >= on_device[u] - on_device[w])  # implied; they make the relaxation tight
            model.add(edge_cloud + to_cloud >= on_cloud[w] - on_cloud[u])
    model.minimize(sum(terms) + constant)
    solver: Any = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.relative_gap_limit = 0.0
    status = solver.solve(model)
    if status != cp_model.OPTIMAL:
        raise PlannerError(f"CP-SAT found no proven optimum for {graph.name!r}: {solver.status_name(status)}")
    ranks = [DEVICE if solver.value(on_device[v]) else CLOUD if solver.value(on_cloud[v]) else EDGE for v in range(size)]
    return ranks, round(solver.objective_value)
