"""A network as plain data: hosts with tiers, switches, named links, and the path between any two hosts.

No Mininet here; `three_tier.py` and `two_sites.py` build both a `Layout` and a Mininet `Topo` from the same description.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from d3node.plan import Tier

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Host:
    """A host; `site` groups devices with the edge hosts they use."""

    name: str
    tier: Tier
    site: str = "a"


@dataclass(frozen=True, slots=True)
class Link:
    """A full-duplex link. `a` is the end nearer the devices: "up" is a -> b. `role` is the scenario's key ("access", "lan",
    "backbone", "core", "cellular", ...); `name` is unique ("access-d1", "lan-e2", "backbone")."""

    name: str
    role: str
    a: str
    b: str


@dataclass(frozen=True)
class Layout:
    """Hosts, switches and links. Every simple path between two hosts that matters is the one with the fewest links."""

    name: str
    hosts: tuple[Host, ...]
    switches: tuple[str, ...]
    links: tuple[Link, ...]

    def tier(self, tier: Tier, site: str | None = None) -> tuple[Host, ...]:
        """Hosts of a tier, in order, of one site or of all."""
        return tuple(h for h in self.hosts if h.tier == tier and (site is None or h.site == site))

    @cached_property
    def by_name(self) -> dict[str, Host]:
        """Hosts by name."""
        return {host.name: host for host in self.hosts}

    @cached_property
    def link_names(self) -> tuple[str, ...]:
        """Names of all links, in order."""
        return tuple(link.name for link in self.links)

    @cached_property
    def _neighbours(self) -> dict[str, list[tuple[str, Link, Direction]]]:
        found: dict[str, list[tuple[str, Link, Direction]]] = {n: [] for n in (*(h.name for h in self.hosts), *self.switches)}
        for link in self.links:
            found[link.a].append((link.b, link, "up"))
            found[link.b].append((link.a, link, "down"))
        return found

    def path(self, source: str, target: str) -> tuple[tuple[Link, Direction], ...]:
        """Links from one host to another, in order, each with the direction it is crossed in. Hosts do not forward."""
        cache = self.__dict__.setdefault("_paths", {})
        if (source, target) not in cache:
            cache[source, target] = self._search(source, target)
        return cache[source, target]  # type: ignore[no-any-return]

    def _search(self, source: str, target: str) -> tuple[tuple[Link, Direction], ...]:
        came: dict[str, tuple[str, Link, Direction]] = {}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            if node == target:
                break
            if node != source and node in self.by_name:
                continue
            for neighbour, link, direction in self._neighbours[node]:
                if neighbour != source and neighbour not in came:
                    came[neighbour] = (node, link, direction)
                    queue.append(neighbour)
        if target not in came:
            raise KeyError(f"no path from {source!r} to {target!r} in {self.name!r}")
        hops: list[tuple[Link, Direction]] = []
        node = target
        while node != source:
            node, link, direction = came[node]
            hops.append((link, direction))
        return tuple(reversed(hops))
