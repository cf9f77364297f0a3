"""Matching users and nodes, many to many, where what one gets depends on what all get: proposals, then swaps until stable.

Users propose to nodes in the order of what each node alone would cost them, nodes keep those whom they serve soonest (deferred
acceptance); then pieces are exchanged, moved or added as long as nobody who takes part loses, somebody gains and the sum falls.
The last condition is our choice: without it, what bystanders lose could make swaps go round in a circle; with it every swap
lowers a sum that has finitely many values. What a user's cost is, is the caller's (`dina.py`). Source: DINA (Mohammed et al.,
INFOCOM 2020), as far as it is publicly described: many-to-one matching with externalities, repeated swap proposals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product

Match = Mapping[str, frozenset[str]]
"""Nodes of every user."""
Cost = Callable[[str, Match], float]
"""Seconds that a user's request takes under a matching."""

GAIN = 1e-9
"""A relative change below this is none."""


@dataclass(frozen=True)
class Market:
    """Who may be matched: per user the nodes that it can use, how many it asks for (`wanted`) and how many it may have in the end
    (`most`); per node how many users at most."""

    nodes: Mapping[str, tuple[str, ...]]
    wanted: Mapping[str, int]
    most: Mapping[str, int]
    quota: Mapping[str, int]

    def vacant(self, match: Match, node: str) -> bool:
        """Whether a node can take one more user."""
        return sum(node in held for held in match.values()) < self.quota[node]


@dataclass(frozen=True)
class Swap:
    """One change of a matching: the users who take part, and their nodes afterwards."""

    after: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Stable:
    """A matching that no swap improves, with how it came about."""

    match: Match
    proposals: int
    swaps: int
    rounds: int
    total_s: float


def propose(market: Market, alone: Callable[[str, str], float]) -> tuple[dict[str, frozenset[str]], int]:
    """Deferred acceptance: the matching and the number of proposals. `alone(user, node)`: the cost of one node alone.

    Every user gets at least one node where the quotas have room for all that is wanted.
    """
    order = {user: sorted(nodes, key=lambda node, user=user: (alone(user, node), node)) for user, nodes in market.nodes.items()}  # type: ignore[misc]
    held: dict[str, list[str]] = {node: [] for node in market.quota}
    has: dict[str, set[str]] = {user: set() for user in market.nodes}
    proposals = 0
    waiting = list(market.nodes)
    while waiting:
        user = waiting.pop(0)
        while len(has[user]) < market.wanted[user] and order[user]:
            node = order[user].pop(0)
            proposals += 1
            held[node].append(user)
            has[user].add(node)
            if len(held[node]) > market.quota[node]:
                worst = max(held[node], key=lambda other, node=node: (alone(other, node), other))  # type: ignore[misc]
                held[node].remove(worst)
                has[worst].discard(node)
                if worst != user and worst not in waiting:
                    waiting.append(worst)
    return {user: frozenset(nodes) for user, nodes in has.items()}, proposals


def swaps(market: Market, match: Match) -> Iterator[Swap]:
    """All single changes that quotas allow: exchanges of two users' pieces, moves to a vacant node, additional pieces."""
    users = list(market.nodes)
    for user in users:
        own = match[user]
        free = [node for node in market.nodes[user] if node not in own and market.vacant(match, node)]
        for new in free:
            if len(own) < market.most[user]:
                yield Swap({user: own | {new}})
            for old in sorted(own):
                yield Swap({user: (own - {old}) | {new}})
    for i, first in enumerate(users):
        for second in users[i + 1 :]:
            mine = sorted(node for node in match[first] - match[second] if node in market.nodes[second])
            theirs = sorted(node for node in match[second] - match[first] if node in market.nodes[first])
            for a, b in product(mine, theirs):
                yield Swap({first: (match[first] - {a}) | {b}, second: (match[second] - {b}) | {a}})


def improves(swap: Swap, match: Match, cost: Cost) -> bool:
    """Whether nobody who takes part loses, somebody gains, and the sum over all users falls."""
    after = {**match, **swap.after}
    before_s = {user: cost(user, match) for user in match}
    after_s = {user: cost(user, after) for user in match}
    if any(after_s[user] > before_s[user] * (1.0 + GAIN) for user in swap.after):
        return False
    if not any(after_s[user] < before_s[user] * (1.0 - GAIN) for user in swap.after):
        return False
    return sum(after_s.values()) < sum(before_s.values()) * (1.0 - GAIN)


def blocking(market: Market, match: Match, cost: Cost) -> list[Swap]:
    """The swaps that would improve a matching; none for a stable one."""
    return [swap for swap in swaps(market, match) if improves(swap, match, cost)]


def settle(market: Market, alone: Callable[[str, str], float], cost: Cost) -> Stable:
    """Propose, then swap until a whole round finds nothing to improve."""
    match, proposals = propose(market, alone)
    done = rounds = 0
    changed = True
    while changed:
        changed = False
        rounds += 1
        for swap in list(swaps(market, match)):
            after = {**match, **swap.after}
            if _still_possible(market, match, swap, after) and improves(swap, match, cost):
                match, changed = after, True
                done += 1
    return Stable(match, proposals, done, rounds, sum(cost(user, match) for user in match))


def _still_possible(market: Market, match: Match, swap: Swap, after: Match) -> bool:
    """Whether a swap that was listed before others were made is still one change of the present matching."""
    for user, nodes in swap.after.items():
        if len(nodes - match[user]) != 1 or len(match[user] - nodes) > 1 or len(nodes) > market.most[user]:
            return False
    touched = {node for user, nodes in swap.after.items() for node in nodes | match[user]}
    return all(sum(node in held for held in after.values()) <= market.quota[node] for node in touched)


def exhaustive(market: Market, cost: Cost) -> tuple[Match, float]:
    """The matching with the least sum of costs among all that the quotas allow (at least one node each): for small markets."""
    users = list(market.nodes)
    choices = [
        [frozenset(c) for k in range(1, market.most[user] + 1) for c in combinations(market.nodes[user], k)] for user in users
    ]
    best: Match | None = None
    least = float("inf")
    for way in product(*choices):
        match = dict(zip(users, way, strict=True))
        if all(sum(node in held for held in way) <= room for node, room in market.quota.items()):
            total = sum(cost(user, match) for user in users)
            if total < least:
                best, least = match, total
    assert best is not None, "quotas leave room for every user"
    return best, least
