"""A network as plain data: hosts with tiers, switches, named links, and the path between any two hosts.

No Mininet here; `three_tier.py` and `two_sites.py` build both a `Layout` and a Mininet `Topo` from the same description.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from d3node.plan import TIERS, Tier

Direction = Literal["up", "down"]

NAME_LENGTH = 10
"""Longest name of a host or switch: "NAME-eth9" must fit into the 15 characters of an interface's name."""


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

    def check(self) -> None:
        """Raise ValueError for what no network can have: two things of one name, links to nowhere, a tier without a host, names
        that are too long for interfaces of Linux."""
        nodes = [*(host.name for host in self.hosts), *self.switches]
        for kind, names in (("host or switch", nodes), ("link", list(self.link_names))):
            if len(set(names)) < len(names):
                raise ValueError(f"layout {self.name!r}: more than one {kind} is called {Counter(names).most_common(1)[0][0]!r}")
        long = next((name for name in nodes if not re.fullmatch(rf"[A-Za-z][\w.-]{{0,{NAME_LENGTH - 1}}}", name)), None)
        if long is not None:
            raise ValueError(
                f"layout {self.name!r}: {long!r} cannot name a host or switch: a letter, then letters, digits, '-', '_', '.';"
                f" at most {NAME_LENGTH} characters"
            )
        odd = next((link.name for link in self.links if not re.fullmatch(r"\w[\w.-]{0,99}", link.name)), None)
        if odd is not None:  # captures are files of that name
            raise ValueError(f"layout {self.name!r}: {odd!r} cannot name a link: letters, digits, '-', '_', '.'")
        known = set(nodes)
        for link in self.links:
            for end in (link.a, link.b):
                if end not in known:
                    raise ValueError(f"layout {self.name!r}: link {link.name!r} leads to {end!r}, which is no host or switch")
        for tier in TIERS:
            if not self.tier(tier):
                raise ValueError(f"layout {self.name!r}: there is no host of tier {tier!r}")

    def tier(self, tier: Tier, site: str | None = None) -> tuple[Host, ...]:
        """Hosts of a tier, in order, of one site or of all."""
        return tuple(h for h in self.hosts if h.tier == tier and (site is None or h.site == site))

    def meet(self, a: str, b: str) -> bool:
        """Whether two hosts may have anything to say to each other: other ones of the site, and the cloud's with everybody."""
        one, other = self.by_name[a], self.by_name[b]
        return a != b and (one.site == other.site or "cloud" in (one.tier, other.tier))

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
        """Breadth first over the switches only: a layout may have many more hosts."""
        came: dict[str, tuple[str, Link, Direction]] = {}
        queue = deque([source])
        ends = {node: (link, direction) for node, link, direction in reversed(self._approaches[target])}
        while queue:
            node = queue.popleft()
            if node in ends:
                hops = [ends[node]]
                while node != source:
                    node, link, direction = came[node]
                    hops.append((link, direction))
                return tuple(reversed(hops))
            for switch, link, direction in self._to_switches[node]:
                if switch not in came:
                    came[switch] = (node, link, direction)
                    queue.append(switch)
        raise KeyError(f"no path from {source!r} to {target!r} in {self.name!r}")

    @cached_property
    def _to_switches(self) -> dict[str, list[tuple[str, Link, Direction]]]:
        """Links of every node that lead to a switch."""
        names = set(self.switches)
        return {node: [hop for hop in hops if hop[0] in names] for node, hops in self._neighbours.items()}

    @cached_property
    def _approaches(self) -> dict[str, list[tuple[str, Link, Direction]]]:
        """Links that lead to every node, each with the node at its other end."""
        found: dict[str, list[tuple[str, Link, Direction]]] = {node: [] for node in self._neighbours}
        for node, hops in self._neighbours.items():
            for neighbour, link, direction in hops:
                found[neighbour].append((node, link, direction))
        return found
