"""CoEdge (Zeng et al., ToN 2021): shares of the rows by a linear programme, borders between neighbours before every layer.

Every map is cut in the same proportions; a layer is a superstep, which takes as long as the slowest host's rows and the borders
that it needs first. Objective "latency" minimises the sum of the supersteps with scatter and gather; "energy" minimises the
joules of computing and sending under `coedge_deadline_s`, the paper's own objective. A share must be at least as high as every
border, so that all of a border is with one neighbour; where the programme gives less, the host with the smallest share is
dropped and it is solved again.

The formulation is from memory of the paper (its full text was not available). Power figures are the user's, by host and in
watts, in `[planning.options.coedge]`: `compute_w`, `transmit_w`; where the hosts' description has the power of a busy host,
`compute_w` may be left out. Other options: `max_hosts`, `edge_part`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ortools.linear_solver import pywraplp

from d3node.graph import INPUT
from d3node.plan import Handover, Stack
from testbed.costs.network import MESSAGE_HEADER_BYTES, frame_bytes
from testbed.errors import PlannerError
from testbed.planners.base import Problem
from testbed.planners.evaluate import critical_path
from testbed.planners.lan import Lan
from testbed.planners.prices import EDGE, make_plan, prices
from testbed.planners.tilers import Tiler, linked, runs, strips, workers
from testbed.planners.tiling import bytes_per_position, serialise_s


@dataclass(frozen=True)
class Shares:
    """Shares of the rows by host, and what the programme says of them: seconds of the tiled part, joules where powers are known,
    and whether the deadline is met (None without one)."""

    hosts: tuple[str, ...]
    shares: tuple[float, ...]
    seconds: float
    joules: float | None
    met: bool | None
    dropped: tuple[str, ...]


class CoEdge(Tiler):
    """Heterogeneous strips with neighbour exchange."""

    name = "coedge"

    def stacks(
        self, problem: Problem, values: dict[str, Any], on_edge: Sequence[bool]
    ) -> tuple[tuple[Stack, ...], dict[str, Any]]:
        """Each run of tileable vertices in strips of the run's own shares, one vertex a superstep."""
        graph = problem.graph
        hosts, _ = workers(problem, values)
        found: list[Stack] = []
        notes: dict[str, Any] = {"objective": values["coedge_objective"], "runs": []}
        if len(hosts) < 2:
            return (), notes
        spent = 0.0
        ahead = runs(graph, on_edge)
        rest = rest_s(problem, [v for run in ahead for v in run], on_edge)
        for run in ahead:
            solved = shares_of(problem, values, run, hosts, rest + spent)
            spent += solved.seconds

            def cut(block: Sequence[int], handover: Handover, solved: Shares = solved) -> Stack:
                return strips(graph, block, solved.hosts, solved.shares, handover=handover)

            found += linked([(v,) for v in run], cut, "neighbours")
            shares = dict(zip(solved.hosts, (round(s, 6) for s in solved.shares), strict=True))
            note = {"shares": shares, "dropped": list(solved.dropped), "seconds": solved.seconds}
            notes["runs"].append({**note, "joules": solved.joules, "deadline_met": solved.met})
        return tuple(found), notes


def shares_of(problem: Problem, values: dict[str, Any], run: Sequence[int], hosts: Sequence[str], rest: float) -> Shares:
    """Solve, drop the smallest share that is lower than a border, solve again. `rest`: seconds of the request outside the run.

    The order of the hosts is that of their strips. Raises PlannerError where powers are missing that the objective needs.
    """
    active = list(hosts)
    dropped: list[str] = []
    powers = _powers(problem, values, hosts)
    while True:
        solved = _solve(problem, values, run, active, powers, rest)
        least = min((share, host) for host, share in zip(active, solved.shares, strict=True))
        if len(active) == 1 or all(high_enough(problem, run, share) for share in solved.shares):
            return Shares(tuple(active), solved.shares, solved.seconds, solved.joules, solved.met, tuple(dropped))
        active.remove(least[1])
        dropped.append(least[1])


def borders(problem: Problem, v: int) -> tuple[int, int]:
    """Rows that a strip of a vertex's map reads of its input above and below its own: the halo."""
    spatial = problem.graph[v].spatial
    if spatial is None or spatial.kind != "window":
        return 0, 0
    reach = spatial.dilation[0] * (spatial.kernel[0] - 1)
    return spatial.padding[0], max(0, reach + 1 - spatial.stride[0] - spatial.padding[0])


def high_enough(problem: Problem, run: Sequence[int], share: float) -> bool:
    """The halo rule: a share of every input map of the run is at least as high as the border that a neighbour reads of it."""
    graph = problem.graph
    return all(share * graph[v].rows * _stride(problem, v) >= max(borders(problem, v)) for v in run)


def rest_s(problem: Problem, tiled: Sequence[int], on_edge: Sequence[bool]) -> float:
    """Seconds of a request outside the tiled vertices, with everything that is not on the edge part where the ranks say."""
    ranks = [EDGE] * len(problem.graph)
    ranks[INPUT] = 0
    if not all(on_edge[1:]):
        return 0.0  # with a three-way split the deadline is that of the edge part
    alone = critical_path(problem, make_plan("coedge", problem, ranks)).latency_s
    return alone - sum(prices(problem).compute[EDGE][v] for v in tiled)


def _solve(
    problem: Problem,
    values: dict[str, Any],
    run: Sequence[int],
    hosts: Sequence[str],
    powers: dict[str, tuple[float, float]] | None,
    rest: float,
) -> Shares:
    """The linear programme for hosts that all take part."""
    graph, costs, leader = problem.graph, problem.costs, problem.hosts["edge"]
    lan = Lan(problem)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    share = [solver.NumVar(0.0, 1.0, f"share {host}") for host in hosts]
    solver.Add(sum(share) == 1.0)
    steps = []
    joules: Any = 0.0
    for v in run:
        step = solver.NumVar(0.0, solver.infinity(), f"superstep {v}")
        inside = [u for u in graph[v].inputs if u in run]
        for i, host in enumerate(hosts):
            fixed = costs.vertex_s(v, "edge", host, 0.0)
            scaled = costs.vertex_s(v, "edge", host) - fixed
            halo = 0.0
            for other, rows in ((i - 1, borders(problem, v)[0]), (i + 1, borders(problem, v)[1])):
                if 0 <= other < len(hosts) and rows:
                    path = lan.path(hosts[other], host)
                    sizes = [rows * graph[u].columns * bytes_per_position(graph, u) for u in inside]
                    took = sum(serialise_s(path, size) for size in sizes)
                    halo = max(halo, took + path.delay_s if took else 0.0)
                    if powers is not None:
                        joules += powers[hosts[other]][1] * took
            solver.Add(step >= fixed + scaled * share[i] + halo)
            if powers is not None:
                joules += powers[host][0] * (fixed + scaled * share[i])
        steps.append(step)
    total: Any = sum(steps)
    outside = sorted({u for v in run for u in graph[v].inputs if u not in run})
    delay = 0.0
    for i, host in enumerate(hosts):
        if host == leader:
            continue
        path = lan.path(leader, host)
        delay = max(delay, path.delay_s)
        scatter = sum(_seconds(path.rate_bps, bytes_per_position(graph, u) * graph[u].rows * graph[u].columns) for u in outside)
        gather = _seconds(path.rate_bps, graph[run[-1]].output_bytes)
        total += (scatter + gather) * share[i]
        if powers is not None:
            joules += (powers[leader][1] * scatter + powers[host][1] * gather) * share[i]
    total += 2.0 * delay
    met = None
    if values["coedge_objective"] == "energy":
        deadline = solver.Add(total <= values["coedge_deadline_s"] - rest)
        solver.Minimize(joules)
        met = solver.Solve() == pywraplp.Solver.OPTIMAL
        if not met:  # the deadline cannot be met: as near to it as possible
            deadline.SetUb(solver.infinity())
            deadline.SetLb(-solver.infinity())
    if met is not True:
        solver.Minimize(total)
        if solver.Solve() != pywraplp.Solver.OPTIMAL:
            raise PlannerError("coedge: the linear programme has no solution")
    found = [max(0.0, variable.solution_value()) for variable in share]
    seconds = total.solution_value()
    spent = None if powers is None else joules.solution_value()
    return Shares(tuple(hosts), tuple(found), seconds, spent, met, ())


def _seconds(rate_bps: float, payload_bytes: float) -> float:
    return 8.0 * frame_bytes(payload_bytes + MESSAGE_HEADER_BYTES) / max(rate_bps, 1e3)


def _stride(problem: Problem, v: int) -> int:
    spatial = problem.graph[v].spatial
    return spatial.stride[0] if spatial is not None and spatial.kind == "window" else 1


def _powers(problem: Problem, values: dict[str, Any], hosts: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """(watts while computing, watts while sending) of every host; None where the objective does not need them."""
    if values["coedge_objective"] != "energy":
        return None
    if not values["coedge_deadline_s"]:
        raise PlannerError("coedge: energy is minimised under a deadline: give planning.options.coedge_deadline_s")
    known = problem.costs.tiers["edge"].power_w
    found = {}
    for host in hosts:
        compute, transmit = values["compute_w"].get(host, known), values["transmit_w"].get(host)
        if compute is None or transmit is None:
            missing = "compute_w" if compute is None else "transmit_w"
            raise PlannerError(f"coedge: the power of {host} is unknown: give planning.options.coedge.{missing}.{host} in watts")
        found[host] = (compute, transmit)
    return found
