"""Many sites alike, each with devices, edge hosts and a backbone of its own, sharing one cloud.

    d1-1 -access-d1-1- s1 --backbone-1-.
    e1-1 ---lan-e1-1---'                s0 --core-c1-- c1
    d2-1 -access-d2-1- s2 --backbone-2-'
    e2-1 ---lan-e2-1---'

`devices` and `edges` count per site. Run by hand:
`mn --custom topologies/fleet.py --topo fleet,sites=2,devices=1,edges=2 --switch lxbr --controller none`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if "__file__" not in globals():  # `mn --custom` executes this text without importing it as a module
    sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent.parent))

from topologies import layout as parts
from topologies.mininet_topo import HasSizes, LayoutTopo, Sizes

SITES = 20
"""Sites where the scenario does not say."""


def layout(table: HasSizes) -> parts.Layout:
    """The layout for a number of sites, "1", "2", ..., and of devices and edge hosts in each. The cloud's site is "core".

    Raises ValueError for `cellular`: these devices have no second uplink.
    """
    if table.cellular:
        raise ValueError("topology fleet has no cellular uplinks: leave topology.cellular out, or use three_tier")
    hosts: list[parts.Host] = []
    links: list[parts.Link] = []
    sites = [str(number) for number in range(1, (SITES if table.sites is None else table.sites) + 1)]
    for site in sites:
        devices = [f"d{site}-{i}" for i in range(1, table.devices + 1)]
        edges = [f"e{site}-{i}" for i in range(1, table.edges + 1)]
        hosts += [parts.Host(name, "device", site) for name in devices]
        hosts += [parts.Host(name, "edge", site) for name in edges]
        links += [parts.Link(f"access-{name}", "access", name, f"s{site}") for name in devices]
        links += [parts.Link(f"lan-{name}", "lan", name, f"s{site}") for name in edges]
        links.append(parts.Link(f"backbone-{site}", "backbone", f"s{site}", "s0"))
    hosts.append(parts.Host("c1", "cloud", "core"))
    links.append(parts.Link("core-c1", "core", "s0", "c1"))
    return parts.Layout(name="fleet", hosts=tuple(hosts), switches=(*(f"s{site}" for site in sites), "s0"), links=tuple(links))


class FleetTopo(LayoutTopo):
    """The Mininet topology of the same layout."""

    def build(self, sites: int = SITES, devices: int = 1, edges: int = 4) -> None:  # type: ignore[override]
        """Called by Mininet's constructor with the arguments of `--topo fleet,...`."""
        super().build(layout(Sizes(int(devices), int(edges), sites=int(sites))))


topos = {"fleet": FleetTopo}
