"""The exact optimum over all legal untiled placements, by objective: what the other planners are judged against.

`objective`: "latency" (the default: D3's sum of compute and transfer seconds), "throughput" (the smallest bottleneck; `rate`
asks for the least sum that sustains so many requests a second) or "critical-path" (the first answer on an idle network). How
each is found and proven is in `optimum.py`, `throughput.py` and `critical_optimum.py`; where the hosts' memory is limited, all
of them keep to it. Notes say the method, and for objectives that CP-SAT decides the status and the bound; `effort` is its
limit in deterministic seconds.
"""

from __future__ import annotations

from typing import Any

from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.capacitated import within_capacities
from testbed.planners.critical_optimum import fastest
from testbed.planners.optimal_tiles import optimum_with_tiles
from testbed.planners.optimum import optimum
from testbed.planners.options import read
from testbed.planners.prices import Prices, make_plan, prices
from testbed.planners.throughput import smallest


class Optimal:
    """The untiled optimum; `d3` may beat it where tiles gain, `optimal-tiles` is the bound for that."""

    name = "optimal"
    objective: str | None = None
    """Fixed by the planners that stand for one objective; an option otherwise."""

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch. Raises PlannerError where the sum's optimum cannot be proven, CapacityError where nothing fits."""
        values = read(problem, self.name)
        priced = prices(problem)
        ranks, notes = self._best(problem, priced, values)
        plan = make_plan(self.name, problem, ranks, notes=notes)
        return Decision(plan, priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The optimum again, from scratch."""
        return self.plan(problem)

    def _best(self, problem: Problem, priced: Prices, values: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        objective = self.objective or values["objective"]
        if objective == "throughput":
            smooth = smallest(problem, priced, values["effort"], values["rate"])
            return smooth.ranks, smooth.notes()
        if objective == "critical-path":
            first = fastest(problem, priced, values["effort"])
            return first.ranks, first.notes()
        if problem.capacities:
            outcome = within_capacities(problem, priced, values["effort"])
            if outcome.ranks is None or outcome.status != "optimal":
                raise PlannerError(
                    f"planner {self.name!r}: no optimum within memory limits was proven for {problem.graph.name!r} within its"
                    f" effort (best so far {outcome.value_s:.6g} s, bound {outcome.bound_s:.6g} s); planner 'capacitated'"
                    " takes the best found, or raise planning.options.effort"
                )
            return outcome.ranks, outcome.notes()
        ranks, method = optimum(problem, priced)
        return ranks, {"method": method}


class OptimalThroughput(Optimal):
    """`optimal` with objective "throughput", for runs that compare it with the others."""

    name = "optimal-throughput"
    objective = "throughput"


class OptimalCriticalPath(Optimal):
    """`optimal` with objective "critical-path", for runs that compare it with the others."""

    name = "optimal-critical-path"
    objective = "critical-path"


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
