"""A Mininet `Topo` from any `Layout`: hosts with fixed addresses, switches and named links, for backends and for `mn --custom`.

Leaves shaping to whoever starts the network. The module can be imported without Mininet, but its class cannot be used then.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol

from topologies.addresses import PREFIX_LENGTH, assign
from topologies.layout import Layout

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Mininet 2.3 on a newer Python
        from mininet.topo import Topo
except ImportError:

    class Topo:  # type: ignore[no-redef]
        """Stands in for Mininet's class, so that layouts can be imported where Mininet is absent."""

        def __init__(self, *args: Any, **params: Any) -> None:
            raise ImportError("Mininet is not installed: pip install mininet (and the OS package mininet, for mnexec)")


class HasSizes(Protocol):
    """What a layout needs of the scenario's `[topology]` table."""

    @property
    def devices(self) -> int: ...

    @property
    def edges(self) -> int: ...

    @property
    def cellular(self) -> bool: ...

    @property
    def sites(self) -> int | None: ...


class Sizes(NamedTuple):
    """The same, for those who have no scenario (`mn --custom`, tests)."""

    devices: int = 1
    edges: int = 4
    cellular: bool = False
    sites: int | None = None


class LayoutTopo(Topo):  # type: ignore[misc]
    """A layout as Mininet sees it. `layout` is kept; every Mininet link carries its layout name as parameter `link_name`."""

    layout: Layout

    def build(self, layout: Layout) -> None:  # type: ignore[override,unused-ignore]
        """Called by Mininet's constructor."""
        self.layout = layout
        addresses = assign(layout)
        first: dict[str, str] = {}
        for (name, _link), address in addresses.items():
            first.setdefault(name, address)
        for host in layout.hosts:
            self.addHost(host.name, ip=f"{first[host.name]}/{PREFIX_LENGTH}")
        for number, switch in enumerate(layout.switches, 1):
            self.addSwitch(switch, dpid=f"{number:016x}")  # Mininet derives one from names such as s1 only
        for link in layout.links:
            self.addLink(
                link.a,
                link.b,
                key=link.name,
                link_name=link.name,
                params1=self._interface(addresses, link.a, link.name),
                params2=self._interface(addresses, link.b, link.name),
            )

    @staticmethod
    def _interface(addresses: dict[tuple[str, str], str], node: str, link: str) -> dict[str, str]:
        return {"ip": f"{addresses[node, link]}/{PREFIX_LENGTH}"} if (node, link) in addresses else {}
