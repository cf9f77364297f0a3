"""DSH, DADS' search for heavy load (INFOCOM 2019): the placement with the least longest stage, among weighted minimum cuts.

The weights alpha x low seconds + path seconds + gamma x high seconds are walked over a grid; the next grid is the neighbourhood
of the best point with a step divided by K, until the gain is small. alpha = gamma = 1 is always tried, so the longest stage
found is at most three times the least possible one (the paper's ratio: the least sum is at most the sum of three stages of the
best plan).

The paper's grid has step 1 and reaches to sum(t_e) / min(t_t) and sum(t_c) / min(t_t), which can be a million cuts. Ours has
the same reach and at most `dsh_points` points a side, so its step is 1 or, where that would be more points, longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d3node.graph import INPUT, LayerGraph
from testbed.planners.base import Problem
from testbed.planners.mincut import NANO, Ints
from testbed.planners.two_tier_cut import Cutter, kept_network
from testbed.planners.two_tiers import TwoTiers, path_between

ROUNDS = 30
"""Most refinements of the grid; the step is then far below a nanosecond's worth of weight."""


@dataclass(frozen=True)
class Found:
    """The best placement, its stage times, the weights that led to it, and how many cuts were made."""

    ranks: list[int]
    stages: tuple[float, float, float]
    alpha: float
    gamma: float
    cuts: int


def busy_seconds(problem: Problem, pair: TwoTiers) -> list[float]:
    """Seconds that every tensor keeps the path between the tiers busy: DADS' t_t = size / bandwidth. Propagation does not hold up
    the next request. Of several hops the narrowest counts: all of them carry the same tensors."""
    rate = min(max(path.rate_bps, 1e3) for path in path_between(problem, pair))
    busy = [bits / rate for bits in pair.priced.facts.wire_bits]
    if pair.entry_s:  # edge-cloud by a direct route: the device sends the input to the cloud by itself
        busy[INPUT] = pair.priced.facts.wire_bits[INPUT] / max(problem.network.device_cloud.rate_bps, 1e3)
    return busy


def least_stage(
    graph: LayerGraph, pair: TwoTiers, busy_s: Sequence[float], values: dict[str, Any], light: Sequence[int]
) -> Found:
    """The search, never worse than `light`, DSL's ranks. `values` holds `dsh_points`, `dsh_shrink` (K) and `dsh_gain` (the
    least relative gain worth another round)."""
    search = _Search(graph, pair, busy_s)
    shortest = min(seconds for seconds, readers in zip(busy_s, graph.successors, strict=True) if readers)
    reach = [sum(pair.low_s[1:]) / shortest, sum(pair.high_s[1:]) / shortest]
    points = int(values["dsh_points"])
    step = [max(1.0, span / (points - 1)) for span in reach]
    search.try_ranks(light, 1.0, 1.0)
    search.walk([(1.0, 1.0)])
    search.walk(itertools.product(*([i * s for i in range(int(span / s) + 1)] for span, s in zip(reach, step, strict=True))))
    shrink = int(values["dsh_shrink"])
    for _ in range(ROUNDS):
        before = search.longest_s
        centre = (search.best.alpha, search.best.gamma)
        step = [s / shrink for s in step]
        axes = (
            sorted({max(0.0, middle + i * s) for i in range(-shrink, shrink + 1)}) for middle, s in zip(centre, step, strict=True)
        )
        search.walk(itertools.product(*axes))
        if search.longest_s > before * (1.0 - values["dsh_gain"]):
            break
    return search.found()


class _Search:
    """The best cut so far."""

    def __init__(self, graph: LayerGraph, pair: TwoTiers, busy_s: Sequence[float]) -> None:
        self._cutter = Cutter(kept_network(graph, False), graph.name)
        self._pair = pair
        self._busy_s = busy_s
        rows = (pair.high_s, pair.low_s, busy_s)
        self._high, self._low, self._busy = (np.asarray(row, dtype=np.float64) * NANO for row in rows)
        self._size = len(graph)
        self._seen: set[frozenset[int]] = set()
        self._cuts = 0
        self.longest_s = float("inf")
        self.best = Found([], (0.0, 0.0, 0.0), 1.0, 1.0, 0)

    def walk(self, weights: Iterable[tuple[float, ...]]) -> None:
        """Cut with each pair of weights (alpha, gamma) and keep the first best."""
        for alpha, gamma in weights:
            finite: Ints = np.rint(np.concatenate([gamma * self._high, alpha * self._low, self._busy, (0.0,)])).astype(np.int64)
            behind, _ = self._cutter.cut(finite)
            self._cuts += 1
            key = frozenset(behind)
            if key in self._seen:
                continue
            self._seen.add(key)
            self.try_ranks(self._pair.ranks([False] + [v + 1 in behind for v in range(1, self._size)]), alpha, gamma)

    def try_ranks(self, ranks: Sequence[int], alpha: float, gamma: float) -> None:
        """Keep a placement if its longest stage is the shortest so far."""
        stages = self._pair.stages(ranks, self._busy_s)
        if max(stages) < self.longest_s:
            self.longest_s = max(stages)
            self.best = Found(list(ranks), stages, alpha, gamma, 0)

    def found(self) -> Found:
        """The best, with the number of cuts that it took."""
        best = self.best
        return Found(best.ranks, best.stages, best.alpha, best.gamma, self._cuts)
