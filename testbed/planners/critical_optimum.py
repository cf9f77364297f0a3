"""Objective "critical-path": the untiled placement whose request is answered first on an idle network, with a proven bound.

What is minimised is `evaluate.critical_path` itself: hosts compute one vertex after the other in the graph's order, each path
sends one tensor after the other as they become ready, all of them at the same time, and the answers travel back. On a chain all
pairs of cuts are tried. On a DAG CP-SAT minimises a relaxation: every host and path with its order, except that a path that
carries both relayed tensors and the edge's own may send them in any order. So its bound is a lower bound of every placement's
true critical path; its placement is priced by `evaluate`, and where the price is
above the bound the placement is excluded and the search goes on, until price and bound meet or the effort is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from testbed.planners.base import Problem
from testbed.planners.capacitated import MemoryLimits, no_placement
from testbed.planners.evaluate import critical_path
from testbed.planners.level_cuts import Table, is_chain, level_cuts, ranks_of
from testbed.planners.loads import Resource, busy, cost
from testbed.planners.mincut import NANO, minimum_cut
from testbed.planners.placement_model import Placement, placement, search
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, make_plan

ROUNDS = 50
"""Placements that CP-SAT may propose whose price is above the relaxation's."""
TRIED = 40
"""Level cuts of a DAG that are priced for a placement to start from, cheapest sum first."""
LARGEST_CHAIN = 200
"""Layers of a chain up to which all pairs of cuts are priced; beyond, as a DAG."""


@dataclass(frozen=True)
class Fastest:
    """The placement, its critical path, the proven lower bound, the method, and how many placements CP-SAT proposed."""

    ranks: list[int]
    latency_s: float
    bound_s: float
    method: str
    rounds: int = 0

    @property
    def proven(self) -> bool:
        """Whether no placement is faster."""
        return self.latency_s <= self.bound_s

    def notes(self) -> dict[str, Any]:
        """For a plan's notes."""
        return {
            "objective": "critical-path",
            "method": self.method,
            "status": "optimal" if self.proven else "feasible",
            "critical_path_s": self.latency_s,
            "bound_s": self.bound_s,
        }


def latency_of(problem: Problem, ranks: Sequence[int]) -> float:
    """Critical path of an untiled placement."""
    return critical_path(problem, make_plan("", problem, ranks)).latency_s


def fastest(problem: Problem, priced: Prices, effort: float) -> Fastest:
    """Solve it; `effort` in CP-SAT's deterministic seconds. Raises CapacityError when memory limits leave nothing."""
    memory = MemoryLimits.of(problem)
    top = len(priced.facts.layers) - 1
    if is_chain(priced.facts) and top <= LARGEST_CHAIN:
        found = _over_cuts(problem, priced, memory, _chain_floor(problem, priced))
        if found is None:
            raise no_placement(problem, memory, True)
        return Fastest(found[1], found[0], found[0], "all cuts")
    best = _over_cuts(problem, priced, memory, level_cuts(priced, cost(priced)), TRIED)
    free = minimum_cut(problem.graph, priced)[0]
    if memory.fits(free) and (best is None or latency_of(problem, free) < best[0]):
        best = (latency_of(problem, free), free)
    return _by_cpsat(problem, priced, memory, best, effort)


def _over_cuts(
    problem: Problem, priced: Prices, memory: MemoryLimits, floor: Table, most: int | None = None
) -> tuple[float, list[int]] | None:
    """The fastest pair of cuts, in the order of `floor`: the first `most` of them, or until a floor says that no later one can be
    faster."""
    best: tuple[float, list[int]] | None = None
    for flat in np.argsort(floor, axis=None, kind="stable")[:most]:
        i, j = np.unravel_index(int(flat), floor.shape)
        if floor[i, j] == np.inf or (most is None and best is not None and floor[i, j] >= best[0]):
            break
        ranks = ranks_of(priced.facts, int(i), int(j))
        if memory.fits(ranks) and (best is None or latency_of(problem, ranks) < best[0]):
            best = (latency_of(problem, ranks), ranks)
    return best


def _chain_floor(problem: Problem, priced: Prices) -> Table:
    """What no pair of cuts of a chain is faster than: all computing one after the other, the tensor right at each cut, one
    answer back (skips over a cut come on top)."""
    size = len(problem.graph)
    row = np.zeros(size)
    last = max(problem.graph.outputs)
    compute = np.array(priced.compute)
    compute[EDGE, last] += problem.network.device_edge.transfer_s(problem.graph[last].output_bytes)
    compute[CLOUD, last] += problem.network.device_cloud.transfer_s(problem.graph[last].output_bytes)
    floor = level_cuts(priced, Resource("floor", compute, row, row, row))
    at = [layer[0] for layer in priced.facts.layers]
    hop = priced.hop
    for i in range(len(at) - 1):
        up, far = hop[DEVICE][EDGE][at[i]], hop[DEVICE][CLOUD][at[i]]
        floor[i, i] += far
        floor[i, i + 1 :] += up
        floor[:i, i] += hop[EDGE][CLOUD][at[i]]
    return floor * (1.0 - 1e-12)


def _by_cpsat(
    problem: Problem, priced: Prices, memory: MemoryLimits, best: tuple[float, list[int]] | None, effort: float
) -> Fastest:
    model: Any = cp_model.CpModel()
    start = minimum_cut(problem.graph, priced)[0] if best is None else best[1]
    placed = placement(model, problem.graph, priced.relay, start)
    memory.constrain(model, placed)
    end = _Schedule(model, problem, priced, placed).end
    model.minimize(end)
    tolerance = 8e-9 * len(problem.graph)
    bound, left, rounds, excluded = 0.0, effort, 0, False
    while left > 0.0 and rounds < ROUNDS:
        if best is not None:
            model.add(end <= int(best[0] * NANO))
        solver, status = search(model, left)
        left -= max(float(solver.deterministic_time), 1e-3)
        if status == cp_model.INFEASIBLE:
            if best is None and not excluded:
                raise no_placement(problem, memory, True)
            bound = float("inf") if best is None else best[0]  # nothing that is left is faster
            break
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            break
        rounds += 1
        bound = max(bound, solver.best_objective_bound / NANO - tolerance)
        ranks = placed.ranks(solver)
        latency = latency_of(problem, ranks)
        if memory.fits(ranks) and (best is None or latency < best[0]):
            best = (latency, ranks)
        if best is not None and best[0] <= bound + 2.0 * tolerance:
            break
        if status != cp_model.OPTIMAL:
            break
        excluded = True
        _exclude(model, placed, ranks)
    if best is None:
        raise no_placement(problem, memory, False)
    proven = best[0] <= bound + 2.0 * tolerance
    return Fastest(best[1], best[0], best[0] if proven else bound, "cp-sat", rounds)


def _exclude(model: Any, placed: Placement, ranks: Sequence[int]) -> None:
    """Never this placement again."""
    differs = []
    for v, rank in enumerate(ranks):
        differs.append(placed.device[v].negated() if rank == DEVICE else placed.device[v])
        differs.append(placed.cloud[v].negated() if rank == CLOUD else placed.cloud[v])
    model.add_bool_or(differs)


class _Schedule:
    """When hosts and paths are free, as variables in nanoseconds; `end` is when the last answer is at the device."""

    def __init__(self, model: Any, problem: Problem, priced: Prices, placed: Placement) -> None:
        self.model, self.problem, self.placed = model, problem, placed
        self.relay = priced.relay
        self.size = len(problem.graph)
        self.compute = [[round(x * NANO) for x in row] for row in priced.compute]
        resources = {resource.name: resource for resource in busy(problem, priced)}
        network = problem.network
        self.paths = {"device_edge": network.device_edge, "edge_cloud": network.edge_cloud, "device_cloud": network.device_cloud}
        self.sending = {
            "device_edge": _whole(resources["device_edge"].up),
            "edge_cloud": _whole(resources["edge_cloud"].across),
            "device_cloud": [] if self.relay else _whole(resources["device_cloud"].far),
        }
        self.back = {
            EDGE: _whole(resources["device_edge:back"].compute[EDGE]),
            CLOUD: _whole(resources["device_cloud:back"].compute[CLOUD]),
        }
        slowest = sum(max(row[v] for row in self.compute) for v in range(self.size))
        self.horizon = 2 * (slowest + sum(sum(row) for row in self.sending.values()) + 4 * self.size * self._delays())
        self.end = model.new_int_var(0, self.horizon, "end")
        self._build()

    def _delays(self) -> int:
        return sum(self._delay(name) for name in self.paths) + 1

    def _delay(self, name: str) -> int:
        return round(self.paths[name].delay_s * NANO)

    def _new(self) -> Any:
        return self.model.new_int_var(0, self.horizon, "")

    def _build(self) -> None:
        placed, relay = self.placed, self.relay
        done: dict[int, list[Any]] = {}
        done[DEVICE] = self._host(DEVICE, {})
        to_edge = self._queue("device_edge", placed.up, done[DEVICE])
        arrived = {EDGE: to_edge}
        done[EDGE] = self._host(EDGE, {EDGE: to_edge})
        across = self._any_order(done[EDGE], to_edge) if relay else self._queue("edge_cloud", placed.across, done[EDGE])
        arrived[CLOUD] = across
        far = [] if relay else self._queue("device_cloud", placed.far, done[DEVICE])
        done[CLOUD] = self._host(CLOUD, {CLOUD: across}, far)
        self._answers(done)

    def _host(self, rank: int, arrived: dict[int, list[Any]], far: Sequence[Any] = ()) -> list[Any]:
        """`free[v]`: when the host is done with all its vertices up to v, in the graph's order."""
        model, placed = self.model, self.placed
        free: list[Any] = []
        before: Any = 0
        total: Any = 0
        for v in range(self.size):
            here, seconds = placed.on(v, rank), self.compute[rank][v]
            now = self._new()
            model.add(now >= before + seconds * here)
            flag = self._flag(v, rank)
            for u in self.problem.graph[v].inputs:
                ways = [row[u] for row in arrived.values()] + ([far[u]] if far else [])
                for way in ways:
                    if way is not None:
                        model.add(now >= way + seconds).only_enforce_if(flag)
            total = total + seconds * here
            free.append(now)
            before = now
        model.add(self.end >= total)
        return free

    def _flag(self, v: int, rank: int) -> Any:
        """A literal that is true when v is on a tier."""
        if rank == DEVICE:
            return self.placed.device[v]
        if rank == CLOUD:
            return self.placed.cloud[v]
        flag = self.model.new_bool_var("")
        self.model.add(flag == self.placed.on(v, EDGE))
        return flag

    def _queue(self, name: str, crosses: Sequence[Any], ready: Sequence[Any]) -> list[Any]:
        """Arrival of every tensor over a path whose tensors get ready in the graph's order; 0 at best for those that do not
        cross."""
        model, delay = self.model, self._delay(name)
        arrivals: list[Any] = []
        before: Any = 0
        for u, crossing in enumerate(crosses):
            if crossing is None:
                arrivals.append(None)
                continue
            now, seconds = self._new(), self.sending[name][u]
            model.add(now >= before + seconds * crossing)
            model.add(now >= ready[u] + seconds).only_enforce_if(crossing)
            arrival = self._new()
            model.add(arrival >= now + delay).only_enforce_if(crossing)
            arrivals.append(arrival)
            before = now
        return arrivals

    def _any_order(self, edge_done: Sequence[Any], relayed: Sequence[Any]) -> list[Any]:
        """Arrival in the cloud by way of the edge: own tensors when computed, relayed ones when they came; in any order."""
        model, placed, delay = self.model, self.placed, self._delay("edge_cloud")
        arrivals: list[Any] = []
        intervals = []
        for u, crossing in enumerate(placed.across):
            if crossing is None:
                arrivals.append(None)
                continue
            seconds, start, stop, arrival = self.sending["edge_cloud"][u], self._new(), self._new(), self._new()
            intervals.append(model.new_optional_interval_var(start, seconds, stop, crossing, ""))
            own = self._flag(u, EDGE)
            model.add(start >= edge_done[u]).only_enforce_if(crossing, own)
            model.add(start >= relayed[u]).only_enforce_if(crossing, placed.device[u])
            model.add(arrival >= stop + delay).only_enforce_if(crossing)
            arrivals.append(arrival)
        model.add_no_overlap(intervals)
        return arrivals

    def _answers(self, done: dict[int, list[Any]]) -> None:
        """The end is not before any answer is back."""
        model, placed = self.model, self.placed
        outputs = sorted(set(self.problem.graph.outputs))
        for v in outputs:
            model.add(self.end >= done[DEVICE][v]).only_enforce_if(placed.device[v])
        for rank, name in ((EDGE, "device_edge"), (CLOUD, "device_cloud")):
            intervals = []
            for v in outputs:
                seconds, start, stop, here = self.back[rank][v], self._new(), self._new(), self._flag(v, rank)
                intervals.append(model.new_optional_interval_var(start, seconds, stop, here, ""))
                model.add(start >= done[rank][v]).only_enforce_if(here)
                model.add(self.end >= stop + self._delay(name)).only_enforce_if(here)
            if len(intervals) > 1:
                model.add_no_overlap(intervals)


def _whole(seconds: Any) -> list[int]:
    return [round(float(x) * NANO) for x in seconds]
