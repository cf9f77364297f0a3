"""Lower bounds, and plans to go with them, for placements under several additive resources: Lagrangian duals of minimum cuts.

Two problems. The smallest bottleneck: no placement has a largest load below the least *mix* of loads (weights >= 0 that sum
to 1), and the least mix is one minimum cut; the best weights give the best such bound. Least cost under limits: cost plus
multiplier times (load - limit) never exceeds the cost of a placement that keeps the limits. In both the master problem over the
weights is a small linear programme over the placements seen so far (Kelley's cutting planes; equivalently column generation).
Method: textbook (Lagrangian relaxation); that DADS' DSH searches the same weights on a grid is the link to the literature.
With route "direct" a cut is itself a lower bound, so the duals stay valid bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ortools.linear_solver import pywraplp

from d3node.graph import LayerGraph
from testbed.errors import PlannerError
from testbed.planners.loads import Resource, as_prices, mix
from testbed.planners.mincut import minimum_cut
from testbed.planners.prices import Prices

ROUNDS = 60
"""Minimum cuts that one bound may take; on the zoo's models the gap is closed well before."""


@dataclass
class Dual:
    """The proven bound, the weights tried on the way to it, and every placement met, each once."""

    bound: float = 0.0
    tried: list[tuple[float, ...]] = field(default_factory=list)
    placements: list[list[int]] = field(default_factory=list)


def smallest_bottleneck(graph: LayerGraph, priced: Prices, resources: Sequence[Resource], rounds: int = ROUNDS) -> Dual:
    """A lower bound of the largest load over all legal placements. Seconds."""
    count = len(resources)
    dual = Dual()
    rows: list[list[float]] = []
    weights = [1.0 / count] * count
    for _ in range(rounds):
        ranks, value = _cut(graph, priced, resources, weights)
        dual.bound = max(dual.bound, value)
        dual.tried.append(tuple(weights))
        if _seen(dual, ranks):
            break
        rows.append([resource.of(priced, ranks) for resource in resources])
        upper, weights = _simplex_master(rows, count)
        if upper <= dual.bound * (1.0 + 1e-9):
            break
    return dual


def least_cost(
    graph: LayerGraph,
    priced: Prices,
    cost: Resource,
    limited: Sequence[tuple[Resource, float]],
    ceiling: float,
    rounds: int = ROUNDS,
) -> Dual:
    """A lower bound of the cost over all placements whose resources keep to their limits; `ceiling` is any known upper bound of
    it (or of what is of interest): a bound above it says that nothing below the ceiling keeps the limits."""
    scaled = [(_divided(resource, limit), 1.0) for resource, limit in limited]
    count = len(scaled)
    dual = Dual(bound=-1.0)
    rows: list[tuple[float, list[float]]] = []
    weights = [0.0] * count
    for _ in range(rounds):
        parts = [(1.0, cost), *((weight, resource) for weight, (resource, _) in zip(weights, scaled, strict=True))]
        ranks, value_ns = minimum_cut(graph, as_prices(priced, mix("mix", parts)))
        value = (value_ns - 5 * len(graph)) / 1e9 - sum(weights)
        dual.bound = max(dual.bound, value)
        dual.tried.append(tuple(weights))
        if _seen(dual, ranks):
            break
        rows.append((cost.of(priced, ranks), [resource.of(priced, ranks) - 1.0 for resource, _ in scaled]))
        upper, weights = _box_master(rows, count, 4.0 * ceiling)
        if upper <= dual.bound + 1e-9 * ceiling or dual.bound > ceiling:
            break
    dual.bound = max(dual.bound, 0.0)
    return dual


def _divided(resource: Resource, limit: float) -> Resource:
    return mix(resource.name, [(1.0 / max(limit, 1e-12), resource)])


def _cut(graph: LayerGraph, priced: Prices, resources: Sequence[Resource], weights: Sequence[float]) -> tuple[list[int], float]:
    """Least mix: a placement, and a proven lower bound of the mix (every price is rounded to a whole nanosecond)."""
    mixed = mix("mix", list(zip(weights, resources, strict=True)))
    ranks, value_ns = minimum_cut(graph, as_prices(priced, mixed))
    return ranks, max(0.0, (value_ns - 5 * len(graph)) / 1e9)


def _seen(dual: Dual, ranks: list[int]) -> bool:
    """Whether a placement is known already; keeps it if not."""
    if ranks in dual.placements:
        return True
    dual.placements.append(ranks)
    return False


def _simplex_master(rows: Sequence[Sequence[float]], count: int) -> tuple[float, list[float]]:
    """Weights (>= 0, sum 1) with the largest least mix over the rows, and that mix."""
    solver = _solver()
    weights = [solver.NumVar(0.0, 1.0, "") for _ in range(count)]
    least = solver.NumVar(0.0, solver.infinity(), "")
    solver.Add(sum(weights) == 1.0)
    for row in rows:
        solver.Add(least <= sum(load * weight for load, weight in zip(row, weights, strict=True)))
    return _solved(solver, least, weights)


def _box_master(rows: Sequence[tuple[float, Sequence[float]]], count: int, most: float) -> tuple[float, list[float]]:
    """Multipliers (0 to `most`) with the largest least cost-plus-penalties over the rows, and that value."""
    solver = _solver()
    weights = [solver.NumVar(0.0, most, "") for _ in range(count)]
    least = solver.NumVar(-solver.infinity(), solver.infinity(), "")
    for own, beyond in rows:
        solver.Add(least <= own + sum(load * weight for load, weight in zip(beyond, weights, strict=True)))
    return _solved(solver, least, weights)


def _solver() -> Any:
    solver: Any = pywraplp.Solver.CreateSolver("GLOP")
    if solver is None:
        raise PlannerError("the linear solver of ortools (GLOP) is missing: reinstall ortools")
    return solver


def _solved(solver: Any, least: Any, weights: Sequence[Any]) -> tuple[float, list[float]]:
    solver.Maximize(least)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        raise PlannerError("a linear programme of a few weights was not solved: costs out of range?")
    return float(least.solution_value()), [max(0.0, float(weight.solution_value())) for weight in weights]
