"""DDNN (Teerapittayanon, McDanel, Kung, ICDCS 2017): one network over devices, edge and cloud, with an exit at each border.

There is nothing to optimise: each device computes what depends on its view alone, the leading edge host is the local aggregator
and the edge, the cloud has the rest. An exit answers where the normalised entropy is at most T. How the network is trained is
`d3node.train`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from d3node.codec import Coding
from d3node.exits import Exit, stages
from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.branches import outputs_in_order
from testbed.planners.objective import objective_s
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, make_plan


class Ddnn:
    """The placement that the paper fixes, for as many devices as the network has views."""

    name = "ddnn"

    def plan(self, problem: Problem) -> Decision:
        """Raises PlannerError for a network that does not have two or three exits, or more views than there are devices."""
        values = read(problem, self.name)
        graph = problem.graph
        outputs = outputs_in_order(graph)
        if len(outputs) not in (2, 3):
            raise PlannerError(
                f"ddnn needs a network with an exit at each border (two or three); {graph.name!r} has {len(outputs)}"
            )
        views = views_of(graph)
        devices = problem.devices or (problem.hosts["device"],)
        if len(views) > len(devices):
            raise PlannerError(f"ddnn: {graph.name!r} has {len(views)} views, but the site only {len(devices)} devices")
        ranks = borders(graph, outputs, views)
        placed = tuple(sorted((v, devices[d]) for d, part in enumerate(views) for v in part if ranks[v] == DEVICE and d))
        thresholds = (*[values["threshold"]] * (len(outputs) - 1), None)
        rates: Sequence[float] = [0.5] * (len(outputs) - 1) + [1.0]
        notes: dict[str, Any] = {"views": len(views)}
        if problem.calibration is not None:
            outcome = problem.calibration.outcome(range(len(outputs)), "entropy", thresholds)
            rates = outcome.rates
            notes |= {"expected_accuracy": outcome.accuracy, "exit_rates": list(rates)}
        exits = tuple(
            Exit(v, "entropy", limit, rate, local=k == 0)
            for k, (v, limit, rate) in enumerate(zip(outputs, thresholds, rates, strict=True))
        )
        coding = coding_of(graph, ranks)
        features = [v for v in crossing(graph, ranks) if ranks[v] == DEVICE and len(graph[v].output_shape) == 4]
        if features and v_count(graph, features[0]):
            notes["formula_bytes"] = traffic_bytes(
                graph[outputs[0]].output_shape[-1], rates[0], v_count(graph, features[0]), 1 if coding == "sign-bits" else 32
            )
        plan = replace(
            make_plan(self.name, problem, ranks, notes=notes),
            exits=exits,
            coding=coding,
            placed=placed,
            patience_s=values["patience_ms"] / 1e3 if placed and values["patience_ms"] > 0.0 else None,
        )
        return Decision(plan, objective_s(problem, plan), frozenset(range(len(graph))), notes)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Nothing to decide: the same placement."""
        decision = self.plan(problem)
        return replace(decision, touched=frozenset()) if decision.plan.same_placement(current) else decision


def views_of(graph: LayerGraph) -> list[tuple[int, ...]]:
    """For every view (what reads the input) the vertices that depend on it alone; one view where there is nothing to join."""
    roots = graph.successors[INPUT]
    seen: list[frozenset[int]] = [frozenset()]
    for vertex in graph.vertices[1:]:
        seen.append(frozenset({vertex.index} if vertex.inputs == (INPUT,) else set().union(*(seen[u] for u in vertex.inputs))))
    if len(roots) < 2 or any(INPUT in vertex.inputs and len(vertex.inputs) > 1 for vertex in graph):
        return [tuple(range(1, len(graph)))]
    return [tuple(v for v in range(1, len(graph)) if seen[v] == {root}) for root in roots]


def borders(graph: LayerGraph, outputs: Sequence[int], views: Sequence[Sequence[int]]) -> list[int]:
    """Ranks: with several views, what depends on one view alone is on its device, and the first exit is joined at the edge; with
    one, the first exit is the device's. The last exit is the cloud's, one between them the edge's."""
    stage = stages(graph, tuple(Exit(v) for v in outputs))
    several = len(views) > 1
    alone = {v for part in views for v in part} if several else {v for v in range(len(graph)) if stage[v] == 0}
    ranks = [DEVICE] * len(graph)
    for vertex in graph.vertices[1:]:
        v, last = vertex.index, len(outputs) - 1
        own = DEVICE if v in alone else CLOUD if stage[v] == last else EDGE
        ranks[v] = max([own, *(ranks[u] for u in vertex.inputs)])
    return ranks


def crossing(graph: LayerGraph, ranks: Sequence[int]) -> list[int]:
    """Vertices whose tensors cross between tiers."""
    return sorted({u for u, v in graph.edges if ranks[u] != ranks[v]})


def coding_of(graph: LayerGraph, ranks: Sequence[int]) -> Coding:
    """One bit a value, where all feature maps that cross are signs."""
    maps = [v for v in crossing(graph, ranks) if v != INPUT and len(graph[v].output_shape) == 4]
    signs = all(any(".sign." in one.target for one in graph[v].operators) for v in maps)
    return "sign-bits" if maps and signs else "float32"


def v_count(graph: LayerGraph, v: int) -> int:
    """Values of a vertex's tensor: f filters times o outputs each."""
    count = 1
    for n in graph[v].output_shape:
        count *= n
    return count


def traffic_bytes(classes: int, local_share: float, values: int, bits: int = 1) -> float:
    """The paper's bytes per sample and device (section IV-F): class scores always, features when the local exit is not sure.

    c = 4 |C| + (1 - l) f o / 8 for binary features; `values` is f o, `bits` 32 for float ones. Headers are not counted.
    """
    return 4.0 * classes + (1.0 - local_share) * values * bits / 8.0
