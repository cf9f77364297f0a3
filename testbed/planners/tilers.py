"""What the systems share that cut feature maps over edge hosts and nothing else: MoDNN, DeepThings, AOFL and CoEdge.

They are for peers on one network: no cloud, and the device only brings the input. Here that means (`edge_part = "whole"`):
every vertex on the edge tier, tiles on its hosts, and what cannot be tiled (dense layers, global pools) on the edge leader,
which stands for their gateway or group owner. `edge_part = "hpa"` is the generalisation that D3 makes of VSM: HPA splits the
network over the three tiers first, and the system tiles the edge part. None of them has a partial re-partition; they plan
again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from d3node.graph import LayerGraph
from d3node.intervals import grid_boxes
from d3node.plan import Handover, Plan, Stack, Tile
from d3node.stacks import with_inputs
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.hpa import Rule, partition
from testbed.planners.objective import objective_s
from testbed.planners.options import read
from testbed.planners.prices import DEVICE, EDGE, make_plan, prices
from testbed.planners.vsm import usable_hosts


class Tiler(ABC):
    """A planner that places vertices as its restriction says and cuts the edge part its own way."""

    name: str

    @abstractmethod
    def stacks(
        self, problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """Stacks of an edge part, and notes for the plan."""

    def plan(self, problem: Problem) -> Decision:
        """Place, then cut. Raises PlannerError for options that do not fit."""
        values = read(problem, self.name)
        priced = prices(problem)
        if values["edge_part"] == "hpa":
            ranks = partition(Rule(priced, values))
        else:
            ranks = [EDGE] * len(problem.graph)
            ranks[0] = DEVICE
        stacks, notes = self.stacks(problem, values, [rank == EDGE for rank in ranks])
        plan = make_plan(self.name, problem, ranks, stacks, {"edge_part": values["edge_part"], **notes})
        return Decision(plan, objective_s(problem, plan), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """From the start; nothing is touched where the outcome is the same."""
        decision = self.plan(problem)
        return replace(decision, touched=frozenset()) if decision.plan.same_placement(current) else decision


def workers(problem: Problem, values: dict[str, Any]) -> tuple[list[str], list[float]]:
    """Hosts that may get tiles, the leader first, then the fastest; and their speeds."""
    hosts = usable_hosts(problem)[: int(values["max_hosts"])]
    return hosts, [problem.costs.speed.get(host, 1.0) for host in hosts]


def runs(graph: LayerGraph, on_edge: Sequence[bool]) -> list[tuple[int, ...]]:
    """The tileable vertices of an edge part in as few runs with one output each as a greedy pass finds, ascending."""
    longest: dict[int, tuple[int, ...]] = {}
    for stack, _ in with_inputs(graph, [v for v, here in enumerate(on_edge) if here], max_inputs=None):
        if len(stack) > len(longest.get(stack[0], ())):
            longest[stack[0]] = stack
    found: list[tuple[int, ...]] = []
    v = 0
    while v < len(graph):
        run = longest.get(v)
        if run is None:
            v += 1
            continue
        found.append(run)
        v = run[-1] + 1
    return found


def strips(
    graph: LayerGraph,
    vertices: Sequence[int],
    hosts: Sequence[str],
    shares: Sequence[float],
    columns: bool = False,
    handover: Handover = "leader",
) -> Stack:
    """A stack in strips of rows (or columns), one for each host, in proportion to shares."""
    output = graph[vertices[-1]]
    cut = ([1.0], shares) if columns else (shares, [1.0])
    boxes = grid_boxes(output.rows, output.columns, *cut)
    tiles = tuple(Tile(host, *box) for host, box in zip(hosts, boxes, strict=True))
    return Stack(tuple(vertices), (1, len(hosts)) if columns else (len(hosts), 1), tiles, handover=handover)


def linked(blocks: Sequence[Sequence[int]], cut: Callable[[Sequence[int], Handover], Stack], handover: Handover) -> list[Stack]:
    """Blocks of one run as stacks that hand over to one another; the last gives its map to the leader."""
    return [cut(block, handover if block is not blocks[-1] else "leader") for block in blocks]


def wide(graph: LayerGraph, v: int) -> bool:
    """True when a map is wider than high, so that columns are its longer dimension."""
    return graph[v].columns > graph[v].rows


def is_window(graph: LayerGraph, v: int) -> bool:
    """True for convolutions and pools."""
    spatial = graph[v].spatial
    return spatial is not None and spatial.kind == "window"
