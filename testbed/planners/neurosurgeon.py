"""Neurosurgeon (Kang et al., ASPLOS 2017): one cut, everything before it on the device, everything after it on a server.

Every place of the topological order is tried, all-device and all-server among them. The paper's networks are chains; on a DAG all
tensors that are alive at the cut are sent, as DADS' authors did to compare with it. Options:

- `tiers`: "device-cloud" (the paper's phone and data centre), "device-edge", or "edge-cloud" (ours).
- `neurosurgeon_objective`: "latency", or "energy" of the device: its power while computing times its seconds, plus the radio's
  power times the seconds of upload. Waiting and the answer's way back are not counted, as in the paper.
- `radio`: the technology whose constants the energy objective takes (`costs/radio.py`).
- `device_power_w`: the device's power while computing; 0 takes that of its device description.
- `server_load`: what the server's seconds are multiplied by, beyond the slow-down that the control loop observes by itself.
- `neurosurgeon_graphs`: "chains" refuses a DAG, as the paper's algorithm must; "any" cuts its topological order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from d3node.graph import INPUT, LayerGraph
from d3node.plan import Plan
from testbed.costs.radio import RADIOS
from testbed.errors import PlannerError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.options import read
from testbed.planners.prices import DEVICE, prices
from testbed.planners.two_tiers import TwoTiers, decision, path_between, two_tiers


class Neurosurgeon:
    """The best single cut on the topological order."""

    name = "neurosurgeon"

    def plan(self, problem: Problem) -> Decision:
        """Try every cut. Raises PlannerError for the energy objective where the device's power is unknown, or on tiers without
        the device; and for a DAG where only chains are asked for."""
        values = read(problem, self.name)
        graph = problem.graph
        if values["neurosurgeon_graphs"] == "chains":
            _check_chain(graph)
        priced = prices(problem)
        pair = two_tiers(priced, values["tiers"], values["server_load"])
        notes: dict[str, Any] = {"tiers": values["tiers"], "objective": values["neurosurgeon_objective"]}
        if values["neurosurgeon_objective"] == "energy":
            energies = cut_prices(pair, *_energy(problem, pair, values))
            cut = least(energies)
            notes |= {"energy_j": energies[cut], "radio": values["radio"]}
        else:
            cut = least(cut_prices(pair, pair.low_s, pair.high_s, pair.up_s, pair.entry_s))
        ranks = pair.ranks([v > cut for v in range(len(graph))])
        return decision(self.name, problem, priced, ranks, {**notes, "cut": graph[cut].name})

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Every cut again: one pass over the graph."""
        return self.plan(problem)


def cut_prices(
    pair: TwoTiers, low: Sequence[float], high: Sequence[float], up: Sequence[float], entry: float = 0.0
) -> list[float]:
    """Price of the cut behind every vertex, one sum each way: vertices up to it pay `low`, later ones `high`, and every tensor
    made up to it and read after it `up`; `entry` once something low reads the input."""
    consumers = pair.priced.facts.consumers
    size = len(consumers)
    first_read = consumers[INPUT][0] if consumers[INPUT] else size
    ends: list[list[int]] = [[] for _ in range(size)]  # tensors by their last reader
    for u, readers in enumerate(consumers):
        if readers:
            ends[readers[-1]].append(u)
    below = [0.0] * size
    for v in range(1, size):
        below[v] = below[v - 1] + low[v]
    above = [0.0] * size
    for v in range(size - 1, 0, -1):
        above[v - 1] = above[v] + high[v]
    found, alive = [], dict[int, float]()
    for v in range(size):
        for u in ends[v]:
            del alive[u]
        if consumers[v]:
            alive[v] = up[v]
        found.append(below[v] + sum(alive.values()) + above[v] + (entry if v >= first_read else 0.0))
    return found


def least(found: Sequence[float]) -> int:
    """Position of the least price; among equal ones the last, which keeps most on the low tier."""
    return min(range(len(found)), key=lambda cut: (found[cut], -cut))


def _energy(problem: Problem, pair: TwoTiers, values: dict[str, Any]) -> tuple[list[float], list[float], list[float]]:
    """Joules of the device per vertex below, above (none), and per tensor sent up."""
    if pair.low != DEVICE:
        raise PlannerError(f"neurosurgeon: the energy objective is the device's, which tiers = {values['tiers']!r} leaves out")
    power_w = values["device_power_w"] or problem.costs.tiers["device"].power_w
    if not power_w:
        raise PlannerError(
            "neurosurgeon: the power of the device is unknown (its profile has none);"
            " give it with --set planning.options.device_power_w=WATTS"
        )
    first = path_between(problem, pair)[0]
    radio = RADIOS[values["radio"]]
    sends = [radio.upload_j(vertex.output_bytes, first) for vertex in problem.graph]
    return [power_w * seconds for seconds in pair.low_s], [0.0] * len(sends), sends


def _check_chain(graph: LayerGraph) -> None:
    for v in range(1, len(graph)):
        if graph[v].inputs != (v - 1,):
            raise PlannerError(
                f"neurosurgeon: {graph.name!r} is no chain ({graph[v].name!r} does not follow {graph[v - 1].name!r} alone);"
                ' neurosurgeon_graphs = "any" cuts its topological order'
            )
