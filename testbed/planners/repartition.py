"""Partial re-partition: which vertices a change affects, and the wave of new decisions that starts from them.

Reconstruction of D3's run-time step (papers: a time or a rate that leaves its band makes HPA re-decide the affected vertex,
its SIS vertices and the next graph layers, not the whole graph). How one vertex is decided is `hpa.Rule`'s business.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol

from d3node.graph import INPUT
from d3node.plan import TIERS, Plan
from testbed.planners.base import Change, Problem
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices

VISITS = 3
"""How often one vertex may be decided in one re-partition; after that it only follows its producers upwards."""


class Decided(Protocol):
    """Says which vertices are decided: a list of booleans, or a view that works it out."""

    def __getitem__(self, v: int, /) -> bool: ...


class Decider(Protocol):
    """What the wave needs of a rule."""

    @property
    def priced(self) -> Prices: ...

    @property
    def tied(self) -> tuple[tuple[int, ...], ...]: ...

    def decide(self, v: int, ranks: Sequence[int], decided: Decided) -> int: ...

    def prefers(self, v: int, rank: int, ranks: Sequence[int]) -> bool: ...


def values_used(problem: Problem) -> dict[str, list[float]]:
    """Rate and delay of every path and speed of every host of a problem: what later changes are held against."""
    network, speed = problem.network, problem.costs.speed
    up, across, far = network.device_edge, network.edge_cloud, network.device_cloud
    used = {
        "device_edge": [up.rate_bps, up.delay_s],
        "edge_cloud": [across.rate_bps, across.delay_s],
        "device_cloud": [far.rate_bps, far.delay_s],
    }
    for name, path in network.lan.items():
        used[name] = [path.rate_bps, path.delay_s]
    for host in {*problem.hosts.values(), *problem.edge_hosts}:
        used["speed:" + host] = [speed.get(host, 1.0)]
    return used


def beyond_bands(problem: Problem, current: Plan, change: Change, low: float, high: float) -> Change:
    """The part of a change that is outside the bands around the values that the current plan was made with."""
    if (not low and not high) or "used" not in current.notes:
        return change
    old, new = current.notes["used"], values_used(problem)

    def outside(name: str) -> bool:
        if name not in old or name not in new:
            return True
        pairs = zip(old[name], new[name], strict=True)
        return any(not (1.0 - low) * a <= b <= (1.0 + high) * a for a, b in pairs)

    return Change(
        frozenset(name for name in change.paths if outside(name)),
        frozenset(name for name in change.hosts if outside(f"speed:{name}")),
        change.vertices,
    )


def matters(problem: Problem, relay: bool, change: Change) -> bool:
    """Whether a change bears on any placement: on a path between tiers that is in use, a leading host, or a vertex."""
    for name in change.paths:
        if name in ("device_edge", "edge_cloud") or (name == "device_cloud" and not relay):
            return True
    return any(v != INPUT for v in change.vertices) or any(host in change.hosts for host in problem.hosts.values())


def affected(problem: Problem, rule: Decider, ranks: Sequence[int], change: Change) -> set[int]:
    """Vertices whose own decision a change bears on, under the placement `ranks`.

    A path: both ends of every tensor that crosses it, and the vertices below it whose own comparison now speaks for crossing.
    A leading host: the vertices on its tier and their neighbours on others; those that would go there if there are none.
    """
    found = {v for v in change.vertices if v != INPUT}
    for name in change.paths:
        if name in ("device_edge", "edge_cloud", "device_cloud"):
            found |= _at_path(rule, ranks, name)
    for rank, tier in enumerate(TIERS):
        if problem.hosts[tier] in change.hosts:
            found |= _at_tier(rule, ranks, rank)
    found.discard(INPUT)
    return found


def _at_path(rule: Decider, ranks: Sequence[int], name: str) -> set[int]:
    priced = rule.priced
    if name == "device_cloud" and priced.relay:
        return set()
    lower = {"device_edge": (DEVICE,), "edge_cloud": (DEVICE, EDGE) if priced.relay else (EDGE,), "device_cloud": (DEVICE,)}[name]
    if name == "device_edge":
        upper: tuple[int, ...] = (EDGE, CLOUD) if priced.relay else (EDGE,)
    else:
        upper = (CLOUD,)
    consumers = priced.facts.consumers
    found: set[int] = set()
    for u, rank in enumerate(ranks):
        if rank in lower:
            across = [w for w in consumers[u] if ranks[w] in upper]
            if across:
                found.add(u)
                found.update(across)
    return found | _would_move(rule, ranks, EDGE if name == "device_edge" else CLOUD)


def _at_tier(rule: Decider, ranks: Sequence[int], rank: int) -> set[int]:
    priced, found = rule.priced, set[int]()
    for v, placed in enumerate(ranks):
        if placed == rank and v != INPUT:
            found.add(v)
            found.update(priced.facts.producers[v])
            found.update(priced.facts.consumers[v])
    return found or _would_move(rule, ranks, rank)


def _would_move(rule: Decider, ranks: Sequence[int], rank: int) -> set[int]:
    """Vertices below a rank that would be cheaper there, their producers staying where they are."""
    return {v for v, placed in enumerate(ranks) if placed < rank and v != INPUT and rule.prefers(v, rank, ranks)}


def repartition(rule: Decider, before: Sequence[int], seeds: Iterable[int], most: int) -> tuple[list[int], frozenset[int]] | None:
    """New ranks, and the vertices that were re-decided, starting from the seeds and their SIS vertices; None when the wave would
    visit more than `most` vertices.

    A vertex whose rank changes brings up its consumers (the next graph layer; they must stay legal), its producers (once
    each: the cut may move on towards the input) and its SIS vertices. The wave runs layer by layer, and as in a full pass a
    vertex is tied only to what has been decided by then, not to where the old plan had the rest; what the wave left alone
    counts at its end. The result obeys one-way flow whatever the seeds are.
    """
    known = rule.priced.facts
    size, levels = len(before), known.levels
    before = list(before)
    ranks = list(before)
    seeds = set(seeds)
    for v in tuple(seeds):
        seeds.update(rule.tied[v])
    seeds.discard(INPUT)
    if len(seeds) > most:
        return None
    queue = sorted([levels[v] * size + v for v in seeds])
    wave = _Wave([True] * size, levels)
    settled, visits = wave.settled, wave.visits
    for v in seeds:
        settled[v] = False
    while queue:
        v = heapq.heappop(queue) % size
        settled[v] = True
        if v not in visits and len(visits) == most:
            return None
        count = visits[v] = visits.get(v, 0) + 1
        wave.level = levels[v]
        rank = rule.decide(v, ranks, wave) if count <= VISITS else max(ranks[v], rule.priced.floor(v, ranks))
        if rank == ranks[v]:
            continue
        ranks[v] = rank
        for w in (*known.consumers[v], *rule.tied[v], *(u for u in known.producers[v] if u not in visits)):
            if settled[w] and w != INPUT:
                settled[w] = False
                heapq.heappush(queue, levels[w] * size + w)
    if ranks != before:
        for v in sorted(v for v in visits if rule.tied[v]):
            rank = rule.decide(v, ranks, settled)
            if ranks[v] < rank <= min((ranks[w] for w in known.consumers[v]), default=CLOUD):
                ranks[v] = rank
    return ranks, frozenset(visits)


class _Wave:
    """Which vertices count as decided for the one in hand: not waiting, and visited or of its graph layer or an earlier one."""

    def __init__(self, settled: list[bool], levels: Sequence[int]) -> None:
        self.settled = settled
        self.levels = levels
        self.visits: dict[int, int] = {}
        self.level = 0

    def __getitem__(self, v: int) -> bool:
        return self.settled[v] and (self.levels[v] <= self.level or v in self.visits)
