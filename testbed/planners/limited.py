"""The least sum of compute and transfer seconds among the placements that keep to limits, with a proven lower bound.

In this order, until one closes the gap: the free optimum, if it keeps the limits; the Lagrangian dual (`lagrange.py`) with the
placements met on the way and those the caller starts from; CP-SAT within its effort (hill climbing where it has none).

Which limits there are is the caller's: additive ones (`loads.py`), and any other as constraints on the model and a test of a
placement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ortools.sat.python import cp_model

from d3node.graph import LayerGraph
from testbed.planners.base import Problem
from testbed.planners.lagrange import least_cost
from testbed.planners.loads import Resource, cost
from testbed.planners.mincut import NANO, minimum_cut
from testbed.planners.placement_model import Placement, placement, search, total
from testbed.planners.prices import CLOUD, Prices

PASSES = 5
"""Rounds over all vertices that hill climbing may take."""
SMALL = 64
"""Vertices up to which hill climbing tries all of them; beyond, those at a cut."""
SLACK = 1e-6
"""Share by which a limit may be passed: prices are whole nanoseconds in the model."""


@dataclass(frozen=True)
class Limit:
    """An additive resource and the most that may be taken of it; `scale` makes whole units of it (1e9: nanoseconds, 1: bytes)."""

    resource: Resource
    most: float
    scale: float = NANO


@dataclass(frozen=True)
class Outcome:
    """The best placement found (None: none found), its sum, the proven lower bound, by which method, and what is proven:
    "optimal", "feasible" (the bound says how far it may be from the optimum), "infeasible" or "unknown"."""

    ranks: list[int] | None
    value_s: float
    bound_s: float
    method: str
    status: str

    def notes(self) -> dict[str, Any]:
        """For a plan's notes."""
        return {"method": self.method, "status": self.status, "bound_s": self.bound_s}


def least_within(
    problem: Problem,
    priced: Prices,
    limits: Sequence[Limit],
    fits: Callable[[Sequence[int]], bool],
    starts: Iterable[list[int]],
    effort: float,
    constrain: Callable[[Any, Placement], None] = lambda model, placed: None,
) -> Outcome:
    """Solve it. `fits` says whether a placement keeps all limits, `constrain` adds to the model what `limits` do not say,
    `effort` is in CP-SAT's deterministic seconds; 0 leaves CP-SAT out."""
    graph, tolerance = problem.graph, 5e-9 * len(problem.graph)
    free, free_ns = minimum_cut(graph, priced)
    bound = free_ns / NANO
    if fits(free) and priced.objective(free) <= bound + tolerance:
        return Outcome(free, priced.objective(free), priced.objective(free), "min-cut", "optimal")
    known = [ranks for ranks in (free, *starts) if fits(ranks)]
    ceiling = min((priced.objective(ranks) for ranks in known), default=sum(map(sum, priced.compute)) + bound)
    dual = least_cost(graph, priced, cost(priced), [(limit.resource, limit.most) for limit in limits], ceiling)
    bound = max(bound, min(dual.bound, ceiling) - tolerance)
    known += [ranks for ranks in dual.placements if fits(ranks)]
    best = min(known, key=priced.objective, default=None)
    if best is not None and priced.objective(best) <= bound + tolerance:
        return Outcome(best, priced.objective(best), bound, "dual", "optimal")
    if effort <= 0.0:
        best = None if best is None else improved(graph, best, priced.objective, fits)
        value = float("inf") if best is None else priced.objective(best)
        return Outcome(best, value, bound, "dual", "unknown" if best is None else "feasible")
    model: Any = cp_model.CpModel()
    placed = placement(model, graph, priced.relay, free if best is None else best)
    for limit in limits:
        model.add(total(placed, limit.resource, limit.scale) <= int(limit.most * limit.scale * (1.0 + SLACK)))
    constrain(model, placed)
    whole = total(placed, cost(priced))
    model.add(whole >= int(bound * NANO) - len(graph))
    model.minimize(whole)
    solver, status = search(model, effort)
    if status == cp_model.INFEASIBLE and best is None:
        return Outcome(None, float("inf"), bound, "cp-sat", "infeasible")
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        ranks = placed.ranks(solver)
        if fits(ranks) and (best is None or priced.objective(ranks) < priced.objective(best)):
            best = ranks
        bound = max(bound, solver.best_objective_bound / NANO - tolerance)
    if best is None:
        return Outcome(None, float("inf"), bound, "cp-sat", "unknown")
    value = priced.objective(best)
    return Outcome(best, value, min(bound, value), "cp-sat", "optimal" if value <= bound + 2 * tolerance else "feasible")


def improved(
    graph: LayerGraph,
    start: list[int],
    key: Callable[[Sequence[int]], Any],
    fits: Callable[[Sequence[int]], bool],
    passes: int = PASSES,
) -> list[int]:
    """Hill climbing: one vertex (in large graphs: one at a cut) to another tier, with what one-way flow makes follow, as long as
    the key falls and it fits."""
    best, least = start, key(start)
    for _ in range(passes):
        before = least
        for v in range(1, len(graph)):
            if len(graph) > SMALL and not _at_a_cut(graph, best, v):
                continue
            for rank in range(3):
                if rank != best[v]:
                    ranks = moved(graph, best, v, rank)
                    value = key(ranks)
                    if value < least and fits(ranks):
                        best, least = ranks, value
        if least == before:
            break
    return best


def _at_a_cut(graph: LayerGraph, ranks: Sequence[int], v: int) -> bool:
    return any(ranks[w] != ranks[v] for w in (*graph[v].inputs, *graph.successors[v]))


def moved(graph: LayerGraph, ranks: Sequence[int], v: int, rank: int) -> list[int]:
    """A legal placement with vertex v (not the input) on a tier: its producers follow down, its consumers up, where they must."""
    found = list(ranks)
    found[v] = rank
    for w in range(v + 1, len(graph)):
        floor = max(found[u] for u in graph[w].inputs)
        found[w] = max(found[w], floor)
    for u in range(v - 1, 0, -1):
        ceiling = min((found[w] for w in graph.successors[u]), default=CLOUD)
        found[u] = min(found[u], ceiling)
    return found
