"""Facts about this machine that decide what can run here: Python, torch, privileges, tools, kernel features, backends.

It looks and never installs; `probe` stands for the machine, so that others can be played in tests. Printing is the CLI's.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from testbed import registry
from testbed.errors import TestbedError
from testbed.scenario.schema import Scenario

TOOLS = {
    "mnexec": "mininet",
    "ip": "iproute2",
    "tc": "iproute2",
    "ethtool": "ethtool",
    "ovs-vsctl": "openvswitch-switch",
    "tcpdump": "tcpdump",
}
"""Programs that emulation uses (Open vSwitch is optional), and the Debian/Ubuntu package that each comes in."""

PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "torchvision": "torchvision",
    "timm": "timm",
    "mininet": "mininet",
    "pyroute2": "pyroute2",
    "scapy": "scapy",
    "ortools": "ortools",
    "pandas": "pandas",
    "seaborn": "seaborn",
}
WAYS_TO_NETEM = [
    "sudo modprobe sch_netem (Ubuntu cloud kernels: first sudo apt-get install linux-modules-extra-$(uname -r))",
    "vagrant up, for a virtual machine that has it",
    "scenarios without delay and loss, which need none",
]
ROOT_FOR = [
    "backend mininet: network namespaces, veth pairs, bridges, queues (HTB, netem), CPU quotas; removed at the end",
    "backend mininet with --capture: packet sockets on the backbone",
    "d3node serve --allow-shaping: queues on the interface that is named there, and nothing else",
]
"""All that asks for root. Where the kernel lets everybody make user namespaces, namespaces and queues do without."""
OPTIONAL_TOOLS = frozenset({"ovs-vsctl", "tcpdump"})
_SBIN = "PATH=$PATH:/usr/sbin:/sbin;"
EXTRA = {"torchvision": "zoo", "timm": "zoo", "mininet": "emulation", "pyroute2": "emulation", "scapy": "emulation"}
EXTRA["seaborn"] = "analysis"


@dataclass(frozen=True)
class Probe:
    """Questions to the machine. Each answers from the real one; tests override what they need."""

    def which(self, program: str) -> str | None:
        """Path of a program, the system's administration folders included."""
        return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

    def version(self, package: str) -> str | None:
        """Version of an installed Python package."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def root(self) -> bool:
        """Whether this process is root."""
        return hasattr(os, "geteuid") and os.geteuid() == 0

    def works(self, script: str) -> bool:
        """Whether a shell script succeeds in a network namespace of its own (made for it, gone after it)."""
        flags = ["-n"] if self.root() else ["-r", "-n"]
        unshare = self.which("unshare")
        if unshare is None:
            return False
        try:
            done = subprocess.run([unshare, *flags, "sh", "-c", script], capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.SubprocessError):
            return False
        return done.returncode == 0

    def read(self, path: str) -> str:
        """Text of a file of the kernel, empty if there is none."""
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


def facts(probe: Probe | None = None) -> dict[str, Any]:
    """Everything `testbed doctor` shows, as plain JSON types. `advice` holds the commands that would add what is missing."""
    probe = probe or Probe()
    tools = {name: probe.which(name) for name in TOOLS}
    packages = {name: probe.version(package) for name, package in PACKAGES.items()}
    namespaces = probe.works("true")
    link = f"{_SBIN} ip link add d3probe type veth peer name d3peer"
    qdisc = f"{link} && tc qdisc add dev d3probe root handle 1:"
    netem = namespaces and probe.works(f"{qdisc} netem delay 1ms")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": cpus(),
        "memory_bytes": _memory(probe),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "root": probe.root(),
        "network_namespaces": namespaces,
        "netem": netem,
        "htb": namespaces and probe.works(f"{qdisc} htb default 1"),
        "bridge": namespaces and probe.works(f"{_SBIN} ip link add d3probe type bridge"),
        "veth": namespaces and probe.works(link),
        "cgroup": _cgroup(probe),
        "congestion_control": probe.read("/proc/sys/net/ipv4/tcp_available_congestion_control").split(),
        "packages": packages,
        "tools": tools,
        "backends": backends(),
        "advice": advice(tools, packages),
        "root_for": ROOT_FOR,
        "ways_to_netem": [] if netem else WAYS_TO_NETEM,
    }


def cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backends() -> dict[str, dict[str, Any]]:
    """For every registered backend whether it can run a plain scenario (no delay, no loss) here, and if not, why."""
    found: dict[str, dict[str, Any]] = {}
    plain = {"name": "doctor", "model": {"names": ["alexnet"]}, "links": {"backbone": {"rate": "10 Mbit/s"}}}
    scenario = Scenario.model_validate(plain)
    for name in registry.backends():
        try:
            support = registry.backend(name).support(scenario)
            found[name] = {"ok": support.ok, "reasons": list(support.reasons)}
        except TestbedError as error:
            found[name] = {"ok": False, "reasons": [str(error)]}
    return found


def advice(tools: dict[str, str | None], packages: dict[str, str | None]) -> list[str]:
    """Commands that would add what is missing."""
    lines = []
    if missing := sorted({TOOLS[name] for name, path in tools.items() if path is None and name not in OPTIONAL_TOOLS}):
        lines.append(f"sudo apt-get install {' '.join(missing)}")
    if extras := sorted({EXTRA[name] for name, version in packages.items() if version is None and name in EXTRA}):
        lines.append(f"{Path(sys.executable).name} -m pip install 'd3-testbed[{','.join(extras)}]'")
    return lines


def _memory(probe: Probe) -> int | None:
    for line in probe.read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup(probe: Probe) -> str | None:
    if probe.read("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    return "v1" if Path("/sys/fs/cgroup/cpu").exists() else None
