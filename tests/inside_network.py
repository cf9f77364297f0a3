"""Measurements on an emulated network: `python tests/inside_network.py NAME [ARGUMENT]`, inside namespaces; prints JSON.

What must come out is in `test_emulated_network.py`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from stalls import Readings, carried_over_allowed

from benchmarks._flows import ideal_s, open_flow
from testbed.backends import offload
from testbed.backends.emulated import EmulatedNetwork
from testbed.backends.netspec import DIRECTIONS, NetworkSpec, queue_bytes
from testbed.scenario.state import LinkState
from topologies import three_tier, two_sites
from topologies.addresses import address
from topologies.layout import Layout
from topologies.mininet_topo import Sizes

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Mininet 2.3 on newer Pythons
    from mininet.node import Host
    from mininet.nodelib import LinuxBridge

HELD, PATIENCE_S = 1000, 20.0
FLOWS, CLOSE = 6, 0.03
"""How many flows may be tried until a message is this close to what its link allows: a busy machine may hold up any one."""


def network(plan: Layout, backbone_bps: float = 10e6, queue: int | None = None, **options: Any) -> EmulatedNetwork:
    states = {
        (link.name, direction): LinkState(backbone_bps if link.role == "backbone" else 1e9)
        for link in plan.links
        for direction in DIRECTIONS
    }
    queues = {key: queue if queue is not None and key[0] == "backbone" else queue_bytes(1e9, 0.0) for key in states}
    return EmulatedNetwork(NetworkSpec(plan, states, queues, **options))


def everyone_reaches_everyone(topology: str, switch: Any = "linux-bridge") -> Any:
    plan = {"three_tier": three_tier.layout(Sizes(2, 4, True)), "two_sites": two_sites.layout(Sizes(1, 2))}[topology]
    made = network(plan, switch=switch)
    pairs = [(a.name, b.name) for a in plan.hosts for b in plan.hosts if a != b]
    before = made.counters()
    reached = [made.ping(source, address(plan, target, source)) for source, target in pairs]
    frames = sum(after.packets - before[key].packets for key, after in made.counters().items())
    return {"reached": reached, "frames": frames, "hops": sum(2 * len(plan.path(*pair)) for pair in pairs)}


def switch_that_stands_still() -> Any:
    """Frames that reach the first switch of Open vSwitch while its process stands still, and those that leave it afterwards."""
    made = network(three_tier.layout(Sizes(1, 1)), 1e9, switch="open-vswitch")
    pid, before = made.switch_pid, made.counters()

    def frames(link: str) -> int:
        return made.counters()[link, "up"].packets - before[link, "up"].packets

    if pid is None:
        return {"datapath": "kernel"}
    os.kill(pid, signal.SIGSTOP)
    try:
        with made.inside("d1"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(HELD):
                sender.sendto(bytes(1400), (address(made.layout, "c1", "d1"), 9))
                time.sleep(0.0001)
        until = time.monotonic() + PATIENCE_S
        while frames("access-d1") < HELD and time.monotonic() < until:
            time.sleep(0.01)
        held = frames("access-d1"), frames("backbone")
    finally:
        os.kill(pid, signal.SIGCONT)
    while frames("backbone") < held[0] and time.monotonic() < until:
        time.sleep(0.01)
    return {"held": held, "left": frames("backbone"), "room": made.describe()["switch_room_bytes"]}


def mininet_hosts() -> Any:
    """What Mininet's own ways say of hosts and bridges that were set up without its commands."""
    made = network(three_tier.layout(Sizes(1, 2)))
    net = made._net
    before = [node.shell is None for node in (*net.hosts, *net.switches)]
    return {
        "without_shell": before,
        "kinds": [isinstance(net["d1"], Host), isinstance(net["s1"], LinuxBridge)],
        "words": net["d1"].cmd("echo from a shell").strip(),
        "namespace": net["d1"].cmd("readlink /proc/self/ns/net").strip() == os.readlink(made.namespace("d1")),
        "address": [net["e1"].IP() in net["e1"].cmd("ip -4 addr show up"), net["e1"].IP()],
        "mac": net["e1"].defaultIntf().MAC() in net["e1"].cmd("ip link"),
        "popen": net["e2"].popen(["readlink", "/proc/self/ns/net"]).communicate()[0].decode().strip()
        == os.readlink(made.namespace("e2")),
        "bridge": sorted(link.get_attr("IFLA_IFNAME") for link in made.netlink.get_links(kind="bridge")),
        "ports": net["s1"].cmd("ip -o link show master s1").count("s1-eth"),
        "up": net["e1"].defaultIntf().isUp(),
        "ended": _ended(made),
    }


def _ended(made: EmulatedNetwork) -> bool:
    """Whether hosts are gone, holders and all, when the network was stopped."""
    pids = list(made.pids.values())
    made.stop()
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def accuracy() -> Any:
    made = network(three_tier.layout(Sizes(1, 4)))
    found: dict[str, list[float]] = {}
    for mbit, size, rounds in ((10, 100_000, 5), (100, 100_000, 12), (100, 10_000_000, 3), (10, 10_000_000, 1)):
        made.apply("backbone", "up", LinkState(mbit * 1e6))
        made.apply("backbone", "down", LinkState(mbit * 1e6))
        for source, target in (("d1", "c1"), ("c1", "e2")) if size == 100_000 else (("d1", "c1"),):
            errors = found[f"{source}-{target} {size} B at {mbit} Mbit/s"] = []
            for _ in range(FLOWS):
                times = open_flow(made, source, target, [200_000, *[size] * rounds]).times_s()[1:]  # the first opens the window
                errors += [t / ideal_s(size, mbit * 1e6) - 1.0 for t in times]
                if min(map(abs, errors)) < CLOSE:
                    break
    return found


def rate_change() -> Any:
    """4 MB at 20 Mbit/s, then at 5, then at 20 Mbit/s again, half a second each: see `carried_over_allowed`."""
    made = network(three_tier.layout(Sizes(1, 1)), 20e6)
    flow = open_flow(made, "d1", "c1", [20_000, 4_000_000])
    while made.counters()["backbone", "up"].wire_bytes < 100_000:
        time.sleep(0.002)
    phases = []
    for rate in (20e6, 5e6, 20e6):
        made.apply("backbone", "up", LinkState(rate))
        phases.append((rate, _watched(made, 0.5)))
    flow.times_s()
    counted = made.counters()["backbone", "up"]
    return {
        "carried_over_allowed": [carried_over_allowed(rate, readings) for rate, readings in phases],
        "drops": counted.drops,
        "bytes": counted.wire_bytes,
    }


def _watched(made: EmulatedNetwork, seconds: float) -> Readings:
    """What the backbone carried upwards, read again and again."""
    readings = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic()
        carried = made.counters()["backbone", "up"].wire_bytes
        readings.append((begun, carried, time.monotonic()))
        time.sleep(0.02)
    return readings


def outage() -> Any:
    made = network(three_tier.layout(Sizes(1, 1)), 20e6)
    flow = open_flow(made, "d1", "c1", [20_000, 2_000_000])
    while made.counters()["backbone", "up"].wire_bytes < 300_000:
        time.sleep(0.002)
    made.apply("backbone", "up", LinkState(0.0))
    begun = time.monotonic()
    first = made.counters()["backbone", "up"]
    time.sleep(0.6)
    last = made.counters()["backbone", "up"]
    closed_s = time.monotonic() - begun
    made.apply("backbone", "up", LinkState(20e6))
    end = flow.times_s()[1]
    after = made.counters()["backbone", "up"]
    return {
        "leaked": last.wire_bytes - first.wire_bytes,
        "queued": last.backlog_bytes,
        "seconds": end,
        "expected": ideal_s(2_000_000, 20e6) + closed_s,
        "drops": after.drops,
    }


def counters(switch: Any = "linux-bridge") -> Any:
    plan = three_tier.layout(Sizes(1, 2))
    made = network(plan, switch=switch)
    before, twice_before = made.counters(), _sent_twice(made, plan)
    open_flow(made, "d1", "c1", [1_000_000]).times_s()
    time.sleep(0.2)
    after, twice = made.counters(), _sent_twice(made, plan) - twice_before
    gained = {f"{link} {way}": after[link, way].wire_bytes - before[link, way].wire_bytes for link, way in after}
    features = [offload.read(f"w{k}{end}") for k in range(1, len(plan.links) + 1) for end in "ab"]
    for host in plan.hosts:
        with made.inside(host.name):
            features.append(offload.read(f"{host.name}-eth0"))
    return {"gained": gained, "offload": [any(state.values()) for state in features], "sent_twice": twice}


def _sent_twice(made: EmulatedNetwork, plan: Layout) -> int:
    """Segments that the hosts' TCP has sent again: a host that is held up is probed for what it has got."""
    total = 0
    for host in plan.hosts:
        with made.inside(host.name):
            names, values = (
                line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
            )
        total += int(values[names.index("RetransSegs")])
    return total


def short_queue() -> Any:
    """A queue of ten frames before a slow link: what does not fit is dropped, and counted."""
    made = network(three_tier.layout(Sizes(1, 1)), 5e6, queue=15_140)
    open_flow(made, "d1", "c1", [1_000_000]).times_s()
    return {"drops": made.counters()["backbone", "up"].drops}


def settings(on: str) -> Any:
    wanted = on == "on"
    made = network(three_tier.layout(Sizes(1, 1)), slow_start_after_idle=wanted, offload=wanted)
    with made.inside("d1"), open("/proc/sys/net/ipv4/tcp_slow_start_after_idle") as file:
        return [int(file.read()), made.describe()["offload"]]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
