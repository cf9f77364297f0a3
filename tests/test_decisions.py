"""What every registered planner's decision promises, whoever wrote it: a legal plan, and D3's objective of that plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planner_problems import random_problem, spatial_problem

from testbed import registry
from testbed.errors import PlannerError
from testbed.planners.base import Change
from testbed.planners.evaluate import objective_s

NEEDS_EXITS = ("ddnn",)
"""Refuse a network that has none."""


def problems() -> list:  # type: ignore[type-arg]
    """Chains and DAGs by both routes, and a small CNN on three hosts."""
    drawn = [random_problem(seed, route=route, size=7) for seed in (1, 2, 3) for route in ("relay", "direct")]  # type: ignore[arg-type]
    return [*drawn, replace(spatial_problem(5, blocks=1, hosts=3), options={})]


@pytest.mark.parametrize("name", [name for name in registry.planners() if name not in NEEDS_EXITS])
def test_decisions_tell_d3s_sum_of_their_plan_also_after_a_change(name: str) -> None:
    for problem in problems():
        planner = registry.planner(name)
        first = planner.plan(problem)
        slower = replace(problem.network.edge_cloud, rate_bps=problem.network.edge_cloud.rate_bps / 7)
        later = replace(problem, network=problem.network.with_path("edge_cloud", slower))
        second = planner.replan(later, first.plan, Change(paths=frozenset({"edge_cloud"})))
        for asked, decision in ((problem, first), (later, second)):
            decision.plan.check(asked.graph)
            assert decision.objective_s == pytest.approx(objective_s(asked, decision.plan), rel=1e-6)


@pytest.mark.parametrize("name", NEEDS_EXITS)
def test_who_needs_exits_says_so(name: str) -> None:
    with pytest.raises(PlannerError, match="needs a network with an exit"):
        registry.planner(name).plan(spatial_problem(5, blocks=1))
