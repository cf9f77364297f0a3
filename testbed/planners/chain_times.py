"""What stacks cost that hand over to one another without the leader: scatter, supersteps with halos, gather.

Follows `d3node.supersteps` event by event on the LAN of `lan.py`; no barrier but the data.
"""

from __future__ import annotations

from collections.abc import Sequence

from d3node.handover import Place, Superstep, chain_of
from d3node.intervals import Box, area
from d3node.plan import Plan
from testbed.planners.base import Problem
from testbed.planners.lan import Lan
from testbed.planners.tiling import StackTimes, TileTimes, bytes_per_position, tile_s


def chain_times(problem: Problem, plan: Plan, stacks: Sequence[int]) -> StackTimes:
    """Times of a chain of a legal plan; its tiles are those of all its stacks. Raises PlannerError for an unknown LAN host."""
    graph, leader = problem.graph, problem.hosts["edge"]
    chain = chain_of(graph, plan, stacks)
    lan = Lan(problem)
    waiting = {host: list(chain.of(host)) for host in chain.hosts}
    busy: set[str] = set()
    here: set[tuple[str, Place | tuple[str, Place]]] = set()
    halos: dict[Place, list[tuple[str, int]]] = {}
    for halo in chain.halos:
        halos.setdefault(halo.place, []).append((halo.target, _bytes(problem, halo.vertex, halo.box)))
    times: dict[Place, TileTimes] = {}
    last = chain.stacks[-1]
    total = 0.0

    def arrive(host: str, what: Place | tuple[str, Place]) -> None:
        here.add((host, what))
        advance(host)

    def advance(host: str) -> None:
        if host in busy or not waiting.get(host):
            return
        step = waiting[host][0]
        if step.outside and (host, ("pieces", step.place)) not in here:
            return
        if any((host, place) not in here for place in step.waits):
            return
        busy.add(host)
        waiting[host].pop(0)
        stack, tile = step.place
        started, seconds = lan.now, tile_s(graph, problem.costs, plan.stacks[stack], plan.stacks[stack].tiles[tile])
        lan.compute(host, seconds, lambda: computed(step, started, seconds))

    def computed(step: Superstep, started: float, seconds: float) -> None:
        nonlocal total
        host, place = step.host, step.place
        relayed = plan.stacks[place[0]].handover == "relay" and host != leader
        busy.discard(host)
        for target, size in halos.get(place, ()):
            if relayed and target != leader:
                lan.send(host, leader, size, lambda t=target, s=size: lan.send(leader, t, s, lambda: arrive(t, place)))  # type: ignore[misc]
            else:
                lan.send(host, target, size, lambda t=target: arrive(t, place))  # type: ignore[misc]
        tile = plan.stacks[place[0]].tiles[place[1]]
        gather = 0
        if place[0] != last:
            pass
        elif host == leader:
            total = max(total, lan.now)
        else:
            gather = _bytes(problem, plan.stacks[last].output, (tile.rows, tile.columns))
            lan.send(host, leader, gather, gathered)
        scatter = 0 if host == leader else sum(_bytes(problem, u, box) for u, box in step.outside.items())
        times[place] = TileTimes(place[1], host, started, lan.now, lan.now, seconds, scatter, gather)
        advance(host)

    def gathered() -> None:
        nonlocal total
        total = max(total, lan.now)

    for step in chain.supersteps:
        if step.outside and step.host != leader:
            size = sum(_bytes(problem, u, box) for u, box in step.outside.items())
            lan.send(leader, step.host, size, lambda s=step: arrive(s.host, ("pieces", s.place)))  # type: ignore[misc]
        elif step.outside:
            here.add((leader, ("pieces", step.place)))
    for host in chain.hosts:
        advance(host)
    lan.run()
    return StackTimes(total, tuple(times[step.place] for step in chain.supersteps))


def _bytes(problem: Problem, vertex: int, box: Box) -> int:
    return round(area(box) * bytes_per_position(problem.graph, vertex))
