"""How the untiled optimum is found and proven, for any prices.

Route "relay": one minimum cut. Route "direct": the same cut is a bound; where the plan it yields costs exactly that much it is
optimal, else, or where the direct path is cheaper than both hops for some tensor, CP-SAT decides.
"""

from __future__ import annotations

from testbed.errors import PlannerError
from testbed.planners.base import Problem
from testbed.planners.cpsat import solve
from testbed.planners.mincut import minimum_cut, price_vector
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices


def optimum(problem: Problem, priced: Prices) -> tuple[list[int], str]:
    """Ranks of an optimal untiled placement at the given prices, and the method that proved it ("min-cut" or "cp-sat")."""
    graph = problem.graph
    size = len(graph)
    if priced.relay:
        return minimum_cut(graph, priced)[0], "min-cut"
    if (price_vector(priced)[5 * size :] >= 0).all():
        ranks, bound_ns = minimum_cut(graph, priced)
        if priced.objective(ranks) * 1e9 <= bound_ns + 3 * size:  # every price is rounded to a whole nanosecond
            return ranks, "min-cut"
    else:
        ranks = min(([DEVICE] + [rank] * (size - 1) for rank in (DEVICE, EDGE, CLOUD)), key=priced.objective)
    solution = solve(graph, priced, ranks)
    if not solution.proven:
        raise PlannerError(f'CP-SAT could not prove an optimum for {graph.name!r} within its effort; try route "relay"')
    return solution.ranks, "cp-sat"
