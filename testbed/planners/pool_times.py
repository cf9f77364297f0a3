"""What a stack costs whose tiles are fetched by idle hosts: dealt by the same pool as at run time, on the LAN of `lan.py`.

Follows `d3node.dealing` event by event: offer, steal, tile, compute, tile back, one tile at a time on every host.
"""

from __future__ import annotations

from d3node.intervals import area
from d3node.plan import Stack
from d3node.pool import Deal, Geometry, Pool
from d3node.reuse import PartialRegion
from testbed.costs.table import Costs
from testbed.planners.base import Problem
from testbed.planners.lan import Lan
from testbed.planners.tiling import StackTimes, TileTimes, bytes_per_position


def pool_times(problem: Problem, stack: Stack) -> StackTimes:
    """Times of a stack. `TileTimes.host` is who fetched the tile. Raises PlannerError for a host without a LAN path."""
    leader = problem.hosts["edge"]
    hosts = tuple(dict.fromkeys(tile.host for tile in stack.tiles if not tile.empty))
    geometry: Geometry = problem.graph.__dict__.setdefault("_planner_geometry", {}).get(stack) or Geometry(problem.graph, stack)
    kept = problem.graph.__dict__["_planner_geometry"]
    kept.pop(stack, None)
    kept[stack] = geometry
    if len(kept) > 4:
        del kept[next(iter(kept))]
    pool: Pool[None] = Pool(geometry)
    lan = Lan(problem)
    times: list[TileTimes] = []
    total = 0.0

    def asked(host: str) -> None:
        deal = pool.take(host)
        if deal is None:
            return
        size = fetched_bytes(problem, deal.region)
        if host == leader:
            compute(host, deal, 0)
        else:
            lan.send(leader, host, size, lambda: compute(host, deal, size))

    def compute(host: str, deal: Deal[None], scatter: int) -> None:
        started, seconds = lan.now, partial_s(problem, problem.costs, stack, host, deal.region)
        lan.compute(host, seconds, lambda: computed(host, deal, scatter, started, seconds))

    def computed(host: str, deal: Deal[None], scatter: int, started: float, seconds: float) -> None:
        tile = stack.tiles[deal.tile]
        output = area((tile.rows, tile.columns)) * bytes_per_position(problem.graph, stack.output)
        back = round(output + sum(area(keep.box) * bytes_per_position(problem.graph, keep.vertex) for keep in deal.keep))
        done = lan.now

        def returned() -> None:
            nonlocal total
            total = max(total, lan.now)
            pool.returned(deal, [None] * len(deal.keep))
            times.append(TileTimes(deal.tile, host, started, done, lan.now, seconds, scatter, 0 if host == leader else back))

        if host == leader:
            returned()
            asked(host)
        else:
            lan.send(host, leader, back, returned)
            lan.send(host, leader, 0, lambda: asked(host))

    for host in hosts:
        if host != leader:
            lan.send(leader, host, 0, lambda h=host: lan.send(h, leader, 0, lambda: asked(h)))  # type: ignore[misc]
    if leader in hosts:
        asked(leader)
    lan.run()
    return StackTimes(total, tuple(sorted(times, key=lambda t: t.tile)))


def partial_s(problem: Problem, costs: Costs, stack: Stack, host: str, region: PartialRegion) -> float:
    """Seconds of a tile on a host: of every vertex that it computes something of, the fixed part and its share of the rest."""
    graph = problem.graph
    return sum(
        costs.vertex_s(v, "edge", host, area(region.fresh[v]) / (graph[v].rows * graph[v].columns))
        for v in stack.vertices
        if area(region.fresh[v])
    )


def fetched_bytes(problem: Problem, region: PartialRegion) -> int:
    """Bytes of what a host fetches for a tile: read regions and given parts."""
    graph = problem.graph
    parts = [*region.read.items(), *region.used]
    return round(sum(area(box) * bytes_per_position(graph, u) for u, box in parts))
