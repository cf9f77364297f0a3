"""Mininet's hosts, bridges and interfaces, set up over netlink instead of by hundreds of shell commands.

They are Mininet's own classes and stand wherever Mininet expects them. What differs is how they come to be: a host is a network
namespace held by one waiting process, and addresses and bridges are netlink messages. The shell that Mininet gives each of its
nodes is started when the first command asks for it, so `host.cmd("ip addr")` works as ever. In the time-travel kernel starting a
program costs 15 to 30 ms, and Mininet's own way starts some hundred of them for six hosts.

Links are made in `testbed.backends.wires`, switches of Open vSwitch in `testbed.backends.openvswitch`; who builds the network is
`testbed.backends.emulated`.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from mininet.link import Intf
from mininet.node import Host, Node
from mininet.nodelib import LinuxBridge
from pyroute2 import IPRoute

from d3node.linux import CLONE_NEWNET, enter, unshare
from testbed.backends import isolation
from testbed.backends.sysctl import sysctl

_OWN = "/proc/thread-self/ns/net"
_NUD_NOARP, _NTF_MASTER = 0x40, 0x04  # a bridge entry that was not learnt, never ages, and belongs to the bridge


class LateShell(Node):  # type: ignore[misc]
    """A node whose shell starts with its first command. Subclasses set `pid` in `startShell`."""

    netlink: IPRoute
    """A netlink socket in the node's network namespace."""

    pid: int

    @classmethod
    def setup(cls) -> None:
        """Called by Mininet to look for programs; `testbed.backends.mininet_support` has."""

    def sendCmd(self, *args: Any, **kwargs: Any) -> None:  # noqa: N802 (Mininet's name)
        """Called by Mininet for every command."""
        self._ensure_shell()
        super().sendCmd(*args, **kwargs)

    def cmd(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command on the node and return what it wrote."""
        self._ensure_shell()
        return super().cmd(*args, **kwargs)

    def _ensure_shell(self) -> None:
        if self.shell is None:
            pid = self.pid
            super().startShell(f"-cda{pid}" if self.inNamespace else None)
            self.pid = pid


class NamespaceHost(LateShell, Host):  # type: ignore[misc]
    """A host: a network namespace that lives as long as the process that made it, or until `terminate`.

    `settings`: sysctls of the namespace, in force before it has an interface.
    """

    def __init__(self, name: str, *, settings: Mapping[str, str] | None = None, **params: Any) -> None:
        self._settings = settings or {}
        super().__init__(name, **params)

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802 (Mininet's name)
        """Called by Mininet's constructor: make the namespace, and the process that gives it a number."""
        own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWNET)
            self.netlink = IPRoute()
            for setting, value in self._settings.items():
                sysctl(setting, value)
            isolation.loopback_up()
            # Ends when its input does: with `terminate`, or with us, however that comes about.
            self._holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
        finally:
            enter(f"/proc/self/fd/{own}")
            os.close(own)
        self.pid = self._holder.pid

    def config(self, mac: str | None = None, ip: str | None = None, **_params: Any) -> dict[str, Any]:
        """Called by Mininet: addresses of the first interface. Loopback is up already."""
        found: dict[str, Any] = {}
        self.setParam(found, "setMAC", mac=mac)
        self.setParam(found, "setIP", ip=ip)
        return found

    def terminate(self) -> None:
        """End the node, and with it its namespace."""
        super().terminate()
        self.netlink.close()
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait()


class NetlinkBridge(LateShell, LinuxBridge):  # type: ignore[misc]
    """A Linux bridge in the namespace of the caller, which learns nothing that it could forget. `netlink`: of that namespace."""

    def __init__(self, name: str, *, netlink: IPRoute, **params: Any) -> None:
        self.netlink = netlink
        self._made = False
        super().__init__(name, **params)
        self._made = True

    def cmd(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and return what it wrote; not yet in the constructor, where Mininet would switch loopback on."""
        return super().cmd(*args, **kwargs) if self._made else ""

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802 (Mininet's name)
        """Called by Mininet's constructor."""
        self.pid = os.getpid()

    def config(self, **_params: Any) -> dict[str, Any]:
        """Called by Mininet: nothing is configured before `start`."""
        return {}

    def start(self, _controllers: Any) -> None:
        """Make the bridge and put the node's interfaces on it."""
        self.netlink.link("add", kind="bridge", ifname=self.name, br_stp_state=int(self.stp), br_mcast_snooping=0)
        index = socket.if_nametoindex(self.name)
        for interface in self.intfList():
            if self.name in interface.name:
                self.netlink.link("set", index=socket.if_nametoindex(interface.name), master=index)
        self.netlink.link("set", index=index, state="up")

    def forward(self, interface: NetlinkInterface, addresses: Sequence[str]) -> None:
        """Frames to these hardware addresses leave through an interface."""
        port = socket.if_nametoindex(interface.name)
        for address in addresses:
            self.netlink.fdb("replace", ifindex=port, lladdr=address, state=_NUD_NOARP, flags=_NTF_MASTER)

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803 (Mininet's name)
        """Take the bridge away."""
        self.netlink.link("del", ifname=self.name)
        Node.stop(self, deleteIntfs)


class NetlinkInterface(Intf):  # type: ignore[misc]
    """An interface of one of the nodes above, set up over its node's netlink socket."""

    ip: str | None
    prefixLen: int | None  # noqa: N815 (Mininet's name)

    @property
    def index(self) -> int:
        """Number of the interface in its node's namespace."""
        found = self.node.netlink.link_lookup(ifname=self.name)
        if not found:
            raise OSError(f"{self.node.name} has no interface {self.name}")
        return int(found[0])

    def config(self, mac: str | None = None, ip: str | None = None, up: bool = True, **_params: Any) -> dict[str, Any]:
        """Called by Mininet's constructor."""
        if self.name == "lo":
            return {}
        found: dict[str, Any] = {}
        self.setParam(found, "setMAC", mac=mac)
        self.setParam(found, "setIP", ip=ip)
        if up:
            self.node.netlink.link("set", index=self.index, state="up")
        return found

    def setIP(self, ipstr: str, prefixLen: int | None = None) -> None:  # noqa: N802, N803 (Mininet's names)
        """Give the interface its one address ("10.0.0.1/16", or without a length and `prefixLen`)."""
        address, _, length = ipstr.partition("/")
        prefix = int(length) if length else prefixLen
        if prefix is None:
            raise ValueError(f"no prefix length for address {ipstr}")
        if (address, prefix) == (self.ip, self.prefixLen):
            return
        index = self.index
        if self.ip is not None:
            self.node.netlink.flush_addr(index=index)
        self.node.netlink.addr("add", index=index, address=address, prefixlen=prefix)
        self.ip, self.prefixLen = address, prefix

    def setMAC(self, macstr: str) -> None:  # noqa: N802 (Mininet's name)
        """Give the interface its hardware address."""
        self.node.netlink.link("set", index=self.index, address=macstr)
        self.mac = macstr

    def isUp(self, setUp: bool = False) -> bool:  # noqa: N802 (Mininet's names)
        """Whether it is up; `setUp`: switch it on first."""
        if setUp:
            self.node.netlink.link("set", index=self.index, state="up")
        return bool(self.node.netlink.get_links(self.index)[0]["flags"] & 1)

    def delete(self) -> None:
        """Take the interface away, and its peer with it."""
        found = self.node.netlink.link_lookup(ifname=self.name)
        if found:
            self.node.netlink.link("del", index=found[0])
        self.node.delIntf(self)
        self.link = None
