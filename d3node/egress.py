"""Traffic shaping of this machine's own egress towards peers, where its operator allows that (`--allow-shaping INTERFACE`).

An HTB root on the interface with one class for each peer's IPv4 address; other traffic passes by unshaped. A class is changed
in place. Behind it a queue, or netem where delay or loss are asked for. An outage drops. The interface has its own queueing
discipline back when the last orchestrator has gone, and when the agent ends.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from d3node.errors import NodeError

ROOT, FIRST_CLASS, FIRST_QUEUE, FIRST_NETEM = 0x10000, 0x10010, 0x1000_0000, 0x2000_0000
T = TypeVar("T")
ETH_P_IP: Final = 0x0800
FRAME_BYTES: Final = 1514
QUEUE_S: Final = 0.2
MOST_PEERS: Final = 1000
NETEM_FRAMES: Final = 100_000
OUTAGE_BELOW_BPS: Final = 1000.0


class ShapingError(NodeError):
    """Traffic cannot be shaped as asked; the text says why."""


@dataclass(frozen=True, slots=True)
class PathState:
    """What a path to a peer shall be like: bit/s (0: an outage), seconds one way, jitter in seconds, share of packets lost."""

    rate_bps: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        ranges = 0.0 <= self.rate_bps <= 1e12 and 0.0 <= self.jitter_s <= self.delay_s <= 60.0 and 0.0 <= self.loss <= 1.0
        if not ranges:  # NaN included
            raise ShapingError(f"shape: {self} is no state of a path (jitter may be as large as the delay at most)")

    @property
    def outage(self) -> bool:
        """Whether nothing gets through."""
        return self.rate_bps < OUTAGE_BELOW_BPS

    @property
    def netem(self) -> bool:
        """Whether more than rate and outages is asked for."""
        return bool(self.delay_s or self.loss)


class Egress:
    """The shaped egress of one interface. Nothing is changed before the first `shape`. Raises ShapingError."""

    def __init__(self, interface: str) -> None:
        try:
            from pyroute2 import IPRoute
            from pyroute2.netlink.rtnl.tcmsg import plugins, sched_pfifo
        except ImportError as error:
            raise ShapingError("shaping needs the Python package pyroute2: pip install 'd3-testbed[hosts]'") from error
        plugins.setdefault("bfifo", sched_pfifo)
        self.interface = interface
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="egress")  # pyroute2 cannot be used where an event loop runs
        self._netlink = self._kernel(IPRoute)
        found = self._kernel(self._netlink.link_lookup, ifname=interface)
        if not found:
            self._let_go()
            raise ShapingError(f"this machine has no interface {interface!r}")
        self._index = int(found[0])
        self._classes: dict[str, int] = {}
        self._states: dict[str, PathState] = {}
        try:
            self._refuse_foreign()
            self._add_root()  # tried now, so that an operator hears of missing rights or modules at once
            self.restore()
        except BaseException:
            self._let_go()
            raise

    def shape(self, address: str, state: PathState) -> None:
        """Let traffic to an IPv4 address be in that state from now on."""
        target = _ipv4(address)
        if target not in self._classes and len(self._classes) >= MOST_PEERS:
            raise ShapingError(f"shape: {address} would be one address too many; {MOST_PEERS} can be shaped apart")
        if not self._classes:
            self._add_root()
        known = target in self._classes
        number = self._classes.setdefault(target, len(self._classes))
        handle = FIRST_CLASS + number
        rate = max(1, round(max(state.rate_bps, OUTAGE_BELOW_BPS) / 8.0))
        burst = max(FRAME_BYTES, rate // 1000)
        options = {"handle": handle, "parent": ROOT, "rate": rate, "ceil": rate, "burst": burst, "cburst": burst}
        if not known or not state.outage:  # in an outage the rate stays, so that the class owes nothing at its end
            self._tc("change-class" if known else "add-class", "htb", quantum=FRAME_BYTES, **options)
        self._leaf(number, state, self._states.get(target))
        if not known:
            key = f"0x{int(ipaddress.IPv4Address(target)):08x}/0xffffffff+16"  # the destination in an IPv4 header
            self._tc("add-filter", "u32", parent=ROOT, prio=1, protocol=ETH_P_IP, target=handle, keys=[key])
        self._states[target] = state

    def counters(self) -> dict[str, tuple[int, int, int]]:
        """(bytes, packets, packets dropped) since the first `shape`, by IPv4 address."""
        if not self._classes:
            return {}
        found: dict[int, tuple[int, int, int]] = {}
        for entry in self._kernel(lambda: list(self._netlink.get_classes(self._index))):
            stats = entry.get_attr("TCA_STATS2")
            if stats is not None:
                basic, queue = stats.get_attr("TCA_STATS_BASIC"), stats.get_attr("TCA_STATS_QUEUE")
                found[entry["handle"]] = int(basic["bytes"]), int(basic["packets"]), int(queue["drops"])
        return {target: found.get(FIRST_CLASS + number, (0, 0, 0)) for target, number in self._classes.items()}

    def restore(self) -> None:
        """Give the interface its own queueing discipline back."""
        self._classes.clear()
        self._states.clear()
        try:
            self._kernel(self._netlink.tc, "del", "htb", self._index, handle=ROOT)
        except Exception as error:
            if getattr(error, "code", None) not in (2, 22):  # it has none of ours, or is gone itself
                raise ShapingError(f"{self.interface} cannot be given back: {error}") from error

    def close(self) -> None:
        """Restore, and let go of the kernel."""
        try:
            self.restore()
        finally:
            self._let_go()

    def _kernel(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Ask the kernel on this object's own thread, and wait (about a millisecond)."""
        return self._thread.submit(call, *arguments, **options).result()

    def _let_go(self) -> None:
        self._kernel(self._netlink.close)
        self._thread.shutdown()

    def _leaf(self, number: int, state: PathState, before: PathState | None) -> None:
        handle = (FIRST_NETEM if state.netem else FIRST_QUEUE) + number * 0x10000
        parent = FIRST_CLASS + number
        verb = "replace" if before is None or before.netem != state.netem else "change"
        if state.netem:
            delay_us, jitter_us = round(state.delay_s * 1e6), round(state.jitter_s * 1e6)
            loss = 100.0 if state.outage else state.loss * 100.0
            self._tc(verb, "netem", handle=handle, parent=parent, delay=delay_us, jitter=jitter_us, loss=loss, limit=NETEM_FRAMES)
        else:
            limit = 1 if state.outage else max(100 * FRAME_BYTES, int(state.rate_bps * QUEUE_S / 8))
            self._tc(verb, "bfifo", handle=handle, parent=parent, limit=limit)

    def _add_root(self) -> None:
        self._tc("add", "htb", handle=ROOT, default=0)

    def _refuse_foreign(self) -> None:
        for entry in self._kernel(lambda: list(self._netlink.get_qdiscs(self._index))):
            if entry["parent"] == 0xFFFFFFFF and entry["handle"] not in (0, ROOT):
                raise ShapingError(
                    f"{self.interface} has a queueing discipline that somebody set up ({entry.get_attr('TCA_KIND')});"
                    f" take it away first (tc qdisc del dev {self.interface} root), or run without --allow-shaping"
                )
        self.restore()  # what an agent left that was killed

    def _tc(self, verb: str, kind: str, **options: Any) -> None:
        try:
            self._kernel(self._netlink.tc, verb, kind, self._index, **options)
        except Exception as error:
            lacking = {1: "this takes root (CAP_NET_ADMIN)", 2: f"this kernel has no {kind} (module sch_{kind})"}
            reason = lacking.get(getattr(error, "code", 0), str(error))
            raise ShapingError(f"{self.interface} cannot be shaped: {reason}") from error


def _ipv4(address: str) -> str:
    try:
        return socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0].__str__()
    except OSError as error:
        raise ShapingError(f"shape: {address!r} is no IPv4 address, and shaping knows no other") from error
