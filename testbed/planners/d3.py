"""D3: HPA places the vertices on tiers, VSM computes stacks of the edge part in tiles on several edge hosts.

Options of both pass through (`hpa.py`, `vsm.py`). `edge_costs`: whether HPA's edge times are those of the leader alone
("single", the default: D3's profiles are per layer and machine) or already count VSM's gain ("tiled").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from d3node.plan import Plan, Stack
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.hpa import Rule, notes_of, partition, prepare, repartitioned, sweeps
from testbed.planners.options import read
from testbed.planners.placement import placed, ranks_of
from testbed.planners.prices import EDGE, Prices, make_plan, make_room, prices
from testbed.planners.repartition import beyond_bands
from testbed.planners.steady import still
from testbed.planners.tiling import stack_times
from testbed.planners.vsm import choose, tiled_seconds

_KEPT = 8


class D3:
    """HPA plus VSM."""

    name = "d3"

    def plan(self, problem: Problem) -> Decision:
        """A full pass of HPA, then VSM on its edge part."""
        values = read(problem, self.name)
        priced, seen = self._prices(problem, values)
        ranks = partition(Rule(seen, values))
        prepare(problem.graph)
        stacks, gain = choose(problem, values, [rank == EDGE for rank in ranks])
        notes = {**notes_of(problem, values), "edge_costs": values["edge_costs"], "tiling_gain_s": gain}
        plan = make_plan(self.name, problem, ranks, stacks, notes)
        return Decision(plan, priced.objective(ranks) - gain, priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """Partial re-partition; VSM looks again only when the edge part, an edge host, the LAN or an edge vertex changed.

        Touched: the vertices that HPA decided anew, and those of stacks that came, went or were cut differently.
        """
        if len(current.tiers) != len(problem.graph) or current.hosts != problem.hosts:
            return self.plan(problem)
        values = read(problem, self.name)
        lost = any(tile.host not in problem.edge_hosts for stack in current.stacks for tile in stack.tiles)
        same_edge = not (lost or self._edge_changed(problem, change))
        if same_edge and sweeps(values) and (objective_s := still(problem, current, values)) is not None:
            return Decision(current, objective_s - _gain(problem, current.stacks), frozenset())
        change = beyond_bands(problem, current, change, values["band_low"], values["band_high"])
        priced, seen = self._prices(problem, values, sparse=True)
        before = ranks_of(problem.graph, current.tiers)
        more: set[int] = set()
        if values["edge_costs"] == "tiled" and self._edge_changed(problem, change):
            more = {v for v, rank in enumerate(before) if rank == EDGE}
        found, touched = repartitioned(problem, Rule(seen, values), before, change, values, more, same_edge)
        ranks = found.ranks
        same_part = ranks == before or all((a == EDGE) == (b == EDGE) for a, b in zip(before, ranks, strict=True))
        if same_part and not lost and not self._edge_changed(problem, change, before):
            stacks, gain = current.stacks, _gain(problem, current.stacks)
        else:
            stacks, gain = choose(problem, values, [rank == EDGE for rank in ranks])
            old, new = set(current.stacks), set(stacks)
            touched |= {v for stack in old ^ new for v in stack.vertices}
        notes = {**notes_of(problem, values, current, change), "edge_costs": values["edge_costs"], "tiling_gain_s": gain}
        return Decision(placed(self.name, problem, found, stacks, notes), found.objective(priced) - gain, touched)

    def _prices(self, problem: Problem, values: dict[str, Any], sparse: bool = False) -> tuple[Prices, Prices]:
        """True prices, and those that HPA sees."""
        priced = prices(problem, sparse=sparse)
        if values["edge_costs"] == "single":
            return priced, priced
        return priced, prices(problem, tiled_seconds(problem, values), sparse)

    def _edge_changed(self, problem: Problem, change: Change, ranks: Sequence[int] | None = None) -> bool:
        return bool(
            change.hosts.intersection(problem.edge_hosts)
            or change.paths.intersection(problem.network.lan)
            or any(ranks is None or ranks[v] == EDGE for v in change.vertices)
        )


def _gain(problem: Problem, stacks: tuple[Stack, ...]) -> float:
    """Seconds that given stacks save against the leader alone; kept on the graph for the conditions used last, because a
    partial re-partition that leaves the edge part alone asks for the same again."""
    if not stacks:
        return 0.0
    costs, leader = problem.costs, problem.hosts["edge"]
    hosts = sorted({leader, *(tile.host for stack in stacks for tile in stack.tiles)})
    key = (
        stacks,
        tuple((host, costs.speed.get(host, 1.0), problem.network.lan.get(host)) for host in hosts),
        leader,
        tuple(sorted((v, factor) for (v, tier), factor in costs.factor.items() if tier == "edge")),
        id(costs.tiers["edge"]),
    )
    kept = problem.graph.__dict__.setdefault("_planner_gains", {})
    if key not in kept:
        make_room(kept, _KEPT)
        compute = prices(problem, sparse=True).compute[EDGE]
        gain = sum(sum(compute[v] for v in stack.vertices) - stack_times(problem, stack).total_s for stack in stacks)
        kept[key] = (gain, costs.tiers["edge"])  # holds the table: its id stays taken
    return cast(float, kept[key][0])
