"""The decision variables of a placement in CP-SAT, shared by every exact method: tiers, one-way flow, and which tensors cross.

What is minimised or limited over them is in `cpsat.py` (the sum), `capacitated.py`, `throughput.py` and `critical_optimum.py`.
One worker, a fixed seed and a limit in CP-SAT's deterministic time: the same problem gives the same plan on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from d3node.graph import INPUT, LayerGraph
from testbed.planners.loads import Resource
from testbed.planners.mincut import NANO
from testbed.planners.prices import CLOUD, DEVICE, EDGE


@dataclass(frozen=True)
class Placement:
    """Booleans by vertex: `device[v]`, `cloud[v]` (edge: neither); by tensor: `up[u]` goes to the edge host, `across[u]` from
    there to the cloud, `far[u]` from the device straight to the cloud (all None with route "relay"; None where nobody reads)."""

    device: list[Any]
    cloud: list[Any]
    up: list[Any]
    across: list[Any]
    far: list[Any]

    def on(self, v: int, rank: int) -> Any:
        """Expression that is 1 when v is on a tier, else 0."""
        return (self.device[v], 1 - self.device[v] - self.cloud[v], self.cloud[v])[rank]

    def ranks(self, solver: Any) -> list[int]:
        """Ranks in a solution."""
        places = zip(self.device, self.cloud, strict=True)
        return [DEVICE if solver.value(d) else CLOUD if solver.value(c) else EDGE for d, c in places]


def placement(model: Any, graph: LayerGraph, relay: bool, known: Sequence[int]) -> Placement:
    """Variables and constraints of legal placements; `known` are ranks of one of them, to start from."""
    size = len(graph)
    device = [model.new_bool_var(f"d{v}") for v in range(size)]
    cloud = [model.new_bool_var(f"c{v}") for v in range(size)]
    model.add(device[INPUT] == 1)
    for v in range(size):
        model.add_at_most_one(device[v], cloud[v])
        model.add_hint(device[v], known[v] == DEVICE)
        model.add_hint(cloud[v], known[v] == CLOUD)
    for u, w in graph.edges:
        model.add_implication(device[w], device[u])
        model.add_implication(cloud[u], cloud[w])
    up, across, far = ([None] * size for _ in range(3))
    found = Placement(device, cloud, up, across, far)
    for u, consumers in enumerate(graph.successors):
        if consumers:
            _crossings(model, found, u, consumers, relay)
    return found


def _crossings(model: Any, found: Placement, u: int, consumers: Sequence[int], relay: bool) -> None:
    """A tensor's way up: once over each boundary ("relay"), or once to each tier ("direct")."""
    device, cloud = found.device, found.cloud
    to_edge, edge_cloud = model.new_bool_var(f"de{u}"), model.new_bool_var(f"ec{u}")
    found.up[u], found.across[u] = to_edge, edge_cloud
    if relay:
        for w in consumers:
            model.add(to_edge >= device[u] - device[w])
            model.add(edge_cloud >= cloud[w] - cloud[u])
        return
    found.far[u] = to_cloud = model.new_bool_var(f"dc{u}")
    for w in consumers:
        model.add(to_edge >= device[u] - device[w] - cloud[w])
        model.add(edge_cloud >= cloud[w] - cloud[u] - device[u])
        model.add(to_cloud >= device[u] + cloud[w] - 1)
        model.add(to_edge + to_cloud >= device[u] - device[w])  # implied; they make the relaxation tight
        model.add(edge_cloud + to_cloud >= cloud[w] - cloud[u])


def total(found: Placement, resource: Resource, scale: float = NANO) -> Any:
    """A resource as a linear expression in whole units of 1/scale (nanoseconds of seconds, say)."""
    device, edge, cloud = ([round(x * scale) for x in row] for row in resource.compute)
    terms: list[Any] = [sum(edge)]
    for v in range(len(device)):
        terms += [(device[v] - edge[v]) * found.device[v], (cloud[v] - edge[v]) * found.cloud[v]]
    for row, variables in ((resource.up, found.up), (resource.across, found.across), (resource.far, found.far)):
        terms += [round(x * scale) * variable for x, variable in zip(row, variables, strict=True) if variable is not None and x]
    return sum(terms)


def search(model: Any, effort: float) -> tuple[Any, int]:
    """Solve within `effort` deterministic seconds (about as many real ones); the solver and CP-SAT's status."""
    solver: Any = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.relative_gap_limit = 0.0
    solver.parameters.max_deterministic_time = effort
    return solver, solver.solve(model)
