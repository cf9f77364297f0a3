"""Two planners without a paper, to judge the others by: a random legal plan, and the earliest finish of every vertex by itself.

`random`: "cuts" draws two places of the topological order, device before the first, cloud behind the second (each number of
layers on each tier is about as likely); "vertices" draws every vertex's tier among those that one-way flow leaves, which soon
ends in the cloud. `random_seed` chooses the draw, `random_draws` how many are made, of which the one with the least objective
is kept. The same seed and model give the same plan whatever the network does.

`greedy`: in topological order each vertex goes where it would be finished first, given when its inputs could be there, and when
hosts and links are free of what was placed before; nothing looks ahead. HPA with `horizon = "vertex"` compares something else:
a vertex's own seconds plus the *sum* of its incoming transfers, every consumer paying for itself, by graph layers and with a
second look.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from d3node.graph import INPUT
from d3node.plan import Plan
from testbed.planners.base import Change, Decision, Problem
from testbed.planners.options import read
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, make_plan, prices


class Random:
    """A random legal placement, the same for the same seed and model."""

    name = "random"

    def plan(self, problem: Problem) -> Decision:
        """Draw."""
        values = read(problem, self.name)
        priced = prices(problem)
        rng = random.Random(f"{int(values['random_seed'])} {problem.graph.name}")
        draw = _by_cuts if values["random_draw"] == "cuts" else _by_vertices
        drawn = [draw(priced, rng) for _ in range(int(values["random_draws"]))]
        ranks = min(drawn, key=priced.objective)
        plan = make_plan(self.name, problem, ranks, notes={"seed": int(values["random_seed"]), "draw": values["random_draw"]})
        return Decision(plan, priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The same draws again, at their new prices."""
        return self.plan(problem)


class Greedy:
    """Earliest finish of every vertex by itself."""

    name = "greedy"

    def plan(self, problem: Problem) -> Decision:
        """One pass in topological order."""
        read(problem, self.name)
        priced = prices(problem)
        ranks = earliest(priced)
        return Decision(make_plan(self.name, problem, ranks), priced.objective(ranks), priced.facts.everything)

    def replan(self, problem: Problem, current: Plan, change: Change) -> Decision:
        """The pass again."""
        return self.plan(problem)


def _by_cuts(priced: Prices, rng: random.Random) -> list[int]:
    size = len(priced.facts.producers)
    first, second = sorted((rng.randint(1, size), rng.randint(1, size)))
    return [DEVICE if v < first else EDGE if v < second else CLOUD for v in range(size)]


def _by_vertices(priced: Prices, rng: random.Random) -> list[int]:
    ranks = [DEVICE] * len(priced.facts.producers)
    for v in range(1, len(ranks)):
        ranks[v] = rng.randint(priced.floor(v, ranks), CLOUD)
    return ranks


def earliest(priced: Prices) -> list[int]:
    """Ranks by earliest finish; among equal ones the lowest."""
    size = len(priced.facts.producers)
    state = _Schedule(priced)
    ranks = [DEVICE] * size
    for v in range(1, size):
        options = [(state.finish(v, rank, ranks)[0], rank) for rank in range(priced.floor(v, ranks), CLOUD + 1)]
        ranks[v] = min(options)[1]
        state.place(v, ranks)
    return ranks


class _Schedule:
    """When every tensor is at every tier, and when tiers and links are next free; links send one tensor at a time."""

    def __init__(self, priced: Prices) -> None:
        self._priced = priced
        self._at: list[dict[int, float]] = [{INPUT: 0.0}, {}, {}]
        self._host_free = [0.0, 0.0, 0.0]
        self._link_free: dict[tuple[int, int], float] = {}

    def finish(self, v: int, rank: int, ranks: Sequence[int]) -> tuple[float, list[tuple[int, int, int, float]]]:
        """When v would be finished at a rank, and the transfers that this takes: (tensor, from, to, arrival)."""
        moves: list[tuple[int, int, int, float]] = []
        free = dict(self._link_free)
        ready = self._host_free[rank]
        for u in self._priced.facts.producers[v]:
            ready = max(ready, self._arrival(u, ranks[u], rank, free, moves))
        return ready + self._priced.compute[rank][v], moves

    def place(self, v: int, ranks: Sequence[int]) -> None:
        """Put v where its rank says."""
        rank = ranks[v]
        done, moves = self.finish(v, rank, ranks)
        for u, source, target, arrival in moves:
            self._at[target][u] = arrival
            self._link_free[source, target] = arrival
        self._host_free[rank] = self._at[rank][v] = done

    def _arrival(
        self, u: int, own: int, rank: int, free: dict[tuple[int, int], float], moves: list[tuple[int, int, int, float]]
    ) -> float:
        if u in self._at[rank]:
            return self._at[rank][u]
        if self._priced.relay and rank - own == 2:
            start = self._arrival(u, own, EDGE, free, moves)
            source = EDGE
        else:
            start, source = self._at[own][u], own
        start = max(start, free.get((source, rank), 0.0))
        arrival = start + self._priced.hop[source][rank][u]
        free[source, rank] = arrival
        moves.append((u, source, rank, arrival))
        return arrival
