"""What a step of tiles costs, whichever way its tiles travel: sent and returned, handed over among stacks, or fetched."""

from __future__ import annotations

from d3node.plan import Plan
from d3node.program import Step
from testbed.planners.base import Problem
from testbed.planners.chain_times import chain_times
from testbed.planners.pool_times import pool_times
from testbed.planners.tiling import StackTimes, stack_times


def step_times(problem: Problem, plan: Plan, step: Step) -> StackTimes:
    """Times of a step that has a stack. Raises PlannerError for a host without a LAN path."""
    assert step.stack is not None
    if len(step.stacks) > 1:
        return chain_times(problem, plan, step.stacks)
    stack = plan.stacks[step.stack]
    return pool_times(problem, stack) if stack.pooled else stack_times(problem, stack)
