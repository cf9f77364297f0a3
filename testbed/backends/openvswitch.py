"""Open vSwitch as the switches of an emulated network: its database and its switch, started privately inside the namespaces.

Sockets, database and logs are on the inside's private tmpfs, and both processes end with the namespaces: an Open vSwitch that the
machine runs itself neither sees these switches nor is seen. Forwarding is by explicit flows alone (fail mode "secure"): one for
each hardware address, none that learns or floods. The kernel's datapath is used where the kernel has one; otherwise Open vSwitch
forwards in user space, where every frame passes through a process: slower, and frames are lost that it finds no time for before
the sockets it reads them from are full.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from mininet.node import Node, OVSSwitch
from pyroute2 import IPRoute
from pyroute2.netlink import genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

from testbed.backends.nodes import LateShell
from testbed.errors import BackendError

Datapath = Literal["kernel", "userspace"]
PATIENCE_S = 60
"""How long Open vSwitch may take for one command: milliseconds here, more on an emulated processor."""

_KERNEL_FAMILY = "ovs_datapath"


def datapath() -> Datapath:
    """What would forward here: the kernel (which loads its module when asked), or a process."""
    with GenericNetlinkSocket() as netlink:
        try:
            netlink.bind(_KERNEL_FAMILY, genlmsg)
        except NetlinkError:
            return "userspace"
    return "kernel"


class OpenVswitch:
    """The database and the switch process, started by the constructor. `folder`: theirs alone; must not exist.

    Raises BackendError where they do not start.
    """

    def __init__(self, folder: Path) -> None:
        self.datapath = datapath()
        self._folder = folder
        folder.mkdir(mode=0o700)
        self.environment = {
            **os.environ,
            **dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(folder)),
        }
        database, channel = folder / "conf.db", f"unix:{folder / 'db.sock'}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._run("ovsdb-tool", "create", str(database))
        self._words = open(folder / "words", "wb")  # noqa: SIM115 (as long as the processes)
        self._start("ovsdb-server", str(database), f"--remote=punix:{folder / 'db.sock'}")
        self._start("ovs-vswitchd", channel)
        self.configure("init")
        self.version = self._run("ovs-vswitchd", "--version").splitlines()[0].rsplit(" ", 1)[-1]

    @property
    def pid(self) -> int:
        """The switch's process."""
        return self._processes[-1].pid

    def configure(self, *command: str) -> None:
        """Run a command of `ovs-vsctl`; in force on return. Raises BackendError."""
        self._run("ovs-vsctl", "--retry", f"--timeout={PATIENCE_S}", *command)

    def add_flows(self, switch: str, flows: Iterable[str]) -> None:
        """Add flows to a switch; in force on return. Raises BackendError."""
        self._run("ovs-ofctl", "add-flows", str(self._folder / f"{switch}.mgmt"), "-", words="\n".join(flows) + "\n")

    def stop(self) -> None:
        """End both processes."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._words.close()

    def _start(self, *command: str) -> None:
        self._processes.append(
            subprocess.Popen(
                [*command, "-vconsole:warn", "-vsyslog:off"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                cwd=self._folder,
            )
        )

    def _run(self, *command: str, words: str | None = None) -> str:
        """Run a program to its end; what it wrote. Raises BackendError with its last words, and the switch's."""
        with subprocess.Popen(
            command,
            env=self.environment,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            for _ in range(2 * PATIENCE_S):
                try:
                    output, errors = process.communicate(words, timeout=1.0)
                    break
                except subprocess.TimeoutExpired:
                    words = None  # they were passed on
                    if any(other.poll() is not None for other in self._processes):
                        break
            else:
                errors = f"no answer within {2 * PATIENCE_S} s"
            if process.poll() is None:
                process.kill()
                errors = "one of its processes has ended"
        if process.returncode != 0:
            log = self._folder / "words"
            last = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
            raise BackendError("; ".join((f"Open vSwitch: {command[0]}: {errors.strip()}", *last)))
        return output


class OpenVswitchBridge(LateShell, OVSSwitch):  # type: ignore[misc]
    """A switch of the network in the namespace of the caller. `switches`: the processes that run it; `netlink`: of that
    namespace."""

    def __init__(self, name: str, *, switches: OpenVswitch, netlink: IPRoute, **params: Any) -> None:
        self._switches = switches
        self.netlink = netlink
        super().__init__(name, failMode="secure", datapath="user" if switches.datapath == "userspace" else "kernel", **params)

    def startShell(self, mnopts: str | None = None) -> None:  # noqa: N802 (Mininet's name)
        """Called by Mininet's constructor."""
        self.pid = os.getpid()

    def config(self, **_params: Any) -> dict[str, Any]:
        """Called by Mininet: nothing is configured before `start`."""
        return {}

    def start(self, _controllers: Any) -> None:
        """Make the switch with the node's interfaces as ports, which have the numbers that Mininet gave them."""
        kind = "netdev" if self._switches.datapath == "userspace" else "system"
        command = ["--", "add-br", self.name, "--", "set", "bridge", self.name, f"fail_mode={self.failMode}"]
        command += [f"datapath_type={kind}", f"other_config:datapath-id={self.dpid}", "other_config:disable-in-band=true"]
        for interface in self._interfaces():
            number = f"ofport_request={self.ports[interface]}"
            command += ["--", "add-port", self.name, interface.name, "--", "set", "Interface", interface.name, number]
        self._switches.configure(*command)

    @classmethod
    def batchStartup(cls, switches: list[Any], run: Any = None) -> list[Any]:  # noqa: N802 (Mininet's name)
        """Called by Mininet for what several switches leave to one command: nothing."""
        return switches

    @classmethod
    def batchShutdown(cls, switches: list[Any], run: Any = None) -> list[Any]:  # noqa: N802 (Mininet's name)
        """Called by Mininet to take several away with one command: each has its own."""
        return []

    def forward(self, interface: Any, addresses: Sequence[str]) -> None:
        """Frames to these hardware addresses leave through an interface."""
        self._switches.add_flows(self.name, (f"dl_dst={mac},actions=output:{self.ports[interface]}" for mac in addresses))

    def stop(self, deleteIntfs: bool = True) -> None:  # noqa: N803 (Mininet's name)
        """Take the switch away."""
        self._switches.configure("del-br", self.name)
        Node.stop(self, deleteIntfs)

    def _ensure_shell(self) -> None:
        if self.shell is None:
            super()._ensure_shell()
            for name in ("OVS_RUNDIR", "OVS_DBDIR"):
                Node.cmd(self, f"export {name}={self._switches.environment[name]}")

    def _interfaces(self) -> list[Any]:
        return [interface for interface in self.intfList() if interface.name != "lo"]
