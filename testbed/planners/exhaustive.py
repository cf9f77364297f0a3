"""Brute force over all legal placements: the oracle that other planners are tested against, for very small graphs."""

from __future__ import annotations

from d3node.graph import INPUT
from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, make_plan, prices

LARGEST = 9
"""Vertices, the input included, up to which brute force is accepted (at most 3^8 placements)."""


class Exhaustive:
    """The untiled placement with the least objective, found by trying every legal one."""

    name = "exhaustive"

    def plan(self, problem: Problem) -> Decision:
        """Raises PlannerError for graphs of more than nine vertices."""
        read(problem, self.name)
        size = len(problem.graph)
        if size > LARGEST:
            raise PlannerError(
                f"planner 'exhaustive' takes graphs of up to {LARGEST} vertices, {problem.graph.name!r} has {size}; use 'optimal'"
            )
        priced = prices(problem)
        ranks = [DEVICE] * size
        best, best_s, tried = list(ranks), float("inf"), 0

        def place(v: int) -> None:
            nonlocal best, best_s, tried
            if v == size:
                tried += 1
                seconds = priced.objective(ranks)
                if seconds < best_s:
                    best, best_s = list(ranks), seconds
                return
            for rank in range(priced.floor(v, ranks), CLOUD + 1):
                ranks[v] = rank
                place(v + 1)
            ranks[v] = DEVICE

        place(INPUT + 1)
        return Decision(make_plan(self.name, problem, best, notes={"tried": tried}), best_s, priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch."""
        return self.plan(problem)
