"""Objective "throughput": the placement whose busiest resource (three hosts, the links between them) is busy the shortest.

With requests coming in all the time that is the shortest time between two of them that every queue survives (`loads.py` says
what counts). Exact on chains: all pairs of cuts. On DAGs: the Lagrangian dual gives a proven lower bound, CP-SAT closes the
gap within its effort. Among the placements of the smallest bottleneck the one with the least sum of seconds is taken, so that
throughput does not cost more latency than it must.

Under a given `rate` (requests per second) a plan need not be faster than the rate asks: the least sum among the placements
whose bottleneck is at most 1 / rate, and the smallest bottleneck where none is (DADS' rule of light and heavy load, with its
second half solved instead of searched on a grid).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from testbed.planners.base import Problem
from testbed.planners.capacitated import MemoryLimits, no_placement
from testbed.planners.lagrange import smallest_bottleneck
from testbed.planners.level_cuts import is_chain, level_cuts, ranks_of
from testbed.planners.limited import SLACK, Limit, Outcome, least_within
from testbed.planners.loads import Loads, Resource, busy, cost, loads
from testbed.planners.mincut import NANO
from testbed.planners.placement_model import placement, search, total
from testbed.planners.prices import Prices

CLOSE = 1e-6
"""Share above the bound that counts as reaching it, beside a few nanoseconds a vertex: prices are whole nanoseconds."""


@dataclass(frozen=True)
class Smallest:
    """The smallest bottleneck found, and what is proven. `sum_*` are of the second question (the least sum of seconds at no
    larger bottleneck, or within the rate); `sustained` is None when no rate was asked for."""

    problem: Problem
    ranks: list[int]
    loads: Loads
    bound_s: float
    method: str
    sum_s: float
    sum_status: str
    sustained: bool | None = None

    @property
    def proven(self) -> bool:
        """Whether the bottleneck is the smallest there is."""
        return is_proven(self.problem, self.loads.bottleneck_s, self.bound_s)

    def notes(self) -> dict[str, Any]:
        """For a plan's notes."""
        found: dict[str, Any] = {
            "objective": "throughput",
            "method": self.method,
            "status": "optimal" if self.proven else "feasible",
            "bottleneck": self.loads.bottleneck,
            "bottleneck_s": self.loads.bottleneck_s,
            "bottleneck_bound_s": self.bound_s,
            "sum_status": self.sum_status,
        }
        return found if self.sustained is None else {**found, "sustained": self.sustained}


def is_proven(problem: Problem, bottleneck_s: float, bound_s: float) -> bool:
    """Whether a bottleneck reaches its lower bound, up to rounding."""
    return bottleneck_s <= bound_s * (1.0 + CLOSE) + 6e-9 * len(problem.graph)


class Bottleneck:
    """The loads of one problem: what `optimal` and `hpa` share of this objective."""

    def __init__(self, problem: Problem, priced: Prices) -> None:
        self.problem, self.priced = problem, priced
        self.resources: tuple[Resource, ...] = busy(problem, priced)
        self.cost = cost(priced)
        self.memory = MemoryLimits.of(problem)
        self.chain = is_chain(priced.facts)

    def loads(self, ranks: Sequence[int]) -> Loads:
        """Loads of a placement."""
        return loads(self.resources, self.priced, ranks)

    def key(self, ranks: Sequence[int]) -> tuple[float, float]:
        """What is minimised: the bottleneck, then the sum."""
        return self.loads(ranks).bottleneck_s, self.priced.objective(ranks)

    def best_cuts(self, limit: float | None = None) -> list[int] | None:
        """The best placement that cuts between graph layers: smallest bottleneck, then least sum; with a `limit` the least sum
        whose bottleneck is within it. All there are on a chain. None when none keeps the memory limits (or the limit)."""
        worst = np.max([level_cuts(self.priced, resource) for resource in self.resources], axis=0)
        sums = level_cuts(self.priced, self.cost)
        if limit is not None:
            sums = np.where(worst <= limit * (1.0 + SLACK), sums, np.inf)
            worst = np.zeros_like(worst)
        for flat in np.lexsort((sums.ravel(), worst.ravel())):
            i, j = np.unravel_index(int(flat), worst.shape)
            if j < i or not np.isfinite(sums[i, j]):
                continue
            ranks = ranks_of(self.priced.facts, int(i), int(j))
            if self.memory.fits(ranks):
                return ranks
        return None

    def within(self, limit: float, starts: Iterable[list[int]], effort: float) -> Outcome:
        """The least sum of seconds at a bottleneck of at most `limit`; on a chain by trying all cuts."""
        if self.chain:
            ranks = self.best_cuts(limit)
            value = float("inf") if ranks is None else self.priced.objective(ranks)
            return Outcome(ranks, value, value, "all cuts", "infeasible" if ranks is None else "optimal")
        limits = [*(Limit(resource, limit) for resource in self.resources), *self.memory.additive(self.priced)]

        def fits(ranks: Sequence[int]) -> bool:
            return self.loads(ranks).bottleneck_s <= limit * (1.0 + 2 * SLACK) and self.memory.fits(ranks)

        return least_within(self.problem, self.priced, limits, fits, starts, effort, self.memory.constrain)


def smallest(problem: Problem, priced: Prices, effort: float, rate: float = 0.0) -> Smallest:
    """Solve it; `effort` in CP-SAT's deterministic seconds for each of the two questions, `rate` in 1/s (0: none).

    Raises CapacityError when memory limits leave no placement, or none was found.
    """
    view = Bottleneck(problem, priced)
    if rate > 0.0:
        known = view.best_cuts()
        outcome = view.within(1.0 / rate, [] if known is None else [known], effort)
        if outcome.ranks is not None:
            found = view.loads(outcome.ranks)
            bound = smallest_bottleneck(problem.graph, priced, view.resources).bound
            method = f"within the rate by {outcome.method}"
            return Smallest(problem, outcome.ranks, found, bound, method, outcome.value_s, outcome.status, True)
    ranks, bound, method = _smallest(view, effort)
    value = view.loads(ranks).bottleneck_s
    outcome = view.within(value, [ranks], effort)
    final = ranks if outcome.ranks is None else outcome.ranks
    sustained = False if rate > 0.0 else None
    return Smallest(problem, final, view.loads(final), bound, method, priced.objective(final), outcome.status, sustained)


def smallest_bound(problem: Problem, priced: Prices, effort: float) -> tuple[float, bool]:
    """The proven lower bound of the bottleneck alone, and whether a placement reaches it. Raises CapacityError as `smallest`."""
    view = Bottleneck(problem, priced)
    ranks, bound, _ = _smallest(view, effort)
    return bound, is_proven(problem, view.loads(ranks).bottleneck_s, bound)


def _smallest(view: Bottleneck, effort: float) -> tuple[list[int], float, str]:
    """Ranks, proven lower bound of the bottleneck, method."""
    problem, priced = view.problem, view.priced
    cuts = view.best_cuts()
    if view.chain:
        if cuts is None:
            raise no_placement(problem, view.memory, True)
        return cuts, view.loads(cuts).bottleneck_s, "all cuts"
    dual = smallest_bottleneck(problem.graph, priced, view.resources)
    known = [ranks for ranks in (cuts, *dual.placements) if ranks is not None and view.memory.fits(ranks)]
    best = min(known, key=view.key, default=None)
    if best is not None and is_proven(problem, view.loads(best).bottleneck_s, dual.bound):
        return best, dual.bound, "dual"
    model: Any = cp_model.CpModel()
    placed = placement(model, problem.graph, priced.relay, dual.placements[0] if best is None else best)
    rows = [np.concatenate([r.compute.ravel(), r.up, r.across, r.far]) for r in view.resources]
    most = int(max(row.sum() for row in rows) * NANO) + 7 * len(problem.graph)
    largest = model.new_int_var(int(dual.bound * NANO * (1.0 - CLOSE)), most, "bottleneck")
    for resource in view.resources:
        model.add(largest >= total(placed, resource))
    view.memory.constrain(model, placed)
    model.minimize(largest)
    solver, status = search(model, effort)
    bound = dual.bound
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        ranks = placed.ranks(solver)
        if view.memory.fits(ranks) and (best is None or view.key(ranks) < view.key(best)):
            best = ranks
        bound = max(bound, (solver.best_objective_bound - len(ranks)) / NANO)
    if best is None:
        raise no_placement(problem, view.memory, status == cp_model.INFEASIBLE)
    return best, min(bound, view.loads(best).bottleneck_s), "cp-sat"
