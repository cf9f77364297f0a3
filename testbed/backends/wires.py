"""Mininet links with a wire in the middle, so that both directions can be shaped on ports that belong to no host and no switch.

    a --veth-- [port a | bridge | port b] --veth-- b

"Up" (a to b) is shaped where it leaves port b, "down" where it leaves port a; the interfaces of hosts and switches keep their
default queues, so a sender's TCP sees a network and not its own queue. With a second stage there are two bridges:

    a --veth-- [a | bridge | m] --veth-- [n | bridge | b] --veth-- b      up: queue at m, delay at b; down: queue at n, delay at a

Bridges learn nothing they could forget, run no spanning tree and no multicast snooping. What is put on the ports is in
`testbed.backends.shaping`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from mininet.link import Link
from pyroute2 import IPRoute


@dataclass(frozen=True, slots=True)
class Wire:
    """Names of the four places where a link is shaped; `second` is None with one stage. Keys of both: "up" and "down"."""

    link: str
    first: dict[str, str]
    second: dict[str, str] | None


class Wires:
    """Makes the wires of a network; all their ports live in the namespace of the netlink socket and of the caller."""

    def __init__(self, netlink: IPRoute, two_stages: bool) -> None:
        self.made: dict[str, Wire] = {}
        self._netlink = netlink
        self._two_stages = two_stages

    @staticmethod
    def mac(wire: int, end: int) -> str:
        """Hardware address of the interface at end 1 (a) or 2 (b) of a wire, which are numbered from 1 as they are made."""
        return f"02:00:00:{wire >> 8:02x}:{wire & 0xFF:02x}:{end:02x}"

    def connect(self, link: str, ends: tuple[tuple[str, int], tuple[str, int]]) -> tuple[str, str]:
        """Make a wire between two interfaces that come to be by it: (name, process in whose network namespace) of a and b.

        Returns their hardware addresses.
        """
        k = len(self.made) + 1
        for (name, pid), port, number in zip(ends, (f"w{k}a", f"w{k}b"), (1, 2), strict=True):
            peer: dict[str, Any] = {"ifname": name, "net_ns_pid": pid, "address": self.mac(k, number)}
            self._netlink.link("add", kind="veth", ifname=port, peer=peer)
        if self._two_stages:
            self._netlink.link("add", kind="veth", ifname=f"w{k}m", peer={"ifname": f"w{k}n"})
            self._bridge(f"wire{k}a", (f"w{k}a", f"w{k}m"))
            self._bridge(f"wire{k}b", (f"w{k}n", f"w{k}b"))
            self.made[link] = Wire(link, {"up": f"w{k}m", "down": f"w{k}n"}, {"up": f"w{k}b", "down": f"w{k}a"})
        else:
            self._bridge(f"wire{k}", (f"w{k}a", f"w{k}b"))
            self.made[link] = Wire(link, {"up": f"w{k}b", "down": f"w{k}a"}, None)
        return self.mac(k, 1), self.mac(k, 2)

    def index(self, name: str) -> int:
        """Interface index of a port."""
        return socket.if_nametoindex(name)

    def _bridge(self, name: str, ports: tuple[str, str]) -> None:
        # Time in hundredths of a second. With two ports a frame from one goes to the other, whatever was learnt.
        self._netlink.link("add", kind="bridge", ifname=name, br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
        bridge = self.index(name)
        for port in ports:
            index = self.index(port)
            self._netlink.link("set", index=index, master=bridge)
            self._netlink.link("set", index=index, state="up")
        self._netlink.link("set", index=bridge, state="up")


class WireLink(Link):  # type: ignore[misc]
    """A Mininet link whose two interfaces are joined by a wire. Use with `functools.partial(WireLink, wires=...)`."""

    macs: tuple[str, str]

    def __init__(self, node1: Any, node2: Any, *, wires: Wires, link_name: str, **options: Any) -> None:
        self._wires = wires
        self._name = link_name
        options["addr1"] = options["addr2"] = None  # the wire gives addresses; Mininet's would be random
        super().__init__(node1, node2, **options)
        self.intf1.mac, self.intf2.mac = self.macs

    def makeIntfPair(  # noqa: N802 (Mininet's name)
        self,
        intfname1: str,
        intfname2: str,
        addr1: str | None = None,
        addr2: str | None = None,
        node1: Any = None,
        node2: Any = None,
        deleteIntfs: bool = True,  # noqa: N803
    ) -> None:
        """Called by Mininet to make both interfaces."""
        self.macs = self._wires.connect(self._name, ((intfname1, node1.pid), (intfname2, node2.pid)))
