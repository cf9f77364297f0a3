"""What agents are told of time: modelled seconds of every step and every tile of a plan, from the true costs.

The planners' predictions are not used here; agents that compute in `measured` mode ignore these figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from d3node.graph import LayerGraph
from d3node.intervals import area, reverse
from d3node.plan import Plan, Stack, Tier
from d3node.program import Program
from testbed.costs.table import Costs


@dataclass(frozen=True)
class Prices:
    """Seconds at full CPU share: `steps_s[tier][i]` of step i on the tier's leader (0 for a stack: its tiles have the time),
    `tiles_s[stack][tile]` on the tile's host (0 for an empty tile); `vertices_s[stack][host]`, where tiles are fetched, (fixed,
    for the whole map) of every vertex of the stack: who computes how much of which tile is not known before."""

    steps_s: dict[Tier, list[float]]
    tiles_s: list[list[float]]
    vertices_s: list[dict[str, list[tuple[float, float]]] | None]


def price(graph: LayerGraph, plan: Plan, programs: dict[Tier, Program], costs: Costs) -> Prices:
    """Price a plan's programs."""
    steps_s = {
        tier: [0.0 if s.stack is not None else costs.run_s(s.vertices, tier, program.host) for s in program.steps]
        for tier, program in programs.items()
    }
    tiles_s = [stack_seconds(graph, stack, costs) for stack in plan.stacks]
    return Prices(steps_s, tiles_s, [vertex_seconds(stack, costs) if stack.pooled else None for stack in plan.stacks])


def vertex_seconds(stack: Stack, costs: Costs) -> dict[str, list[tuple[float, float]]]:
    """By host of a stack: of each vertex the fixed seconds there, and the seconds of its whole map on top."""
    found: dict[str, list[tuple[float, float]]] = {}
    for host in sorted({tile.host for tile in stack.tiles if not tile.empty}):
        fixed = [costs.vertex_s(v, "edge", host, 0.0) for v in stack.vertices]
        whole = [costs.vertex_s(v, "edge", host) for v in stack.vertices]
        found[host] = [(f, w - f) for f, w in zip(fixed, whole, strict=True)]
    return found


def stack_seconds(graph: LayerGraph, stack: Stack, costs: Costs) -> list[float]:
    """Seconds of each tile of a stack on its host: of every vertex the fixed part, and its share of the rest by area (halos
    included)."""
    found = []
    for tile in stack.tiles:
        if tile.empty:
            found.append(0.0)
            continue
        produced = reverse(graph, stack.vertices, (tile.rows, tile.columns)).produced
        total = 0.0
        for v, box in produced.items():
            share = area(box) / (graph[v].rows * graph[v].columns)
            if share > 0.0:
                total += costs.vertex_s(v, "edge", tile.host, share)
        found.append(total)
    return found
