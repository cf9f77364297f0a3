"""What plans are held against: a proven lower bound of an objective over all untiled placements, and a plan's own value of it.

Latency is D3's sum, throughput the bottleneck, critical path the first answer on an idle network. Bounds keep to the hosts'
memory limits. How they are found is the planners' business; where the effort is spent first, the bound proven by then stands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from d3node.plan import Plan
from testbed.planners.base import Problem
from testbed.planners.capacitated import within_capacities
from testbed.planners.cpsat import EFFORT
from testbed.planners.critical_optimum import fastest
from testbed.planners.evaluate import Prediction, objective_s
from testbed.planners.optimum import optimum
from testbed.planners.prices import prices
from testbed.planners.throughput import smallest_bound

Objective = Literal["latency", "throughput", "critical-path"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class Bound:
    """Seconds that no untiled placement is below; `reached` when one has them."""

    seconds: float
    reached: bool


def value_s(problem: Problem, plan: Plan, prediction: Prediction, objective: Objective) -> float:
    """A plan's own value of an objective, in seconds; `prediction` is its critical path under the same problem."""
    if objective == "throughput":
        return prediction.bottleneck_s
    return prediction.latency_s if objective == "critical-path" else objective_s(problem, plan)


def bound(problem: Problem, objective: Objective) -> Bound:
    """The lower bound of an objective. Raises CapacityError where memory limits leave no placement."""
    plain = replace(problem, options={})
    priced = prices(plain)
    if objective == "throughput":
        seconds, proven = smallest_bound(plain, priced, EFFORT)
        return Bound(seconds, proven)
    if objective == "critical-path":
        first = fastest(plain, priced, EFFORT)
        return Bound(first.bound_s, first.proven)
    if plain.capacities:
        outcome = within_capacities(plain, priced, EFFORT)
        return Bound(outcome.bound_s, outcome.status == "optimal")
    return Bound(priced.objective(optimum(plain, priced)[0]), True)
