"""Two sites, a and b, each with devices, edge hosts and a backbone of its own, sharing one cloud.

    da1 -access-da1- s1 --backbone-a-.
    ea1 ---lan-ea1---'                s3 --core-c1-- c1
    db1 -access-db1- s2 --backbone-b-'
    eb1 ---lan-eb1---'

`devices` and `edges` count per site. Run by hand:
`mn --custom topologies/two_sites.py --topo two_sites,devices=1,edges=2 --switch lxbr --controller none`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if "__file__" not in globals():  # `mn --custom` executes this text without importing it as a module
    sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent.parent))

from topologies import layout as parts
from topologies.mininet_topo import HasSizes, LayoutTopo, Sizes

SITES = {"a": "s1", "b": "s2"}
"""LAN switch of each site."""


def layout(table: HasSizes) -> parts.Layout:
    """The layout for a number of devices and edge hosts per site (at least one each). The cloud's site is "core".

    Raises ValueError for `cellular`: these devices have no second uplink; and for a number of sites.
    """
    if table.sites is not None:
        raise ValueError("topology two_sites has two sites: leave topology.sites out, or use fleet")
    if table.cellular:
        raise ValueError("topology two_sites has no cellular uplinks: leave topology.cellular out, or use three_tier")
    hosts: list[parts.Host] = []
    links: list[parts.Link] = []
    for site, switch in SITES.items():
        for i in range(1, table.devices + 1):
            hosts.append(parts.Host(f"d{site}{i}", "device", site))
            links.append(parts.Link(f"access-d{site}{i}", "access", f"d{site}{i}", switch))
        for i in range(1, table.edges + 1):
            hosts.append(parts.Host(f"e{site}{i}", "edge", site))
            links.append(parts.Link(f"lan-e{site}{i}", "lan", f"e{site}{i}", switch))
        links.append(parts.Link(f"backbone-{site}", "backbone", switch, "s3"))
    hosts.append(parts.Host("c1", "cloud", "core"))
    links.append(parts.Link("core-c1", "core", "s3", "c1"))
    return parts.Layout(name="two_sites", hosts=tuple(hosts), switches=(*SITES.values(), "s3"), links=tuple(links))


class TwoSites(LayoutTopo):
    """The Mininet topology of the same layout."""

    def build(self, devices: int = 1, edges: int = 2) -> None:  # type: ignore[override]
        """Called by Mininet's constructor with the arguments of `--topo two_sites,...`."""
        super().build(layout(Sizes(int(devices), int(edges))))


topos = {"two_sites": TwoSites}
