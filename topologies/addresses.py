"""Subnets and IPv4 addresses of a layout: one subnet per set of switches that are bridged together.

A pure function of the layout, so that Mininet, captures and agents agree on who is who. Routing between subnets is left out on
purpose: hosts do not forward, and every path of a `Layout` stays within one subnet.
"""

from __future__ import annotations

from topologies.layout import Layout

PREFIX_LENGTH = 16


def segments(layout: Layout) -> tuple[tuple[str, ...], ...]:
    """Switches that are bridged together, in order of first appearance. Raises ValueError where bridges would form a loop."""
    names = set(layout.switches)
    group = {switch: switch for switch in layout.switches}

    def root(switch: str) -> str:
        while group[switch] != switch:
            switch = group[switch]
        return switch

    for link in layout.links:
        if link.a in names and link.b in names:
            a, b = root(link.a), root(link.b)
            if a == b:
                raise ValueError(
                    f"layout {layout.name!r}: link {link.name!r} closes a loop of bridges; put it on a switch of its own"
                )
            group[b] = a
    found: dict[str, list[str]] = {}
    for switch in layout.switches:
        found.setdefault(root(switch), []).append(switch)
    return tuple(tuple(switches) for switches in found.values())


def assign(layout: Layout) -> dict[tuple[str, str], str]:
    """IPv4 address of every host interface, by (host, link name).

    Segment k is 10.k.0.0/16; a host has the same last two bytes in each of its segments. Raises ValueError where a host has two
    links into one segment (the kernel could not tell them apart) or a link joins two hosts without a switch.
    """
    segment_of = {switch: k for k, switches in enumerate(segments(layout)) for switch in switches}
    number = {host.name: i for i, host in enumerate(layout.hosts, 1)}
    found: dict[tuple[str, str], str] = {}
    taken: dict[str, str] = {}
    for link in layout.links:
        for host, other in ((link.a, link.b), (link.b, link.a)):
            if host not in number:
                continue
            if other not in segment_of:
                raise ValueError(f"layout {layout.name!r}: link {link.name!r} joins two hosts; put a switch between them")
            address = f"10.{segment_of[other]}.{number[host] // 256}.{number[host] % 256}"
            if address in taken:
                raise ValueError(
                    f"layout {layout.name!r}: {host!r} has two links into one subnet ({taken[address]!r}, {link.name!r})"
                )
            taken[address] = link.name
            found[host, link.name] = address
    return found


def address(layout: Layout, host: str, peer: str) -> str:
    """IPv4 address at which `peer` reaches `host` along `layout.path(peer, host)`; for a host and itself its first one."""
    own = {link: found for (name, link), found in assign(layout).items() if name == host}
    return next(iter(own.values())) if host == peer else own[layout.path(peer, host)[-1][0].name]


def upstream(layout: Layout, link: str) -> frozenset[str]:
    """Addresses of the hosts on the a side of a link: frames from them cross it upwards."""
    crossed = next(x for x in layout.links if x.name == link)
    addresses = assign(layout)
    return frozenset(addresses[interface] for interface in behind(layout, link, crossed.a))


def behind(layout: Layout, link: str, end: str) -> frozenset[tuple[str, str]]:
    """Host interfaces, as (host, link name), that are on one end's side of a link, the end itself included."""
    hosts = layout.by_name
    seen, waiting = {end}, [end]
    found = {(end, link)} if end in hosts else set()
    while waiting:
        node = waiting.pop()
        if node in hosts:
            continue  # hosts do not forward
        for other in layout.links:
            if other.name == link or node not in (other.a, other.b):
                continue
            beyond = other.b if other.a == node else other.a
            if beyond in hosts:
                found.add((beyond, other.name))
            if beyond not in seen:
                seen.add(beyond)
                waiting.append(beyond)
    return frozenset(found)
