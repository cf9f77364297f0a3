"""How the untiled optimum is found and proven, for any prices.

Route "relay": one minimum cut. Route "direct": a cut is a lower bound; where the plan it yields costs exactly that much it is
optimal, else CP-SAT decides.
"""

from __future__ import annotations

from testbed.errors import PlannerError
from testbed.planners.base import Problem
from testbed.planners.cpsat import solve
from testbed.planners.mincut import minimum_cut
from testbed.planners.prices import CLOUD, EDGE, Prices


def optimum(problem: Problem, priced: Prices) -> tuple[list[int], str]:
    """Ranks of an optimal untiled placement at the given prices, and the method that proved it ("min-cut" or "cp-sat").

    Raises PlannerError where neither proves one.
    """
    graph = problem.graph
    if priced.relay:
        return minimum_cut(graph, priced)[0], "min-cut"
    tried = []
    for exact in (EDGE, CLOUD):
        ranks, bound_ns = minimum_cut(graph, priced, exact)
        if priced.objective(ranks) * 1e9 <= bound_ns + 3 * len(graph):  # every price is rounded to a whole nanosecond
            return ranks, "min-cut"
        tried.append(ranks)
    solution = solve(graph, priced, min(tried, key=priced.objective))
    if not solution.proven:
        raise PlannerError(f'CP-SAT could not prove an optimum for {graph.name!r} within its effort; try route "relay"')
    return solution.ranks, "cp-sat"
