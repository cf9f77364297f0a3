"""What an emulated network can say of its own fidelity, each as an `Invariant` with the bound it was held against.

The orchestrator adds its own (overruns, lateness, answers) and joins all to a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed.backends import pcap
from testbed.backends.base import Invariant, Level, LinkCounters
from testbed.backends.cgroups import Throttling
from testbed.backends.netspec import FRAME_BYTES, Key, NetworkSpec, burst_bytes
from testbed.errors import RunError
from topologies.addresses import upstream
from topologies.layout import Direction, Layout

IDLE_SHARE = 0.05
"""Below this idle share in any second a host may have waited for a CPU."""
SWITCH_SHARE = 0.95
"""Beyond this share of any second a switch in user space may have had frames waiting all the time."""
RATE_EXCESS = 0.01
"""A link may carry this much more than rate x time (timer and sampling), beside one burst per rate change."""
DROP_SHARE = (0.001, 0.05)
"""Frames lost on a full queue: TCP's own probing costs some; more means that the queue was too short for the flows."""
MEMORY_SHARE = 0.9
"""Beyond this share of the machine's memory, paging would slow hosts down."""
CAPTURE_GAP = (0.005, 0.05)
"""Relative gap between captured bytes and the kernel's class counters."""


RTT_GAP = (0.02, 0.2)
"""Relative gap between an idle round trip and what delays and rates say; a host that is woken late costs a little on top:"""
RTT_FREE_S = 0.001
"""Two wake-ups of a real kernel, and the frame that a token bucket lets through without serialising it."""


def _level(value: float, bounds: tuple[float, float]) -> Level:
    return "ok" if value <= bounds[0] else "degraded" if value <= bounds[1] else "rejected"


def idle_cpu(minimum: float | None) -> Invariant:
    """Idle CPU share of the busiest second."""
    level: Level = "degraded" if minimum is not None and minimum < IDLE_SHARE else "ok"
    return Invariant("idle_cpu", level, minimum, IDLE_SHARE, "idle share of all CPUs in the busiest second")


def switch_busy(maximum: float | None) -> Invariant:
    """How much of its busiest second a switch in user space ran or waited for a CPU: at 1 it is what limits the links."""
    level: Level = "degraded" if maximum is not None and maximum > SWITCH_SHARE else "ok"
    detail = "share of its busiest second in which the switch's process ran or waited for a CPU"
    return Invariant("switch_busy", level, maximum, SWITCH_SHARE, detail)


def idle_round_trips(found: Sequence[Mapping[str, Any]]) -> Invariant:
    """Round trips measured before the run, against the configured delays and rates (see `testbed.backends.idle_rtt`)."""
    worst, detail = 0.0, "no path without an outage"
    for trip in found:
        hosts, expected = " and ".join(trip["hosts"]), float(trip["expected_s"])
        if trip["found_s"] is None:
            return Invariant("idle_rtt", "rejected", None, RTT_GAP[0], f"nothing came back between {hosts}")
        away = abs(float(trip["found_s"]) - expected)
        gap = max(0.0, away - RTT_FREE_S) / max(expected, RTT_FREE_S)
        if gap >= worst:
            worst = gap
            detail = f"{trip['found_s'] * 1e3:.3f} ms between {hosts}, {expected * 1e3:.3f} ms configured"
    return Invariant("idle_rtt", _level(worst, RTT_GAP), worst, RTT_GAP[0], detail)


def read_back(checked: int, wrong: Sequence[str]) -> Invariant:
    """Whether the kernel still holds the state of every link."""
    detail = "; ".join(wrong) if wrong else f"{checked} link directions are in the kernel as asked"
    return Invariant("rate_read_back", "rejected" if wrong else "ok", float(len(wrong)), 0.0, detail)


def agents_alive(deaths: Mapping[str, str]) -> Invariant:
    """Whether every agent lived to the end."""
    detail = "; ".join(deaths.values()) or "every agent lived to the end"
    return Invariant("agents_alive", "degraded" if deaths else "ok", float(len(deaths)), 0.0, detail)


def memory(found: Mapping[str, Any], total_bytes: int) -> Invariant:
    """Memory of all agents and of the process that shares the weights with them."""
    used, bound = int(found["pss_bytes"]), MEMORY_SHARE * total_bytes
    unshared = found["rss_bytes"] / 2**20
    detail = f"{used / 2**20:.0f} MiB for {len(found['agents']) - 1} agents that share weights ({unshared:.0f} MiB unshared)"
    return Invariant("agents_memory_bytes", "ok" if used <= bound else "degraded", float(used), bound, detail)


class LinkBudget:
    """What each link direction could have carried: its rate over time, in wall-clock values, and the bursts of its changes."""

    def __init__(self, rates: Mapping[Key, float]) -> None:
        self._rates = dict(rates)
        self._peaks = dict(rates)
        self._changes = dict.fromkeys(rates, 1)
        self._bits = dict.fromkeys(rates, 0.0)
        self._since = dict.fromkeys(rates, 0.0)

    def start(self, now: float) -> None:
        """The network is in force from now on."""
        self._since = dict.fromkeys(self._rates, now)

    def change(self, key: Key, rate_bps: float, now: float) -> None:
        """A direction has another rate from now on. Between request and answer both rates were possible: the higher counts."""
        self._bits[key] += self._rates[key] * (now - self._since[key])
        self._since[key] = now
        self._rates[key] = rate_bps
        self._peaks[key] = max(self._peaks[key], rate_bps)
        self._changes[key] += 1

    def end(self, now: float) -> None:
        """Count up to now."""
        for key, rate in self._rates.items():
            self._bits[key] += rate * (now - self._since[key])
            self._since[key] = now

    def judge(self, counters: Mapping[Key, LinkCounters]) -> Invariant:
        """Whether any direction carried more than it could have."""
        worst, where = 0.0, ""
        for key, found in counters.items():
            bursts = self._changes[key] * (burst_bytes(self._peaks[key]) + 2 * FRAME_BYTES)
            allowed = self._bits[key] / 8 + bursts
            share = found.wire_bytes / allowed
            if share >= worst:
                worst, where = share, f"{key[0]} {key[1]}"
        level: Level = "ok" if worst <= 1.0 + RATE_EXCESS else "rejected"
        return Invariant("link_rate", level, worst, 1.0 + RATE_EXCESS, f"bytes counted over rate x time, highest on {where}")


def drops(counters: Mapping[Key, LinkCounters], network: NetworkSpec) -> Invariant:
    """Share of frames that were dropped on a full queue. (Those that a link's `loss` takes are counted apart, and asked for.)"""
    shares = {key: found.drops / max(1, found.packets) for key, found in counters.items()}
    key = max(shares, key=lambda key: shares[key])
    worst, total, lost = shares[key], sum(x.drops for x in counters.values()), sum(x.lost for x in counters.values())
    queue = f"{total} frames in all; highest share on {key[0]} {key[1]}, whose queue holds {network.queues[key]} B"
    detail = (queue if total else "no frame was dropped unasked") + (f"; {lost} frames were lost as asked" if lost else "")
    return Invariant("unasked_drops", _level(worst, DROP_SHARE), worst, DROP_SHARE[0], detail)


def cpu_limits(cpus: Mapping[str, float], found: Mapping[str, Throttling], wrong: Sequence[str], there: int) -> Invariant:
    """Whether the limits of hosts are in force, and can all be used up at once; in its words, what they did."""
    asked = sum(cpus.values())
    level: Level = "rejected" if wrong else "degraded" if asked > there else "ok"
    parts = [f"the kernel holds another limit of {', '.join(wrong)}"] if wrong else []
    parts += [f"the limits of all hosts together are more than the {there} CPUs of this machine"] if asked > there else []
    parts += [
        f"{host}: {figures.throttled} of {figures.periods} periods throttled, {figures.throttled_s:.3f} s"
        for host, figures in found.items()
    ]
    return Invariant("cpu_limits", level, asked, float(there), "; ".join(parts))


def forwarded(counters: Mapping[Key, LinkCounters], layout: Layout, switch: str) -> Invariant:
    """Whether switches passed on every frame that reached them, and none of their own: a process that forwards may lose some.

    `switch`: what they are, in words.
    """
    worst, detail = 0.0, "no frame reached a switch"
    ends: tuple[tuple[Direction, Direction], ...] = (("down", "up"), ("up", "down"))
    for name in layout.switches:
        arrived = left = 0
        for link in layout.links:
            for end, (towards, away) in zip((link.a, link.b), ends, strict=True):
                if end == name:
                    arrived += counters[link.name, towards].packets - counters[link.name, towards].lost
                    left += counters[link.name, away].packets + counters[link.name, away].drops
        gap = abs(arrived - left) / max(1, arrived)
        if arrived and gap >= worst:
            worst, detail = gap, f"{arrived} frames reached {name}, {left} left it"
    return Invariant("switch_frames", _level(worst, DROP_SHARE), worst, DROP_SHARE[0], f"{switch}: {detail}")


def capture(layout: Layout, link: str, path: Path, report: Mapping[str, Any], counters: Mapping[Key, LinkCounters]) -> Invariant:
    """Whether a capture and the kernel's class counters agree on the bytes of a link."""
    name = f"capture_{link}"
    if "error" in report:
        return Invariant(name, "rejected", None, CAPTURE_GAP[0], str(report["error"]))
    try:
        found = pcap.read(path, upstream(layout, link))
    except RunError as error:
        return Invariant(name, "rejected", None, CAPTURE_GAP[0], str(error))
    gap = 0.0
    parts = []
    directions: tuple[Direction, ...] = ("up", "down")
    for direction in directions:
        counted, captured = counters[link, direction].wire_bytes, found.wire_bytes[direction]
        gap = max(gap, abs(captured - counted) / max(counted, 1))
        parts.append(f"{direction} {captured} B captured, {counted} B counted")
    parts.append(
        f"{sum(found.payload.values())} B of TCP payload in {len(found.payload)} flows, {report['missed']} frames missed"
    )
    level = _level(gap, CAPTURE_GAP) if not report["missed"] or gap <= CAPTURE_GAP[0] else "degraded"
    return Invariant(name, level, gap, CAPTURE_GAP[0], "; ".join(parts))
