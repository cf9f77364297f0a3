"""The exact optimum of D3's objective over all legal placements: what HPA is judged against.

How it is found and proven is in `optimum.py`; the notes of a plan say by which method.
"""

from __future__ import annotations

from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.optimum import optimum
from testbed.planners.options import read
from testbed.planners.prices import make_plan, prices


class Optimal:
    """The untiled optimum; `d3` may beat it where tiles gain, `optimal-tiles` is the bound for that."""

    name = "optimal"

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch."""
        read(problem, self.name)
        priced = prices(problem)
        ranks, method = optimum(problem, priced)
        plan = make_plan(self.name, problem, ranks, notes={"method": method})
        return Decision(plan, priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch."""
        return self.plan(problem)
