"""Plans in which tiles are handed over or fetched, on agents in virtual time, and what their reports say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from agent_rig import Rig, chain, rig, three_way, timed

from d3node.clock import VirtualLoop, run
from d3node.graph import LayerGraph
from d3node.intervals import grid_boxes, split
from d3node.plan import Handover, Plan, Stack, Tile

GRAPH = chain(7, size=32)
NAMES = ("d1", "e1", "e2", "e3", "c1")


def strips(graph: LayerGraph, vertices: Sequence[int], shares: dict[str, float], handover: Handover) -> Stack:
    """One strip of rows for each host."""
    output = graph[vertices[-1]]
    tiles = tuple(
        Tile(host, rows, (0, output.columns))
        for host, rows in zip(shares, split(output.rows, list(shares.values())), strict=True)
    )
    return Stack(tuple(vertices), (len(tiles), 1), tiles, handover=handover)


def handed_over(
    graph: LayerGraph, vertices: Sequence[int], shares: dict[str, float], handover: Handover, epoch: int = 1, depth: int = 1
) -> Plan:
    """The vertices in stacks of a depth that hand over to one another."""
    runs = [tuple(vertices[i : i + depth]) for i in range(0, len(vertices), depth)]
    stacks = [strips(graph, run, shares, "leader" if run is runs[-1] else handover) for run in runs]
    return replace(three_way(graph, epoch, min(vertices), max(vertices) + 1), stacks=tuple(stacks))


def fetched(
    graph: LayerGraph, vertices: Sequence[int], hosts: Sequence[str], grid: tuple[int, int], epoch: int = 1, **how: bool
) -> Plan:
    """One stack of a grid of tiles, dealt out to the hosts in turn."""
    output = graph[vertices[-1]]
    boxes = grid_boxes(output.rows, output.columns, [1.0] * grid[0], [1.0] * grid[1])
    tiles = tuple(Tile(hosts[i % len(hosts)], *box) for i, box in enumerate(boxes))
    return replace(
        three_way(graph, epoch, min(vertices), max(vertices) + 1), stacks=(Stack(tuple(vertices), grid, tiles, **how),)
    )


async def install(agents: Rig, graph: LayerGraph, plan: Plan, scaled: dict[str, float], fixed: float = 0.0) -> None:
    """Times by host: `fixed` and `scaled` seconds for every vertex's whole map."""
    fields = timed(graph, plan, 0.0)
    fields["vertices_s"] = [
        {host: [[fixed, seconds]] * len(stack.vertices) for host, seconds in scaled.items()} for stack in plan.stacks
    ]
    fields["tiles_s"] = [[scaled.get(tile.host, 0.0) for tile in stack.tiles] for stack in plan.stacks]
    for name in set(plan.hosts.values()) | {tile.host for stack in plan.stacks for tile in stack.tiles}:
        reply = await agents.remotes[name].ask("install", **fields)
        assert reply.kind == "ok", reply


def simulate(test: Callable[[Rig], Awaitable[None]], names: tuple[str, ...] = NAMES, delay_s: float = 0.0) -> None:
    async def main() -> None:
        async with rig(None, {GRAPH.name: GRAPH}, names, delay_s, inline_compute=True, tensors="sizes") as agents:
            await agents.configure()
            await test(agents)

    run(VirtualLoop(), main())


async def submit(agents: Rig, request: Any, epoch: int = 1, deadline_s: float = 100.0, device: str = "d1") -> None:
    await agents.remotes[device].tell("submit", request=request, epoch=epoch, input=0, deadline_s=deadline_s)


async def reports(agents: Rig, requests: int) -> dict[str, list[dict[str, Any]]]:
    """Reports by host, when everything is over; every host that took part has one for every request, and the bytes agree."""
    await asyncio.sleep(5)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, remote in agents.remotes.items():
        found[name] = [e.fields for e in remote.events if e.kind == "report"]
        assert len(found[name]) in (0, requests), name
        figures = (await remote.ask("stats")).fields
        assert (figures["active"], figures["queued"], figures["parked"]) == (0, 0, 0), name
    everything = [report for one in found.values() for report in one]
    assert sum(r["bytes_sent"] for r in everything) == sum(r["bytes_received"] for r in everything) > 0
    return found


def tiles_of(found: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    return {
        name: sum("tile" in r and r["what"] == "compute" for one in some for r in one["records"]) for name, some in found.items()
    }
