"""The memory of `memory.py` as constraints in CP-SAT: at every moment of every limited tier, what it holds fits.

The moments are the vertices in their order. A tensor that a tier made or got counts until its last reader there, one that leaves
the tier (sent on, relayed, an answer) to the end, one that was received from the beginning. Tiles are not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d3node.graph import LayerGraph
from testbed.planners.memory import held_bytes
from testbed.planners.placement_model import Placement
from testbed.planners.prices import CLOUD, DEVICE, EDGE


def limit_memory(model: Any, placed: Placement, graph: LayerGraph, limits: Mapping[int, float]) -> None:
    """Add the constraints; `limits` in bytes by rank, tiers without one left out."""
    for rank, limit in limits.items():
        _limit_tier(model, placed, graph, rank, int(limit))


def _limit_tier(model: Any, placed: Placement, graph: LayerGraph, rank: int, limit: int) -> None:
    size = len(graph)
    held = [held_bytes(graph, v) for v in range(size)]
    most = sum(held)
    parameters = sum(vertex.parameter_bytes * placed.on(vertex.index, rank) for vertex in graph if vertex.parameter_bytes)
    stays = [_stays(placed, graph, u, rank) for u in range(size)]
    now: list[list[Any]] = [[] for _ in range(size)]
    over: list[list[Any]] = [[] for _ in range(size + 1)]
    for u, consumers in enumerate(graph.successors):
        later = None  # whether the tier still needs u at the moment of a consumer: that one, a later one, or what comes after all
        for i in range(len(consumers) - 1, -1, -1):
            w = consumers[i]
            after = stays[u] if later is None else [later]
            later = _either(model, [placed.on(w, rank), *after])
            for v in range((consumers[i - 1] if i else u) + 1, w + 1):
                now[v].append(held[u] * later)
        now[u].append(held[u] * _either(model, [placed.on(u, rank), *([] if later is None else [later])]))
        over[max(consumers, default=u) + 1] += [held[u] * leaves for leaves in stays[u]]
    kept = _running(model, over, most)
    comes = [[held[u] * arrives for arrives in _comes(placed, u, rank)] for u in range(size)]
    coming = _running(model, [[], *reversed(comes)], most)  # coming[k]: of the last k vertices
    for v in range(size + 1):
        model.add(parameters + (sum(now[v]) if v < size else 0) + kept[v] + coming[max(size - 1 - v, 0)] <= limit)


def _either(model: Any, causes: list[Any]) -> Any:
    """A Boolean that is 1 when any of the causes is."""
    if len(causes) == 1:
        return causes[0]
    flag = model.new_bool_var("")
    for cause in causes:
        model.add(flag >= cause)
    return flag


def _stays(placed: Placement, graph: LayerGraph, u: int, rank: int) -> list[Any]:
    """What keeps a tensor on a tier to the end: it is sent on or relayed, or is an answer."""
    ways = {DEVICE: (placed.up[u], placed.far[u]), EDGE: (placed.across[u],), CLOUD: ()}[rank]
    return [way for way in ways if way is not None] + ([placed.on(u, rank)] if u in graph.outputs else [])


def _comes(placed: Placement, u: int, rank: int) -> list[Any]:
    """What brings a tensor to a tier from below; with route "relay" `up` is also the first hop of a relayed one."""
    ways = {DEVICE: (), EDGE: (placed.up[u],), CLOUD: (placed.across[u], placed.far[u])}[rank]
    return [way for way in ways if way is not None]


def _running(model: Any, terms: list[list[Any]], most: int) -> list[Any]:
    """Running sums, each at least the sum of the terms so far."""
    sums: list[Any] = []
    so_far: Any = 0
    for added in terms:
        if added:
            known, so_far = so_far, model.new_int_var(0, most, "")
            model.add(so_far >= known + sum(added))
        sums.append(so_far)
    return sums
