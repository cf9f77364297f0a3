"""Devices and edge hosts on one edge LAN, a backbone to the cloud, and on request a cellular uplink straight to the cloud.

    d1 -access-d1-.
    e1 ---lan-e1--- s1 --backbone-- s2 --core-c1-- c1
    e2 ---lan-e2--'                                 |
    d1 -cellular-d1- s3 -----------core-cellular-c1-'     (cellular)

Run by hand: `mn --custom topologies/three_tier.py --topo three_tier,devices=2,edges=4 --switch lxbr --controller none`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if "__file__" not in globals():  # `mn --custom` executes this text without importing it as a module
    sys.path.insert(0, str(Path(sys._getframe().f_code.co_filename).resolve().parent.parent))

from topologies import layout as parts
from topologies.mininet_topo import HasSizes, LayoutTopo, Sizes

# `mn` copies every name of this file over its own, so those of its own classes (Host, Link, Topo, ...) are not used here.


def layout(table: HasSizes) -> parts.Layout:
    """The layout for a number of devices and edge hosts (at least one each). Raises ValueError for a number of sites."""
    if table.sites is not None:
        raise ValueError("topology three_tier has one site: leave topology.sites out, or use fleet")
    devices = [f"d{i}" for i in range(1, table.devices + 1)]
    edges = [f"e{i}" for i in range(1, table.edges + 1)]
    links = [parts.Link(f"access-{device}", "access", device, "s1") for device in devices]
    links += [parts.Link(f"lan-{edge}", "lan", edge, "s1") for edge in edges]
    links += [parts.Link("backbone", "backbone", "s1", "s2"), parts.Link("core-c1", "core", "s2", "c1")]
    if table.cellular:
        links += [parts.Link(f"cellular-{device}", "cellular", device, "s3") for device in devices]
        links += [parts.Link("core-cellular-c1", "core", "s3", "c1")]
    return parts.Layout(
        name="three_tier",
        hosts=(
            *(parts.Host(device, "device") for device in devices),
            *(parts.Host(edge, "edge") for edge in edges),
            parts.Host("c1", "cloud"),
        ),
        switches=("s1", "s2", "s3") if table.cellular else ("s1", "s2"),
        links=tuple(links),
    )


class ThreeTier(LayoutTopo):
    """The Mininet topology of the same layout."""

    def build(self, devices: int = 1, edges: int = 4, cellular: bool = False) -> None:  # type: ignore[override]
        """Called by Mininet's constructor with the arguments of `--topo three_tier,...`."""
        super().build(layout(Sizes(int(devices), int(edges), bool(cellular))))


topos = {"three_tier": ThreeTier}
