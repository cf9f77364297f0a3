"""A network in this namespace: Mininet hosts and switches from a layout, with shaped wires for links.

Must run inside namespaces of its own (`testbed.backends.isolation`): it makes interfaces in the namespace of the caller and
leaves their removal to the end of that namespace. Agents, captures and verdicts are left to others.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute

from d3node.linux import die_with_parent, enter, within
from testbed.backends import isolation, netem, offload, packet_sockets
from testbed.backends.netspec import DIRECTIONS, SOCKET_BUFFER_BYTES, NetworkSpec
from testbed.backends.shaping import ClassCounters, Shaper, has_netem
from testbed.backends.sysctl import QUIET, sysctl
from testbed.errors import BackendError
from testbed.scenario.state import LinkState
from topologies.addresses import assign, behind, segments
from topologies.layout import Direction
from topologies.mininet_topo import LayoutTopo

if TYPE_CHECKING:
    from testbed.backends.openvswitch import OpenVswitch

_TCP_SETTINGS = (
    "tcp_slow_start_after_idle",
    "tcp_no_metrics_save",
    "tcp_rmem",
    "tcp_wmem",
    "tcp_sack",
    "tcp_timestamps",
    "tcp_ecn",
)
"""For the manifest: what decides how TCP behaves beside congestion control."""


class EmulatedNetwork:
    """The network, started by the constructor. Raises BackendError if anything is not as asked."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.layout = spec.layout
        self.netlink = IPRoute()
        for name, value in QUIET.items():
            sysctl(name, value)
        self.netem = self._probe_netem()
        self.stages = spec.stages or (2 if self.netem else 1)
        if self.stages == 2 and not self.netem:
            raise BackendError("two-stage shaping needs the kernel module sch_netem, which is not here")
        from testbed.backends.wires import Wires

        self._open_vswitch: OpenVswitch | None = None
        self.wires = Wires(self.netlink, two_stages=self.stages == 2)
        self._net = self._start_mininet()
        self.pids: dict[str, int] = {host.name: self._net[host.name].pid for host in self.layout.hosts}
        self._switch_room = None if self.switch_pid is None else packet_sockets.widen(self.switch_pid)
        self._make_neighbours_known()
        self._offload = self._switch_offload()
        self.shapers = {
            (link.name, direction): self._shape(link.name, direction) for link in self.layout.links for direction in DIRECTIONS
        }

    @property
    def switch_pid(self) -> int | None:
        """The process that forwards every frame; None where the kernel does."""
        switches = self._open_vswitch
        return None if switches is None or switches.datapath == "kernel" else switches.pid

    def namespace(self, host: str) -> Path:
        """The network namespace of a host."""
        return Path(f"/proc/{self.pids[host]}/ns/net")

    def apply(self, link: str, direction: Direction, state: LinkState) -> None:
        """Change one direction of a link in place; in force (and read back) on return."""
        self.shapers[link, direction].apply(state)

    def counters(self) -> dict[tuple[str, Direction], ClassCounters]:
        """Class counters of every link and direction."""
        return {key: shaper.counters() for key, shaper in self.shapers.items()}

    def port(self, link: str, direction: Direction) -> str:
        """The interface that a direction leaves through after its queue: where a capture sees what the class counts."""
        return self.wires.made[link].first[direction]

    def describe(self) -> dict[str, Any]:
        """Facts for the manifest."""
        return {
            "stages": ["htb", "netem"][: self.stages],
            "netem": self.netem,
            "offload": self._offload,
            "seeded": self.stages == 2 and all(shaper.seed is not None for shaper in self.shapers.values()),
            "queues_bytes": {f"{link}/{direction}": n for (link, direction), n in self.spec.queues.items()},
            "switch": "LinuxBridge" if self._open_vswitch is None else "Open vSwitch",
            **self._open_vswitch_facts(),
            "mininet": self._version,
            "default_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
            "tcp_settings": self._tcp_settings(),
            "addresses": {f"{host}/{link}": address for (host, link), address in assign(self.layout).items()},
        }

    def _open_vswitch_facts(self) -> dict[str, Any]:
        if self._open_vswitch is None:
            return {}
        room = {} if self._switch_room is None else {"switch_room_bytes": self._switch_room}
        return {"open_vswitch": self._open_vswitch.version, "datapath": self._open_vswitch.datapath, **room}

    def _tcp_settings(self) -> dict[str, str]:
        """What is in force on the hosts (the same on all)."""
        with self.inside(self.layout.hosts[0].name):
            return {name: " ".join(Path("/proc/sys/net/ipv4", name).read_text().split()) for name in _TCP_SETTINGS}

    def stop(self) -> None:
        """End Mininet's hosts; the rest goes with the namespace."""
        for node in (*self._net.hosts, *self._net.switches):
            node.terminate()
        if self._open_vswitch is not None:
            self._open_vswitch.stop()
        self.netlink.close()

    def _probe_netem(self) -> bool:
        self.netlink.link("add", kind="veth", ifname="probe0", peer={"ifname": "probe1"})
        index = socket.if_nametoindex("probe0")
        try:
            return has_netem(self.netlink, index)
        finally:
            self.netlink.link("del", index=index)

    def _start_mininet(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Mininet 2.3 on newer Pythons
            from mininet.log import setLogLevel
            from mininet.net import VERSION, Mininet

            from testbed.backends.nodes import NamespaceHost, NetlinkBridge, NetlinkInterface
            from testbed.backends.wires import WireLink
        setLogLevel("error")
        Mininet.inited = True  # its first act would be to raise machine-wide limits; this program changes nothing outside
        self._version = VERSION
        switch = partial(NetlinkBridge, netlink=self.netlink)
        if self.spec.switch == "open-vswitch":
            from testbed.backends.openvswitch import OpenVswitch, OpenVswitchBridge

            self._open_vswitch = OpenVswitch(isolation.PRIVATE / "open-vswitch")
            switch = partial(OpenVswitchBridge, switches=self._open_vswitch, netlink=self.netlink)
        settings = {
            **QUIET,
            "net.ipv4.tcp_slow_start_after_idle": str(int(self.spec.slow_start_after_idle)),
            "net.ipv4.tcp_no_metrics_save": "1",  # a connection must not inherit what an earlier one learnt
            "net.ipv4.tcp_rmem": f"4096\t131072\t{SOCKET_BUFFER_BYTES}",
            "net.ipv4.tcp_wmem": f"4096\t16384\t{SOCKET_BUFFER_BYTES}",
        }
        try:
            net = Mininet(
                topo=LayoutTopo(self.layout),
                host=partial(NamespaceHost, settings=settings),
                switch=switch,
                link=partial(WireLink, wires=self.wires),
                intf=NetlinkInterface,
                controller=None,
            )
            net.start()
        except Exception as error:
            raise BackendError(f"Mininet could not start the network: {error}") from error
        return net

    def _make_neighbours_known(self) -> None:
        """Permanent neighbours and bridge entries, so that no link carries ARP or frames for others."""
        addresses = assign(self.layout)
        segment_of = {switch: k for k, switches in enumerate(segments(self.layout)) for switch in switches}
        made = dict(zip(self.layout.link_names, self._links_in_order(), strict=True))
        ends = [
            (link.name, end, other, interface)
            for link in self.layout.links
            for end, other, interface in ((link.a, link.b, made[link.name].intf1), (link.b, link.a, made[link.name].intf2))
        ]
        mac = {(end, link): interface.mac for link, end, _, interface in ends}
        members: dict[int, list[tuple[str, str, str, int]]] = {}
        for link, end, other, interface in ends:
            if end in self.pids:
                entry = (end, addresses[end, link], interface.mac, interface.index)
                members.setdefault(segment_of[other], []).append(entry)
            else:
                self._net[end].forward(interface, [mac[beyond] for beyond in behind(self.layout, link, other)])
        for segment in members.values():
            for host, _, _, index in segment:
                for peer, theirs, hardware, _ in segment:
                    if peer != host:
                        netlink = self._net[host].netlink
                        netlink.neigh("replace", dst=theirs, lladdr=hardware, ifindex=index, state="permanent")

    def _links_in_order(self) -> list[Any]:
        by_name = {link._name: link for link in self._net.links}
        return [by_name[link.name] for link in self.layout.links]

    def _switch_offload(self) -> dict[str, bool]:
        """Switch segmentation offload everywhere, and answer what is in force. Raises BackendError if it is not as asked."""
        ours = [
            link.get_attr("IFLA_IFNAME")
            for link in self.netlink.get_links()
            if (link.get_attr("IFLA_LINKINFO") or _NONE).get_attr("IFLA_INFO_KIND") == "veth"
        ]
        if self.switch_pid is not None:
            for interface in ours:  # a process passes on bytes, and no note that their checksum is still to be computed
                offload.checksum(interface)
        found = [offload.switch(interface, self.spec.offload) for interface in ours]
        for host in self.pids:
            with self.inside(host):
                found += [offload.switch(interface.name, self.spec.offload) for interface in self._net[host].intfList()]
        wrong = [state for state in found if set(state.values()) != {self.spec.offload}]
        if wrong:
            raise BackendError(f"segmentation offload could not be switched {'on' if self.spec.offload else 'off'}: {wrong[0]}")
        return found[0]

    def _shape(self, link: str, direction: Direction) -> Shaper:
        wire = self.wires.made[link]
        second = None if wire.second is None else self.wires.index(wire.second[direction])
        key = (link, direction)
        return Shaper(
            self.netlink,
            f"{link} {direction}",
            self.wires.index(wire.first[direction]),
            second,
            self.spec.states[key],
            self.spec.queues[key],
            netem.seed_of(self.spec.seed, link, direction),
        )

    def inside(self, host: str) -> AbstractContextManager[None]:
        """Run a block (of this thread) in a host's network namespace; sockets made there stay there."""
        return within(self.namespace(host))

    def fork(self, host: str, function: Callable[[], None]) -> int:
        """Run a function in a child process on a host; its process number. For tests and benchmarks."""
        child = os.fork()
        if child:
            return child
        try:
            die_with_parent()
            enter(self.namespace(host))
            function()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{host}: {error!r}\n")
            os._exit(1)

    def ping(self, source: str, address: str) -> bool:
        """Whether a host reaches an address within two seconds."""
        with self.inside(source):
            return subprocess.run(["ping", "-c1", "-W2", address], capture_output=True, check=False).returncode == 0


class _NoAttributes:
    def get_attr(self, name: str) -> None:
        return None


_NONE = _NoAttributes()
