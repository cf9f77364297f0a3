"""A planner made of one function, as a user's file may hold it: `plan(problem)` -> tiers, a plan, or a decision.

It always plans anew (`replan` is `plan`), checks that what came back is legal, and prices it with D3's objective.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from d3node.plan import RANK, Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.objective import objective_s
from testbed.planners.prices import make_plan


def takes_a_problem(found: Callable[..., Any]) -> bool:
    """Whether a callable is such a function: no class, and with one parameter that must be given."""
    if inspect.isclass(found):
        return False
    required = [
        parameter
        for parameter in inspect.signature(found).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return len(required) == 1


class FunctionPlanner:
    """Calls `function` for every plan. PlannerError: what it says is neither tiers nor a plan; PlanError: it is illegal."""

    def __init__(self, name: str, function: Callable[[Problem], Any]) -> None:
        self.name = name
        self._function = function

    def plan(self, problem: Problem) -> Decision:
        """What the function says, checked and priced."""
        answer = self._function(problem)
        if isinstance(answer, Decision):
            answer.plan.check(problem.graph)
            return answer
        plan = answer if isinstance(answer, Plan) else self._from_tiers(problem, answer)
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(problem.graph))))

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """A full plan: a function has no partial form."""
        return self.plan(problem)

    def _from_tiers(self, problem: Problem, answer: Any) -> Plan:
        size = len(problem.graph)
        if not isinstance(answer, Sequence) or isinstance(answer, str) or len(answer) != size:
            raise PlannerError(
                f"{self.name} must answer with a tier for each of the {size} vertices, a Plan or a Decision, not {answer!r:.80}"
            )
        if wrong := [tier for tier in answer if tier not in RANK]:
            raise PlannerError(f"{self.name}: {wrong[0]!r} is no tier; tiers are {', '.join(RANK)}")
        return make_plan(self.name, problem, [RANK[tier] for tier in answer])
