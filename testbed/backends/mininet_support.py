"""What this machine lacks for the mininet backend and a scenario, in words that say where to get it.

Namespaces and netem are tried, not guessed: in namespaces made for the trial, which leave nothing behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from testbed import registry
from testbed.backends import cgroups, isolation
from testbed.errors import BackendError
from testbed.scenario.links import ResolvedLink
from testbed.scenario.schema import Scenario

PROGRAMS = {"mnexec": "mininet", "ip": "iproute2", "bash": "bash"}
"""Programs that Mininet's hosts run, and the Debian/Ubuntu package of each. (Links and bridges are made over netlink.)"""

OPEN_VSWITCH = ("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl")
"""Programs of Open vSwitch; no service of it needs to run."""

TUN = Path("/dev/net/tun")

MODULES = {"mininet": "mininet", "pyroute2": "pyroute2", "scapy": "scapy"}
NETEM_WAYS_OUT = (
    "use --backend sim, or use a kernel with netem: sudo modprobe sch_netem (Ubuntu cloud kernels: apt-get install "
    "linux-modules-extra-$(uname -r)), or the virtual machine (vagrant up)"
)

TRIAL_LIMIT_S = 180
"""How long the trial network may take: seconds here, minutes in an emulated processor."""

_DATAPATH = """
from testbed.backends.openvswitch import datapath
print(datapath())
"""

_TRIAL = """
import json
from pyroute2 import IPRoute
from testbed.backends.shaping import has_netem
with IPRoute() as netlink:
    netlink.link("add", kind="veth", ifname="trial0", peer={"ifname": "trial1"})
    index = netlink.link_lookup(ifname="trial0")[0]
    found = {"netem": has_netem(netlink, index)}
    try:
        netlink.tc("add", "htb", index, handle=0x10000, default=1)
        netlink.link("add", kind="bridge", ifname="trial2")
        found["error"] = None
    except Exception as error:
        found["error"] = str(error)
print(json.dumps(found))
"""


def missing_packages() -> list[str]:
    """Python packages and programs that a Mininet network needs and this machine lacks, each with the way to get it."""
    reasons = []
    for module, package in MODULES.items():
        if importlib.util.find_spec(module) is None:
            reasons.append(f"the Python package {package} is missing: pip install 'd3-testbed[emulation]'")
    for program, package in PROGRAMS.items():
        if not _installed(program):
            reasons.append(f"the program {program} is missing: sudo apt-get install {package}")
    return reasons


def missing(scenario: Scenario, links: Mapping[str, ResolvedLink]) -> list[str]:
    """Everything that stands in the way; empty if the scenario can run."""
    reasons = []
    if not sys.platform.startswith("linux"):
        return ["it needs Linux; use --backend sim, or the virtual machine (vagrant up)"]
    reasons += [*missing_packages(), *slowed(scenario)]
    if importlib.util.find_spec("pyroute2") is None:
        return reasons
    trial = kernel()
    if trial.get("error"):
        reasons.append(str(trial["error"]))
    elif not trial["netem"]:
        if bursts := sorted({str(fault.link) for fault in scenario.fault if fault.kind == "loss"}):
            reasons.append(
                f"a fault of loss on {', '.join(bursts)} needs netem, which this kernel does not have: "
                f"leave it out, {NETEM_WAYS_OUT}"
            )
        wanting = sorted(name for name, link in links.items() if _needs_netem(link))
        if wanting:
            reasons.append(
                f"delay or loss on {', '.join(wanting)} needs netem, which this kernel does not have: "
                f"{_without_delay(scenario, links)}, {NETEM_WAYS_OUT}"
            )
    reasons += _missing_cpus(scenario)
    if scenario.network.switch == "open-vswitch" and not trial.get("error"):
        reasons += _missing_open_vswitch(scenario)
    return reasons


def slowed(scenario: Scenario) -> list[str]:
    """Why hosts cannot be slowed down, where a fault does so. Those whose CPUs are limited get a smaller quota."""
    if scenario.compute.mode == "modelled":
        return []
    hosts = sorted({str(fault.host) for fault in scenario.fault if fault.kind == "slow"} - _limited(scenario))
    if not hosts:
        return []
    return [
        f"a fault slows {', '.join(hosts)} down, but measured computing lasts as long as it takes: "
        'give it hosts.TIER.cpus, set compute.mode = "modelled" (after `testbed profile`, if this machine\'s own times are '
        "wanted), or leave the fault out"
    ]


def _limited(scenario: Scenario) -> set[str]:
    """Hosts whose CPUs the scenario limits."""
    keys = {key for key, table in scenario.hosts.items() if table.cpus is not None}
    return {host.name for host in registry.layout(scenario.topology).hosts if keys & {host.tier, host.name}} if keys else set()


def _missing_cpus(scenario: Scenario) -> list[str]:
    """Why hosts cannot be limited to `hosts.TIER.cpus` here."""
    limits = {key: table.cpus for key, table in scenario.hosts.items() if table.cpus is not None}
    if not limits:
        return []
    there = os.cpu_count() or 1
    reasons = [
        f"hosts.{key}.cpus = {cpus:g}, and this machine has {there}: give it less, or leave it out for all of them"
        for key, cpus in limits.items()
        if cpus > there
    ]
    try:
        cgroups.hierarchy()
    except BackendError as error:
        reasons.append(f"hosts.{next(iter(limits))}.cpus: {error}")
    return reasons


def _installed(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def lacking_open_vswitch() -> list[str]:
    """Programs of Open vSwitch that this machine lacks."""
    return [program for program in OPEN_VSWITCH if not _installed(program)]


def _missing_open_vswitch(scenario: Scenario) -> list[str]:
    """What stands in the way of Open vSwitch. Its kernel module does not: without it, it forwards in user space."""
    if lacking := lacking_open_vswitch():
        return [
            f'network.switch = "open-vswitch" needs Open vSwitch ({", ".join(lacking)} missing): sudo apt-get install '
            "openvswitch-switch (its service need not run), or leave network.switch out"
        ]
    if open_vswitch_datapath() == "kernel":
        return []
    module = "the kernel's own datapath (sudo modprobe openvswitch)"
    if not os.access(TUN, os.R_OK | os.W_OK):
        return [f"Open vSwitch needs {module}, or for the one in user space {TUN} (sudo modprobe tun), readable and writable"]
    if scenario.network.offload:
        return [f"network.offload = true with Open vSwitch needs {module}: the one in user space passes single frames only"]
    return []


def _without_delay(scenario: Scenario, links: Mapping[str, ResolvedLink]) -> str:
    """The overrides that leave a scenario without delay and loss, as far as its link tables ask for them."""
    options = []
    for key, table in scenario.links.items():
        options += [f"--set links.{key}.delay='0 s'"] if table.delay else []
        options += [f"--set links.{key}.jitter='0 s'"] if table.jitter else []
        options += [f"--set links.{key}.loss=0"] if table.loss else []
    if any(link.trace is not None and {"delay_s", "loss"} & set(link.trace.columns) for link in links.values()):
        options.append("and traces without delay and loss")
    return f"set them to 0 ({' '.join(options)})"


def _needs_netem(link: ResolvedLink) -> bool:
    if any(state.delay_s > 0.0 or state.jitter_s > 0.0 or state.loss > 0.0 for state in (link.up, link.down)):
        return True
    columns = {} if link.trace is None else link.trace.columns
    return any(value > 0.0 for name in ("delay_s", "loss") for value in columns.get(name, ()))


@cache
def open_vswitch_datapath() -> str:
    """ "kernel" or "userspace", as `testbed.backends.openvswitch.datapath` finds it in namespaces."""
    trial = isolation.start([sys.executable, "-W", "ignore", "-c", _DATAPATH], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = trial.supervisor.communicate(timeout=TRIAL_LIMIT_S)
    except subprocess.TimeoutExpired:
        trial.stop()
        trial.supervisor.communicate()
        return "userspace"
    if trial.supervisor.returncode != 0:
        raise BackendError(f"Open vSwitch could not be tried: {errors.decode(errors='replace').strip()}")
    return output.decode().strip()


@cache
def kernel() -> dict[str, object]:
    """What a trial in namespaces found: "netem" (bool), "error" (None, or why an emulated network cannot be made here)."""
    try:
        trial = isolation.start([sys.executable, "-c", _TRIAL], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except BackendError as error:
        return {"netem": False, "error": str(error)}
    try:
        output, errors = trial.supervisor.communicate(timeout=TRIAL_LIMIT_S)
    except subprocess.TimeoutExpired:
        trial.stop()
        trial.supervisor.communicate()
        return {
            "netem": False,
            "error": f"no trial network after {TRIAL_LIMIT_S} s: this machine is too busy, or too slow",
        }
    if trial.supervisor.returncode != 0:
        words = errors.decode(errors="replace").strip().splitlines()
        return {"netem": False, "error": f"a trial network could not be made: {words[-1] if words else 'without a word'}"}
    found: dict[str, object] = json.loads(output)
    if found["error"]:
        found["error"] = f"this kernel lacks HTB queues or bridges (modules sch_htb, bridge): {found['error']}"
    return found
