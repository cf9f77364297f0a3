"""The exact optimum of D3's objective over all legal placements: what HPA is judged against.

How it is found and proven is in `optimum.py` and, with tiles, in `optimal_tiles.py`; a plan's notes say by which method.
"""

from __future__ import annotations

from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.optimal_tiles import optimum_with_tiles
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


class OptimalTiles:
    """The optimum over placements and VSM's stacks together: the bound for `d3` under the same options of VSM."""

    name = "optimal-tiles"

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch."""
        values = read(problem, self.name)
        priced = prices(problem)
        best = optimum_with_tiles(problem, priced, values)
        notes = {"method": best.method, "proven": best.proven, "bound_s": best.bound_s, "tiling_gain_s": best.gain_s}
        plan = make_plan(self.name, problem, best.ranks, best.stacks, notes)
        return Decision(plan, priced.objective(best.ranks) - best.gain_s, priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch."""
        return self.plan(problem)
