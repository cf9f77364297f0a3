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


class Decider(Protocol):
    """What the wave needs of a rule."""

    priced: Prices
    sis: str

    def decide(self, v: int, ranks: Sequence[int]) -> int: ...

    def tied(self, v: int) -> Iterable[int]: ...

    def prefers(self, v: int, rank: int, ranks: Sequence[int]) -> bool: ...


def values_used(problem: Problem) -> dict[str, list[float]]:
    """Rate and delay of every path and speed of every host of a problem: what later changes are held against."""
    network = problem.network
    paths = {"device_edge": network.device_edge, "edge_cloud": network.edge_cloud, "device_cloud": network.device_cloud}
    used = {name: [path.rate_bps, path.delay_s] for name, path in (*paths.items(), *network.lan.items())}
    for host in (*problem.hosts.values(), *problem.edge_hosts):
        used[f"speed:{host}"] = [problem.costs.speed.get(host, 1.0)]
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


def affected(problem: Problem, rule: Decider, ranks: Sequence[int], change: Change) -> set[int]:
    """Vertices whose own decision a change bears on, under the placement `ranks`.

    A path: both ends of every tensor that crosses it. A leading host: the vertices on its tier, and their neighbours on
    others. A path or a tier that the placement does not use: the vertices that would now be cheaper behind it, if any.
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
    return found or _would_move(rule, ranks, EDGE if name == "device_edge" else CLOUD)


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


def repartition(
    rule: Decider, before: Sequence[int], seeds: Iterable[int], guard: bool = True
) -> tuple[list[int], frozenset[int]]:
    """New ranks, and the vertices that were re-decided, starting from the seeds and their SIS vertices.

    A vertex whose rank changes brings up its consumers (the next graph layer; they must stay legal), its producers (once
    each: the cut may move on towards the input) and its SIS vertices. Lowest index first, so that a vertex follows its
    producers; the result obeys one-way flow whatever the seeds are. With `guard` the ranks stay as they were when the
    outcome would be dearer.
    """
    known = rule.priced.facts
    ranks = list(before)
    waiting: set[int] = set(seeds)
    for v in tuple(waiting):
        waiting.update(rule.tied(v))
    waiting.discard(INPUT)
    queue = sorted(waiting)
    visits: dict[int, int] = {}
    while queue:
        v = heapq.heappop(queue)
        waiting.discard(v)
        count = visits[v] = visits.get(v, 0) + 1
        rank = rule.decide(v, ranks) if count <= VISITS else max(ranks[v], rule.priced.floor(v, ranks))
        if rank == ranks[v]:
            continue
        ranks[v] = rank
        around = [*known.consumers[v], *rule.tied(v), *(u for u in known.producers[v] if u not in visits)]
        for w in around:
            if w != INPUT and w not in waiting:
                waiting.add(w)
                heapq.heappush(queue, w)
    if guard and ranks != before and rule.priced.objective(ranks) > rule.priced.objective(before):
        ranks = list(before)
    return ranks, frozenset(visits)
