"""The planner of docs/own_planner.md runs as the page says, and what a function may return is checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from planner_problems import random_problem

from d3node.plan import Plan
from testbed import registry
from testbed.cli import main
from testbed.errors import PlannerError
from testbed.planners.base import Decision, Problem
from testbed.planners.function import FunctionPlanner
from testbed.planners.objective import objective_s

PAGE = Path(__file__).resolve().parent.parent / "docs" / "own_planner.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_pages_planner_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (source,) = blocks("python")
    assert len(source.splitlines()) <= 25
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    small = ["--model", "alexnet", "--set", "compute.tensors=sizes", "--set", "requests.count=3"]
    for line in blocks("sh")[0].splitlines():
        words = shlex.split(line)[1:]
        assert main([*words, *(small if words[0] == "run" else small[:2])]) == 0
        assert "mine.py:best_cut" in capsys.readouterr().out


class TestWhatAFunctionReturns:
    problem = random_problem(5)

    def tiers(self, *given: str) -> list[str]:
        return ["device", *given, *["cloud"] * (len(self.problem.graph) - 1 - len(given))]

    def decide(self, answer: Any) -> Decision:
        return FunctionPlanner("f", lambda problem: answer).plan(self.problem)

    def test_tiers_become_a_priced_plan(self) -> None:
        decision = self.decide(self.tiers())
        assert decision.plan.tiers == tuple(self.tiers())
        assert decision.plan.hosts == self.problem.hosts
        assert decision.objective_s == objective_s(self.problem, decision.plan)

    def test_plans_and_decisions_pass(self) -> None:
        decision = self.decide(self.tiers())
        assert self.decide(decision.plan).plan is decision.plan
        assert self.decide(decision) is decision

    @pytest.mark.parametrize("answer", [None, 3, "cloud", ["device"]])
    def test_anything_else_is_refused(self, answer: Any) -> None:
        with pytest.raises(PlannerError, match="a tier for each of the"):
            self.decide(answer)

    def test_an_unknown_tier_is_named(self) -> None:
        with pytest.raises(PlannerError, match="'fog' is no tier; tiers are device, edge, cloud"):
            self.decide(["device", *["fog"] * (len(self.problem.graph) - 1)])

    def test_an_illegal_plan_is_refused(self) -> None:
        from d3node.errors import PlanError

        with pytest.raises(PlanError, match="the input vertex belongs to the device"):
            self.decide(["cloud"] * len(self.problem.graph))


def test_replanning_calls_the_function_again(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(
        "calls = []\n\ndef plan(problem, seen=calls):\n    seen.append(1)\n    return ['device'] * len(problem.graph)\n"
    )
    planner = registry.planner(f"{tmp_path / 'count.py'}:plan")
    assert planner.name == "count.py:plan"
    problem: Problem = random_problem(2)
    first: Plan = planner.plan(problem).plan
    from testbed.planners.base import Change

    assert planner.replan(problem, first, Change()).plan.same_placement(first)
