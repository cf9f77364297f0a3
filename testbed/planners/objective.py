"""D3's objective of a plan: the sum of its compute and transfer seconds, over exactly what its programs do and send.

No overlap, no queues: that is `evaluate.critical_path`. The result's way back is not part of D3's objective.
"""

from __future__ import annotations

from d3node.exits import reaching
from d3node.plan import TIERS, Plan
from d3node.program import lower, lower_all
from testbed.planners.base import Problem
from testbed.planners.exit_paths import is_special, sent_bytes
from testbed.planners.tile_steps import step_times


def objective_s(problem: Problem, plan: Plan) -> float:
    """Seconds of all steps plus all sends of a legal plan; a stack counts as the VSM cost model's time for it.

    With route "relay" a tensor crosses each tier boundary at most once, with "direct" it goes once to every tier that
    needs it. Raises PlanError for an illegal plan.
    """
    graph = problem.graph
    plan.check(graph)
    if is_special(plan):
        return _expected_s(problem, plan)
    tier_of = {host: tier for tier, host in plan.hosts.items()}
    total = 0.0
    programs = lower(graph, plan, problem.network.route)
    for tier in TIERS:
        if tier not in programs:
            continue
        program = programs[tier]
        for step in program.steps:
            if step.stack is None:
                total += problem.costs.run_s(step.vertices, tier, program.host)
            else:
                total += step_times(problem, plan, step).total_s
        for send in program.sends:
            total += problem.network.transfer_s(graph[send.vertex].output_bytes, tier, tier_of[send.host])
    return total


def _expected_s(problem: Problem, plan: Plan) -> float:
    """The same in expectation, where exits may end a request before it all is done; sums over all devices that take part."""
    graph, network = problem.graph, problem.network
    programs = lower_all(graph, plan, network.route)
    tier_of = {program.host: program.tier for program in programs}
    reach = reaching(plan.exits)
    total = 0.0
    for program in programs:
        for step in program.steps:
            if step.stack is None:
                total += reach[step.after] * problem.costs.run_s(step.vertices, program.tier, program.host)
            else:
                total += reach[step.after] * step_times(problem, plan, step).total_s
        for send in program.sends:
            seconds = network.transfer_s(sent_bytes(graph, plan, send.vertex), program.tier, tier_of[send.host])
            total += reach[send.after] * seconds
    return total
