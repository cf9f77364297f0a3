"""HPA for the objective "throughput": greedy passes over weighted prices, the best of them by the smallest bottleneck.

Our extension; D3 has one objective, the sum. A pass of HPA minimises a sum, so the sum is weighted: seconds of a resource count
more, the busier it should not be. The weights tried are those that the lower bound's linear programme goes through
(`lagrange.py`; DADS' DSH tries a grid of them), and the cuts between two pairs of graph layers join in, which makes the
result exact on chains. Where the bound is not reached, single vertices are moved while that helps. Notes give the bottleneck
and its proven lower bound. A change is answered by a full pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from testbed.errors import CapacityError
from testbed.planners.base import Problem
from testbed.planners.capacitated import no_placement
from testbed.planners.lagrange import smallest_bottleneck
from testbed.planners.limited import improved
from testbed.planners.loads import as_prices, mix
from testbed.planners.prices import Prices
from testbed.planners.throughput import Bottleneck, is_proven

CLIMBS = 2
"""Rounds of hill climbing at the end, where the bound is not reached."""


def least_bottleneck(problem: Problem, priced: Prices, place: Callable[[Prices], list[int]]) -> tuple[list[int], dict[str, Any]]:
    """Ranks and notes; `place` is HPA's full pass at given prices. Raises CapacityError when nothing it tries fits."""
    view = Bottleneck(problem, priced)
    cuts = view.best_cuts()
    tried = [place(priced), *([] if cuts is None else [cuts])]
    if view.chain and cuts is not None:
        bound = view.loads(cuts).bottleneck_s
    else:
        dual = smallest_bottleneck(problem.graph, priced, view.resources)
        bound = dual.bound
        for weights in dual.tried:
            weighted = mix("weighted", list(zip(weights, view.resources, strict=True)))
            tried.append(place(as_prices(priced, weighted, look_ahead=True)))
    fitting = [ranks for ranks in tried if view.memory.fits(ranks)]
    if not fitting:
        raise _none(problem, view)
    ranks = min(fitting, key=view.key)
    if not is_proven(problem, view.loads(ranks).bottleneck_s, bound):
        ranks = improved(problem.graph, ranks, view.key, view.memory.fits, CLIMBS)
    found = view.loads(ranks)
    notes = {
        "objective": "throughput",
        "status": "optimal" if is_proven(problem, found.bottleneck_s, bound) else "feasible",
        "bottleneck": found.bottleneck,
        "bottleneck_s": found.bottleneck_s,
        "bottleneck_bound_s": bound,
    }
    return ranks, notes


def _none(problem: Problem, view: Bottleneck) -> CapacityError:
    return no_placement(problem, view.memory, view.chain)
