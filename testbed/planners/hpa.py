"""HPA, D3's horizontal partition: a greedy pass over the graph's layers that puts every vertex on a tier.

A reconstruction. Confirmed (patent CN112297014B, claim 1): vertices with three times, edges with three transfer times, an
input vertex, graph layers by longest distance. Ours: the rest, with every open choice as a named option:

- `objective`: "latency", D3's sum of seconds, or "throughput", the smallest bottleneck (`hpa_throughput.py`).
- `horizon`: what a vertex weighs when it compares tiers. "vertex": its own time and its incoming transfers, the plain reading;
  on real DNNs that rarely leaves the device, because no single layer earns the transfer of its input, so it cannot be what
  gave D3's published results. "rest" (the default): the time of its graph layer and all later ones on that tier, and the
  transfers of all tensors that they would need there.
- `candidates`: "any" tier not below the highest producer's, or only that tier and the "next" one.
- `sis`: vertices that are tied to each other and decided once more. "successor": producers that feed the same vertex; when
  one of them is placed high that vertex must follow, so the others' outputs cross anyway and they may be better off there.
  "predecessor": consumers of one tensor; once it has crossed for one of them the others get it free. "off": no second look.
- `guard`: "on" drops the outcome of a partial re-partition that is dearer than staying, as the local wave cannot see that it
  splits what belongs together; "off" takes whatever it yields.
- `partial`: how a change is answered. "sweep" (the default, for horizon "rest"): the full pass again, but only where the cut is
  or comes to be (`sweep.py`); its outcome is the full pass's. "wave": from the vertices that the change bears on, and on from
  there while decisions change (`repartition.py`), the literal reading of D3; with horizon "vertex" always.
- `front`: the share of the graph that the wave of a partial re-partition may visit (at least 24 vertices); beyond it a full pass
  takes over, which is faster than a long wave and knows more. 1 never gives up.
- `band_low`, `band_high`: thresholds of partial re-partition. A change of a path or a host counts only when its rate, delay or
  speed is outside [1 - band_low, 1 + band_high] times the value last used; 0 acts on all that is reported.

What happens when conditions change is in `repartition.py`; tiles on the edge tier are `d3.py`'s business.
"""

from __future__ import annotations

from collections.abc import Collection, MutableSequence, Sequence
from typing import Any

import numpy as np

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.hpa_throughput import least_bottleneck
from testbed.planners.options import read
from testbed.planners.placement import SMALL, Placement, placed, placement, placements_of, ranks_of
from testbed.planners.prices import CLOUD, DEVICE, Prices, make_plan, prices
from testbed.planners.repartition import Decided, affected, beyond_bands, matters, repartition, values_used
from testbed.planners.steady import confirm, still
from testbed.planners.sweep import arrays_of, sweep


class Rule:
    """How HPA decides one vertex, given the ranks of the others, with the options of the module's docstring.

    By `horizon`: `weight[rank][v]` are the compute seconds that v puts in the scales for a rank, `brings[v]` the tensors whose
    transfers it adds. By `sis`: `tied[v]` are v's SIS vertices.
    """

    def __init__(self, priced: Prices, values: dict[str, Any]) -> None:
        self.priced = priced
        self.sis = values["sis"]
        self.reach = CLOUD if values["candidates"] == "any" else 1
        known = priced.facts
        none: tuple[tuple[int, ...], ...] = ((),) * len(known.levels)
        self.tied = {"successor": known.coproducers, "predecessor": known.siblings}.get(self.sis, none)
        self.weight, self.brings = priced.compute, priced.facts.producers
        if values["horizon"] == "rest":
            self.weight, self.brings = priced.rest, priced.facts.live

    def prefers(self, v: int, rank: int, ranks: Sequence[int]) -> bool:
        """Whether v would now be cheaper at a higher rank than where it is, its producers staying where they are."""
        own = ranks[v]
        gain = self.weight[own][v] - self.weight[rank][v]
        if gain <= 0.0:
            return False
        hop, relay = self.priced.hop, self.priced.relay
        for u in self.brings[v]:
            at = ranks[u]
            if at < rank:
                gain -= hop[at][rank][u] - (hop[at][own][u] if at < own else 0.0)
                if relay and gain <= 0.0:  # further tensors can only cost more; by a direct path one may be cheaper higher up
                    return False
        return gain > 0.0

    def greedy(self, v: int, ranks: Sequence[int]) -> int:
        """Cheapest allowed rank by weight plus incoming transfers; the lowest among equals."""
        weight, hop = self.weight, self.priced.hop
        brings = self.brings[v]
        floor = DEVICE
        for u in self.priced.facts.producers[v]:
            if ranks[u] > floor:
                floor = ranks[u]
        if floor == CLOUD:
            return CLOUD
        best, best_s = floor, float("inf")
        for rank in range(floor, min(floor + self.reach, CLOUD) + 1):
            seconds = weight[rank][v]
            for u in brings:
                if ranks[u] < rank:
                    seconds += hop[ranks[u]][rank][u]
            if seconds < best_s:
                best, best_s = rank, seconds
        return best

    def decide(self, v: int, ranks: Sequence[int], decided: Decided) -> int:
        """Greedy choice, then a second look in the light of v's SIS vertices (those that are `decided`)."""
        first = self.greedy(v, ranks)
        if not self.tied[v] or first == CLOUD:
            return first
        if self.sis == "successor":
            for w in self.tied[v]:
                if ranks[w] > first:
                    return self.pulled(v, first, ranks, decided)
            return first  # nobody to be pulled by
        return self.shared(v, ranks, decided)

    def pulled(self, v: int, first: int, ranks: Sequence[int], decided: Decided) -> int:
        """SIS "successor": how high v should be, given that its output must reach its highest co-producer's rank anyway.

        Never above a decided consumer that stays lower, so that one-way flow holds.
        """
        known = self.priced.facts
        target, ceiling = first, CLOUD
        for s in known.consumers[v]:
            if decided[s] and ranks[s] < ceiling:
                ceiling = ranks[s]
            for w in known.producers[s]:
                if w != v and ranks[w] > target and decided[w]:
                    target = ranks[w]
        best, best_s = first, float("inf")
        top = min(target, ceiling, self.priced.floor(v, ranks) + self.reach)
        for rank in range(first, max(first, top) + 1):
            seconds = self.priced.compute[rank][v] + self.priced.incoming(v, rank, ranks)
            if rank < target:
                seconds += self.priced.hop[rank][target][v]
            if seconds < best_s:
                best, best_s = rank, seconds
        return best

    def shared(self, v: int, ranks: Sequence[int], decided: Decided) -> int:
        """SIS "predecessor": the greedy choice when tensors that have crossed for another consumer are free."""
        priced = self.priced
        floor = priced.floor(v, ranks)
        best, best_s = floor, float("inf")
        for rank in range(floor, min(floor + self.reach, CLOUD) + 1):
            seconds = self.weight[rank][v]
            for u in self.brings[v]:
                own = ranks[u]
                if own >= rank:
                    continue
                others = [ranks[w] for w in priced.facts.consumers[u] if w != v and decided[w]]
                if priced.relay:
                    there = max((r for r in others if own < r <= rank), default=own)
                    if any(r > rank for r in others):
                        there = rank
                    seconds += priced.hop[there][rank][u] if there < rank else 0.0
                elif rank not in others:
                    seconds += priced.hop[own][rank][u]
            if seconds < best_s:
                best, best_s = rank, seconds
        return best

    def second_look(self, layer: Sequence[int], ranks: MutableSequence[int], decided: Decided) -> None:
        """The SIS step behind a graph layer, for its vertices and those that they are tied to."""
        if self.sis == "successor":
            for v in layer:
                if ranks[v] > DEVICE:
                    for w in self.tied[v]:
                        if ranks[w] < ranks[v] and decided[w]:
                            ranks[w] = self.pulled(w, ranks[w], ranks, decided)
        elif self.sis == "predecessor":
            for v in layer:
                if ranks[v] != CLOUD and self.tied[v]:
                    ranks[v] = self.shared(v, ranks, decided)


def partition(rule: Rule) -> list[int]:
    """Ranks of all vertices by one pass over the graph layers, each followed by its SIS step."""
    known = rule.priced.facts
    size = len(known.producers)
    ranks = [DEVICE] * size
    decided = [False] * size
    decided[INPUT] = True
    for layer in known.layers[1:]:
        for v in layer:
            ranks[v] = rule.greedy(v, ranks)
        for v in layer:
            decided[v] = True
        rule.second_look(layer, ranks, decided)
    return ranks


SHORT = 24
"""Vertices that the wave of a partial re-partition may visit in any graph: about what takes as long as looking for the seeds."""


WORTH = 16
"""Vertices from which on it pays to work out how far conditions may move: a sweep of fewer is over as soon."""


def repartitioned(
    problem: Problem,
    rule: Rule,
    before: bytes,
    change: Change,
    values: dict[str, Any],
    more: Collection[int] = (),
    learn: bool = True,
) -> tuple[Placement, frozenset[int]]:
    """The placement after a change, and the vertices decided anew: by a sweep, or by a wave from the vertices that the change
    bears on and `more`, with a full pass where it goes too far. With `learn`, how far conditions may move before a sweep
    would move a vertex is kept where it moved none."""
    graph, priced = problem.graph, rule.priced
    stay = placement(graph, before)
    if values["partial"] == "sweep" and values["horizon"] == "rest":
        if not (more or matters(problem, priced.relay, change)):
            return stay, frozenset()
        ranks, looked = sweep(graph, rule)
        touched = moved_or(before, ranks, looked)
    else:
        seeds = affected(problem, rule, before, change)
        seeds.update(more)
        found = repartition(rule, before, seeds, max(SHORT, int(values["front"] * len(before))))
        if found is None:
            ranks, touched = bytes(partition(rule)), frozenset(range(1, len(before)))
        else:
            ranks, touched = bytes(found[0]), found[1]
    moved = stay if ranks == before else placement(graph, ranks)
    if moved is stay or (values["guard"] == "on" and moved.objective(priced) > stay.objective(priced)):
        if learn and len(before) >= WORTH and sweeps(values):
            confirm(problem, values, priced, stay, moved)
        return stay, touched
    return moved, touched


def sweeps(values: dict[str, Any]) -> bool:
    """Whether every change is acted on, by a sweep: then it is enough to know when that would change nothing (`steady.py`)."""
    by_sweep = values["partial"] == "sweep" and values["horizon"] == "rest" and values.get("edge_costs", "single") == "single"
    return by_sweep and not (values["band_low"] or values["band_high"])


def prepare(graph: LayerGraph) -> None:
    """Work out with the first plan of a graph what its re-partitions will want, so that the first of them is no slower."""
    arrays_of(graph)
    placements_of(graph)


def moved_or(before: bytes, after: bytes, looked: Collection[int]) -> frozenset[int]:
    """Vertices that changed their rank or were looked at."""
    if before == after:
        return frozenset(looked)
    if len(before) <= SMALL:
        return frozenset([v for v, rank in enumerate(after) if rank != before[v]]).union(looked)
    changed = np.flatnonzero(np.frombuffer(before, dtype=np.uint8) != np.frombuffer(after, dtype=np.uint8))
    return frozenset(changed.tolist()).union(looked)


class Hpa:
    """D3 without tiles."""

    name = "hpa"
    objective: str | None = None
    """Fixed by `HpaThroughput`; an option otherwise."""

    def plan(self, problem: Problem) -> Decision:
        """A full pass over the graph."""
        values = read(problem, self.name)
        priced = prices(problem)
        notes = notes_of(problem, values)
        if (self.objective or values["objective"]) == "throughput":
            ranks, more = least_bottleneck(problem, priced, lambda weighted: partition(Rule(weighted, values)))
            notes |= more
        else:
            ranks = partition(Rule(priced, values))
        prepare(problem.graph)
        plan = make_plan(self.name, problem, ranks, notes=notes)
        return Decision(plan, priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Partial re-partition: only what the change affects; the current plan itself where that is nothing."""
        if len(current.tiers) != len(problem.graph) or current.hosts != problem.hosts:
            return self.plan(problem)
        values = read(problem, self.name)
        if (self.objective or values["objective"]) == "throughput":
            return self.plan(problem)
        if sweeps(values) and (objective_s := still(problem, current, values)) is not None:
            return Decision(current, objective_s, frozenset())
        priced = prices(problem, sparse=True)
        change = beyond_bands(problem, current, change, values["band_low"], values["band_high"])
        before = ranks_of(problem.graph, current.tiers)
        found, touched = repartitioned(problem, Rule(priced, values), before, change, values)
        notes = notes_of(problem, values, current, change)
        return Decision(placed(self.name, problem, found, notes=notes), found.objective(priced), touched)


class HpaThroughput(Hpa):
    """`hpa` with objective "throughput", for runs that compare both."""

    name = "hpa-throughput"
    objective = "throughput"


def notes_of(
    problem: Problem, values: dict[str, Any], current: Plan | None = None, change: Change | None = None
) -> dict[str, Any]:
    """Notes of a plan: the readings it was made with and the values it used, those of unchanged paths and hosts carried over."""
    used = values_used(problem)
    if current is not None and change is not None:
        kept = current.notes.get("used", {})
        acted = change.paths | {f"speed:{host}" for host in change.hosts}
        used = {name: value if name in acted else kept.get(name, value) for name, value in used.items()}
    return {"horizon": values["horizon"], "sis": values["sis"], "candidates": values["candidates"], "used": used}
