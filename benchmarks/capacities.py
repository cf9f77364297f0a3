"""Memory limits on the zoo: what they cost, how long the exact answer takes, and how good bound and placement are without CP-SAT.

Hosts and network of `benchmarks/_problems.py`. The device is limited to its input and a bit, the edge host to a share of what the
free optimum needs there (where that uses the edge). "exact": CP-SAT takes part; "dual": Lagrangian dual and hill climbing only.
Ratios are of sums of compute and transfer seconds.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from benchmarks._problems import MODELS, problem_of
from d3node.model import ModelSpec, load_graph
from testbed.errors import CapacityError
from testbed.planners.base import Problem
from testbed.planners.capacitated import within_capacities
from testbed.planners.limited import Outcome
from testbed.planners.memory import tier_needs
from testbed.planners.mincut import minimum_cut
from testbed.planners.prices import prices

TITLE = "Placements within memory limits"
SHARES = (0.75, 0.5, 0.25)
EFFORT = 20.0


def solved(problem: Problem, effort: float) -> tuple[Outcome | None, float]:
    """The outcome (None: nothing found) and the seconds it took."""
    started = time.perf_counter()
    try:
        found = within_capacities(problem, prices(problem), effort)
    except CapacityError:
        return None, time.perf_counter() - started
    return found, time.perf_counter() - started


def run() -> list[dict[str, Any]]:
    """Rows by model and limit."""
    rows = []
    for name in MODELS:
        problem = problem_of(load_graph(ModelSpec(name)))
        priced = prices(problem)
        free = minimum_cut(problem.graph, priced)[0]
        needs = tier_needs(problem.graph, free, True)
        for share in SHARES:
            limits = {"d1": 1.5 * needs[0].total, "e1": share * needs[1].total}
            exact, exact_s = solved(replace(problem, capacities=limits), EFFORT)
            dual, dual_s = solved(replace(problem, capacities=limits), 0.0)
            assert exact is not None, "the cloud is not limited"
            rows.append(
                {
                    "model": name,
                    "vertices": len(problem.graph),
                    "edge memory": f"{limits['e1'] / 1e6:.1f} MB",
                    "over the free optimum": exact.value_s / priced.objective(free),
                    "exact by": exact.method,
                    "exact s": round(exact_s, 2),
                    "proven": exact.status,
                    "dual's placement / exact": "none" if dual is None else f"{dual.value_s / exact.value_s:.3f}",
                    "dual's bound / exact": "" if dual is None else f"{dual.bound_s / exact.value_s:.3f}",
                    "dual s": round(dual_s, 2),
                }
            )
    return rows


if __name__ == "__main__":
    from rich.console import Console

    from benchmarks.__main__ import table

    Console(width=160).print(table(TITLE, run()))
