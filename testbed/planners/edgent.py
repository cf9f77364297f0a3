"""Edgent (Li, Zhou, Chen 2018): right-sizing by exit and cut, so that the most accurate answer in time is given.

From the last exit down, the cut with the least latency A(i, p); the first exit whose A is within the deadline. Direction: the
paper's server computes the front and its device the rear; here, as in later work and for all systems of this testbed, the device
computes the front (docs/systems/edgent.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from d3node.exits import Exit
from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.branches import cut_ranks, outputs_in_order, path_to
from testbed.planners.evaluate import critical_path
from testbed.planners.objective import objective_s
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan


@dataclass(frozen=True)
class Size:
    """One exit with its best cut."""

    exit: int
    cut: int
    latency_s: float
    plan: Plan


class Edgent:
    """The paper's algorithm 1, with the latency of the critical path in place of the sum (they agree on a chain)."""

    name = "edgent"

    def plan(self, problem: Problem) -> Decision:
        """The largest exit in time. Raises PlannerError where none is."""
        values = read(problem, self.name)
        sizes = self.sizes(problem, values)
        deadline_s = values["deadline_ms"] / 1e3
        for size in sizes:
            if size.latency_s <= deadline_s:
                return self._decision(problem, size, True)
        best = min(sizes, key=lambda size: size.latency_s)
        raise PlannerError(
            f"edgent: no exit of {problem.graph.name!r} meets deadline_ms={values['deadline_ms']:g}; the fastest is exit"
            f" {best.exit} with {best.latency_s * 1e3:.1f} ms"
        )

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The same again; where no exit is in time any more, the fastest (a run does not end in the middle of an outage)."""
        values = read(problem, self.name)
        sizes = self.sizes(problem, values)
        kept = [size for size in sizes if size.latency_s <= values["deadline_ms"] / 1e3]
        return self._decision(problem, kept[0] if kept else min(sizes, key=lambda size: size.latency_s), bool(kept))

    def sizes(self, problem: Problem, values: dict[str, Any]) -> list[Size]:
        """Every exit with its best cut, the last exit first."""
        graph = problem.graph
        outputs = outputs_in_order(graph)
        rear = CLOUD if values["server"] == "cloud" else EDGE
        found = []
        for number in reversed(range(len(outputs))):
            main = path_to(graph, outputs[number])
            candidates = []
            for cut in range(len(main) + 1):
                ranks = cut_ranks(graph, main, cut, rear)
                plan = make_plan(self.name, problem, ranks)
                if len(outputs) > 1:  # a network with one output is cut, and stays lossless
                    own = Exit(outputs[number], local=ranks[outputs[number]] == DEVICE)
                    plan = replace(plan, exits=(own,))
                candidates.append(Size(number, cut, critical_path(problem, plan).latency_s, plan))
            found.append(min(candidates, key=lambda size: size.latency_s))
        return found

    def _decision(self, problem: Problem, size: Size, in_time: bool) -> Decision:
        calibration = problem.calibration
        notes: dict[str, Any] = {"exit": size.exit, "cut": size.cut, "expected_s": size.latency_s, "in_time": in_time}
        if calibration is not None:
            notes["expected_accuracy"] = calibration.accuracies()[size.exit]
        plan = replace(size.plan, notes=notes)
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(problem.graph))), notes)
