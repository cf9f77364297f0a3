"""Placements under memory limits of the hosts: the acyclic partition problem with capacities, over three ordered tiers.

Nossack and Pesch (2014): partition a weighted digraph into clusters of bounded weight with an acyclic quotient, NP-hard, solved
by branch and bound over an integer programme. Here the quotient is fixed (device -> edge -> cloud), the weight of a part is the
memory of `memory.py`, and what is minimised is D3's sum of compute and transfer seconds. Small graphs: exact, CP-SAT's branch
and bound on the full memory model. Larger ones: the Lagrangian dual on minimum cuts (it relaxes the limits to parameter
bytes, a part's tensors count in the test of every placement), with the dual's lower bound. Either way notes say `status`,
`bound_s` and the gap. Tiles are not used.

Options: `exact_up_to`: vertices up to which CP-SAT takes part. `effort`: its limit in deterministic seconds (about as many real
ones), after which the best placement so far stands with the bound proven so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d3node.graph import INPUT
from d3node.plan import TIERS, Plan
from testbed.errors import CapacityError
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.level_cuts import level_cuts, ranks_of
from testbed.planners.limited import Limit, Outcome, least_within
from testbed.planners.loads import cost, parameters
from testbed.planners.memory import held_bytes, limit_of, megabytes, tier_needs
from testbed.planners.memory_model import limit_memory
from testbed.planners.options import read
from testbed.planners.placement_model import Placement
from testbed.planners.prices import Prices, make_plan, prices

TRIED = 400
"""Level cuts whose tensors are looked at, cheapest first, for a placement to start from."""


class Capacitated:
    """The least objective within the hosts' memory; without limits the same as `optimal`."""

    name = "capacitated"

    def plan(self, problem: Problem) -> Decision:
        """Raises CapacityError when no placement fits, or none is found within the effort."""
        values = read(problem, self.name)
        priced = prices(problem)
        exact = len(problem.graph) <= values["exact_up_to"]
        outcome = within_capacities(problem, priced, values["effort"] if exact else 0.0)
        notes = {**outcome.notes(), "gap": outcome.value_s / outcome.bound_s - 1.0 if outcome.bound_s > 0.0 else 0.0}
        assert outcome.ranks is not None
        plan = make_plan(self.name, problem, outcome.ranks, notes=notes)
        return Decision(plan, outcome.value_s, priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """From scratch."""
        return self.plan(problem)


@dataclass(frozen=True)
class MemoryLimits:
    """The limits of a problem's three leading hosts, in bytes by rank; tiers without one left out."""

    problem: Problem
    relay: bool
    by_rank: dict[int, float]

    @classmethod
    def of(cls, problem: Problem) -> MemoryLimits:
        """Those of `problem.capacities`."""
        limits = {rank: limit_of(problem, problem.hosts[tier]) for rank, tier in enumerate(TIERS)}
        finite = {rank: limit for rank, limit in limits.items() if limit < float("inf")}
        return cls(problem, problem.network.route == "relay", finite)

    def fits(self, ranks: Sequence[int]) -> bool:
        """Whether an untiled placement keeps them."""
        if not self.by_rank:
            return True
        needs = tier_needs(self.problem.graph, ranks, self.relay)
        return all(needs[rank].total <= limit for rank, limit in self.by_rank.items())

    def constrain(self, model: Any, placed: Placement) -> None:
        """Add them to a CP-SAT model."""
        limit_memory(model, placed, self.problem.graph, self.by_rank)

    def additive(self, priced: Prices) -> list[Limit]:
        """Their additive part: parameters alone."""
        return [Limit(parameters(self.problem, priced, rank), limit, 1.0) for rank, limit in self.by_rank.items()]

    def words(self) -> str:
        """For messages."""
        bounds = ((self.problem.hosts[tier], self.by_rank.get(rank)) for rank, tier in enumerate(TIERS))
        return ", ".join(f"{host} {'any' if limit is None else megabytes(limit)}" for host, limit in bounds)


def within_capacities(problem: Problem, priced: Prices, effort: float) -> Outcome:
    """The best placement within `problem.capacities` that the effort finds, and what is proven of it.

    Raises CapacityError when there is none, or none was found.
    """
    limits = MemoryLimits.of(problem)
    starts = _starts(problem, priced, limits.by_rank)
    outcome = least_within(problem, priced, limits.additive(priced), limits.fits, starts, effort, limits.constrain)
    if outcome.ranks is None:
        raise no_placement(problem, limits, outcome.status == "infeasible")
    return outcome


def _starts(problem: Problem, priced: Prices, finite: dict[int, float]) -> Iterator[list[int]]:
    """Level cuts whose parameters fit, cheapest first."""
    if not finite:
        return
    value = level_cuts(priced, cost(priced))
    for rank, limit in finite.items():
        value = np.where(level_cuts(priced, parameters(problem, priced, rank)) <= limit, value, np.inf)
    order = np.argsort(value, axis=None, kind="stable")[:TRIED]
    for flat in order:
        i, j = np.unravel_index(int(flat), value.shape)
        if np.isfinite(value[i, j]):
            yield ranks_of(priced.facts, int(i), int(j))


def no_placement(problem: Problem, limits: MemoryLimits, proven: bool) -> CapacityError:
    """The error that says so."""
    graph = problem.graph
    whole = sum(vertex.parameter_bytes for vertex in graph)
    largest = max(graph, key=lambda vertex: vertex.parameter_bytes + held_bytes(graph, vertex.index))
    least = largest.parameter_bytes + held_bytes(graph, largest.index)
    said = "no placement fits (proven)" if proven else "no placement was found that fits (not proven: more effort may find one)"
    return CapacityError(
        f"{graph.name!r} within memory limits ({limits.words()}): {said}; its parameters are {megabytes(whole)},"
        f" its largest vertex {largest.name!r} alone needs {megabytes(least)}, and the device holds the input,"
        f" {megabytes(held_bytes(graph, INPUT))}; give a host more memory"
    )
