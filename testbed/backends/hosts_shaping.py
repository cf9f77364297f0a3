"""Links of a scenario on real machines whose agents may shape: what a path is to be like, and what was carried on each link.

A machine shapes what it sends to another one, so that a path's narrowest rate and all its delays are put in force at its
sender. A link that several machines send into is not shared among them: each has its rate to itself, and `shared` tells where
that mattered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

from testbed.backends.base import LinkCounters
from testbed.scenario.state import LinkState
from topologies.layout import Direction, Layout

Key = tuple[str, Direction]
Pair = tuple[str, str]
Carried = Mapping[Pair, tuple[int, int, int]]
"""Bytes, packets and dropped packets by (sender, receiver)."""
SHARE = 0.05
"""Of a link's bytes: who sends less than this counts for nothing."""


def paths(layout: Layout) -> dict[Pair, tuple[Key, ...]]:
    """Links crossed between any two hosts that can reach each other."""
    found: dict[Pair, tuple[Key, ...]] = {}
    for source, target in permutations((host.name for host in layout.hosts), 2):
        try:
            found[source, target] = tuple((link.name, direction) for link, direction in layout.path(source, target))
        except KeyError:
            continue
    return found


def path_state(keys: tuple[Key, ...], states: Mapping[Key, LinkState]) -> LinkState:
    """What a path is like whose links are in these states."""
    crossed = [states[key] for key in keys]
    return LinkState(
        rate_bps=min(state.rate_bps for state in crossed),
        delay_s=sum(state.delay_s for state in crossed),
        loss=1.0 - math.prod(1.0 - state.loss for state in crossed),
        jitter_s=sum(state.jitter_s for state in crossed),
    )


def by_link(crossed: Mapping[Pair, tuple[Key, ...]], carried: Carried) -> dict[Key, LinkCounters]:
    """Totals of every link direction that paths cross."""
    sums: dict[Key, list[int]] = {key: [0, 0, 0] for keys in crossed.values() for key in keys}
    for pair, counted in carried.items():
        for key in crossed[pair]:
            sums[key] = [a + b for a, b in zip(sums[key], counted, strict=True)]
    return {key: LinkCounters(nbytes, packets, drops) for key, (nbytes, packets, drops) in sums.items()}


def shared(crossed: Mapping[Pair, tuple[Key, ...]], carried: Carried) -> dict[Key, list[str]]:
    """Link directions that more than one machine sent into, with those machines."""
    found: dict[Key, dict[str, int]] = {}
    for (source, target), (nbytes, _, _) in carried.items():
        for key in crossed[source, target]:
            senders = found.setdefault(key, {})
            senders[source] = senders.get(source, 0) + nbytes
    weighty = {
        key: sorted(name for name, nbytes in senders.items() if nbytes > SHARE * sum(senders.values()))
        for key, senders in found.items()
    }
    return {key: names for key, names in weighty.items() if len(names) > 1}
