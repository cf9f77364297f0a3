"""What planners of two tiers share: which two they are, their prices, and D3's objective over plans that use only these.

A vertex is "low" or "high". On device-edge and device-cloud the input starts on the low tier. On edge-cloud it comes from the
device all the same: by relay it always crosses the access link first, on the route "direct" it goes to whichever tier reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from d3node.graph import INPUT
from d3node.plan import TIERS
from testbed.costs.network import Path
from testbed.planners.base import Decision, Problem
from testbed.planners.prices import CLOUD, DEVICE, EDGE, Prices, few_moves, make_plan

PAIRS: dict[str, tuple[int, int]] = {"device-cloud": (DEVICE, CLOUD), "device-edge": (DEVICE, EDGE), "edge-cloud": (EDGE, CLOUD)}
"""Values of the option `tiers`, and the ranks of the low and the high tier."""


@dataclass(frozen=True, slots=True)
class TwoTiers:
    """Prices of placements on two tiers, in seconds.

    `low_s[v]` and `high_s[v]`: compute; `up_s[u]`: moving u's output up, paid once if anything high reads it; `entry_s`: paid
    once if anything low reads the input; `base_s`: paid always. Lists are shared with `priced`: read only.
    """

    priced: Prices
    low: int
    high: int
    low_s: Sequence[float]
    high_s: Sequence[float]
    up_s: Sequence[float]
    entry_s: float = 0.0
    base_s: float = 0.0

    def ranks(self, on_high: Sequence[bool]) -> list[int]:
        """Ranks of a placement; the input stays on the device."""
        ranks = [self.high if high else self.low for high in on_high]
        ranks[INPUT] = DEVICE
        return ranks

    def stages(self, ranks: Sequence[int], busy_s: Sequence[float]) -> tuple[float, float, float]:
        """DADS' stage times (T_e, T_t, T_c) of a placement: seconds that the low tier, the path (`busy_s[u]` per tensor) and the
        high tier are busy with one request."""
        consumers = self.priced.facts.consumers
        low = moved = high = 0.0
        for v, rank in enumerate(ranks):
            if rank == self.high:
                high += self.high_s[v]
                continue
            low += self.low_s[v]
            for w in consumers[v]:
                if ranks[w] == self.high:
                    moved += busy_s[v]
                    break
        return low, moved, high


def two_tiers(priced: Prices, tiers: str, server_load: float = 1.0) -> TwoTiers:
    """Prices on the two tiers that an option value names; `server_load` multiplies the high tier's times."""
    low, high = PAIRS[tiers]
    high_s: Sequence[float] = priced.compute[high]
    if server_load != 1.0:
        high_s = [seconds * server_load for seconds in high_s]
    up_s: Sequence[float] = priced.hop[low][high]
    entry_s = base_s = 0.0
    if low == EDGE:
        if priced.relay:
            base_s = priced.hop[DEVICE][EDGE][INPUT]
        else:
            entry_s = priced.hop[DEVICE][EDGE][INPUT]
            own = few_moves(priced.facts, priced.line[EDGE][CLOUD])
            own[INPUT] = priced.hop[DEVICE][CLOUD][INPUT]
            up_s = own
    return TwoTiers(priced, low, high, priced.compute[low], high_s, up_s, entry_s, base_s)


def path_between(problem: Problem, pair: TwoTiers) -> tuple[Path, ...]:
    """Paths that a tensor takes from the low to the high tier, one after the other."""
    return problem.network.hops(TIERS[pair.low], TIERS[pair.high])


def decision(name: str, problem: Problem, priced: Prices, ranks: Sequence[int], notes: dict[str, Any]) -> Decision:
    """A full decision for a placement."""
    return Decision(make_plan(name, problem, ranks, notes=notes), priced.objective(ranks), priced.facts.everything)
