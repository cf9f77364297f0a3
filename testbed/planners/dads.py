"""DADS (Hu et al., INFOCOM 2019): a placement on two tiers by minimum cuts, for light load (DSL) and for heavy load (DSH).

Light: the least sum of compute and transfer seconds, one cut. Heavy: requests come faster than the light plan's slowest stage can
take them, so the longest of the three stage times is made small instead; that is NP-hard, and `dsh.py` has the paper's search. A
plan is light while its longest stage is below the time between two requests. Options:

- `tiers`: the paper's edge is a Raspberry Pi with a camera, its cloud a VM. "edge-cloud" (the default, as D3's tiers are named),
  "device-edge", "device-cloud".
- `load`: "auto" decides by the request rate of the scenario (light where the next request waits for the answer); "light" and
  "heavy" force DSL and DSH.
- `dsh_points`, `dsh_shrink`, `dsh_gain`: the search of DSH.
"""

from __future__ import annotations

from typing import Any

from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.dsh import busy_seconds, least_stage
from testbed.planners.options import read
from testbed.planners.prices import prices
from testbed.planners.two_tier_cut import least_sum
from testbed.planners.two_tiers import decision, two_tiers


class Dads:
    """DSL, and DSH where the load asks for it."""

    name = "dads"

    def plan(self, problem: Problem) -> Decision:
        """Solve from scratch. Notes: "algorithm", the stage times, and "overloaded" where even DSH's longest stage is longer than
        the time between two requests (the paper then asks the source to slow down; here requests queue)."""
        values = read(problem, self.name)
        priced = prices(problem, sparse=True)
        pair = two_tiers(priced, values["tiers"])
        busy_s = busy_seconds(problem, pair)
        ranks = least_sum(problem.graph, pair)
        stages = pair.stages(ranks, busy_s)
        period_s = 1.0 / problem.requests_per_s if problem.requests_per_s else float("inf")
        heavy = values["load"] == "heavy" or (values["load"] == "auto" and max(stages) >= period_s)
        notes: dict[str, Any] = {"tiers": values["tiers"], "algorithm": "dsh" if heavy else "dsl"}
        if heavy:
            found = least_stage(problem.graph, pair, busy_s, values, ranks)
            ranks, stages = found.ranks, found.stages
            notes |= {"alpha": found.alpha, "gamma": found.gamma, "cuts": found.cuts}
        notes |= {"stages_s": list(stages), "overloaded": max(stages) >= period_s}
        return decision(self.name, problem, priced, ranks, notes)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Solve again from scratch, as in the paper."""
        return self.plan(problem)
