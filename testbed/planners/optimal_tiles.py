"""The optimum of D3's objective over placement and tiling together.

Proven: no plan that consists of a legal placement and non-overlapping stacks out of VSM's candidates (`stack_candidates.py`),
each on its best grid, has a lower sum of compute and transfer seconds by the cost model of `tiling.py`. Every plan of `d3` with
the same `shares`, `grids` and `max_hosts` is of that kind, so `bound_s` is a lower bound on all of them, and the plan that is
returned reaches it when `proven`. Not claimed: anything about stacks outside the candidates or about the critical path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d3node.plan import Stack
from testbed.planners.base import Problem
from testbed.planners.cpsat import solve
from testbed.planners.optimum import optimum
from testbed.planners.prices import EDGE, Prices, prices
from testbed.planners.vsm import Offer, Offers, build, offers, pick, tiled_seconds


@dataclass(frozen=True)
class Best:
    """The best plan found, and what is proven about it."""

    ranks: list[int]
    stacks: tuple[Stack, ...]
    gain_s: float
    bound_s: float
    method: str
    proven: bool


def optimum_with_tiles(problem: Problem, priced: Prices, values: dict[str, Any]) -> Best:
    """Optimal ranks and stacks. Without any stack worth tiling this is the untiled optimum."""
    graph = problem.graph
    found = offers(problem, values)
    worthwhile = undominated(found, len(graph))
    untiled, method = optimum(problem, priced)
    if not worthwhile:
        return Best(untiled, (), 0.0, priced.objective(untiled), method, True)
    hopeful = optimum(problem, prices(problem, tiled_seconds(problem, values)))[0]
    start = min((untiled, hopeful), key=lambda ranks: _total(priced, found, ranks))
    solution = solve(graph, priced, start, worthwhile)
    ranks = min((solution.ranks, start), key=lambda ranks: _total(priced, found, ranks))
    picked, gain = pick(found, [rank == EDGE for rank in ranks])
    reached = priced.objective(ranks) - gain
    bound = reached if solution.proven else min(reached, solution.bound_ns / 1e9)
    return Best(ranks, tuple(build(graph, offer) for offer in picked), gain, bound, "cp-sat", solution.proven)


def undominated(found: Offers, size: int) -> list[Offer]:
    """Offers that save more than any combination of other offers inside the same run; no optimum needs the rest."""
    by_first: dict[int, set[int]] = {}
    for last, group in found.by_last.items():
        for offer in group:
            by_first.setdefault(offer.first, set()).add(last)
    kept = []
    for first, lasts in by_first.items():
        saved = [0.0] * (size + 1)
        for v in range(first, max(lasts) + 1):
            best = saved[v]
            own: Offer | None = None
            for offer in found.by_last.get(v, ()):
                if offer.first == first:
                    own = offer
                elif offer.first > first:
                    best = max(best, saved[offer.first] + offer.gain_s)
            if own is not None and own.gain_s > best + 1e-12:
                kept.append(own)
                best = own.gain_s
            saved[v + 1] = best
    return sorted(kept, key=lambda offer: (offer.last, offer.first))


def _total(priced: Prices, found: Offers, ranks: Sequence[int]) -> float:
    return priced.objective(ranks) - pick(found, [rank == EDGE for rank in ranks])[1]
