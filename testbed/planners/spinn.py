"""SPINN (Laskaridis et al., MobiCom 2020): early exits, one confidence threshold, and the split chosen together with it.

Every pair of split and threshold is priced from the calibration (exit rates, accuracy, coded sizes) and the present network; what
breaks a hard limit is discarded, and the rest ranked by the user's objective. docs/systems/spinn.md says where this differs
from the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from d3node.calibration import Calibration
from d3node.codec import Coding
from d3node.exits import Exit
from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.branches import after_relu, cut_ranks, outputs_in_order, path_to
from testbed.planners.evaluate import Prediction, critical_path
from testbed.planners.objective import objective_s
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Confidences that are tried; at 1.0 hardly any request ends early."""

ORDER = ("latency", "accuracy", "throughput", "server")
"""Objectives; the user's first, then the others in this order."""


@dataclass(frozen=True)
class Configuration:
    """One split and threshold, and what is expected of it. `server_s`: seconds that a request keeps the server busy."""

    plan: Plan
    cut: int
    threshold: float
    accuracy: float
    prediction: Prediction
    server_s: float

    def cost(self, objective: str) -> float:
        """What is to be small."""
        if objective == "latency":
            return self.prediction.latency_s
        if objective == "accuracy":
            return 1.0 - self.accuracy
        return self.prediction.bottleneck_s if objective == "throughput" else self.server_s


class Spinn:
    """Exhaustive search over split and threshold under a service level."""

    name = "spinn"

    def plan(self, problem: Problem) -> Decision:
        """The best configuration. Raises PlannerError where none keeps the limits."""
        values = read(problem, self.name)
        found = list(self.configurations(problem, values))
        kept = [one for one in found if self._keeps(problem, one, values)]
        if not kept:
            nearest = min(found, key=lambda one: one.prediction.latency_s)
            raise PlannerError(
                f"spinn: no split and threshold keeps deadline_ms={values['deadline_ms']:g} and"
                f" accuracy_loss={values['accuracy_loss']:g}; the fastest takes {nearest.prediction.latency_s * 1e3:.1f} ms"
                f" with accuracy {nearest.accuracy:.1%}"
            )
        return self._decision(problem, ranked(kept, values["priority"], values["slack"]), True)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The search again; where nothing keeps the limits any more, the fastest configuration (the run goes on)."""
        values = read(problem, self.name)
        found = list(self.configurations(problem, values))
        kept = [one for one in found if self._keeps(problem, one, values)]
        best = ranked(kept, values["priority"], values["slack"]) if kept else min(found, key=lambda c: c.cost("latency"))
        return self._decision(problem, best, bool(kept))

    def configurations(self, problem: Problem, values: dict[str, Any]) -> Iterator[Configuration]:
        """Every split and threshold. Of a network that nothing was measured of, every output is the answer: splits alone."""
        graph, calibration = problem.graph, problem.calibration
        outputs = outputs_in_order(graph)
        rear = CLOUD if values["server"] == "cloud" else EDGE
        main = path_to(graph, outputs[-1]) if calibration is not None else tuple(range(1, len(graph)))
        for cut in range(len(main) + 1):
            inner = 0 < cut < len(main)
            if inner and values["splits"] == "relu" and not after_relu(graph, main[cut - 1]):
                continue
            ranks = cut_ranks(graph, main, cut, rear)
            for threshold in THRESHOLDS if calibration is not None else (1.0,):
                exits, accuracy = _exits(calibration, ranks, outputs, threshold)
                plan = self._plan(problem, values, ranks, exits)
                prediction = critical_path(problem, plan)
                server = prediction.busy_s.get(problem.hosts[values["server"]], 0.0)
                yield Configuration(plan, cut, threshold, accuracy, prediction, server)

    def _plan(self, problem: Problem, values: dict[str, Any], ranks: list[int], exits: tuple[Exit, ...]) -> Plan:
        calibration = problem.calibration
        insured = values["timeout_ms"] > 0.0 and any(e.local for e in exits) and not exits[-1].local
        crossing = sorted({u for u, v in problem.graph.edges if ranks[u] != ranks[v]})
        coding: Coding = values["coding"] if crossing else "float32"
        sizes = tuple((v, calibration.coded[v]) for v in crossing) if calibration and coding != "float32" else ()
        return replace(
            make_plan(self.name, problem, ranks),
            exits=exits,
            coding=coding,
            coded_bytes=sizes,
            fallback_s=values["timeout_ms"] / 1e3 if insured else None,
        )

    def _keeps(self, problem: Problem, one: Configuration, values: dict[str, Any]) -> bool:
        calibration = problem.calibration
        best = calibration.accuracies()[-1] if calibration is not None else 1.0
        in_time = not values["deadline_ms"] or one.prediction.latency_s <= values["deadline_ms"] / 1e3
        return bool(in_time and best - one.accuracy <= values["accuracy_loss"] / 100.0 + 1e-12)

    def _decision(self, problem: Problem, best: Configuration, met: bool) -> Decision:
        notes = {
            "cut": best.cut,
            "threshold": best.threshold,
            "expected_accuracy": best.accuracy,
            "exit_rates": [e.rate for e in best.plan.exits],
            "limits_kept": met,
        }
        plan = replace(best.plan, notes=notes)
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(problem.graph))), notes)


def _exits(
    calibration: Calibration | None, ranks: list[int], outputs: tuple[int, ...], threshold: float
) -> tuple[tuple[Exit, ...], float]:
    """The exits of a plan, and the accuracy that the whole is expected to have (1 where nothing is known)."""
    if calibration is None:
        return (), 1.0
    thresholds = (*[threshold] * (len(outputs) - 1), None)
    outcome = calibration.outcome(range(len(outputs)), "confidence", thresholds)
    exits = tuple(
        Exit(v, "confidence", limit, rate, local=ranks[v] == DEVICE)
        for v, limit, rate in zip(outputs, thresholds, outcome.rates, strict=True)
    )
    return exits, outcome.accuracy


def ranked(found: list[Configuration], first: str, slack: float) -> Configuration:
    """The best by the ordered objectives: those within `slack` (relative) of the best by one are ranked by the next."""
    for objective in (first, *(other for other in ORDER if other != first)):
        least = min(one.cost(objective) for one in found)
        found = [one for one in found if one.cost(objective) <= least * (1.0 + slack) + 1e-12]
    return found[0]
