"""Brute force over all legal placements: the oracle that other planners are tested against, for very small graphs."""

from __future__ import annotations

from collections.abc import Callable

from d3node.graph import INPUT
from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.capacitated import MemoryLimits, no_placement
from testbed.planners.critical_optimum import latency_of
from testbed.planners.loads import busy, loads
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, Prices, make_plan, prices

LARGEST = 9
"""Vertices, the input included, up to which brute force is accepted (at most 3^8 placements)."""


class Exhaustive:
    """The untiled placement with the least objective (any of those of `optimal`), found by trying every legal one."""

    name = "exhaustive"

    def plan(self, problem: Problem) -> Decision:
        """Raises PlannerError for graphs of more than nine vertices."""
        values = read(problem, self.name)
        size = len(problem.graph)
        if size > LARGEST:
            raise PlannerError(
                f"planner 'exhaustive' takes graphs of up to {LARGEST} vertices, {problem.graph.name!r} has {size}; use 'optimal'"
            )
        priced = prices(problem)
        measure = _measure(problem, priced, values["objective"])
        limits = MemoryLimits.of(problem)
        ranks = [DEVICE] * size
        best, best_s, tried = list(ranks), float("inf"), 0

        def place(v: int) -> None:
            nonlocal best, best_s, tried
            if v == size:
                tried += 1
                seconds = measure(ranks)
                if seconds < best_s and limits.fits(ranks):
                    best, best_s = list(ranks), seconds
                return
            for rank in range(priced.floor(v, ranks), CLOUD + 1):
                ranks[v] = rank
                place(v + 1)
            ranks[v] = DEVICE

        place(INPUT + 1)
        if best_s == float("inf"):
            raise no_placement(problem, limits, True)
        plan = make_plan(self.name, problem, best, notes={"tried": tried, "objective": values["objective"], "value_s": best_s})
        return Decision(plan, priced.objective(best), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch."""
        return self.plan(problem)


def _measure(problem: Problem, priced: Prices, objective: str) -> Callable[[list[int]], float]:
    """What is minimised, in seconds."""
    if objective == "throughput":
        resources = busy(problem, priced)
        return lambda ranks: loads(resources, priced, ranks).bottleneck_s
    if objective == "critical-path":
        return lambda ranks: latency_of(problem, ranks)
    return priced.objective
